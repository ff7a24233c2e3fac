"""Rules in combination: who passes all of them, in which order, and what quotas leave.

A filter judges each sample by itself, so that what passes all filters can only grow when one is
left out. Quotas and the cap are filled afterwards in the order of one score. The reason of a
rejected sample is the first rule against it; all of them are kept beside it.
Legend of suffixes: N samples.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.runtime import generator_for
from histodiff.samples import Decision
from histodiff.selection.config import Reason

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judgement:
    """What a filter says of every sample."""

    name: str
    reason: Reason
    """Of the samples that do not pass."""
    passes_N: npt.NDArray[np.bool_]
    score_N: Floats
    """The higher, the better."""
    details: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """More columns, by name."""


@dataclass(frozen=True)
class Quota:
    """Groups of samples, of which none may give more than its share."""

    name: str
    reason: Reason
    """Of the samples of a group that is full."""
    group_N: Sequence[str | int]
    slack: float
    """Most of one group, as a multiple of an equal share."""


@dataclass(frozen=True)
class Judged:
    """The decisions, and what was against each sample before the order decided."""

    decisions: list[Decision]
    reasons: list[list[Reason]]
    """Of all filters that a sample does not pass, in the order of the rules."""


def eligible(judgements: Sequence[Judgement], *, count: int) -> npt.NDArray[np.bool_]:
    """Which of ``count`` samples pass every filter."""
    passes_N = np.ones(count, bool)
    for judgement in judgements:
        passes_N &= judgement.passes_N
    return passes_N


def decided(
    samples: Sequence[int],
    labels: Sequence[str],
    *,
    judgements: Sequence[Judgement],
    quotas: Sequence[Quota],
    order_N: Floats,
    max_per_class: int,
) -> Judged:
    """One decision per sample.

    Args:
        samples: Their numbers.
        labels: Their classes.
        judgements: Of the filters, in the order in which reasons are given.
        quotas: In the order in which reasons are given.
        order_N: The highest is taken first; ties go to the smaller sample number.
        max_per_class: At most this many per class.
    """
    against = [
        [judgement.reason for judgement in judgements if not judgement.passes_N[row]]
        for row in range(len(samples))
    ]
    named = np.asarray(labels, dtype=object)
    rank: dict[int, int] = {}
    reason: dict[int, Reason] = {row: found[0] for row, found in enumerate(against) if found}
    passes_N = eligible(judgements, count=len(samples))
    for label in sorted(set(labels)):
        of_class = np.flatnonzero(named == label)
        members = of_class[passes_N[of_class]]
        ranked = members[np.lexsort((np.asarray(samples)[members], -order_N[members]))]
        limits = [_limit(quota, of_class, max_per_class) for quota in quotas]
        taken, reasons = _filled(ranked.tolist(), quotas, limits, max_per_class)
        rank |= {row: place for place, row in enumerate(taken)}
        reason |= reasons
    decisions = [
        Decision(
            sample=int(samples[row]), label=labels[row], rank=rank.get(row), reason=reason[row]
        )
        for row in range(len(samples))
    ]
    return Judged(decisions, against)


def random_order(samples: Sequence[int], *, seed: int) -> Floats:
    """An order drawn by the seed, for rules without a score: a function of each sample's number."""
    return np.array([generator_for(seed, "select-order", int(s)).random() for s in samples])


def _limit(quota: Quota, of_class: npt.NDArray[np.int64], max_per_class: int) -> int:
    """Most of one group of a class."""
    num_groups = len({quota.group_N[row] for row in of_class})
    return int(np.ceil(quota.slack * max_per_class / num_groups))


def _filled(
    ranked: Sequence[int], quotas: Sequence[Quota], limits: Sequence[int], max_per_class: int
) -> tuple[list[int], dict[int, Reason]]:
    """Rows of one class that are taken, in order, and the reason of every row."""
    taken: list[int] = []
    reasons: dict[int, Reason] = {}
    counts: list[Counter[str | int]] = [Counter() for _ in quotas]
    for row in ranked:
        if len(taken) == max_per_class:
            reasons[row] = Reason.OVER_CAP
            continue
        full = [
            quota.reason
            for quota, limit, count in zip(quotas, limits, counts, strict=True)
            if count[quota.group_N[row]] >= limit
        ]
        reasons[row] = full[0] if full else Reason.ACCEPTED
        if not full:
            taken.append(row)
            for quota, count in zip(quotas, counts, strict=True):
                count[quota.group_N[row]] += 1
    return taken, reasons
