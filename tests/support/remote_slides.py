"""The same slides in several places: tiled and read from any URL, and compared.

What is asserted of a remote place: the PatchIndex has the same content as the local one, and every
patch the same pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact
from histodiff.cluster.site import NoRay, Site
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import PatchReader
from histodiff.workflows.tile import TileConfig, tile


def tile_config(
    data: str, *, path: str = ".", pattern: str = "*.svs", **changes: Any
) -> TileConfig:
    """Slides below ``data``; patches of 64 px at 1 um/px unless changed."""
    source = {"type": "slides", "path": path, "pattern": pattern}
    values = {
        "name": "patches", "version": "v1", "data": data, "sources": [source],
        "mpp": 1.0, "patch_px": 64, "split": {"val": 0.2, "test": 0.2, "seed": 0},
    }  # fmt: skip
    return parse_config(TileConfig, {**values, **changes}, source="test")


def tiled(config: TileConfig, root: Path | str) -> Artifact:
    """The PatchIndex, made in this process."""
    return tile(config, Site(root=str(root), ray=NoRay(type="none"), device="cpu"))


def pixels_of(artifact: Artifact) -> npt.NDArray[np.uint8]:
    """Pixels of all patches, in the order of the index."""
    index = PatchIndex.open(artifact.path)
    reader = PatchReader(index)
    block = reader.read(range(index.patches.num_rows))
    reader.close()
    assert block.failures == {}
    return block.pixels


def assert_same_patches(remote: Artifact, local: Artifact) -> None:
    """The same content, and the same pixels."""
    assert remote.manifest.content_sha256 == local.manifest.content_sha256
    assert np.array_equal(pixels_of(remote), pixels_of(local))
