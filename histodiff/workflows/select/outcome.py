"""What a rule comes to, before it is written."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from histodiff.artifacts import UnitIssue
from histodiff.samples import Decision, SampleStore
from histodiff.selection.judgement import Judgement, eligible


@dataclass(frozen=True)
class Outcome:
    """One decision per sample of the store, in its order."""

    decisions: Sequence[Decision]
    details: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """More columns of the selection, by name."""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """More entries of the summary."""
    failed: tuple[UnitIssue, ...] = ()
    """Patches that could not be read."""


def summary_of(filters: Sequence[Judgement], store: SampleStore) -> dict[str, Any]:
    """How many samples pass all filters, by class, and how many fail each."""
    passes_N = eligible(filters, count=len(store))
    by_class = Counter(np.asarray(store.labels, dtype=object)[passes_N])
    return {
        "eligible": int(passes_N.sum()),
        "eligible_by_class": {label: by_class[label] for label in store.classes},
        "failed_by_rule": {each.name: int((~each.passes_N).sum()) for each in filters},
    }
