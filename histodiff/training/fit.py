"""A plain training loop in one process, for models that need no DeepSpeed.

Guide and classifier are trained with it. The caller gives the loss of step ``k`` as a
pure function of the module and ``k``; the loop does the rest: AdamW, warm-up, clipping, EMA, a
progress bar and a checkpoint. Torch's own generator is seeded anew for every step, so dropout is
covered too and a resumed run equals an undisturbed one exactly.

The checkpoint is one safetensors file, replaced atomically: it is never torn and holds no pickle.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Annotated, NamedTuple

import torch
from pydantic import Field, model_validator
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of

from histodiff.config import Config, Location
from histodiff.errors import TrainingDiverged
from histodiff.runtime import derived_seed
from histodiff.storage import StoragePath, write_bytes
from histodiff.telemetry import progress
from histodiff.training.randomness import seed_torch
from histodiff.training.rates import RateShape, rate_factor

CHECKPOINT = "fit.safetensors"


class FitConfig(Config):
    """How a small model is trained."""

    steps: int = Field(ge=1)
    """Optimizer steps in all."""
    lr: float = Field(gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's moments."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    schedule: RateShape = "cosine"
    """What the learning rate does after the warm-up."""
    clip: float | None = Field(default=1.0, gt=0)
    """Largest gradient norm; null does not clip."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay per step of an average of the weights, which is the result; null keeps the last."""
    log_steps: int = Field(default=10, ge=1)
    """Every how many steps the loss is recorded (the mean since the last record)."""
    checkpoint_steps: Annotated[int, Location()] = Field(default=200, ge=1)
    """Every how many steps a checkpoint is written; changes no result."""

    @model_validator(mode="after")
    def _inverse_sqrt_has_a_warmup(self) -> "FitConfig":
        if self.schedule == "inverse_sqrt" and self.warmup_steps == 0:
            raise ValueError(
                "schedule=inverse_sqrt falls from the end of the warm-up on: set warmup_steps > 0"
            )
        return self


class FitRecord(NamedTuple):
    """Mean loss of the steps up to ``step`` since the record before."""

    step: int
    loss: float


def fit(
    module: torch.nn.Module,
    *,
    loss: Callable[[int], torch.Tensor],
    config: FitConfig,
    seed: int,
    checkpoint: StoragePath | None,
    description: str,
) -> list[FitRecord]:
    """Trains ``module`` in place and returns the recorded losses, those of earlier runs included.

    Parameters with ``requires_grad=False`` stay as they are. The caller sets train or eval mode.
    With ``config.ema`` the module ends up with the averaged weights.

    Args:
        module: What is trained; lies on its device already.
        loss: Scalar loss of step ``k`` (from 0): a pure function of the module and ``k``.
        config: How to train.
        seed: Seeds torch's generators before every step (dropout and the like).
        checkpoint: Folder for ``fit.safetensors``; None writes none.
        description: Name on the progress bar.

    Raises:
        TrainingDiverged: The loss of a step is not finite.
    """
    state, device = _FitState(module, config), next(module.parameters()).device
    if checkpoint is not None:
        state.load(checkpoint / CHECKPOINT)
    with (
        _own_random_state(module),
        progress(description, total=config.steps, unit="steps", already=state.step) as bar,
    ):
        while state.step < config.steps:
            seed_torch(derived_seed(seed, "fit", state.step), device=device)
            value = state.advance(loss)
            if not math.isfinite(value):
                saved = str(checkpoint / CHECKPOINT) if checkpoint and state.saved_step else None
                raise TrainingDiverged(state.step, saved)
            bar.advance(1, loss=value)
            due = state.step % config.checkpoint_steps == 0 or state.step == config.steps
            if checkpoint is not None and due:
                state.save(checkpoint / CHECKPOINT)
    state.use_average()
    return state.records


class _FitState:
    """Everything that a step changes: weights, optimizer, average, clock, records."""

    def __init__(self, module: torch.nn.Module, config: FitConfig) -> None:
        self.module, self.config = module, config
        self.step, self.saved_step = 0, 0
        self.records: list[FitRecord] = []
        self.pending: list[float] = []
        self.trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=config.lr, betas=config.betas,
            weight_decay=config.weight_decay,
        )  # fmt: skip
        self.average = (
            {name: parameter.detach().float().clone() for name, parameter in self.trained.items()}
            if config.ema is not None
            else {}
        )

    def advance(self, loss: Callable[[int], torch.Tensor]) -> float:
        """Does one step and returns its loss; a non-finite loss leaves the weights alone."""
        self.optimizer.zero_grad(set_to_none=True)
        objective = loss(self.step)
        value = float(objective.detach())
        if not math.isfinite(value):
            return value
        objective.backward()  # type: ignore[no-untyped-call]
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.trained.values(), self.config.clip)
        factor = rate_factor(
            self.step + 1, warmup=self.config.warmup_steps, total=self.config.steps,
            shape=self.config.schedule,
        )  # fmt: skip
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor
        self.optimizer.step()
        self.step += 1
        self._update_average()
        self._record(value)
        return value

    def use_average(self) -> None:
        """Puts the averaged weights, if there are any, into the module."""
        with torch.no_grad():
            for name, average in self.average.items():
                self.trained[name].copy_(average)

    def save(self, path: StoragePath) -> None:
        """Replaces the checkpoint."""
        write_bytes(path, bytes_of({name: t.contiguous() for name, t in self._tensors()}))
        self.saved_step = self.step

    def load(self, path: StoragePath) -> None:
        """Takes up the checkpoint at ``path``, if there is one."""
        if not path.exists():
            return
        tensors = tensors_of(path.read_bytes())
        self.step = self.saved_step = int(tensors["clock/step"])
        self.records = [FitRecord(int(step), loss) for step, loss in tensors["records"].tolist()]
        self.pending = tensors["clock/pending"].tolist()
        with torch.no_grad():
            for name, tensor in self.module.state_dict().items():
                tensor.copy_(tensors[f"module/{name}"])
            for name, average in self.average.items():
                average.copy_(tensors[f"average/{name}"])
        for name, parameter in self.trained.items():
            prefix = f"optimizer/{name}/"
            if prefix + "step" in tensors:
                self.optimizer.state[parameter] = {
                    key: tensors[prefix + key].to(
                        parameter.device if key != "step" else "cpu", copy=True
                    )
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield "clock/step", torch.tensor(self.step)
        yield "clock/pending", torch.tensor(self.pending, dtype=torch.float64)
        yield "records", torch.tensor(self.records, dtype=torch.float64).reshape(-1, 2)
        for name, tensor in self.module.state_dict().items():
            yield f"module/{name}", tensor.detach().cpu().clone()
        for name, average in self.average.items():
            yield f"average/{name}", average.cpu()
        for name, parameter in self.trained.items():
            for key, tensor in self.optimizer.state.get(parameter, {}).items():
                yield f"optimizer/{name}/{key}", tensor.cpu()

    def _update_average(self) -> None:
        decay = self.config.ema
        if decay is None:
            return
        # The first steps are averaged plainly: the initial weights must not linger.
        decay = min(decay, self.step / (self.step + 9.0))
        with torch.no_grad():
            for name, average in self.average.items():
                average.lerp_(self.trained[name].float(), 1.0 - decay)

    def _record(self, value: float) -> None:
        self.pending.append(value)
        if self.step % self.config.log_steps == 0 or self.step == self.config.steps:
            self.records.append(FitRecord(self.step, sum(self.pending) / len(self.pending)))
            self.pending.clear()


def _own_random_state(module: torch.nn.Module) -> AbstractContextManager[None]:
    """Keeps the caller's random state as it was."""
    devices = {p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"}
    return torch.random.fork_rng(devices=sorted(devices))
