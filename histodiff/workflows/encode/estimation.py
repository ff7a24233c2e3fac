"""What ``encode`` would read, write and ask for, by arithmetic: nothing is encoded."""

from collections.abc import Mapping

import pyarrow.compute as pc

from histodiff.artifacts import Artifact
from histodiff.cluster.site import NoRay, Site
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.index.reading import MAX_OPEN_SLIDES
from histodiff.data_prep.readers.opening import was_tile_by_tile
from histodiff.latents import StoreLayout
from histodiff.storage import file_sizes, list_names
from histodiff.workflows.encode.amounts import (
    ReadFiles,
    Requests,
    most_pictures,
    store_amounts,
    store_requests,
)
from histodiff.workflows.encode.config import EncodeConfig, opened_inputs, store_layout
from histodiff.workflows.encode.sample import num_encoders
from histodiff.workflows.registry import Estimate


def estimate(config: EncodeConfig, site: Site) -> Estimate:
    """Slides, patches, shards; objects and bytes of the store; requests of a run to it.

    Not in them: pictures of quarantined patches, whose upper bound is beside; what keeping the
    lease takes, which grows with the time (`lease_requests`); what is asked of remote slides.
    """
    inputs = opened_inputs(config, site)
    index = PatchIndex.open(inputs["patches"].path)
    layout = store_layout(config, index, inputs["autoencoder"])
    amounts = store_amounts(config, index, layout, inputs)
    pictures = most_pictures(layout, max_failed_fraction=config.max_failed_fraction)
    requests = store_requests(layout, _read_files(config, site, inputs, index, layout))
    return {
        "slides": len(pc.unique(index.patches["slide_id"])),
        "patches": layout.num_rows,
        "units": layout.num_shards,
        "bytes": amounts.bytes,
        "objects": amounts.objects,
        "most_picture_bytes": pictures.bytes,
        "most_picture_objects": pictures.objects,
        **_counts(requests),
    }


def with_requests(estimated: Estimate, more: Requests) -> Estimate:
    """An estimate with some requests more."""
    added = _counts(more)
    return {
        key: int(value) + added[key] if key in added else value for key, value in estimated.items()
    }


def _counts(requests: Requests) -> dict[str, int]:
    return {
        "requests": requests.puts + requests.gets + requests.lists,
        "puts_requests": requests.puts,
        "gets_requests": requests.gets,
        "lists_requests": requests.lists,
    }


def _read_files(
    config: EncodeConfig,
    site: Site,
    inputs: Mapping[str, Artifact],
    index: PatchIndex,
    layout: StoreLayout,
) -> ReadFiles:
    return ReadFiles(
        inputs=len(inputs),
        index_parts=len(list_names(inputs["patches"].path / "patches")),
        autoencoder_files=len(file_sizes(inputs["autoencoder"].path)),
        slide_opens=_slide_opens(index, layout, mixing=config.mixing),
        readers=1 if isinstance(site.ray, NoRay) else site.reader_workers,
        encoders=num_encoders(site, layout.num_shards),
    )


def _slide_opens(index: PatchIndex, layout: StoreLayout, *, mixing: int) -> int:
    """Openings of slides that are read tile by tile, by one reader; several open more.

    A shard is read slide by slide. The next one mixes the same slides, most of the time; they are
    still open if all of them may be.
    """
    used = pc.is_in(index.slides["slide_id"], pc.unique(index.patches["slide_id"]))
    readers = index.slides.filter(used)["reader"].to_pylist()
    tiled = sum(reader is not None and was_tile_by_tile(reader) for reader in readers)
    return tiled if mixing <= MAX_OPEN_SLIDES else layout.num_shards * min(mixing, tiled)
