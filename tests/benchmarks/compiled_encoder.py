"""The encoder as it is and through torch.compile, in turns: patches per second, and how far apart.

``python -m tests.benchmarks.compiled_encoder [--threads 1] [--batches 6] [--device cpu]`` prints a
line for each preset. Pixels are generated tissue of 256 px.
"""

import argparse
import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch

from histodiff.data_prep.stages.forward import EncodeSettings, ForwardPasses, torch_threads
from histodiff.models.autoencoder import Autoencoder, autoencoder_preset, create_network
from histodiff.runtime import PixelBlock
from tests.support.tiff_slides import tissue_pixels

PATCH_PX, BATCH = 256, 32


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--presets", nargs="+", default=["tiny", "small"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, default=6, help="of each kind, in turns")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    arguments = parser.parse_args()
    for preset in arguments.presets:
        with torch_threads(arguments.threads):
            print(_line(preset, arguments), flush=True)


def _line(preset: str, arguments: argparse.Namespace) -> str:
    torch.manual_seed(0)
    network = create_network(autoencoder_preset(preset), device=arguments.device)
    autoencoder = Autoencoder(network, device=arguments.device)
    passes = {
        compiled: ForwardPasses(
            autoencoder,
            settings=EncodeSettings(BATCH, arguments.threads, arguments.precision, compiled),
            device=torch.device(arguments.device),
        )
        for compiled in (False, True)
    }
    block = next(_blocks())
    first = {kind: _seconds(each, block) for kind, each in passes.items()}
    took: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(arguments.batches):
        for kind, each in passes.items():
            took[kind].append(_seconds(each, block)[0])
    eager, compiled = (BATCH / statistics.median(took[kind]) for kind in (False, True))
    apart = np.abs(first[True][1].astype(np.float32) - first[False][1].astype(np.float32))
    ratios = [a / b for a, b in zip(took[False], took[True], strict=True)]
    return (
        f"{preset}: eager {eager:.1f}, compiled {compiled:.1f} patches/s; ratio of pairs"
        f" {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); compiling"
        f" {first[True][0]:.0f} s; moments apart by {apart.max():.1e} at most"
    )


def _blocks() -> Iterator[PixelBlock]:
    side = PATCH_PX * 6
    pixels = tissue_pixels(side, seed=0).reshape(6, PATCH_PX, 6, PATCH_PX, 3).swapaxes(1, 2)
    patches = np.ascontiguousarray(pixels.reshape(-1, PATCH_PX, PATCH_PX, 3)[:BATCH])
    while True:
        yield PixelBlock(np.arange(BATCH), patches, {})


def _seconds(passes: ForwardPasses, block: PixelBlock) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    (encoded,) = passes.run([block])
    return time.perf_counter() - started, encoded.moments


if __name__ == "__main__":
    main()
