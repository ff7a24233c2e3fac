"""The classifiers of a ceiling: which are trained, and the scores that are kept of each.

A trial is one arm at one seed (and one fold). What it scored is a file of the ledger, written when
it is done, so a run that was killed goes on with the next one.
"""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from histodiff.artifacts import UnitIssue
from histodiff.storage import StoragePath, read_bytes, write_bytes

LEDGER = "ledger"


class Arm(StrEnum):
    """What joins the labelled patches."""

    REAL = "real"
    """Nothing."""
    UNTOUCHED = "untouched"
    """Real patches that stand for perfect samples."""
    RECONSTRUCTED = "reconstructed"
    """The same, through an autoencoder."""


@dataclass(frozen=True)
class Treatment:
    """An arm, and the number of its autoencoder among those of the config."""

    arm: Arm
    autoencoder: int | None = None


@dataclass(frozen=True)
class Trial:
    """One classifier."""

    seed: int
    fold: int
    treatment: Treatment

    @property
    def key(self) -> str:
        """Its name in the ledger."""
        number = self.treatment.autoencoder
        of = "" if number is None else f"-{number}"
        return f"seed-{self.seed}-fold-{self.fold}-{self.treatment.arm}{of}"


@dataclass(frozen=True)
class TrialScore:
    """What one classifier scored, and what it learned from."""

    metrics: dict[str, float | None]
    real: int
    """Labelled patches."""
    added: int
    """Patches that joined them."""
    wanted: int
    """Patches that were to join."""
    failed: tuple[UnitIssue, ...]
    """Patches that could not be read."""


def treatments(num_autoencoders: int) -> list[Treatment]:
    """Every arm once, the control first."""
    through = [Treatment(Arm.RECONSTRUCTED, number) for number in range(num_autoencoders)]
    return [Treatment(Arm.REAL), Treatment(Arm.UNTOUCHED), *through]


def write_score(folder: StoragePath, trial: Trial, score: TrialScore) -> None:
    """Records a trial that is done."""
    record = {**asdict(score), "failed": [issue.model_dump(mode="json") for issue in score.failed]}
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    write_bytes(folder / LEDGER / f"{trial.key}.json", text.encode())


def read_score(folder: StoragePath, trial: Trial) -> TrialScore | None:
    """What a trial scored; None where it is not done."""
    path = folder / LEDGER / f"{trial.key}.json"
    if not path.exists():
        return None
    record = json.loads(read_bytes(path))
    failed = tuple(UnitIssue.model_validate(issue) for issue in record.pop("failed"))
    return TrialScore(**record, failed=failed)
