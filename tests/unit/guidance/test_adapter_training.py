"""The guide ``adapter``: what it learns, from labels and from soft labels, on both networks."""

import numpy as np
import pytest
import torch

from histodiff.diffusion import EdmObjective, UncertaintyWeighting
from histodiff.errors import ArtifactCorrupt
from histodiff.guidance.adapter import AdapterGuideKind, AdapterTraining, adapter_loss
from histodiff.guidance.bayes import BayesConfig
from histodiff.guidance.calibration import CalibrationConfig
from histodiff.guidance.evaluate import accuracy_by_sigma
from histodiff.guidance.kinds import load_guide, save_guide
from histodiff.guidance.labelled import NO_LABEL, LabelledLatents
from histodiff.guidance.lesson import Lesson
from histodiff.guidance.noise import LogUniformNoise
from histodiff.guidance.pseudo_labels import PseudoLabelled, soft_labels
from histodiff.guidance.teaching import train_guide
from histodiff.models.adapter import AdaptedDenoiser, Adapter, AdapterConfig
from histodiff.models.denoiser import Denoiser, DenoiserConfig
from histodiff.models.dit import DiTConfig
from histodiff.models.gaussian import GaussianStart
from histodiff.models.unet import UNetConfig
from histodiff.storage import storage_path
from tests.support.optimization import optimization

SHAPE = (2, 4, 4)
UNET = UNetConfig(
    type="unet", channels=(8, 16), attention_levels=(False, True), blocks_per_level=1, head_dim=8,
    norm_groups=4,
)  # fmt: skip
DIT = DiTConfig(type="dit", token_side=2, width=16, depth=2, num_heads=2)
NETWORKS = {
    "unet": {"network": UNET},
    "dit": {"network": DIT},
    "dit, shared modulation": {"network": DIT.model_copy(update={"modulation": "shared"})},
    "unet, gaussian start": {"network": UNET, "gaussian_start": GaussianStart(rank=4)},
}


def denoiser_of(changes, *, objective=None):
    torch.manual_seed(0)
    config = DenoiserConfig(objective=objective or EdmObjective(type="edm"), **changes)
    denoiser = Denoiser(config, latent_shape=SHAPE)
    for parameter in denoiser.parameters():  # an untrained network gives zero, whatever it is told
        torch.nn.init.normal_(parameter, std=0.1)
    if denoiser.gaussian is not None:
        denoiser.gaussian.rest.fill_(1.0)
    return denoiser.eval().requires_grad_(requires_grad=False)


def latents(slides, *, seed, per_slide=4, labelled=True, first=0):
    """Classes with other means; slides of four latents."""
    rng = np.random.default_rng(seed)
    count = per_slide * slides
    target = np.arange(count) // per_slide % 2
    mean = 0.3 * rng.normal(size=(count, *SHAPE)).astype(np.float32)
    mean += np.where(target == 1, 1.0, -1.0)[:, None, None, None].astype(np.float32)
    return LabelledLatents(
        mean, np.zeros_like(mean), target if labelled else np.full(count, NO_LABEL),
        first + np.arange(count),
        tuple(f"slide {first + number // per_slide}" for number in range(count)),
    )  # fmt: skip


def training(**changes):
    return AdapterTraining(
        **{
            "noise": LogUniformNoise(type="log_uniform", sigma_min=0.05, sigma_max=20.0),
            **optimization(steps=40, batch=16, lr=2e-2),
            **changes,
        }
    )


def kind(**changes):
    return AdapterGuideKind(
        **{
            "type": "adapter", "network": AdapterConfig(rank=2), "training": training(),
            "bayes": BayesConfig(levels=4), "calibration": CalibrationConfig(folds=2, draws=1),
            **changes,
        }
    )  # fmt: skip


def lesson(denoiser, pseudo=None):
    return Lesson(("left", "right"), denoiser, 0, "cpu", pseudo)


def noisy(count=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((count, *SHAPE), generator=generator)
    return x, torch.logspace(-1, 1, count), torch.arange(count) % 3


@pytest.mark.parametrize("case", NETWORKS)
def test_untrained_adapter_changes_nothing_and_any_part_of_it_does(case):
    denoiser = denoiser_of(NETWORKS[case])
    adapter = Adapter(AdapterConfig(rank=2), denoiser, num_classes=2)
    x, sigma, classes = noisy()
    plain = denoiser(x, sigma)
    adapted = AdaptedDenoiser(denoiser, adapter)
    torch.testing.assert_close(adapted(x, sigma, classes), plain)
    adapted(x, sigma, classes).square().mean().backward()
    # random matrices L start at zero: of L R only L has a gradient at first
    moved = [*adapter.left, adapter.classes.weight]
    assert sum(float(each.grad.abs().sum()) > 0 for each in moved) > 0.9 * len(moved)
    with torch.no_grad():
        adapter.classes.weight[1] += 1.0
    changed = (adapted(x, sigma, classes) - plain).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert changed.tolist() == (classes == 1).tolist()
    torch.testing.assert_close(denoiser(x, sigma), plain)  # the denoiser itself is as it was


def test_adapter_of_rank_zero_learns_the_embedding_alone():
    adapter = Adapter(AdapterConfig(rank=0), denoiser_of(NETWORKS["dit"]), num_classes=3)
    assert {name: tuple(p.shape) for name, p in adapter.named_parameters()} == {
        "classes.weight": (4, 16)
    }


@pytest.mark.parametrize("case", ["dit", "unet, gaussian start"])
def test_adapter_tells_classes_of_slides_that_it_did_not_see(case, tmp_path):
    denoiser = denoiser_of(NETWORKS[case])
    found = train_guide(
        lesson(denoiser), latents(8, seed=0), kind=kind(), num_bins=2, path=storage_path(tmp_path)
    )
    low = found.cross_fitted[0]
    assert low.balanced_accuracy > 0.9
    assert all(score.log_loss < 0.7 for score in found.cross_fitted)
    bins = [(score.sigma_low, score.sigma_high) for score in found.cross_fitted]
    held_out = accuracy_by_sigma(
        found.guide, latents(6, seed=1), bins=bins[:1], batch=32, seed=0, device="cpu"
    )
    assert held_out[0].balanced_accuracy > 0.9
    x, sigma = torch.zeros(2, *SHAPE), torch.full((2,), 5.0)
    left, right = found.guide.denoise(x, sigma, torch.tensor([0, 1]))
    assert right.mean() - left.mean() > 0.25  # of nothing but noise, each class makes its own
    save_guide(storage_path(tmp_path / "saved"), found.guide, snapshot="last")
    loaded = load_guide(storage_path(tmp_path / "saved"), lambda snapshot: denoiser, "cpu")
    assert loaded.sigmas == (0.05, 20.0)
    torch.testing.assert_close(
        loaded.log_probabilities(x, sigma), found.guide.log_probabilities(x, sigma)
    )


def test_adapter_of_another_network_is_refused(tmp_path):
    unet, dit = denoiser_of(NETWORKS["unet"]), denoiser_of(NETWORKS["dit"])
    found = train_guide(
        lesson(unet), latents(2, seed=0),
        kind=kind(training=training(images=16), calibration=None), num_bins=2,
        path=storage_path(tmp_path),
    )  # fmt: skip
    save_guide(storage_path(tmp_path), found.guide, snapshot="last")
    with pytest.raises(ArtifactCorrupt, match="other weights"):
        load_guide(storage_path(tmp_path), lambda snapshot: dit, "cpu")


def shown_as(pseudo, *, steps=40, **changes):
    """Of each class: mean of the latents that it is shown with, and how often it is shown."""
    denoiser = denoiser_of(NETWORKS["dit"])
    seen = []

    def denoise(x, sigma, classes):
        seen.append((x, classes))
        return x

    tiny = LogUniformNoise(type="log_uniform", sigma_min=1e-4, sigma_max=1e-3)
    loss = adapter_loss(
        training(noise=tiny, **changes), lesson(denoiser, pseudo), latents(4, seed=0), denoise
    )
    for step in range(steps):
        loss(step)
    x = torch.cat([each.mean(dim=(1, 2, 3)) for each, _ in seen])
    classes = torch.cat([each for _, each in seen])
    return {
        k: (float(x[classes == k].mean()), float((classes == k).float().mean())) for k in (0, 1, 2)
    }


def test_labels_are_dropped_as_often_as_they_should():
    found = shown_as(None, label_dropout=0.25)
    assert found[2][1] == pytest.approx(0.25, abs=0.05)
    assert found[0][0] == pytest.approx(-1, abs=0.1)
    assert found[1][0] == pytest.approx(1, abs=0.1)
    assert found[2][0] == pytest.approx(0, abs=0.25)


@pytest.mark.parametrize("sure", [0.9, 0.5])
def test_soft_labels_show_latents_as_classes_by_their_probability(sure):
    unlabelled = latents(20, seed=5, labelled=False, first=100)
    truth = np.arange(80) // 4 % 2
    probability = np.full((80, 2), 1 - sure)
    probability[np.arange(80), truth] = sure
    found = shown_as(PseudoLabelled(unlabelled, probability, share=0.999), label_dropout=0.01)
    expected = 2 * sure - 1
    assert found[1][0] == pytest.approx(expected, abs=0.12)
    assert found[0][0] == pytest.approx(-expected, abs=0.12)


def test_slides_that_a_sibling_must_not_know_are_not_shown_without_labels_either():
    unlabelled = latents(3, seed=5, labelled=False, first=0)
    pseudo = PseudoLabelled(unlabelled, np.full((12, 2), 0.5), share=0.5)
    left = lesson(denoiser_of(NETWORKS["dit"]), pseudo).without({"slide 1"}).pseudo_labelled
    assert set(left.latents.group_N) == {"slide 0", "slide 2"}
    assert left.probability_NK.shape == (8, 2)


def test_loss_of_a_learned_weighting_leaves_its_uncertainty_as_it_was():
    objective = EdmObjective(type="edm", weighting=UncertaintyWeighting(type="uncertainty"))
    denoiser = denoiser_of(NETWORKS["dit"], objective=objective)
    adapter = Adapter(AdapterConfig(rank=2), denoiser, num_classes=2)
    own = lesson(denoiser)
    loss = adapter_loss(training(), own, latents(4, seed=0), AdaptedDenoiser(denoiser, adapter))(0)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is None for parameter in denoiser.parameters())


def test_soft_labels_are_the_mean_over_views_of_each_latent():
    class Reader:
        classes = ("left", "right")

        def log_probabilities(self, x, sigma):
            assert (sigma == 0.5).all()
            score = x.mean(dim=(1, 2, 3))
            return torch.stack([-score, score], dim=1).log_softmax(dim=1)

    own = latents(4, seed=0)
    found = soft_labels(Reader(), own, sigma=0.5, views=6, batch=5, seed=0, device="cpu")
    assert found.shape == (16, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert ((found[:, 1] > 0.5) == (own.target_N == 1)).all()
