"""The worker of ``synthesize``: a unit is a shard of samples, written once.

Two threads share the work: one draws latents, batch after batch, the other decodes and packs what
the first has drawn, so that the device is never left waiting for PNGs or storage. A caller with two
threads of its own has the next unit drawn while the last one is written. What a batch holds is
decided by the plan alone, and every thread computes with the same settings, so neither the number
of workers nor the overlap changes a byte.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from histodiff.runtime.threads import use_threads
from histodiff.samples import ShardRecord, png_bytes, write_packed_shard
from histodiff.storage import StoragePath
from histodiff.synthesis.plan import batches_of, class_of, shard_samples
from histodiff.synthesis.sampling import Drawing, DrawnLatents, Networks, decoded, draw_latents
from histodiff.synthesis.variation import source_of


@dataclass(frozen=True)
class StorePlan:
    """What is written where; ``provenance`` has the columns that all samples share."""

    path: StoragePath
    classes: tuple[str, ...]
    num_samples: int
    shard_size: int
    batch: int
    threads: int
    """Torch threads of whoever draws, and of whoever decodes."""
    provenance: Mapping[str, Any]

    def samples_of(self, shard: int) -> range:
        """Global indices of the samples in a shard."""
        return shard_samples(shard, num_samples=self.num_samples, shard_size=self.shard_size)


@dataclass(frozen=True)
class Packed:
    """Samples of a batch as they are stored."""

    images: list[bytes]
    log_prob_B: np.ndarray[Any, np.dtype[np.float32]]


class Synthesizer:
    """Draws and writes shards; a ``runtime.Worker`` of shard numbers.

    Args:
        plan: What is written where.
        networks: What draws and decodes.
        drawing: How samples are drawn.
        advance: Told how many samples were finished, batch by batch.
    """

    def __init__(
        self,
        plan: StorePlan,
        *,
        networks: Networks,
        drawing: Drawing,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        self._plan, self._networks, self._drawing = plan, networks, drawing
        self._advance = advance
        self._drawer = _one_thread("draw", plan.threads)
        self._packer = _one_thread("pack", plan.threads)
        self._order = threading.Lock()

    def run(self, unit: int) -> ShardRecord:
        """Draws shard number ``unit`` batch by batch and writes it.

        May be called by several threads: drawing takes turns, writing does not.
        """
        samples = self._plan.samples_of(unit)
        parts = self._parts(samples)
        return write_packed_shard(
            self._plan.path,
            unit,
            columns=self._columns(samples, np.concatenate([part.log_prob_B for part in parts])),
            images=[image for part in parts for image in part.images],
        )

    def _parts(self, samples: range) -> list[Packed]:
        with self._order:  # all batches of a unit before those of the next
            drawn = [
                self._drawer.submit(draw_latents, self._networks, self._drawing, part)
                for part in batches_of(samples, self._plan.batch)
            ]
            packed = [self._packer.submit(self._packed, batch) for batch in drawn]
        try:
            return [part.result() for part in packed]
        finally:  # of a unit that failed or was interrupted, nothing more is drawn
            for part in packed:
                part.cancel()
            for batch in drawn:
                batch.cancel()

    def _packed(self, drawn: "Future[DrawnLatents]") -> Packed:
        found = decoded(self._networks, drawn.result())
        if self._advance is not None:
            self._advance(len(found.pixels_BHWC))
        return Packed([png_bytes(image) for image in found.pixels_BHWC], found.log_prob_B)

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

    def _sources(self, samples: Sequence[int]) -> dict[str, Any]:
        """Columns of what was varied; none where samples start from noise."""
        variation = self._drawing.variation
        if variation is None:
            return {}
        num_classes = len(self._plan.classes)
        found = [
            source_of(variation, index, num_classes=num_classes, seed=self._drawing.seed)
            for index in samples
        ]
        columns: dict[str, Any] = {
            "source_patch": [source.patch for source in found],
            "start_sigma": [source.sigma for source in found],
        }
        if variation.stains is not None:
            slides = variation.stains.slides
            columns["stain_slide"] = [
                None if source.donor is None else slides[source.donor] for source in found
            ]
        return columns


def _one_thread(name: str, torch_threads: int) -> ThreadPoolExecutor:
    """A thread of its own, since torch's settings are those of a thread."""
    return ThreadPoolExecutor(
        1, thread_name_prefix=name, initializer=use_threads, initargs=(torch_threads,)
    )
