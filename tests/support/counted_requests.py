"""Requests that an S3 server saw of ``encode``, beside those that ``plan`` says.

A proxy before the server counts them. Slides are local, so that every request is the store's or its
inputs'.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from histodiff.cluster.site import NoRay, Site
from histodiff.data_prep.generated import write_generated_slides
from histodiff.storage import StoragePath, storage_path
from histodiff.workflows.encode import EncodeConfig, encode, estimate
from histodiff.workflows.encode.amounts import lease_requests
from histodiff.workflows.encode.estimation import with_requests
from histodiff.workflows.tile import TileConfig, tile
from tests.support.encode_inputs import encode_config, write_autoencoder
from tests.support.faulting_proxy import GETS, LISTS, PUTS, FaultingProxy
from tests.support.s3 import aws_environment

KINDS = (PUTS, GETS, LISTS)


@dataclass(frozen=True)
class Requests:
    """Counts of one run, by kind."""

    shards: int
    planned: dict[str, int]
    served: dict[str, int]

    def share_off(self, kind: str) -> float:
        """How far the plan is from the run, as a share of the run."""
        return self.planned[kind] / self.served[kind] - 1

    def __str__(self) -> str:
        cells = (
            f"{kind} {self.planned[kind]:4d} {self.served[kind]:4d} {self.share_off(kind):+.1%}"
            for kind in KINDS
        )
        return f"{self.shards:3d} shards (planned, served, off): " + "; ".join(cells)


@contextmanager
def counted(endpoint: str, *, key: str, secret: str) -> Iterator[FaultingProxy]:
    """A proxy that counts, to which ``AWS_*`` point for the time of the block."""
    with (
        FaultingProxy(endpoint) as proxy,
        aws_environment(proxy.endpoint, key=key, secret=secret),
    ):
        yield proxy


def requests_of_encode(
    proxy: FaultingProxy, root: StoragePath, folder: Path, *, slides: int
) -> Requests:
    """Encodes patches of so many generated slides; the plan knows how long it took."""
    site = Site(root=str(root), ray=NoRay(type="none"), device="cpu")
    write_generated_slides(folder / f"slides-{slides}", count=slides, seed=3, size_px=1024)
    tile(_tile_config(folder / f"slides-{slides}"), site)
    write_autoencoder(storage_path(root))
    config = _encode_config()
    planned = estimate(config, site)
    proxy.quiet()
    store = encode(config, site)
    served = {kind: proxy.served[kind] for kind in KINDS}
    lease = lease_requests(store.manifest.provenance["wall_seconds"])
    planned = with_requests(planned, lease)
    counts = {kind: int(planned[f"{kind}_requests"]) for kind in KINDS}
    return Requests(int(planned["units"]), counts, served)


def _tile_config(slides: Path) -> TileConfig:
    values = {
        "name": "patches", "version": "v1", "data": str(slides), "mpp": 0.5, "patch_px": 64,
        "sources": [{"type": "slides", "pattern": "*.svs"}],
        "split": {"val": 0.0, "test": 0.0, "seed": 0},
    }  # fmt: skip
    return TileConfig.model_validate(values)


def _encode_config() -> EncodeConfig:
    return encode_config(store={"rows_per_shard": 16, "rows_per_chunk": 8}, batch=16)
