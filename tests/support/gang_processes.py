"""The command ``pretrain`` on several real processes that meet as torchrun's do, and their end.

The processes are forked from a server that has imported everything, so that one costs little more
than a fork. Every process notes which draws it made for which sample.
"""

import functools
import hashlib
import json
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histodiff.cli.failures import guarded
from histodiff.cluster.site import NoRay, Site
from histodiff.latents import Whitening, mixture_whitening
from histodiff.pretraining import loader
from histodiff.pretraining.posterior import CleanAndNoise, posterior_draws
from histodiff.pretraining.rank import pretrain_rank
from histodiff.pretraining.spec import PretrainResult, PretrainSpec, TrainingProgress
from histodiff.runtime import Notice
from histodiff.workflows.pretrain import PretrainConfig, pretrain, rank_spec
from histodiff.workflows.pretrain import command as pretrain_workflow
from tests.support.ports import free_ports


@dataclass(frozen=True)
class Gang:
    """One start of the command on several processes."""

    root: Path
    config: PretrainConfig
    world_size: int
    ending: signal.Signals | None = None
    """What the last rank is sent; None lets the training end."""
    end_at_images: int = 0
    """When."""

    @property
    def notes(self) -> Path:
        """Where processes write down what they draw and say."""
        return self.root / "notes" / self.config.name

    @property
    def spec_file(self) -> Path:
        """Where rank 0 leaves what it was told, pickled."""
        return self.notes / "spec.pickle"


def exit_codes(gang: Gang) -> list[int]:
    """Runs the processes to their end; a signal counts as its negative number."""
    gang.notes.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preloaded"])
    [port] = free_ports(1)
    processes = [
        context.Process(target=_process, args=(gang, rank, port)) for rank in range(gang.world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [int(process.exitcode or 0) for process in processes]


def draws_of(gang: Gang) -> dict[int, set[str]]:
    """By sample index, digests of all that any process of any start has drawn for it."""
    found: dict[int, set[str]] = {}
    for file in sorted(gang.notes.glob("draws-*.jsonl")):
        for line in file.read_text().splitlines():
            index, digest = json.loads(line)
            found.setdefault(index, set()).add(digest)
    return found


def _process(gang: Gang, rank: int, port: int) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(gang.world_size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    said = gang.notes / f"said-{os.getpid()}.txt"
    with said.open("w", buffering=1) as stream:
        os.dup2(stream.fileno(), sys.stderr.fileno())
        note = gang.notes / f"draws-{os.getpid()}.jsonl"
        loader.posterior_draws = functools.partial(_noted, posterior_draws, note)  # type: ignore[attr-defined]
        rank_spec.mixture_whitening = functools.partial(  # type: ignore[attr-defined]
            _noted_whitening, mixture_whitening, gang, rank
        )
        pretrain_workflow.pretrain_rank = functools.partial(_ended, gang)  # type: ignore[attr-defined]
        site = Site(root=str(gang.root), ray=NoRay(type="none"), device="cpu")
        code = guarded(lambda: bool(pretrain(gang.config, site)) * 0)
    sys.exit(int(code))


def _noted(
    draw: Callable[..., CleanAndNoise], note: Path, moments: Any, indices: Sequence[int],
    **options: Any,
) -> CleanAndNoise:  # fmt: skip
    """Draws, and writes down a digest of what each sample got."""
    drawn = draw(moments, indices, **options)
    if options["purpose"] == "train":
        with note.open("a") as stream:
            for place, index in enumerate(indices):
                values = [np.ascontiguousarray(tensor[place]) for tensor in drawn]
                digest = hashlib.sha256(b"".join(value.tobytes() for value in values))
                stream.write(json.dumps([int(index), digest.hexdigest()]) + "\n")
    return drawn


def _noted_whitening(
    compute: Callable[..., Whitening], gang: Gang, rank: int, *arguments: Any, **options: Any
) -> Whitening:
    """Computes, and writes down who did."""
    with (gang.notes / "whitened-by.txt").open("a") as stream:
        stream.write(f"{rank}\n")
    return compute(*arguments, **options)


def _ended(
    gang: Gang, spec: PretrainSpec, rank: int, world_size: int,
    report: Callable[[TrainingProgress], None], notice: Callable[[], Notice],
) -> PretrainResult:  # fmt: skip
    """Trains; the last rank gets the signal after a certain step."""
    (gang.notes / f"whitening-{rank}.json").write_text(spec.whitening.to_json())
    if rank == 0:
        gang.spec_file.write_bytes(pickle.dumps(spec))

    def report_or_end(news: TrainingProgress) -> None:
        report(news)
        if rank == world_size - 1 and news.images_seen == gang.end_at_images and gang.ending:
            os.kill(os.getpid(), gang.ending)

    return pretrain_rank(spec, rank, world_size, report_or_end, notice)
