"""``bench sample``: what `synthesize` costs around the denoiser, against a bare loop.

18 steps of Heun (35 calls of the denoiser) for 64 samples at a time. Three ways take turns, block
by block, in another order every round, so that noise of the machine falls on all alike; ratios are
medians over rounds of the times within one round:

- ``bare``: Karras et al.'s Algorithm 1 written out around the network, noise there already;
- ``latents``: the same latents drawn as `synthesize` draws them, each from its own noise;
- ``written``: its worker as it is: latents, decoded by the autoencoder `tiny`, packed as PNG, in a
  shard of the store on local disk.

On a CPU the preset is `tiny` (latents of 4x16x16), on CUDA `small` or `base` (4x32x32); weights are
drawn at random, which no time depends on. The first two must give the same latents.
"""

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import count, pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor

from histodiff.artifacts import provenance
from histodiff.diffusion import EdmObjective, KarrasSchedule, noise_levels
from histodiff.diffusion.samplers import HeunSampler
from histodiff.errors import ConfigError
from histodiff.models.autoencoder import Autoencoder, autoencoder_preset, create_network
from histodiff.models.denoiser import Denoiser, DenoiserConfig, with_attention_here
from histodiff.models.unet import UNetPreset, unet_preset
from histodiff.runtime.threads import use_threads
from histodiff.storage import StoragePath, storage_path
from histodiff.synthesis.plan import batches_of, start_noise
from histodiff.synthesis.sampling import Drawing, Networks, draw_latents
from histodiff.synthesis.unguided import NO_GUIDANCE, UNCONDITIONAL_CLASSES, Unguided
from histodiff.synthesis.worker import StorePlan, Synthesizer
from histodiff.telemetry import progress
from histodiff.workflows.bench.train.limits import device_name, synchronize
from histodiff.workflows.bench.train.rounds import speed_ratio, take_turns

STEPS, BATCH, ROUNDS = 18, 64, 5
BATCHES = {"cpu": 2, "cuda": 8}
"""Batches of a block, which is one shard: decoding one of them overlaps with drawing the next."""
SIDES: dict[UNetPreset, int] = {"tiny": 16, "small": 32, "base": 32}
BARE, LATENTS, WRITTEN = "bare", "latents", "written"
_DEFAULT_PRESET: dict[str, UNetPreset] = {"cpu": "tiny", "cuda": "small"}
_CHANNELS, _SEED = 4, 0


@dataclass(frozen=True)
class SampleWorkload:
    """What is drawn."""

    preset: UNetPreset
    device: str
    batch: int
    batches: int
    threads: int
    steps: int = STEPS

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, h, w)``."""
        return (_CHANNELS, SIDES[self.preset], SIDES[self.preset])

    @property
    def images(self) -> int:
        """Samples of a block."""
        return self.batch * self.batches


def bench_sample(
    preset: str | None = None,
    device: str | None = None,
    batch: str = str(BATCH),
    batches: str | None = None,
    threads: str | None = None,
    rounds: str = str(ROUNDS),
) -> dict[str, Any]:
    """Images per second, overheads (0: nothing is lost), raw timings and versions.

    Args:
        preset: Of the UNet; `tiny` on a CPU and `small` on CUDA.
        device: `cpu` or `cuda`; by default what there is.
        batch: Samples drawn at a time; another number than the default is another workload.
        batches: Of a block.
        threads: Torch's; by default one for each core.
        rounds: Blocks of every way.

    Raises:
        ConfigError: An option cannot be used.
    """
    started = time.monotonic()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in BATCHES or (device == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"bench sample: device={device}: give cpu, or cuda where there is a GPU")
    preset = preset or _DEFAULT_PRESET[device]
    if preset not in SIDES:
        raise ConfigError(f"bench sample: preset={preset}: give one of {', '.join(SIDES)}")
    workload = SampleWorkload(
        preset=preset,
        device=device,
        batch=_positive("batch", batch),
        batches=_positive("batches", batches or str(BATCHES[device])),
        threads=_positive("threads", threads or str(os.cpu_count())),
    )
    num_rounds = _positive("rounds", rounds)
    with _threads(workload.threads), tempfile.TemporaryDirectory(prefix="histodiff-") as folder:
        ways = Ways(workload, storage_path(folder))
        difference = ways.latent_difference()
        seconds = _timed(ways, workload, num_rounds)
    rates = {name: workload.images / median(values) for name, values in seconds.items()}
    return {
        "bench": "sample",
        "workload": {
            **asdict(workload),
            "latent_shape": workload.latent_shape,
            "sampler": "heun",
            "rounds": num_rounds,
        },
        "images_per_s": rates,
        "overhead_vs_bare_loop": _overhead(seconds, LATENTS, BARE),
        "written_vs_latents": _overhead(seconds, WRITTEN, LATENTS),
        "latent_difference": difference,
        "seconds": seconds,
        "device_name": device_name(device),
        "provenance": provenance(time.monotonic() - started),
    }  # fmt: skip


class Ways:
    """The three ways to draw the same samples; each call does one block of ``batches``.

    Args:
        workload: What is drawn.
        folder: Where shards are written.
    """

    def __init__(self, workload: SampleWorkload, folder: StoragePath) -> None:
        self._workload, self._folder = workload, folder
        self._shards = count()

    def bare(self) -> list[Tensor]:
        """Latents of the first samples, by the loop alone."""
        return [bare_heun(self._denoiser, self._sigmas, noise) for noise in self._noise]

    def latents(self) -> list[Tensor]:
        """The same, as `synthesize` draws them."""
        return [
            draw_latents(self._networks, self._drawing, samples).latents_BCHW
            for samples in self._samples
        ]

    def written(self) -> None:
        """A shard more of the store."""
        self._worker.run(next(self._shards))

    def latent_difference(self) -> float:
        """Largest relative difference between the first two ways; a run of all, not timed."""
        self.written()
        pairs = zip(self.latents(), self.bare(), strict=True)
        return max(float((one - two).abs().max() / two.abs().max()) for one, two in pairs)

    @property
    def _samples(self) -> list[range]:
        return batches_of(range(self._workload.images), self._workload.batch)

    @cached_property
    def _noise(self) -> list[Tensor]:
        """The bare loop does not pay for drawing it."""
        shape, device = self._workload.latent_shape, self._workload.device
        return [start_noise(part, shape=shape, seed=_SEED).to(device) for part in self._samples]

    @cached_property
    def _denoiser(self) -> Denoiser:
        config = DenoiserConfig.model_validate(
            {"network": unet_preset(self._workload.preset), "objective": EdmObjective(type="edm")}
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            denoiser = Denoiser(
                with_attention_here(config), latent_shape=self._workload.latent_shape
            )
            for weights in denoiser.parameters():
                if not weights.any():  # the last layer of a new network: all latents would be noise
                    torch.nn.init.normal_(weights, std=0.02)
        return denoiser.to(self._workload.device).eval().requires_grad_(requires_grad=False)

    @cached_property
    def _sigmas(self) -> Tensor:
        schedule = KarrasSchedule(type="karras", steps=self._workload.steps)
        return noise_levels(schedule, self._denoiser.preconditioning)

    @cached_property
    def _drawing(self) -> Drawing:
        return Drawing(self._sigmas, HeunSampler(type="heun"), NO_GUIDANCE, None, None, _SEED)

    @cached_property
    def _networks(self) -> Networks:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            network = create_network(autoencoder_preset("tiny"))
        autoencoder = Autoencoder(network, device=self._workload.device)
        return Networks(
            self._denoiser, None, Unguided(), autoencoder.decode, self._workload.latent_shape,
            self._workload.device,
        )  # fmt: skip

    @cached_property
    def _worker(self) -> Synthesizer:
        images = self._workload.images
        plan = StorePlan(
            path=self._folder, classes=UNCONDITIONAL_CLASSES, num_samples=10**9, shard_size=images,
            batch=self._workload.batch, threads=self._workload.threads,
            provenance={
                "seed": _SEED, "guide": "none", "guidance_scale": 0.0, "sampler": "{}",
                "denoiser": "bench", "decoder_sha256": "bench",
            },
        )  # fmt: skip
        return Synthesizer(plan, networks=self._networks, drawing=self._drawing)


@torch.no_grad()
def bare_heun(denoiser: Denoiser, sigmas: Tensor, noise_BCHW: Tensor) -> Tensor:
    """Karras et al. 2022, Algorithm 1, around the network of a denoiser of objective `edm`."""
    network, data = denoiser.network, denoiser.preconditioning.data_std

    def slope(x_BCHW: Tensor, sigma: float) -> Tensor:
        both = math.sqrt(sigma**2 + data**2)
        noise_B = x_BCHW.new_full((len(x_BCHW),), 25 * math.log(sigma))
        output_BCHW: Tensor = network(x_BCHW / both, noise_B).sample
        denoised_BCHW = (data / both) ** 2 * x_BCHW + sigma * data / both * output_BCHW
        return (x_BCHW - denoised_BCHW) / sigma

    levels: list[float] = sigmas.tolist()
    x_BCHW = noise_BCHW * levels[0]
    for sigma, following in pairwise(levels):
        first = slope(x_BCHW, sigma)
        euler = x_BCHW + (following - sigma) * first
        if following > 0:
            first = (first + slope(euler, following)) / 2
        x_BCHW = x_BCHW + (following - sigma) * first
    return x_BCHW


def _timed(ways: Ways, workload: SampleWorkload, rounds: int) -> Mapping[str, Sequence[float]]:
    calls: dict[str, Callable[[], object]] = {
        BARE: ways.bare, LATENTS: ways.latents, WRITTEN: ways.written
    }  # fmt: skip
    with progress("bench sample", total=rounds * len(calls), unit="blocks") as bar:

        def block_of(way: Callable[[], object]) -> Callable[[int], float]:
            def block(steps: int) -> float:
                del steps  # a block is one shard
                synchronize(workload.device)
                started = time.perf_counter()
                way()
                synchronize(workload.device)
                bar.advance()
                return time.perf_counter() - started

            return block

        blocks = {name: block_of(way) for name, way in calls.items()}
        return take_turns(blocks, rounds=rounds, steps=1, between=lambda: None)


def _overhead(seconds: Mapping[str, Sequence[float]], name: str, other: str) -> float:
    """Time of a way beyond another's, as a share of the other's."""
    ratio = speed_ratio(seconds, other, name)
    assert ratio is not None
    return ratio - 1


def _positive(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"bench sample: {name}={text}: give a number above zero")
    return int(text)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Torch with so many threads for the time of the block."""
    before = torch.get_num_threads()
    use_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
