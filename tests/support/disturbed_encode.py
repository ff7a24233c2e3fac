"""``encode`` on a Ray cluster of two nodes and on S3, disturbed at random, until it ends.

A disturbed run starts the real command; kills with SIGKILL readers, encoders, the driver and a
whole node at moments drawn from the run's seed, while the server's answers are tampered with; and
starts the same command again, as a user would, until it has ended with success.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import yaml
from ray.cluster_utils import Cluster

from histodiff.artifacts import open_artifact
from histodiff.cluster.site import NoRay, Site
from histodiff.data_prep.generated import write_generated_slides
from histodiff.storage import StoragePath, list_names, upload_tree
from histodiff.workflows.encode import EncodeConfig, encode
from histodiff.workflows.tile import TileConfig, tile
from histodiff.workflows.verify import verify
from tests.support.encode_inputs import write_autoencoder
from tests.support.faulting_proxy import FaultingProxy
from tests.support.ray_nodes import node

READER, ENCODER, DRIVER, NODE = "reader", "encoder", "driver", "node"
VICTIMS = (READER, ENCODER, DRIVER, NODE)
NODE_CPUS = 3
_TITLES = {READER: "ray::_ReaderHost", ENCODER: "ray::_EncoderHost"}
_POLL_SECONDS = 0.1
_MOST_RERUNS = 12
_RUN_SECONDS = 600.0
_ENDS = (0, 2, -signal.SIGKILL)
"""Success, a user's error in one line (storage or cluster down), and our own kill."""


@dataclass(frozen=True)
class Disturbed:
    """What happened in one run."""

    seed: int
    faults: Counter[str]
    kills: Counter[str]
    reruns: int
    seconds: float
    content_sha256: str
    problems: list[str]
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        faults = " ".join(f"{kind}={count}" for kind, count in sorted(self.faults.items()))
        kills = " ".join(f"{kind}={count}" for kind, count in sorted(self.kills.items()))
        return (
            f"seed {self.seed:2d}: faults {faults or 'none'}; kills {kills or 'none'};"
            f" re-runs {self.reruns}; {self.seconds:.0f} s; content {self.content_sha256[:16]}"
        )


def write_inputs(root: StoragePath, folder: Path, *, slides: int, size_px: int) -> None:
    """Slides, ``patches@v1`` of them and ``kl@v1`` in ``root``."""
    write_generated_slides(folder / "slides", count=slides, seed=3, size_px=size_px)
    upload_tree(folder / "slides", root / "slides")
    values = {
        "name": "patches", "version": "v1", "data": str(root / "slides"), "mpp": 0.5,
        "patch_px": 64, "sources": [{"type": "slides", "pattern": "*.svs"}],
        "split": {"val": 0.0, "test": 0.0, "seed": 0},
    }  # fmt: skip
    tile(TileConfig.model_validate(values), direct_site(root))
    write_autoencoder(root)


def encode_values(version: str) -> dict[str, object]:
    """Config of ``latents@version``."""
    return {
        "name": "latents", "version": version, "patches": "patches@v1", "autoencoder": "kl@v1",
        "store": {"rows_per_shard": 32, "rows_per_chunk": 16}, "supertile": 2, "mixing": 3,
        "batch": 16, "threads": 1, "precision": "fp32", "seed": 1, "max_failed_fraction": 0.0,
    }  # fmt: skip


def direct_site(root: StoragePath) -> Site:
    """Everything in this process, and no proxy in between."""
    return Site(root=str(root), ray=NoRay(type="none"), device="cpu")


def undisturbed(root: StoragePath) -> tuple[str, int]:
    """Content digest and number of shards of a run that nothing disturbs."""
    config = EncodeConfig.model_validate(encode_values("undisturbed"))
    manifest = encode(config, direct_site(root)).manifest
    return manifest.content_sha256, int(manifest.contents["shards"])


class DisturbedEncode:
    """Runs ``encode`` to its end in spite of everything.

    Args:
        root: Where inputs are and stores go, addressed without the proxy.
        cluster: Ray.
        proxy: Between the cluster and the server.
        environment: Of the driver: addresses the proxy.
        folder: For configs and logs.
        num_shards: Shards of the store.
    """

    def __init__(
        self,
        root: StoragePath,
        cluster: Cluster,
        proxy: FaultingProxy,
        *,
        environment: dict[str, str],
        folder: Path,
        num_shards: int,
    ) -> None:
        self._root, self._cluster, self._proxy = root, cluster, proxy
        self._environment = {**os.environ, **environment}
        self._folder, self._num_shards = folder, num_shards

    def run(self, seed: int, *, num_kills: int, rate: float, latency: float) -> Disturbed:
        """One run, from nothing to a store that has been verified."""
        rng = random.Random(seed)
        victims = rng.sample(VICTIMS, k=len(VICTIMS))[:num_kills]
        moments = sorted(rng.randrange(self._num_shards // 2) for _ in victims)
        waiting = list(zip(victims, moments, strict=True))
        kills: Counter[str] = Counter()
        errors: list[str] = []
        started = time.monotonic()
        self._proxy.disturb(seed=seed, rate=rate, latency=latency)
        for number in range(_MOST_RERUNS + 1):
            code = self._command(seed, number, waiting, kills, rng)
            if code == 0:
                break
            errors.append(self._last_line(seed, number))
            assert code in _ENDS, f"exit {code}: {self._log(seed, number).read_text()[-3000:]}"
        else:
            raise AssertionError(f"seed {seed}: not done after {_MOST_RERUNS} re-runs: {errors}")
        faults = self._proxy.found
        self._proxy.quiet()
        store = open_artifact(self._root, EncodeConfig.model_validate(self._values(seed)).output)
        return Disturbed(
            seed, faults, kills, number, time.monotonic() - started,
            store.manifest.content_sha256,
            verify(str(store.reference), direct_site(self._root)), errors,
        )  # fmt: skip

    def _command(
        self,
        seed: int,
        number: int,
        waiting: list[tuple[str, int]],
        kills: Counter[str],
        rng: random.Random,
    ) -> int:
        """One start of the command: its exit code."""
        deadline = time.monotonic() + _RUN_SECONDS
        pause = Event()
        with (
            self._log(seed, number).open("wb") as log,
            subprocess.Popen(
                self._argv(seed), env=self._environment, stdout=log, stderr=subprocess.STDOUT
            ) as driver,
        ):
            while driver.poll() is None:
                pause.wait(_POLL_SECONDS)
                if time.monotonic() > deadline:
                    driver.kill()
                    raise AssertionError(f"seed {seed}: run {number} hangs: {log.name}")
                if waiting and self._done(seed) >= waiting[0][1]:
                    pause.wait(rng.uniform(0, 0.5))
                    if self._kill(waiting[0][0], driver):
                        kills[waiting.pop(0)[0]] += 1
        return driver.returncode

    def _kill(self, victim: str, driver: "subprocess.Popen[bytes]") -> bool:
        """Kills it; False if there is none now."""
        if victim == DRIVER:
            driver.kill()
            return True
        if victim == NODE:
            (lost,) = self._cluster.worker_nodes
            self._cluster.remove_node(lost, allow_graceful=False)
            self._cluster.add_node(wait=False, **node(NODE_CPUS))
            return True
        raylets = {
            info.process.pid
            for each in self._cluster.list_all_nodes()
            for info in each.all_processes["raylet"]
        }
        found = [pid for pid, title in _children(raylets) if title.startswith(_TITLES[victim])]
        for pid in found[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(found)

    def _done(self, seed: int) -> int:
        """Shards in the ledger; -1 before the command has begun."""
        path = self._root / f"latents/latents/run-{seed}"
        names = list_names(path / "ledger")
        return len(names) if names or list_names(path) else -1

    def _values(self, seed: int) -> dict[str, object]:
        return encode_values(f"run-{seed}")

    def _argv(self, seed: int) -> list[str]:
        config, site = self._folder / f"encode-{seed}.yaml", self._folder / "site.yaml"
        config.write_text(yaml.safe_dump(self._values(seed)))
        values = {
            "root": str(self._root), "ray": {"type": "cluster", "address": self._cluster.address},
            "device": "cpu", "encode_workers": 1, "reader_workers": 2,
        }  # fmt: skip
        site.write_text(yaml.safe_dump(values))
        return [sys.executable, "-m", "histodiff", "encode", str(config), "--site", str(site)]

    def _log(self, seed: int, number: int) -> Path:
        return self._folder / f"run-{seed}-{number}.log"

    def _last_line(self, seed: int, number: int) -> str:
        lines = self._log(seed, number).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def _children(parents: set[int]) -> Iterator[tuple[int, str]]:
    """Process number and title of every child of the given processes."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) in parents:
                title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                yield int(entry.name), title.strip()
