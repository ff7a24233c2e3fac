import numpy as np
import pytest
import torch

from histodiff.config import parse_config
from histodiff.errors import ConfigError
from histodiff.models.autoencoder import (
    KlArchitecture,
    channel_symmetries,
    create_network,
    last_convolution,
    latent_channels,
    posterior,
)
from histodiff.pretraining.autoencoder.config import AutoencoderTraining, DecoderTraining
from histodiff.pretraining.autoencoder.crops import CropBatch
from histodiff.pretraining.autoencoder.loss import gradient_error, kl_divergence
from histodiff.pretraining.autoencoder.objective import Objective, take_weights
from histodiff.runtime.symmetries import square_symmetry
from tests.support.autoencoder_training import ARCHITECTURE, train_values
from tests.support.patch_autoencoders import patch_autoencoder
from tests.support.published_autoencoders import dc, tiny

SMALL = {"width": 8, "layers": 2}
CLASSIFIER = {"weight": 0.1, "budget": {"type": "all"}, **SMALL}
ADVERSARIAL = {"weight": 0.5, "start_images": 100, **SMALL}


def trained_patch_autoencoder():
    """As after some training: its last layers do something."""
    made = patch_autoencoder()
    torch.manual_seed(2)
    for path in (made.encoder, made.decoder):
        torch.nn.init.normal_(path.conv_out.weight, std=0.5)
    return made


NETWORKS = {
    "tiny": tiny, "dc": dc, "dc-stem": lambda: dc(stem=True), "patch": trained_patch_autoencoder,
}  # fmt: skip


def training(loss=None, **changes):
    values = {
        "architecture": ARCHITECTURE, "loss": {"kl": 1e-3, **(loss or {})}, "crop_px": 16,
        "max_patches": 10, "train": train_values(),
    }  # fmt: skip
    return parse_config(AutoencoderTraining, {**values, **changes}, source="test")


def decoder_training(loss=None):
    values = {"loss": loss or {}, "crop_px": 16, "max_patches": 10, "train": train_values()}
    return parse_config(DecoderTraining, values, source="test")


def network():
    torch.manual_seed(0)
    return create_network(KlArchitecture(**ARCHITECTURE))


def crops(count=4, *, channels=3):
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand((count, 3, 16, 16), generator=generator) * 2 - 1
    noise = torch.randn((count, channels, 4, 4), generator=generator)
    return CropBatch(clean, noise, torch.arange(count) % 2, torch.arange(count) % 8)


def objective(training, made=None):
    return Objective(made if made is not None else network(), training, num_classes=2, seed=3)


def gradients(module):
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def test_kl_divergence_equals_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn((2, 5, 3, 3), generator=generator)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()),
        torch.distributions.Normal(0.0, 1.0),
    ).mean()
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def naive_gradient_error(decoded, clean, *, scales=2):
    def differences(image):
        return torch.diff(image, dim=-1), torch.diff(image, dim=-2)

    def halved(image):
        return (
            image[..., ::2, ::2] + image[..., 1::2, ::2]
            + image[..., ::2, 1::2] + image[..., 1::2, 1::2]
        ) / 4  # fmt: skip

    expected = torch.tensor(0.0)
    ours, theirs = decoded, clean
    for _ in range(scales):
        for mine, other in zip(differences(ours), differences(theirs), strict=True):
            expected = expected + (mine - other).abs().mean() / scales
        ours, theirs = halved(ours), halved(theirs)
    return expected


def test_gradient_error_equals_the_naive_one():
    decoded, clean = torch.randn((2, 2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    found = gradient_error(decoded, clean, scales=2)
    torch.testing.assert_close(found.mean(), naive_gradient_error(decoded, clean))


def test_loss_is_the_weighted_sum_of_its_terms_and_those_are_what_they_say():
    made = network()
    clean, noise, *_ = crops()
    weights = {"gradient": 2.0, "gradient_scales": 2, "kl": 0.5}
    total, terms = objective(training(weights), made)(*crops(), images_seen=0)
    posterior = made.encode(clean).latent_dist
    decoded = made.decode(posterior.mean + posterior.std * noise).sample
    torch.testing.assert_close(terms["pixels"], (decoded - clean).abs().mean())
    torch.testing.assert_close(terms["gradient"], naive_gradient_error(decoded, clean))
    torch.testing.assert_close(terms["kl"], posterior.kl().mean() / noise[0].numel())
    expected = terms["pixels"] + 2.0 * terms["gradient"] + 0.5 * terms["kl"]
    torch.testing.assert_close(total.detach(), expected)


TURNED = {"turned_latents": True, "gradient_scales": 2}


@pytest.mark.parametrize("make", [network, trained_patch_autoencoder], ids=["kl", "patch"])
def test_turned_latents_are_decoded_against_crops_turned_alike(make):
    made = make()
    channels = channel_symmetries(made)
    clean, noise, label, turn = crops(8, channels=latent_channels(made))
    total, terms = objective(training(TURNED), made)(clean, noise, label, turn, images_seen=0)
    found = posterior(made, clean)
    drawn = (found.mean + found.std * noise).detach().numpy()
    decoded, wanted = [], []
    for place, which in enumerate(turn.tolist()):
        moved = np.ascontiguousarray(square_symmetry(drawn[place], which, channels=channels))
        decoded.append(made.decode(torch.from_numpy(moved)[None]).sample[0])
        moved = np.ascontiguousarray(square_symmetry(clean[place].numpy(), which))
        wanted.append(torch.from_numpy(moved))
    decoded, wanted = torch.stack(decoded), torch.stack(wanted)
    torch.testing.assert_close(terms["pixels"], (decoded - wanted).abs().mean())
    torch.testing.assert_close(terms["gradient"], naive_gradient_error(decoded, wanted))
    torch.testing.assert_close(terms["kl"], kl_divergence(found.mean, found.log_variance))
    expected = terms["pixels"] + terms["gradient"] + 1e-3 * terms["kl"]
    torch.testing.assert_close(total.detach(), expected)
    [_, plain] = objective(training({"gradient_scales": 2}), made)(
        clean, noise, label, turn, images_seen=0
    )
    assert terms["pixels"] != pytest.approx(float(plain["pixels"]), rel=1e-3)


def test_turning_changes_no_loss_of_a_linear_equivariant_network():
    found = []
    for loss in (TURNED, {"gradient_scales": 2}):
        both = objective(training(loss), patch_autoencoder(encoder_blocks=0, decoder_blocks=0))
        total, terms = both(*crops(8, channels=8), images_seen=0)
        found.append((total.detach(), terms))
    torch.testing.assert_close(*found)


def test_turned_latents_reach_the_encoder():
    both = objective(training(TURNED), trained_patch_autoencoder())
    both(*crops(8, channels=8), images_seen=0).total.backward()
    assert len(gradients(both)) == len(list(both.parameters()))


TERMS = {
    "plain": {},
    "perceptual": {"perceptual": {"weight": 0.5}},
    "turned latents": {"turned_latents": True},
    "adversarial": {"adversarial": ADVERSARIAL, "perceptual": {"weight": 0.5}},
}


@pytest.mark.parametrize("loss", TERMS.values(), ids=TERMS)
def test_batch_cut_in_two_has_the_same_gradient(loss):
    whole, halves = objective(training(loss)), objective(training(loss))
    whole(*crops(), images_seen=100).total.backward()
    for part in (slice(0, 2), slice(2, 4)):
        cut = (tensor[part] for tensor in crops())
        (halves(*cut, images_seen=100).total / 2).backward()
    torch.testing.assert_close(gradients(halves), gradients(whole), rtol=1e-4, atol=1e-6)


def decoded_by(made, clean, noise):
    posterior = made.encode(clean).latent_dist
    return made.decode(posterior.mean + posterior.std * noise).sample


def test_adversarial_gradients_are_those_of_the_two_losses_written_down():
    made = network()
    both = objective(training({"adversarial": ADVERSARIAL}), made)
    found = both(*crops(1), images_seen=100)
    found.total.backward()
    grown = gradients(both)
    both.zero_grad()

    clean, noise, *_ = crops(1)
    judge, last = both.discriminator, made.decoder.conv_out.weight
    decoded = decoded_by(made, clean, noise)
    error = (decoded - clean).abs().mean() + naive_gradient_error(decoded, clean, scales=3)
    generator = -judge(decoded).mean()
    [wanted] = torch.autograd.grad(error, last, retain_graph=True)
    [pulled] = torch.autograd.grad(generator, last, retain_graph=True)
    weight = 0.5 * wanted.norm() / (pulled.norm() + 1e-6)
    kl = made.encode(clean).latent_dist.kl().mean() / noise[0].numel()
    (error + weight * generator + 1e-3 * kl).backward()
    own = gradients(both.autoencoder)
    both.zero_grad()
    hinge = (1 - judge(clean)).relu().mean() + (1 + judge(decoded.detach())).relu().mean()
    (0.5 * hinge).backward()

    expected = {f"autoencoder.{name}": tensor for name, tensor in own.items()}
    expected |= {f"discriminator.{n}": t for n, t in gradients(both.discriminator).items()}
    torch.testing.assert_close(grown, expected, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.terms["generator"], generator.detach())
    torch.testing.assert_close(found.terms["generator_weight"], weight, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.terms["discriminator"], 0.5 * hinge.detach())


def test_adversarial_term_is_as_if_it_were_not_there_before_its_start():
    before = objective(training({"adversarial": ADVERSARIAL}))
    without = objective(training())
    for each in (before, without):
        each(*crops(), images_seen=99).total.backward()
    found = gradients(before)
    beside = {name for name in found if name.startswith("discriminator.")}
    for name, gradient in gradients(without).items():
        assert torch.equal(found[name], gradient), name
    assert len(beside) == len(list(before.discriminator.parameters()))
    assert not any(found[name].any() for name in beside)


def test_classification_trains_classifier_and_decoder_and_passes_over_crops_without_label():
    tuned = objective(decoder_training({"classification": CLASSIFIER}))
    clean, noise, label, turn = crops()
    unlabelled = torch.where(label == 1, -1, label)
    total, terms = tuned(clean, noise, unlabelled, turn, images_seen=0)
    decoded = decoded_by(*tuned._network, clean, noise)
    logits = tuned.classifier(decoded).mean(dim=(2, 3))
    counted = -logits.log_softmax(dim=1)[label == 0, 0].sum() / len(label)
    torch.testing.assert_close(terms["classification"], counted.detach())
    rest = terms["pixels"] + terms["gradient"]
    torch.testing.assert_close(total.detach(), rest + 0.1 * terms["classification"])
    total.backward()
    assert all(parameter.grad is not None for parameter in tuned.parameters())


def test_decoder_training_has_no_encoder_and_gives_it_no_gradient():
    made = network()
    tuned = objective(decoder_training(), made)
    names = {name.split(".")[1] for name, _ in tuned.named_parameters()}
    assert names == {"decoder", "post_quant_conv"}
    tuned(*crops(), images_seen=0).total.backward()
    assert len(gradients(tuned)) == len(list(tuned.parameters()))
    assert not gradients(made.encoder)


def test_checkpointed_activations_change_no_loss_of_a_decoder():
    """diffusers' tiny encoder passes over its scaling of pixels where it keeps no activations."""
    torch.manual_seed(0)
    made = tiny()
    tuned = objective(decoder_training(), made)
    batch = crops()._replace(noise_BCHW=torch.zeros(4, 4, 4, 4))
    before = tuned(*batch, images_seen=0).total
    made.enable_gradient_checkpointing()
    after = tuned(*batch, images_seen=0).total
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_adversarial_weight_is_that_of_the_last_convolution_of_every_network(make):
    torch.manual_seed(0)
    made = make()
    both = objective(decoder_training({"adversarial": ADVERSARIAL}), made)
    clean, _, label, turn = crops(1)
    noise = torch.zeros_like(posterior(made, clean).mean)
    found = both(clean, noise, label, turn, images_seen=100)
    last = last_convolution(made).weight
    decoded = made.decode(posterior(made, clean).mean).sample
    error = (decoded - clean).abs().mean() + naive_gradient_error(decoded, clean, scales=3)
    generator = -both.discriminator(decoded).mean()
    [wanted] = torch.autograd.grad(error, last, retain_graph=True)
    [pulled] = torch.autograd.grad(generator, last)
    weight = 0.5 * wanted.norm() / (pulled.norm() + 1e-6)
    torch.testing.assert_close(found.terms["generator_weight"], weight, rtol=1e-3, atol=1e-6)


def test_take_weights_changes_what_was_trained_and_nothing_else():
    made, other = network(), network()
    state = objective(decoder_training(), made).state_dict()
    take_weights(other, {name: tensor + 1 for name, tensor in state.items()})
    for name, tensor in network().state_dict().items():
        trained = name.startswith(("decoder.", "post_quant_conv."))
        assert torch.equal(other.state_dict()[name], tensor + float(trained)), name


def test_terms_that_do_not_suit_are_refused():
    with pytest.raises(ConfigError, match=r"too small for loss\.adversarial\.layers"):
        training({"adversarial": {**ADVERSARIAL, "layers": 3}})
    with pytest.raises(ConfigError, match="zero_stage"):
        training({"adversarial": ADVERSARIAL}, train=train_values(zero_stage=3))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"precision": "fp16"}, "bf16"),
        ({"on_divergence": {"action": "roll_back"}}, "stop"),
    ],
)
def test_options_that_do_not_suit_are_refused(train, message):
    with pytest.raises(ConfigError, match=message):
        training(train=train_values(**train))
