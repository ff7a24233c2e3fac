from pathlib import Path

import numpy as np
import openslide
import pytest

from histodiff.data_prep.generated import render_slide
from histodiff.data_prep.readers.limits import BareOpenSlide, TileDecoder, write_bench_slide
from histodiff.errors import ConfigError
from histodiff.workflows.bench import bench
from histodiff.workflows.bench import tile as bench_tile


def test_bench_slide_is_a_real_slide_and_both_baselines_see_the_same(tmp_path: Path) -> None:
    path = tmp_path / "bench.svs"
    write_bench_slide(path, render_slide(0, 1, size_px=512), repeats=2)
    slide = openslide.OpenSlide(str(path))
    assert slide.dimensions == (1024, 1024)
    assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == 0.25
    bare, decoder = BareOpenSlide(path), TileDecoder(path)
    region = bare.read(300, 512, 512)
    assert region.std() > 5  # tissue, not a blank
    tiles = list(decoder.read(300, 512, 512))
    assert len(tiles) == 6
    np.testing.assert_array_equal(region[:256, :212], tiles[0][:, 44:])
    np.testing.assert_array_equal(region[256:, 212:468], tiles[4])
    for opened in (bare, decoder, slide):
        opened.close()


def test_bench_tile_takes_any_slide_and_refuses_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PATCHES_PER_ROUND": 3, "ROUNDS": 1}.items():
        monkeypatch.setattr(bench_tile, name, value)
    for side, path in ((1, tmp_path / "small.svs"), (3, tmp_path / "mine.svs")):
        write_bench_slide(path, render_slide(0, 1, size_px=256), repeats=side)
    assert bench("tile", [f"slide={tmp_path / 'mine.svs'}"])["pixels_identical"] is True
    with pytest.raises(ConfigError, match="256x256 px; give one of at least 512 px"):
        bench("tile", [f"slide={tmp_path / 'small.svs'}"])
    with pytest.raises(ConfigError, match=r"'slides' is no option; write one of \['slide'\]"):
        bench("tile", ["slides=x"])


def test_bench_tile_reads_the_same_pixels_and_reports_every_field(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "FIELD_PX": 1024,
        "REPEATS": 1,
        "PATCHES_PER_ROUND": 3,
        "ROUNDS": 1,
    }.items():
        monkeypatch.setattr(bench_tile, name, value)
    result = bench("tile")
    assert result["pixels_identical"] is True
    fields = ("aligned_vs_openslide", "unaligned_vs_openslide", "aligned_vs_decode_limit")
    assert all(result[field] > 0 for field in (*fields, "aligned_vs_decode_only"))
    assert set(result["seconds"]["aligned"]) >= {"ours", "openslide", "decode"}
    assert result["patches_per_s_core"] > 0


def test_bench_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="available: encode, loader, sample, tile, train"):
        bench("speed")
