"""Random selection: the control that takes as many samples per class, whatever they look like."""

from collections.abc import Mapping, Sequence

import numpy as np

from histodiff.runtime import generator_for
from histodiff.samples import Decision
from histodiff.selection.config import Reason


def random_decisions(
    samples: Sequence[int], labels: Sequence[str], *, counts: Mapping[str, int], seed: int
) -> list[Decision]:
    """One decision per sample: ``counts[label]`` of each class, drawn by ``seed``."""
    decisions = []
    for label in sorted(set(labels)):
        members = sorted(s for s, own in zip(samples, labels, strict=True) if own == label)
        drawn = generator_for(seed, "select", label).permutation(np.array(members, np.int64))
        wanted = counts.get(label, 0)
        decisions += [
            Decision(
                sample=int(sample),
                label=label,
                rank=rank if rank < wanted else None,
                reason=Reason.ACCEPTED if rank < wanted else Reason.NOT_DRAWN,
            )
            for rank, sample in enumerate(drawn)
        ]
    return decisions
