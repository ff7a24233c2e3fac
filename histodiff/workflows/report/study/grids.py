"""Failure cases: the test patches that an arm's classifiers got wrong most surely.

Which are shown is decided by the numbers: the lowest probability of the true class, mean over the
label draws.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histodiff.artifacts import Kind, open_artifact
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.storage import StoragePath
from histodiff.workflows.report.samples import SampleRow, input_of, sample_row
from histodiff.workflows.report.study.lines import ArmLine
from histodiff.workflows.sweep.trial_table import TrialRow


@dataclass(frozen=True)
class FailureCases:
    """The surest mistakes of one arm, a strip per class."""

    arm: str
    rows: Sequence[SampleRow]


@dataclass(frozen=True)
class _Case:
    patch: int
    probability: float
    """Of the true class, mean over label draws."""


def failure_cases(
    root: StoragePath,
    rows: Sequence[TrialRow],
    line: ArmLine,
    classes: Sequence[str],
    *,
    per_class: int,
) -> FailureCases | None:
    """The surest mistakes of a line; None where it has none."""
    index = _index_of(root, rows, line)
    strips = []
    for number, label in enumerate(classes):
        cases = _surest_mistakes(line, number)[:per_class]
        if not cases or index is None:
            continue
        found = [case.probability for case in cases]
        what = f"{label}, p(true) {min(found):.2f} to {max(found):.2f}"
        order = sorted(cases, key=lambda case: case.patch)
        block = PatchReader(index).read([case.patch for case in order])
        kept = [
            (case.probability, place)
            for place, case in enumerate(order)
            if place not in block.failures
        ]
        pixels = block.pixels[[place for _, place in sorted(kept)]]
        alt = f"Patches of class {label} that {line.arm} gets wrong, the surest mistake first."
        strips.append(sample_row(what, pixels, alt))
    return FailureCases(line.arm, strips) if strips else None


def _surest_mistakes(line: ArmLine, label: int) -> list[_Case]:
    """Patches of a class whose mean probability is largest for another, the surest first."""
    sums: defaultdict[str, list[np.ndarray[tuple[int], np.dtype[np.float64]]]] = defaultdict(list)
    for found in line.scores[line.split].classifiers.values():
        for place in np.flatnonzero(found.scored.target_N == label):
            sums[found.item_N[place]].append(found.scored.probability_NK[place])
    means = {int(item): np.mean(each, axis=0) for item, each in sums.items()}
    wrong = [
        _Case(patch, float(mean[label]))
        for patch, mean in means.items()
        if int(mean.argmax()) != label
    ]
    return sorted(wrong, key=lambda case: (case.probability, case.patch))


def _index_of(root: StoragePath, rows: Sequence[TrialRow], line: ArmLine) -> PatchIndex | None:
    for row in rows:
        if row.arm == line.arm and row.axes == line.settings and row.error is None:
            classifier = open_artifact(root, row.artifact)
            return PatchIndex.open(input_of(root, classifier, "patches", Kind.PATCHES).path)
    return None
