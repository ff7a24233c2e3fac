"""The worker of ``synthesize``: a unit is a shard of samples, written once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from histodiff.samples import ShardRecord, write_shard
from histodiff.storage import StoragePath
from histodiff.synthesis.plan import class_of, shard_samples
from histodiff.synthesis.sampling import Drawing, Drawn, Networks, draw
from histodiff.synthesis.variation import source_of
from histodiff.telemetry.progress import Progress


@dataclass(frozen=True)
class StorePlan:
    """What is written where; ``provenance`` has the columns that all samples share."""

    path: StoragePath
    classes: tuple[str, ...]
    num_samples: int
    shard_size: int
    batch: int
    provenance: Mapping[str, Any]


class Synthesizer:
    """Draws and writes shards; a ``runtime.Worker`` of shard numbers."""

    def __init__(
        self, plan: StorePlan, *, networks: Networks, drawing: Drawing, bar: Progress | None = None
    ) -> None:
        self._plan, self._networks, self._drawing, self._bar = plan, networks, drawing, bar

    def run(self, unit: int) -> ShardRecord:
        """Draws shard number ``unit`` batch by batch and writes it."""
        plan = self._plan
        samples = shard_samples(unit, num_samples=plan.num_samples, shard_size=plan.shard_size)
        parts: list[Drawn] = []
        for start in range(0, len(samples), plan.batch):
            part = samples[start : start + plan.batch]
            parts.append(draw(self._networks, self._drawing, part))
            if self._bar is not None:
                self._bar.advance(len(part))
        return write_shard(
            plan.path,
            unit,
            columns=self._columns(samples, np.concatenate([part.log_prob_B for part in parts])),
            pixels_NHWC=np.concatenate([part.pixels_BHWC for part in parts]),
        )

    def _columns(self, samples: range, log_prob: np.ndarray[Any, Any]) -> dict[str, Any]:
        classes = self._plan.classes
        labels = [classes[class_of(index, num_classes=len(classes))] for index in samples]
        shared = {name: [value] * len(samples) for name, value in self._plan.provenance.items()}
        return {
            "sample": list(samples),
            "label": labels,
            **shared,
            "guide_log_prob": log_prob,
            **self._sources(samples),
        }

    def _sources(self, samples: range) -> dict[str, Any]:
        """Columns of what was varied; none where samples start from noise."""
        variation = self._drawing.variation
        if variation is None:
            return {}
        num_classes = len(self._plan.classes)
        found = [
            source_of(variation, index, num_classes=num_classes, seed=self._drawing.seed)
            for index in samples
        ]
        return {
            "source_patch": [source.patch for source in found],
            "start_sigma": [source.sigma for source in found],
        }
