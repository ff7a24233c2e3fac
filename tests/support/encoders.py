"""Encoders for tests of the machinery around them; they do not import diffusers."""

import json
import os
import signal
import urllib.request
from collections.abc import Iterable
from pathlib import Path

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
