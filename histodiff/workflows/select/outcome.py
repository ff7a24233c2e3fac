"""What a rule comes to, before it is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from histodiff.artifacts import UnitIssue
from histodiff.samples import Decision


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
