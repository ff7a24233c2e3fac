"""The site: *where* a command runs. It has no identity: moving to another site renames nothing.

Environment variables are read here and in ``cli`` only. S3 credentials stay in the environment, for
botocore; they are never part of a site file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from histodiff.config import Config, find_config, load_config
from histodiff.storage import StoragePath, root_path
from histodiff.telemetry.server import LOOPBACK


class LocalRay(Config):
    """Start a Ray of our own on this machine."""

    type: Literal["local"]
    num_cpus: int | None = Field(default=None, ge=1)
    """CPUs that Ray may use; all of them by default."""


class ClusterRay(Config):
    """Use a running Ray cluster."""

    type: Literal["cluster"]
    address: str = "auto"
    """Address of the cluster as ``ray.init`` takes it; inside a job, ``auto`` is right."""
    autoscaling: bool = False
    """Whether nodes join when more are asked for. If not, a site that asks for more than the
    cluster has is refused instead of waiting for ever."""
    dashboard: str = "http://127.0.0.1:8265"
    """Address of the dashboard, for job submission."""
    python: str = "python"
    """Interpreter of submitted commands on the head node: one with histodiff's dependencies."""
    job_environment: tuple[str, ...] = ()
    """Environment variables that a submitted command gets from here (S3 credentials, if the nodes
    have none of their own). Ray stores their values with the job."""


class NoRay(Config):
    """Everything in this process (``--local``)."""

    type: Literal["none"]


RayConfig = Annotated[LocalRay | ClusterRay | NoRay, Field(discriminator="type")]


class Prices(Config):
    """What the site costs; what is not given is not counted."""

    currency: str
    """Name of the currency, for people."""
    site_hour: float | None = Field(default=None, ge=0)
    """An hour of the whole site."""
    worker_hour: float | None = Field(default=None, ge=0)
    """An hour of one GPU, or of one CPU where `device` is cpu; for sites without `site_hour`."""
    put_1000: float | None = Field(default=None, ge=0)
    """A thousand puts or lists."""
    get_1000: float | None = Field(default=None, ge=0)
    """A thousand gets."""
    gb_month: float | None = Field(default=None, ge=0)
    """A gigabyte (1e9 bytes) stored for a month."""


class LatentCache(Config):
    """Slabs of remote latent stores on local disk; results do not depend on it."""

    folder: str
    """Local folder; the ranks of one node share it."""
    limit_bytes: int = Field(gt=0)
    """Bytes that the folder may take; the least recently used slabs go first."""


class RankRange(Config):
    """As many ranks as there is room for, within bounds.

    A gang that loses a node goes on with fewer, and takes in more when they come.
    """

    min: int = Field(ge=1)
    """Fewest ranks that are started."""
    max: int = Field(ge=1)
    """Most ranks that are started."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> "RankRange":
        if self.max <= self.min:
            raise ValueError(
                f"ranks: max={self.max} must be larger than min={self.min}; for a fixed number"
                " give it alone"
            )
        return self


Ranks = int | RankRange


def fewest_ranks(ranks: Ranks) -> int:
    """With how many ranks a gang starts at the least."""
    return ranks if isinstance(ranks, int) else ranks.min


def possible_ranks(ranks: Ranks) -> range:
    """All numbers of ranks that a gang may have."""
    if isinstance(ranks, int):
        return range(ranks, ranks + 1)
    return range(ranks.min, ranks.max + 1)


class Site(Config):
    """Where commands run."""

    root: str
    """Folder or URL of the artifacts: ``./runs``, ``s3://bucket/prefix``."""
    ray: RayConfig
    """The Ray cluster."""
    device: Literal["cpu", "cuda"]
    """Device of models."""
    encode_workers: int = Field(default=1, ge=1)
    """Encoder actors."""
    reader_workers: int = Field(default=1, ge=1)
    """Reader actors (tile and encode)."""
    sample_workers: int = Field(default=1, ge=1)
    """Actors that draw samples. On a local Ray a single one is this process itself."""
    ranks: Annotated[int, Field(ge=1)] | RankRange = 1
    """Training ranks: a number, or bounds as in `{min: 1, max: 2}`."""
    trials: int = Field(default=1, ge=1)
    """Sweep trials that run at the same time, as far as there are CPUs for their threads."""
    prices: Prices | None = None
    """What it costs, for `plan`."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port of a command's driver: ``/metrics``, and ``/sd``, where Prometheus finds all processes
    of the command; 0 takes a free one, null serves nothing."""
    metrics_host: str = LOOPBACK
    """Address that the driver, its actors and ranks serve metrics at: loopback, for this machine
    alone, unless others are to ask; 0.0.0.0 is every interface, and whoever reaches it reads."""
    peak_flops: float | None = Field(default=None, gt=0)
    """Peak FLOP/s of the device of one training rank, in the precision of the training: what MFU
    is a share of. Null takes that of a GPU which is known by its name, in bf16 and fp16."""
    cache: LatentCache | None = None
    """Local disk for slabs of remote latent stores that training reads; null keeps none."""

    @field_validator("root")
    @classmethod
    def _root_keeps_what_is_written(cls, root: str) -> str:
        root_path(root)
        return root

    @property
    def storage_root(self) -> StoragePath:
        """The root as a path."""
        return root_path(self.root)


def load_site(name: str | None, overrides: Sequence[str] = (), *, local: bool = False) -> Site:
    """The site named or in a file, ``site/laptop`` by default.

    Args:
        name: A file, or the name of a site that ships with histodiff.
        overrides: ``key.path=value`` for keys of the site.
        local: Take Ray out of it: everything in this process.
    """
    path: Path = find_config(name if name else "site/laptop.yaml")
    site = load_config(Site, path, overrides)
    return site.model_copy(update={"ray": NoRay(type="none"), "ranks": 1}) if local else site
