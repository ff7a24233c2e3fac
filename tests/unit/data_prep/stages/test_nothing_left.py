"""What tile says where nothing is left: no patch, or no patient in a split; none is in two."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.runtime.units import Finished
from histodiff.workflows.tile import TileConfig, tile
from tests.unit.data_prep.conftest import WriteImage

COLUMNS = {"path": "path", "label": "label", "slide_id": "slide_id", "patient_id": "patient_id"}


def config(data: Path, source: dict[str, Any], **changes: Any) -> TileConfig:
    values = {
        "name": "few", "version": "v1", "data": str(data),
        "sources": [{"type": "csv", "columns": COLUMNS, "mpp": 1.0, "fit": "crop"} | source],
        "mpp": 1.0, "patch_px": 32,
        "split": {"val": 0.0, "test": 0.0, "seed": 0, "group_by": "slide"},
    }  # fmt: skip
    return parse_config(TileConfig, {**values, **changes}, source="test")


def write_list(folder: Path, rows: list[str], write_image: WriteImage) -> None:
    for row in rows:
        write_image(folder / row.split(",")[0], 40)
    (folder / "patches.csv").write_text("\n".join(["path,label,slide_id,patient_id", *rows]))


def test_nothing_left_is_one_line_with_the_commonest_reason_and_leaves_no_artifact(
    tmp_path: Path, write_image: WriteImage, site: Site
) -> None:
    for number in range(5):
        write_image(tmp_path / f"{number}.png", 27)
    (tmp_path / "5.png").write_bytes(b"no picture")
    source = {"type": "image_folder", "mpp": 1.0, "fit": "crop"}
    values = {
        "name": "few", "version": "v1", "data": str(tmp_path), "sources": [source], "mpp": 1.0,
        "patch_px": 32, "split": {"val": 0.0, "test": 0.0, "seed": 0},
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        tile(parse_config(TileConfig, values, source="test"), site)
    message = str(caught.value)
    assert (
        "no patch is left of 6 slides and images: 5 are TOO_SMALL (1 for other reasons)" in message
    )
    assert "0.png" in message
    assert "pad" in message
    assert "\n" not in message
    place = Path(site.root) / "patches" / "few" / "v1"
    assert not place.exists()
    source["fit"] = "pad"  # the fix needs no other version
    artifact = tile(parse_config(TileConfig, values, source="test"), site)
    assert artifact.manifest.contents["patches"] == 5


def test_split_without_a_patient_says_so_when_it_is_made(
    tmp_path: Path, write_image: WriteImage, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    write_list(tmp_path, ["a.png,x,s,p", "b.png,x,t,q"], write_image)
    split = {"val": 0.0, "test": 0.2, "seed": 0, "group_by": "patient"}
    artifact = tile(config(tmp_path, {}, split=split), site)
    (trap,) = artifact.manifest.contents["traps"]
    assert trap["data"] == "split.test"
    assert "0.2 of the patients were asked for, and none is in it: there are 2" in trap["what"]
    assert any("none is in it" in record.getMessage() for record in caplog.records)
    write_list(tmp_path, [f"{k}.png,x,s{k},p{k}" for k in range(3)], write_image)
    three = tile(config(tmp_path, {}, split=split, version="v2"), site)
    assert three.manifest.contents["traps"] == []


def test_slide_of_two_patients_or_sites_is_refused_and_names_both(
    tmp_path: Path, write_image: WriteImage, site: Site
) -> None:
    write_list(tmp_path, ["a.png,x,s,p", "b.png,x,s,q"], write_image)
    with pytest.raises(
        ConfigError, match=r"slide 's' has two patients: 'p' \(image 'a\.png'\) and"
    ):
        tile(config(tmp_path, {}), site)
    as_site = {key: value for key, value in COLUMNS.items() if key != "patient_id"}
    with pytest.raises(ConfigError, match=r"slide 's' has two sites: 'p' .* and 'q'"):
        tile(config(tmp_path, {"columns": as_site | {"site": "patient_id"}}), site)


def test_patient_in_two_splits_is_found_among_the_patches(
    tmp_path: Path, write_image: WriteImage, site: Site
) -> None:
    """Units may have been tiled before slides of two patients were refused."""
    write_list(tmp_path, [f"{k}.png,x,s{k // 2},p{k // 2}" for k in range(8)], write_image)

    def as_before(make_worker: Any, units: Any) -> Any:
        (unit,) = units
        last = replace(unit.images[-1], patient_id=unit.images[0].patient_id)
        record = make_worker().run(replace(unit, images=(*unit.images[:-1], last)))
        yield Finished(unit, record)

    split = {"val": 0.4, "test": 0.4, "seed": 0, "group_by": "slide"}
    whole = tile(config(tmp_path, {}, split=split), site)
    patches = PatchIndex.open(whole.path).patches
    of_patient = dict(
        zip(patches["patient_id"].to_pylist(), patches["split"].to_pylist(), strict=True)
    )
    assert of_patient["p0"] != of_patient["p3"]
    with pytest.raises(ConfigError, match=r"splits .* share 1 patient_ids \(p0\)"):
        tile(config(tmp_path, {}, split=split, version="v2"), site, run_units=as_before)
    assert not (Path(site.root) / "patches/few/v2/manifest.json").exists()


def test_image_that_is_left_is_an_index(tmp_path: Path, site: Site) -> None:
    Image.new("RGB", (40, 40), (200, 120, 160)).save(tmp_path / "a.png")
    (tmp_path / "patches.csv").write_text("path,label,slide_id,patient_id\na.png,x,s,p\n")
    assert PatchIndex.open(tile(config(tmp_path, {}), site).path).patches.num_rows == 1
