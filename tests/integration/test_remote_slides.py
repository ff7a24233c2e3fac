"""Slides on web servers and in buckets give the patches and pixels of local ones."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from histodiff.data_prep.generated import render_slide, write_generated_slides
from histodiff.data_prep.index.patch_index import PatchIndex, file_name_of
from histodiff.data_prep.index.reading import PatchReader
from histodiff.data_prep.readers.tiff_index import TiffIndex
from histodiff.data_prep.sources.hashing import WHOLE_BYTES, content_hash
from histodiff.errors import ConfigError, TransientError
from histodiff.storage import storage_path, upload_tree
from tests.support.dicom_slides import write_series
from tests.support.range_server import RangeServer, range_server
from tests.support.remote_slides import assert_same_patches, pixels_of, tile_config, tiled
from tests.support.tiff_slides import pyramid, tissue_pixels


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """Two slides, one with a space in its name, in a folder with a sub-folder."""
    folder = tmp_path_factory.mktemp("slides")
    paths = write_generated_slides(folder, count=2, seed=0, size_px=1024)
    paths[1].rename(folder / "case 1%.svs")
    (folder / "more").mkdir()
    (folder / "more" / "notes.txt").write_text("none")
    return folder


@pytest.fixture(scope="module")
def local(slides, tmp_path_factory):
    return tiled(tile_config(str(slides)), tmp_path_factory.mktemp("local"))


@pytest.fixture
def server(slides):
    with range_server(slides) as served:
        yield served


def test_tile_over_http_gives_the_content_and_pixels_of_local_slides(
    server: RangeServer, local, tmp_path
):
    remote = tiled(tile_config(server.url), tmp_path)
    assert PatchIndex.open(remote.path).slides["slide_id"].to_pylist() == [
        "case 1%", "generated-000",
    ]  # fmt: skip
    assert_same_patches(remote, local)


def test_tile_of_one_url_gives_the_pixels_of_the_local_file(server: RangeServer, slides, tmp_path):
    name = "generated-000.svs"
    remote = tiled(tile_config(server.url, path=f"{server.url}/{name}"), tmp_path / "http")
    assert_same_patches(remote, tiled(tile_config(str(slides), path=name), tmp_path / "local"))
    escaped = tiled(tile_config(server.url, path="case%201%25.svs"), tmp_path / "escaped")
    assert PatchIndex.open(escaped.path).slides["slide_id"].to_pylist() == ["case 1%"]


def test_tile_over_http_follows_sub_folders_where_asked(slides, tmp_path):
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "inner" / "a.svs").symlink_to(slides / "generated-000.svs")
    with range_server(tmp_path / "tree") as served:
        source = {"type": "slides", "recursive": True}
        remote = tiled(tile_config(served.url, sources=[source]), tmp_path / "runs")
        with pytest.raises(ConfigError, match=r"sources\.0\.path: http.* has no slides"):
            tiled(tile_config(served.url), tmp_path / "flat")
    assert PatchIndex.open(remote.path).slides["slide_id"].to_pylist() == ["a"]


@pytest.mark.s3
def test_a_dicom_series_on_s3_gives_the_content_and_pixels_of_a_local_one(s3_root, tmp_path):
    write_series(tmp_path / "series", "a", pyramid(tissue_pixels(384), (2.0,)), mpp=0.5)
    upload_tree(tmp_path / "series", s3_root / "series")
    sources = [{"type": "slides"}]
    remote = tiled(tile_config(str(s3_root / "series"), sources=sources), tmp_path / "s3")
    local = tiled(tile_config(str(tmp_path / "series"), sources=sources), tmp_path / "local")
    assert_same_patches(remote, local)


@pytest.mark.s3
def test_tile_on_s3_gives_the_content_and_pixels_of_local_slides(s3_root, slides, local, tmp_path):
    upload_tree(slides, s3_root / "slides")
    remote = tiled(tile_config(str(s3_root / "slides")), str(s3_root))
    assert_same_patches(remote, local)
    name = "generated-000.svs"
    one = tiled(tile_config(str(s3_root / "slides"), path=name), tmp_path / "one")
    assert_same_patches(one, tiled(tile_config(str(slides), path=name), tmp_path / "local"))


def test_reading_a_tiled_slide_fetches_tiles_and_no_header(server: RangeServer, tmp_path):
    remote = tiled(tile_config(server.url), tmp_path)
    server.forget()
    pixels_of(remote)
    index = PatchIndex.open(remote.path)
    tile_starts = {
        int(offset)
        for name in index.slides["slide_id"].to_pylist()
        for offset in _offsets(remote.path, name)
    }
    assert server.taken()
    assert {request.start for request in server.taken()} <= tile_starts


def _offsets(folder, slide_id):
    path = folder / "tiles" / f"{file_name_of(slide_id)}.parquet"
    index = TiffIndex.from_bytes(path.read_bytes())
    return np.concatenate([level.offsets for level in index.levels])


def test_reading_a_slide_that_vanished_is_a_failure_of_its_rows(slides, tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    for path in slides.glob("*.svs"):
        (folder / path.name).write_bytes(path.read_bytes())
    with range_server(folder) as served:
        remote = tiled(tile_config(served.url), tmp_path / "runs")
        (folder / "generated-000.svs").unlink()
        index = PatchIndex.open(remote.path)
        block = PatchReader(index).read(range(index.patches.num_rows))
    lost = [name == "generated-000" for name in index.patches["slide_id"].to_pylist()]
    assert sorted(block.failures) == list(np.flatnonzero(lost))
    assert all("UNREADABLE: generated-000.svs: " in reason for reason in block.failures.values())


@pytest.mark.parametrize("fault", ["breaks", "busy"])
def test_reading_over_a_broken_connection_is_tried_again_then_transient(
    server: RangeServer, local, tmp_path, fault
):
    remote = tiled(tile_config(server.url), tmp_path)
    server.fail(fault, times=1)
    assert np.array_equal(pixels_of(remote), pixels_of(local))
    server.fail(fault, times=1000)
    with pytest.raises(TransientError, match=r"http://127\.0\.0\.1:\d+/"):
        pixels_of(remote)


@pytest.mark.parametrize("fault", ["breaks", "busy"])
def test_tiling_over_a_broken_connection_records_no_slide_as_unreadable(
    server: RangeServer, tmp_path, fault
):
    server.fail(fault, times=1000)
    with pytest.raises((TransientError, ConfigError), match=r"http://127\.0\.0\.1:\d+/"):
        tiled(tile_config(server.url), tmp_path)
    assert not list(tmp_path.glob("patches/patches/v1/ledger/*.json"))


def test_reading_from_a_server_that_is_gone_is_transient(slides, tmp_path):
    with range_server(slides) as served:
        remote = tiled(tile_config(served.url), tmp_path)
    with pytest.raises(TransientError, match=r"http://127\.0\.0\.1"):
        pixels_of(remote)


def test_reading_from_a_server_without_ranges_names_the_fix(server: RangeServer, tmp_path):
    remote = tiled(tile_config(server.url, path="generated-000.svs"), tmp_path)
    index = PatchIndex.open(remote.path)
    server.fail("whole", times=1000)
    block = PatchReader(index).read([0])
    assert "whole files instead of ranges; use one that knows `Range`" in block.failures[0]


def test_missing_url_and_dead_server_are_config_errors(server: RangeServer, tmp_path):
    with pytest.raises(ConfigError, match=r"sources\.0\.path: http.*/nothing does not exist"):
        tiled(tile_config(server.url, path="nothing"), tmp_path)
    with pytest.raises(ConfigError, match=r"sources\.0\.path: http.*/no\.svs does not exist"):
        tiled(tile_config(server.url, path="no.svs"), tmp_path)
    with pytest.raises(ConfigError, match=r"sources\.0\.path: http.* cannot be listed"):
        tiled(tile_config("http://127.0.0.1:9"), tmp_path)


def test_slides_that_are_not_read_by_tiles_are_copied_over_http(tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    pixels = render_slide(0, 0, size_px=512)
    with tifffile.TiffWriter(folder / "jpeg2000.svs") as tiff:
        tiff.write(
            pixels, tile=(256, 256), photometric="rgb", compression="aperio_jp2000_rgb",
            metadata=None,
            description="Aperio Image Library\r\n512x512 [0,0 512x512] (256x256) J2K|MPP = 0.5",
        )  # fmt: skip
    tifffile.imwrite(
        folder / "strips.tif", pixels, photometric="rgb", metadata=None, rowsperstrip=32
    )
    source = {"type": "slides", "scale": {"*": 0.5}}
    changes = {"sources": [source], "tissue": {"min_fraction": 0.0}}
    local = tiled(tile_config(str(folder), **changes), tmp_path / "local")
    assert set(PatchIndex.open(local.path).slides["status"].to_pylist()) == {"ok"}
    with range_server(folder) as served:
        remote = tiled(tile_config(served.url, **changes), tmp_path / "http")
        assert_same_patches(remote, local)


def test_pyramids_of_other_kinds_have_the_same_levels_over_http(tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    fine = render_slide(0, 0, size_px=1024)
    half, quarter = fine[::2, ::2], fine[::4, ::4]
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg"}
    scale = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(folder / "plain.tif") as tiff:
        tiff.write(fine, **options, **scale, metadata=None)
        tiff.write(half[:512, :512] // 2, **options, metadata=None)  # a picture that is no level
        tiff.write(quarter, **options, subfiletype=1, metadata=None)
        tiff.write(half, **options, subfiletype=1, metadata=None)
    about = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(folder / "sub.ome.tif", ome=True) as tiff:
        tiff.write(fine, **options, subifds=2, metadata=about)
        tiff.write(half, **options, subfiletype=1)
        tiff.write(quarter, **options, subfiletype=1)
    config = {"pattern": "*", "tissue": {"min_fraction": 0.0}}
    local = tiled(tile_config(str(folder), **config), tmp_path / "local")
    slides = PatchIndex.open(local.path).slides
    assert slides["level_downsamples"].to_pylist() == [[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]]
    assert set(slides["reader"].to_pylist()) == {"tiff"}
    with range_server(folder) as served:
        remote = tiled(tile_config(served.url, **config), tmp_path / "http")
        assert_same_patches(remote, local)


def test_hash_of_a_large_remote_file_reads_a_few_blocks(tmp_path):
    size = WHOLE_BYTES + 2**20
    with (tmp_path / "large.svs").open("wb") as stream:
        for number in range(0, size, 2**20):
            stream.write(number.to_bytes(8, "big") * (2**20 // 8))
    with range_server(tmp_path) as served:
        remote = content_hash(storage_path(f"{served.url}/large.svs"), size_bytes=size)
        assert sum(request.num_bytes for request in served.taken()) == 16 * 2**20
    assert remote == content_hash(storage_path(tmp_path / "large.svs"), size_bytes=size)
    assert remote.startswith("sampled-sha256:")
