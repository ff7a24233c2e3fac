"""How fast encoding goes: taken from a run, kept in its manifest, found again by ``plan``.

A run takes its start-up (Ray, workers, models, the first reads), then encodes at a steady rate. The
first shard of every encoder is start-up's; the rate is that of the shards behind them. A straight
line through both gives the time of a run of another size.
"""

import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from histodiff.artifacts import Artifact, Kind, Reference, open_artifact
from histodiff.cluster.site import Site
from histodiff.errors import ArtifactNotFound
from histodiff.storage import list_names

SPEED = "encode_speed"
"""Key in the provenance of a LatentStore's manifest."""


@dataclass(frozen=True)
class EncodeConditions:
    """What a speed holds for."""

    encoder_sha256: str
    patch_px: int
    batch: int
    threads: int
    precision: str
    compiled: bool
    device: str
    ray: str
    encode_workers: int
    reader_workers: int


@dataclass(frozen=True)
class EncodeSpeed:
    """A straight line: ``startup_seconds + patches / patches_per_second + end_seconds``."""

    patches_per_second: float
    """All encoders together."""
    startup_seconds: float = 0.0
    """Ray, workers, models, and what the first shards take longer than later ones."""
    end_seconds: float = 0.0
    """Before the workers start and after they end: planning, row table, manifest."""
    source: str = "rates"
    """Where the numbers come from, for people."""

    def seconds(self, *, patches: int, shards: int, encoders: int) -> float:
        """Wall seconds of a run; encoders that run out of shards wait for the last one."""
        rounds = -(-shards // encoders)
        idle = rounds * encoders / shards if shards else 1.0
        encoding = idle * patches / self.patches_per_second
        return self.startup_seconds + encoding + self.end_seconds


@dataclass
class Stopwatch:
    """Takes down when shards finish."""

    encoders: int
    started: float = field(default_factory=time.monotonic)
    finished: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the start and rows, of every shard."""

    def lap(self, rows: int) -> None:
        """A shard has finished."""
        self.finished.append((time.monotonic() - self.started, rows))

    @property
    def ended(self) -> float:
        """Seconds from the start to the last shard."""
        return self.finished[-1][0] if self.finished else 0.0

    def speed(self, *, source: str, end_seconds: float = 0.0) -> EncodeSpeed | None:
        """The line through what was taken down; None before every encoder has had two shards."""
        return speed_of(self.finished, self.encoders, source=source, end_seconds=end_seconds)


def speed_of(
    finished: list[tuple[float, int]], encoders: int, *, source: str, end_seconds: float = 0.0
) -> EncodeSpeed | None:
    """The line through (seconds, rows) of shards in the order in which they finished.

    Args:
        finished: Seconds since the start, and rows, of every shard.
        encoders: Encoders at work: their first shards belong to the start-up.
        source: For people.
        end_seconds: What is not seen here.
    """
    if len(finished) < 2 * encoders:
        return None
    warm, _ = finished[encoders - 1]
    last, _ = finished[-1]
    rows_warm = sum(rows for _, rows in finished[:encoders])
    rate = sum(rows for _, rows in finished[encoders:]) / max(last - warm, 1e-9)
    return EncodeSpeed(rate, max(0.0, warm - rows_warm / rate), end_seconds, source)


def recorded(speed: EncodeSpeed | None, conditions: EncodeConditions) -> dict[str, Any]:
    """What a manifest's provenance keeps of a run's speed."""
    if speed is None:
        return {}
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {SPEED: {**asdict(speed), "conditions": asdict(conditions), "finished": now}}


def earlier_speed(site: Site, conditions: EncodeConditions) -> EncodeSpeed | None:
    """The speed of the newest finished run below the site's root under the same conditions."""
    root = site.storage_root
    found: list[tuple[str, str, dict[str, Any]]] = []
    for name in list_names(root / Kind.LATENTS):
        for version in list_names(root / Kind.LATENTS / name):
            artifact = _opened(site, Reference.of(Kind.LATENTS, name, version))
            kept = artifact.manifest.provenance.get(SPEED) if artifact else None
            if artifact and kept and kept["conditions"] == asdict(conditions):
                found.append((kept["finished"], str(artifact.reference), kept))
    if not found:
        return None
    finished, reference, kept = max(found, key=lambda item: item[:2])
    return EncodeSpeed(
        patches_per_second=kept["patches_per_second"],
        startup_seconds=kept["startup_seconds"],
        end_seconds=kept["end_seconds"],
        source=f"{reference}, {finished}",
    )


def _opened(site: Site, reference: Reference) -> Artifact | None:
    try:
        return open_artifact(site.storage_root, reference)
    except ArtifactNotFound:  # not finished
        return None
