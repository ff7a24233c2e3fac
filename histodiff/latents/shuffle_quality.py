"""How well the order of training mixes slides, against a perfect shuffle, without any latents.

Two numbers: how many different slides a batch shows, and how much more often than by chance two
draws that follow each other are of the same slide. They need the order and the slide of every row,
and so can be computed for stores that are only planned.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.latents.lanes import LaneOrder
from histodiff.latents.plan import ShardPlan
from histodiff.latents.slabs import Int64s
from histodiff.runtime import generator_for

Slides = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class ShuffleQuality:
    """How well an order mixes slides."""

    distinct_slides: float
    """Different slides in a batch, mean."""
    perfect_slides: float
    """The same for batches of one permutation of all rows that are drawn."""
    lag_1_correlation: float
    """Correlation of the slides of two draws that follow each other; 0 is perfect, 1 one slide."""

    @property
    def distinct_ratio(self) -> float:
        """Distinct slides as a share of those of a perfect shuffle."""
        return self.distinct_slides / self.perfect_slides


def shuffle_quality(order: LaneOrder, slide_of_row: Slides, *, batch: int) -> ShuffleQuality:
    """Quality of a store's order over one epoch.

    Args:
        order: The order.
        slide_of_row: Number of the slide of every row of the store, from 0 on.
        batch: Rows of a global batch, a multiple of the lanes.
    """
    steps, per_lane = order.num_rows // batch, batch // order.num_lanes
    lanes = [
        order.rows_at(lane, np.arange(steps * per_lane)).reshape(steps, per_lane)
        for lane in range(order.num_lanes)
    ]
    drawn = slide_of_row[np.concatenate(lanes, axis=1)]
    rows = slide_of_row[np.flatnonzero(order.flags == order.code)]
    perfect = generator_for(order.seed, "perfect").permutation(rows)[: drawn.size]
    return ShuffleQuality(
        distinct_slides=distinct_slides(drawn),
        perfect_slides=distinct_slides(perfect.reshape(drawn.shape)),
        lag_1_correlation=_lag_1_correlation(drawn.reshape(-1), rows),
    )


def distinct_slides(slides_NB: Slides) -> float:
    """Mean number of different slides in a batch."""
    ordered = np.sort(slides_NB, axis=1)
    return float((1 + (np.diff(ordered, axis=1) != 0).sum(axis=1)).mean())


def slide_opens(plan: ShardPlan, slide_of_row: Slides) -> float:
    """Mean number of different slides in a shard: what mixing costs the encoder."""
    size = plan.rows_per_shard
    starts: Int64s = np.arange(0, len(slide_of_row), size)
    return float(np.mean([len(np.unique(slide_of_row[start : start + size])) for start in starts]))


def _lag_1_correlation(drawn: Slides, rows: Slides) -> float:
    """Above chance, as a share of what is possible (Cohen's kappa of a draw and the next one)."""
    shares = np.bincount(rows) / len(rows)
    chance = float((shares**2).sum())
    same = float((drawn[1:] == drawn[:-1]).mean())
    return (same - chance) / (1 - chance) if chance < 1 else 0.0
