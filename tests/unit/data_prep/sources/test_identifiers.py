from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from histodiff.cluster.site import Site
from histodiff.config import parse_config
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.sources.finding import find_inputs
from histodiff.data_prep.sources.identifiers import parse_identifier
from histodiff.data_prep.sources.inputs import Inputs
from histodiff.errors import ConfigError
from histodiff.workflows.tile import TileConfig, tile

HEX = "006f4d8d3556dd21f6424202c2d294a9"
UUID = "83fce43e-42ac-4dcd-b156-2908e75f2e47"


@pytest.mark.parametrize(
    ("rule", "name", "expected"),
    [
        ("tcga", f"TCGA-02-0001-01Z-00-DX1.{UUID}.svs",
         ("TCGA-02-0001-01Z-00-DX1", "TCGA-02-0001", None, "02")),
        ("tcga", f"TCGA-OR-A5J1-01Z-00-DX1.{UUID.upper()}.svs",
         ("TCGA-OR-A5J1-01Z-00-DX1", "TCGA-OR-A5J1", None, "OR")),
        ("tcga", "tcga-cr-7395-01a-01-ts1.svs",
         ("TCGA-CR-7395-01A-01-TS1", "TCGA-CR-7395", None, "CR")),
        ("tcga", "TCGA-A1-A0SB-01A-01-BSA.svs",
         ("TCGA-A1-A0SB-01A-01-BSA", "TCGA-A1-A0SB", None, "A1")),
        ("tcga", "TCGA-DX-A8BN-01Z-00-DX10_1024_2048.png",
         ("TCGA-DX-A8BN-01Z-00-DX10", "TCGA-DX-A8BN", None, "DX")),
        ("tcga", "MSS/blk-VHTDAHWALMNS-TCGA-D5-6530-01Z-00-DX1.png",
         ("TCGA-D5-6530-01Z-00-DX1", "TCGA-D5-6530", None, "D5")),
        ("breakhis", "SOB_B_A-14-22549AB-40-001.png", ("14-22549AB", "14-22549AB", "B_A", None)),
        ("breakhis", "adenosis/40X/SOB_B_A-14-22549G-400-013.png",
         ("14-22549G", "14-22549G", "B_A", None)),
        ("breakhis", "SOB_M_DC-14-2523-100-004.png", ("14-2523", "14-2523", "M_DC", None)),
        ("breakhis", "SOB_B_TA-14-16184CD-200-021.png",
         ("14-16184CD", "14-16184CD", "B_TA", None)),
        ("chaoyang", "535940-IMG009x026-2.JPG", ("535940", "535940", "2", None)),
        ("chaoyang", "train/535940-IMG009x022-0.JPG", ("535940", "535940", "0", None)),
        ("panda", f"{HEX}.tiff", (HEX, HEX, None, None)),
        ("panda", f"0/{HEX}_3792.jpeg", (HEX, HEX, None, None)),
        ("panda", f"{HEX}_3_12.png", (HEX, HEX, None, None)),
    ],
)  # fmt: skip
def test_parse_identifier_of_a_real_name(rule: Any, name: str, expected: tuple[Any, ...]) -> None:
    parsed = parse_identifier(rule, name)
    assert (parsed.slide_id, parsed.patient_id, parsed.label, parsed.site) == expected


def test_parse_identifier_of_breakhis_is_the_same_at_every_magnification() -> None:
    names = [f"SOB_M_PC-14-15704-{m}-014.png" for m in (40, 100, 200, 400)]
    assert {parse_identifier("breakhis", name).slide_id for name in names} == {"14-15704"}


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("tcga", "TCGA-02-0001.png"),  # which slide?
        ("tcga", "XTCGA-02-0001-01Z-00-DX1.svs"),
        ("tcga", "TCGA-02-00011-01Z-00-DX1.svs"),
        ("tcga", "C3L-00001-21.svs"),
        ("breakhis", "SOB_B_DC-14-2523-100-004.png"),  # ductal carcinoma is not benign
        ("breakhis", "SOB_M_DC-14-2523-50-004.png"),
        ("breakhis", "2523-100-004.png"),
        ("chaoyang", "535940-IMG009x026-4.JPG"),
        ("chaoyang", "535940-IMG009x026.JPG"),
        ("panda", f"{HEX[:-1]}_1.png"),
        ("panda", f"{HEX}_mask.tiff"),
        ("panda", f"{HEX}a_1.png"),
    ],
)
def test_parse_identifier_of_another_name_names_rule_and_name(rule: Any, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_identifier(rule, name)
    message = str(caught.value)
    assert name in message
    assert rule in message
    assert "\n" not in message


def config(data: Path, source: dict[str, Any]) -> TileConfig:
    values = {
        "name": "ids", "version": "v1", "data": str(data), "sources": [source],
        "mpp": 1.0, "patch_px": 32, "split": {"val": 0.0, "test": 0.0, "seed": 0},
    }  # fmt: skip
    return parse_config(TileConfig, values, source="test")


def inputs(data: Path, source: dict[str, Any]) -> Inputs:
    return find_inputs(str(data), config(data, source).sources)


def folder(**changes: Any) -> dict[str, Any]:
    return {"type": "image_folder", "mpp": 1.0, "fit": "crop", **changes}


def listed(**changes: Any) -> dict[str, Any]:
    return {"type": "csv", "columns": {}, "mpp": 1.0, "fit": "crop", **changes}


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), (200, 120, 160)).save(path)


def test_tile_image_folder_with_identifiers_groups_the_images_of_a_patient(
    tmp_path: Path, site: Site
) -> None:
    for name in ("A-14-22549AB-40-001", "A-14-22549AB-100-002", "F-14-9133-40-001"):
        write(tmp_path / f"{name[0]}/SOB_B_{name}.png")
    wanted = folder(identifiers="breakhis", labels="identifiers")
    index = PatchIndex.open(tile(config(tmp_path, wanted), site).path)
    assert index.slides["slide_id"].to_pylist() == ["14-22549AB", "14-9133"]
    assert index.patches["label"].to_pylist() == ["B_A", "B_A", "B_F"]


def test_image_folder_identifiers_give_labels_only_when_asked(tmp_path: Path) -> None:
    write(tmp_path / "535940-IMG009x026-2.JPG")
    (without,) = inputs(tmp_path, folder(identifiers="chaoyang")).image_sets[0].images
    asked = folder(identifiers="chaoyang", labels="identifiers", label_map={"2": "adeno"})
    (image,) = inputs(tmp_path, asked).image_sets[0].images
    assert (without.label, image.label) == (None, "adeno")


def test_csv_column_wins_over_the_parsed_identifier(tmp_path: Path) -> None:
    name = "TCGA-02-0001-01Z-00-DX1_5.png"
    write(tmp_path / name)
    (tmp_path / "patches.csv").write_text(f"path,who\n{name},patient-7\n")
    (parsed,) = inputs(tmp_path, listed(identifiers="tcga", prefix="x-")).image_sets[0].images
    assert (parsed.slide_id, parsed.patient_id, parsed.site) == (
        "x-TCGA-02-0001-01Z-00-DX1", "TCGA-02-0001", "02",
    )  # fmt: skip
    columns = {"slide_id": "who", "patient_id": "who", "site": "who"}
    given = listed(identifiers="tcga", columns=columns)
    (image,) = inputs(tmp_path, given).image_sets[0].images
    assert (image.slide_id, image.patient_id, image.site) == ("patient-7",) * 3


def test_slides_keep_their_id_and_take_patient_and_site_from_the_name(tmp_path: Path) -> None:
    for part in ("DX1", "DX2"):
        (tmp_path / f"TCGA-02-0001-01Z-00-{part}.{UUID}.svs").write_bytes(b"slide")
    (tmp_path / "about.csv").write_text(f"slide,site\nTCGA-02-0001-01Z-00-DX2.{UUID},Utrecht\n")
    source = {"type": "slides", "identifiers": "tcga", "slide_csv": "about.csv"}
    with pytest.raises(ConfigError, match=r"1 of 2 slides .* has no row: TCGA.*DX1"):
        inputs(tmp_path, source)
    found = inputs(tmp_path, source | {"unlisted_slides": "take"}).slides
    assert [slide.slide_id for slide in found] == [
        f"TCGA-02-0001-01Z-00-{part}.{UUID}" for part in ("DX1", "DX2")
    ]
    assert {slide.patient_id for slide in found} == {"TCGA-02-0001"}
    assert [slide.site for slide in found] == ["02", "Utrecht"]


def test_source_with_a_name_that_does_not_fit_names_the_key_and_the_file(tmp_path: Path) -> None:
    write(tmp_path / "other.png")
    with pytest.raises(ConfigError, match=r"sources\.0\.identifiers: 'other\.png'.*panda"):
        inputs(tmp_path, folder(identifiers="panda"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (folder(labels="identifiers"), "identifiers is null; set it to breakhis or chaoyang"),
        (folder(labels="identifiers", identifiers="tcga"), "identifiers is tcga"),
        (folder(slides="folder", identifiers="tcga"), "both name the slide"),
        (listed(labels="identifiers", identifiers="panda"), "identifiers is panda"),
        (
            listed(labels="identifiers", identifiers="chaoyang", columns={"label": "label"}),
            "columns.label and labels: identifiers",
        ),
    ],
)
def test_source_with_contradicting_identifiers_is_refused(
    source: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, source)
