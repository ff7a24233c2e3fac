"""Weightings against the papers' formulas, written out for each parameterisation."""

import math

import pytest
import torch

from histodiff.config import parse_config
from histodiff.diffusion import (
    EdmObjective,
    EpsilonObjective,
    FlowObjective,
    MinSnrWeighting,
    UncertaintyWeighting,
    UniformWeighting,
    VObjective,
    create_preconditioning,
    min_snr_weight,
    training_loss,
)
from histodiff.errors import ConfigError

SIGMAS = torch.tensor([0.05, 0.3, 1.0, 7.0, 30.0], dtype=torch.float64)
LOSSES = torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
GAMMA = 5.0


def textbook_min_snr(kind, sigma):
    """Hang et al. 2023 for epsilon and v; for flow (1 - t) x0 + t n, D's weight times t^2."""
    snr = 1 / sigma**2
    capped = min(snr, GAMMA)
    if kind == "epsilon":
        return capped / snr
    if kind in ("v", "edm"):
        return capped / (snr + 1)
    time = sigma / (1 + sigma)
    return capped * time**2


OBJECTIVES = [
    EdmObjective(type="edm"),
    VObjective(type="v"),
    EpsilonObjective(type="epsilon"),
    FlowObjective(type="flow"),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda item: item.type)
def test_min_snr_weight_equals_the_papers_formula_in_each_parameterisation(objective):
    scales = create_preconditioning(objective)
    found = min_snr_weight(SIGMAS, MinSnrWeighting(type="min_snr", gamma=GAMMA), scales)
    expected = [textbook_min_snr(objective.type, sigma) for sigma in SIGMAS.tolist()]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda item: item.type)
@pytest.mark.parametrize("error", ["l1", "l2"])
def test_min_snr_weighs_the_error_of_the_denoiser_alike_in_every_parameterisation(objective, error):
    # min(SNR, gamma) |D - x0|^2, or its root for l1, whatever the network predicts.
    scales = create_preconditioning(objective.model_copy(update={"error": error}))
    clean = torch.zeros((5, 1, 1, 1), dtype=torch.float64)
    loss = scales.loss(clean + 0.5, clean, SIGMAS).double()
    weighting = MinSnrWeighting(type="min_snr", gamma=GAMMA)
    found = min_snr_weight(SIGMAS, weighting, scales) * loss
    capped = [min(1 / sigma**2, GAMMA) for sigma in SIGMAS.tolist()]
    expected = [value * 0.25 if error == "l2" else math.sqrt(value) * 0.5 for value in capped]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_min_snr_of_edm_does_not_depend_on_the_unit_of_the_data():
    half = create_preconditioning(EdmObjective(type="edm", sigma_data=0.5))
    whole = create_preconditioning(EdmObjective(type="edm"))
    weighting = MinSnrWeighting(type="min_snr")
    torch.testing.assert_close(
        min_snr_weight(SIGMAS / 2, weighting, half), min_snr_weight(SIGMAS, weighting, whole)
    )


def loss_and_gradient(weighting, uncertainty=None):
    """Of a loss that is ``scale * LOSSES`` at scale 1."""
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = training_loss(
        scale * LOSSES, SIGMAS, weighting=weighting,
        preconditioning=create_preconditioning(OBJECTIVES[0]), uncertainty_B=uncertainty,
    )  # fmt: skip
    loss.backward()
    return loss.item(), scale.grad.item()


def test_every_weighting_reports_the_unweighted_loss_and_optimizes_the_weighted_one():
    u = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
    scales = create_preconditioning(OBJECTIVES[0])
    weights = min_snr_weight(SIGMAS, MinSnrWeighting(type="min_snr"), scales)
    plain = LOSSES.mean().item()
    for weighting, uncertainty, gradient in (
        (UniformWeighting(type="uniform"), None, plain),
        (MinSnrWeighting(type="min_snr"), None, (weights * LOSSES).mean().item()),
        (UncertaintyWeighting(type="uncertainty"), u, (LOSSES * (-u).exp()).mean().item()),
    ):
        value, found = loss_and_gradient(weighting, uncertainty)
        assert value == pytest.approx(plain, rel=1e-12)
        assert found == pytest.approx(gradient, rel=1e-12)
    assert (weights * LOSSES).mean().item() != pytest.approx(plain, rel=0.1)


def test_gradient_of_the_uncertainty_is_that_of_the_papers_loss():
    u = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    training_loss(
        LOSSES, SIGMAS, weighting=UncertaintyWeighting(type="uncertainty"),
        preconditioning=create_preconditioning(OBJECTIVES[0]), uncertainty_B=u,
    ).backward()  # fmt: skip
    # d/du of exp(-u) L + u
    torch.testing.assert_close(u.grad, (1 - (-u.detach()).exp() * LOSSES) / 5)


def test_non_finite_weighted_loss_is_not_hidden_by_a_finite_reported_one():
    u = torch.tensor([-1000.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    value, _ = loss_and_gradient(UncertaintyWeighting(type="uncertainty"), u)
    assert not math.isfinite(value)


@pytest.mark.parametrize("kind", ["edm", "v", "epsilon", "flow"])
def test_weighting_is_uniform_by_default_and_strict(kind):
    types = {item.type: type(item) for item in OBJECTIVES}
    default = parse_config(types[kind], {"type": kind}, source="test")
    assert default.weighting == UniformWeighting(type="uniform")
    given = {"type": kind, "weighting": {"type": "min_snr", "gamma": 0}}
    with pytest.raises(ConfigError, match="gamma"):
        parse_config(types[kind], given, source="test")
