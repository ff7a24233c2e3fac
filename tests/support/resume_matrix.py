"""ZeRO stages x changes of the world size x ways to be ended, against undisturbed runs.

``python -m tests.support.resume_matrix`` prints the table of all cells and ends with 1 if a cell is
beyond a tolerance: sample order and draws equal, loss within 1e-5 of the undisturbed run at every
step, averages within 1e-6 of a plain loop in one process.
"""

import itertools
import pickle
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors.torch import load_file

from histodiff.workflows.pretrain import PretrainConfig
from tests.support.gang_processes import Gang, draws_of, exit_codes
from tests.support.plain_training import PlainResult, plain_training
from tests.support.pretraining import finished_store, tiny_config

LOSS_TOLERANCE, AVERAGE_TOLERANCE = 1e-5, 1e-6
RESIZES = {"same size": (2, 2), "2 -> 1": (2, 1), "1 -> 2": (1, 2)}
ENDINGS = {"kill -9": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
HALF_LIVES = (64, 256)
_END_AT = 96
"""Two steps after the checkpoint of step 4."""


@dataclass(frozen=True)
class Cell:
    """One resumed run and how far it is from an undisturbed one."""

    stage: int
    resize: str
    ending: str
    resumed_from: int
    """Step of the checkpoint."""
    steps: int
    """Losses compared."""
    loss_difference: float
    average_difference: float
    same_draws: bool

    @property
    def is_good(self) -> bool:
        """Whether all is within its tolerance."""
        return (
            self.same_draws
            and self.resumed_from > 0
            and self.loss_difference <= LOSS_TOLERANCE
            and self.average_difference <= AVERAGE_TOLERANCE
        )


class ResumeMatrix:
    """Runs cells; what they are compared with is run once.

    Args:
        root: Empty folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        finished_store(root)
        self._undisturbed: dict[tuple[int, int], Gang] = {}
        self._plain: PlainResult | None = None

    def cell(self, stage: int, resize: str, ending: str) -> Cell:
        """Ends a run, resumes it, and compares."""
        before, after = RESIZES[resize]
        undisturbed = self._undisturbed_run(stage, before)
        name = f"stage{stage}-{before}to{after}-{ENDINGS[ending].name}"
        gang = Gang(
            self._root, config(name, stage), before, ending=ENDINGS[ending], end_at_images=_END_AT
        )
        codes = exit_codes(gang)
        expected = 143 if ENDINGS[ending] is signal.SIGTERM else -signal.SIGKILL
        assert codes[-1] == expected, (codes, gang.notes)
        resumed_from = _newest_checkpoint(gang)
        resumed = Gang(self._root, gang.config, after)
        assert exit_codes(resumed) == [0] * after, gang.notes
        losses, wanted = _losses(resumed), _losses(undisturbed)
        return Cell(
            stage, resize, ending, resumed_from,
            steps=len(losses),
            loss_difference=float(np.abs(np.subtract(losses, wanted)).max()),
            average_difference=self._average_difference(resumed),
            same_draws=_same_draws(resumed, undisturbed),
        )  # fmt: skip

    def _undisturbed_run(self, stage: int, world_size: int) -> Gang:
        key = (stage, world_size)
        if key not in self._undisturbed:
            gang = Gang(self._root, config(f"stage{stage}-{world_size}", stage), world_size)
            assert exit_codes(gang) == [0] * world_size, gang.notes
            self._undisturbed[key] = gang
        return self._undisturbed[key]

    def _average_difference(self, gang: Gang) -> float:
        """Largest difference of any average of any weight from the plain loop's."""
        if self._plain is None:
            self._plain = plain_training(pickle.loads(gang.spec_file.read_bytes()))
        snapshots = _artifact(gang) / "snapshots"
        names = ["last", f"last-{HALF_LIVES[1]}"]
        return max(
            float((tensor.double() - average[name]).abs().max())
            for folder, average in zip(names, self._plain.averages, strict=True)
            for name, tensor in load_file(snapshots / folder / "weights.safetensors").items()
        )


def config(name: str, stage: int) -> PretrainConfig:
    """12 steps in fp32, a row of metrics at each, a checkpoint after 4 and 8.

    Small steps, and a denominator of AdamW that no gradient near zero makes tiny: else the order
    of a sum moves weights by more than 1e-6 (so the plain loop differs from itself with other
    convolution kernels), while a lost step or moment still moves them a hundred times as far.
    """
    train = {
        "zero_stage": stage, "log_images": 16, "ema": {"half_lives_images": HALF_LIVES},
        "micro_batch": 4,
        "optimizer": {"type": "adamw", "lr": 1e-4, "eps": 1e-6},
        "rate": {"warmup_images": 32, "shape": "constant"},
    }  # fmt: skip
    return tiny_config(name, train=train, validation=None)


def all_cells() -> Iterator[tuple[int, str, str]]:
    """Stage, resize and ending of every cell."""
    return itertools.product(range(4), RESIZES, ENDINGS)


def table(cells: Sequence[Cell]) -> str:
    """The cells as lines of text."""
    head = (
        "| stage | resume | ended by | from step | steps | max loss diff | max EMA diff | draws |"
    )
    rows = [
        f"| {cell.stage} | {cell.resize} | {cell.ending} | {cell.resumed_from} | {cell.steps}"
        f" | {cell.loss_difference:.1e} | {cell.average_difference:.1e}"
        f" | {'equal' if cell.same_draws else 'DIFFERENT'} |"
        for cell in cells
    ]
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *rows])


def _artifact(gang: Gang) -> Path:
    return gang.root / "denoisers" / gang.config.name / gang.config.version


def _newest_checkpoint(gang: Gang) -> int:
    folders = (_artifact(gang) / "checkpoints").glob("step-*/complete.json")
    return max(int(path.parent.name.removeprefix("step-")) for path in folders)


def _losses(gang: Gang) -> list[float]:
    losses: list[float] = pq.read_table(_artifact(gang) / "metrics.parquet")["loss"].to_pylist()
    return losses


def _same_draws(gang: Gang, undisturbed: Gang) -> bool:
    """Whether every sample of every start got what it got in the undisturbed run."""
    trained = range(gang.config.train.num_steps * gang.config.train.batch)
    found, wanted = draws_of(gang), draws_of(undisturbed)
    return all(len(wanted[index]) == 1 and found[index] == wanted[index] for index in trained)


def main() -> int:
    """Prints the table; 1 if a cell is bad."""
    with tempfile.TemporaryDirectory(prefix="resume-matrix-") as folder:
        matrix = ResumeMatrix(Path(folder))
        cells = []
        for key in all_cells():
            cells.append(matrix.cell(*key))
            print(table(cells[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    print(table(cells))
    return int(not all(cell.is_good for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
