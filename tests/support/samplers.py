"""Every sampler, in every form that computes otherwise, and names for them."""

from typing import Any

from histodiff.diffusion.samplers import (
    DdimSampler,
    DpmSolverSampler,
    EulerSampler,
    HeunSampler,
    HeunStochasticSampler,
)

SAMPLERS = [
    EulerSampler(type="euler"),
    HeunSampler(type="heun"),
    HeunStochasticSampler(type="heun_stochastic", churn=10.0),
    DdimSampler(type="ddim", eta=0.0),
    DdimSampler(type="ddim", eta=1.0),
    DpmSolverSampler(type="dpm_solver", order=2, eta=0.0),
    DpmSolverSampler(type="dpm_solver", order=2, eta=1.0),
    DpmSolverSampler(type="dpm_solver", order=3, eta=0.0),
    DpmSolverSampler(type="dpm_solver", order=3, eta=1.0),
]


def name_of(sampler: Any) -> str:
    parts = [getattr(sampler, field, None) for field in ("type", "order", "eta")]
    return "-".join(str(part) for part in parts if part is not None)
