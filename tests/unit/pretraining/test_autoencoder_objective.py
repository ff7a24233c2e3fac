import pytest
import torch

from histodiff.config import parse_config
from histodiff.errors import ConfigError
from histodiff.models.autoencoder import AutoencoderArchitecture, create_network
from histodiff.pretraining.autoencoder.config import AutoencoderTraining, DecoderTraining
from histodiff.pretraining.autoencoder.loss import gradient_error, kl_divergence
from histodiff.pretraining.autoencoder.objective import Objective, take_weights
from tests.support.autoencoder_training import ARCHITECTURE, train_values


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
    return create_network(AutoencoderArchitecture(**ARCHITECTURE))


def crops(count=4):
    generator = torch.Generator().manual_seed(1)
    clean = torch.rand((count, 3, 16, 16), generator=generator) * 2 - 1
    return clean, torch.randn((count, 3, 4, 4), generator=generator)


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


def naive_gradient_error(decoded, clean):
    def differences(image):
        return torch.diff(image, dim=-1), torch.diff(image, dim=-2)

    def halved(image):
        return (
            image[..., ::2, ::2] + image[..., 1::2, ::2]
            + image[..., ::2, 1::2] + image[..., 1::2, 1::2]
        ) / 4  # fmt: skip

    expected = torch.tensor(0.0)
    for ours, theirs in ((decoded, clean), (halved(decoded), halved(clean))):
        for mine, other in zip(differences(ours), differences(theirs), strict=True):
            expected = expected + (mine - other).abs().mean() / 2
    return expected


def test_gradient_error_equals_the_naive_one():
    decoded, clean = torch.randn((2, 2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    found = gradient_error(decoded, clean, scales=2)
    torch.testing.assert_close(found.mean(), naive_gradient_error(decoded, clean))


def test_loss_is_the_weighted_sum_of_its_terms_and_those_are_what_they_say():
    made = network()
    clean, noise = crops()
    weights = {"gradient": 2.0, "gradient_scales": 2, "kl": 0.5}
    total, terms = Objective(made, training(weights))(clean, noise)
    posterior = made.encode(clean).latent_dist
    decoded = made.decode(posterior.mean + posterior.std * noise).sample
    torch.testing.assert_close(terms["pixels"], (decoded - clean).abs().mean())
    torch.testing.assert_close(terms["gradient"], naive_gradient_error(decoded, clean))
    torch.testing.assert_close(terms["kl"], posterior.kl().mean() / noise[0].numel())
    expected = terms["pixels"] + 2.0 * terms["gradient"] + 0.5 * terms["kl"]
    torch.testing.assert_close(total.detach(), expected)


def test_batch_cut_in_two_has_the_same_gradient():
    clean, noise = crops()
    whole, halves = Objective(network(), training()), Objective(network(), training())
    whole(clean, noise).total.backward()
    for part in (slice(0, 2), slice(2, 4)):
        (halves(clean[part], noise[part]).total / 2).backward()
    torch.testing.assert_close(gradients(halves), gradients(whole))


def test_decoder_training_has_no_encoder_and_gives_it_no_gradient():
    made = network()
    objective = Objective(made, decoder_training())
    names = {name.split(".")[1] for name, _ in objective.named_parameters()}
    assert names == {"decoder", "post_quant_conv"}
    objective(*crops()).total.backward()
    assert len(gradients(objective)) == len(list(objective.parameters()))
    assert not gradients(made.encoder)


def test_take_weights_changes_what_was_trained_and_nothing_else():
    made, other = network(), network()
    state = Objective(made, decoder_training()).state_dict()
    take_weights(other, {name: tensor + 1 for name, tensor in state.items()})
    for name, tensor in network().state_dict().items():
        trained = name.startswith(("decoder.", "post_quant_conv."))
        assert torch.equal(other.state_dict()[name], tensor + float(trained)), name


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
