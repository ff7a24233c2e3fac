"""Encoders for tests of the machinery around them; they do not import diffusers."""

import json
import os
import signal
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from threading import Event

import ray
import torch
from torch import Tensor

from histodiff.data_prep.stages.encode import EncodedShard, ShardEncoder
from histodiff.latents import ShardUnit
from histodiff.runtime import PixelBlock
from histodiff.storage import StoragePath


class ConvolutionEncoder:
    """Two latent channels at half the resolution, by one convolution."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._weight = torch.randn(4, 3, 2, 2, generator=generator) / 255

    def encode(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.nn.functional.conv2d(pixels_BCHW.float(), self._weight, stride=2)
        return found[:, :2], found[:, 2:].abs()


def load_convolution_encoder(path: StoragePath, *, device: str) -> ConvolutionEncoder:
    """Stands for ``load_autoencoder``."""
    del path, device
    return ConvolutionEncoder()


class DyingEncoder(ShardEncoder):
    """Kills its own process, as ``kill -9`` would, in the middle of one unit, once."""

    shard = 2

    def __init__(self, *args: object, marker: Path, **options: object) -> None:
        super().__init__(*args, **options)
        self._marker = marker

    def run(self, unit: ShardUnit, blocks: Iterable[PixelBlock]) -> EncodedShard:
        if unit.shard != self.shard or self._marker.exists():
            return super().run(unit, blocks)
        return super().run(unit, self._deadly(blocks))

    def _deadly(self, blocks: Iterable[PixelBlock]) -> Iterable[PixelBlock]:
        yield from blocks
        self._marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


class PlacedEncoder(ShardEncoder):
    """Notes on which node every shard is done, and does some only when the cluster has changed.

    The first node does ``EACH`` shards and waits for ``left``; every other one does as many, and is
    then in the middle of a shard until it is killed.
    """

    EACH = 2

    def __init__(self, *args: object, folder: Path, first: str, **options: object) -> None:
        super().__init__(*args, **options)
        self._folder, self._first = folder, first
        self._node = ray.get_runtime_context().get_node_id()

    def run(self, unit: ShardUnit, blocks: Iterable[PixelBlock]) -> EncodedShard:
        found = super().run(unit, self._in_time(blocks))
        (self._folder / f"{self._node}.{unit.shard}").touch()
        return found

    def _in_time(self, blocks: Iterable[PixelBlock]) -> Iterable[PixelBlock]:
        yield from blocks
        pause = Event()
        while len(done_on(self._node, self._folder)) >= self.EACH:  # the test's time limit ends it
            if self._node == self._first and (self._folder / "left").exists():
                return
            pause.wait(0.05)


def done_on(node: str, folder: Path) -> list[str]:
    """Shards that a ``PlacedEncoder`` has done on a node."""
    return [path.suffix[1:] for path in folder.glob(f"{node}.*")]


class ScrapedEncoder(ShardEncoder):
    """Ends no unit before its process and a reader's can be found and scraped by Prometheus."""

    def __init__(self, *args: object, port: int, **options: object) -> None:
        super().__init__(*args, **options)
        self._hub = f"http://127.0.0.1:{port}/sd"

    def run(self, unit: ShardUnit, blocks: Iterable[PixelBlock]) -> EncodedShard:
        return super().run(unit, self._found(blocks))

    def _found(self, blocks: Iterable[PixelBlock]) -> Iterable[PixelBlock]:
        yield from blocks
        roles: set[str] = set()
        while roles < {"driver", "reader", "encoder"}:  # bounded by the test's time limit
            with urllib.request.urlopen(self._hub) as response:
                targets = json.load(response)
            roles = {target["labels"]["role"] for target in targets}
        for target in targets:
            with urllib.request.urlopen(f"http://{target['targets'][0]}/metrics") as response:
                assert b"histodiff_" in response.read()
