"""Tables and folders about slides: every row has its slide, or one line says which has none."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from histodiff.config import identity
from histodiff.data_prep.sources.finding import find_inputs
from histodiff.data_prep.sources.inputs import Inputs, SlideInput
from histodiff.data_prep.sources.sources import SlidesSource
from histodiff.errors import ConfigError

IDS = ("00101", "00102", "00201", "00202")
TWO_FOLDERS = ({"path": "a"}, {"path": "b", "prefix": "b-"})


def sources(*changes: dict[str, Any]) -> list[SlidesSource]:
    return [SlidesSource.model_validate({"type": "slides", **change}) for change in changes]


def found(folder: Path, *changes: dict[str, Any]) -> Inputs:
    return find_inputs(str(folder), sources(*changes))


def slide(folder: Path, *changes: dict[str, Any], slide_id: str = "00101") -> SlideInput:
    return next(item for item in found(folder, *changes).slides if item.slide_id == slide_id)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in IDS:
        (tmp_path / f"{name}.tif").write_bytes(b"slide")
    return tmp_path


def write_about(folder: Path, names: tuple[str, ...] = IDS, head: str = "patient_id,label") -> None:
    lines = [f"slide,{head}", *(f"{name},P{number // 2},x" for number, name in enumerate(names))]
    (folder / "about.csv").write_text("\n".join(lines) + "\n")


def write_scales(folder: Path, *names: str) -> None:
    (folder / "scale.csv").write_text("\n".join(["slide,mpp", *(f"{n},0.5" for n in names)]))


@pytest.mark.parametrize("form", ["{}", "{}.tif"])
def test_slide_csv_rows_are_of_the_slides_that_they_name(folder: Path, form: str) -> None:
    write_about(folder, tuple(form.format(name) for name in IDS))
    slides = found(folder, {"slide_csv": "about.csv"}).slides
    assert [(item.slide_id, item.patient_id) for item in slides] == [
        (name, f"P{number // 2}") for number, name in enumerate(IDS)
    ]


@pytest.mark.parametrize(
    "form",
    [
        lambda name: str(int(name)),  # a spreadsheet
        lambda name: str(float(name)),  # pandas, where a value is missing
        lambda name: f"{name}.TIF",
        lambda name: f"slides/{name}.tif",
        lambda name: f"C:\\slides\\{name}.tif",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key", ["slide_csv", "scale_csv", "scale"])
def test_names_that_almost_fit_are_named_with_the_slide_that_they_may_mean(
    folder: Path, form: Callable[[str], str], key: str
) -> None:
    names = tuple(map(form, IDS))
    write_about(folder, names)
    write_scales(folder, *names)
    values = {
        "slide_csv": "about.csv", "scale_csv": "scale.csv", "scale": dict.fromkeys(names, 0.5),
    }  # fmt: skip
    with pytest.raises(ConfigError, match="4 of 4 rows match no slide: ") as caught:
        found(folder, {key: values[key]})
    assert "did you mean 00101?" in str(caught.value)
    assert "sources.0.unmatched_rows: leave_out" in str(caught.value)
    assert ("00101, 00102, 00201 and 1 more" in str(caught.value)) == (key == "slide_csv")


@pytest.mark.parametrize("name", ["101.geojson", "00101.GeoJSON", "old/00101.geojson"])
@pytest.mark.parametrize("key", ["annotations", "masks"])
def test_files_that_almost_fit_are_named_with_the_slide_that_they_may_mean(
    folder: Path, name: str, key: str
) -> None:
    (folder / key / name).parent.mkdir(parents=True)
    (folder / key / name).write_text("{}")
    message = rf"1 of 1 file matches no slide: '{name}' \(did you mean 00101\?\)"
    with pytest.raises(ConfigError, match=message):
        found(folder, {key: key})


def test_slide_csv_with_one_wrong_row_names_it_and_the_slide_without(folder: Path) -> None:
    write_about(folder, ("00101", "00199", "00201", "00202"))
    with pytest.raises(ConfigError) as caught:
        found(folder, {"slide_csv": "about.csv"})
    assert str(caught.value).startswith(
        f"{folder / 'about.csv'}: 1 of 4 rows matches no slide: '00199' (line 3"
    )
    assert "1 of 4 slides of sources.0 has no row: 00102" in str(caught.value)


def test_fields_allow_rows_and_slides_without_each_other_and_record_them(folder: Path) -> None:
    write_about(folder, ("00101", "00199", "00201", "00202"))
    allowed = {"unmatched_rows": "leave_out", "unlisted_slides": "take"}
    source = {"slide_csv": "about.csv", **allowed}
    inputs = found(folder, source)
    assert [(item.patient_id, item.label) for item in inputs.slides] == [
        ("P0", "x"), ("00102", None), ("P1", "x"), ("P1", "x"),
    ]  # fmt: skip
    assert [trap.what for trap in inputs.traps] == [
        "1 of 4 rows matches no slide: '00199' (line 3); left out.",
        "1 of 4 slides of sources.0 has no row: 00102; taken as they are.",
    ]
    assert identity(*sources({})) == identity(*sources(allowed))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("slide,patient,class\n00101,P,x\n", "column 'patient', but no 'patient_id'; did you mean"),
        ("slide,Label\n00101,x\n", "column 'Label', but no 'label'; did you mean label"),
        ("slide,Site,patient_id\n00101,a,P\n", "column 'Site', but no 'site'"),
        ("slide,class\n00101,x\n", "has none of the columns patient_id, site, label; its columns"),
        ("slide_id,label\n00101,x\n", "no column 'slide'.*did you mean slide_id"),
        ("slide,label\n00101,x\n00101,x\n", "line 3: slide '00101' is listed twice, first in line"),
        ("slide,label\n00101,x\n00101.tif,y\n", "line 3 '00101.tif' is slide 00101, which is"),
        ("slide,patient_id\n00101,\n", "line 2: patient_id is empty"),
        ("slide,patient_id\n00101,nan\n", "line 2: patient_id is 'nan'"),
        ("slide,label\n00101,nan\n", "line 2: label is 'nan'"),
        ("slide,label\n00101,1\n00102,1.0\n", "line 3: label is '1.0', but it is '1' in .*line 2"),
        ("slide,patient_id\n00101,1\n00102,1.0\n", "line 3: patient_id is '1.0', but it is '1'"),
    ],
)
def test_slide_csv_that_cannot_be_meant_is_one_line(folder: Path, table: str, message: str) -> None:
    (folder / "about.csv").write_text(table)
    with pytest.raises(ConfigError, match=message) as caught:
        found(folder, {"slide_csv": "about.csv"})
    assert str(folder / "about.csv") in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("slide,mpp\n00101,0.5\n00101,0.4\n", "line 3: slide '00101' is listed twice"),
        ("slide,mpp_x\n00101,0.5\n", "has no column 'mpp_y'"),
        ("slide,scale\n00101,0.5\n", "has no column 'mpp"),
        ("slide,mpp,mpp_x\n00101,0.5,0.4\n", "both mpp and mpp_x"),
        ("slide,mpp\n00101,0.4\n", "slide '00101' has one scale in `scale` and another in"),
    ],
)
def test_scale_csv_that_cannot_be_meant_is_one_line(folder: Path, table: str, message: str) -> None:
    (folder / "scale.csv").write_text(table)
    with pytest.raises(ConfigError, match=message):
        found(folder, {"scale_csv": "scale.csv", "scale": {"00101": 0.5}})


def test_scales_are_of_their_slides_and_the_star_of_all_others(folder: Path) -> None:
    write_scales(folder, "00101.tif", "*")
    source = {"scale_csv": "scale.csv", "scale": {"00102": 0.25, "00101": 0.5}}
    assert [(item.given_mpp, item.mpp_is_default) for item in found(folder, source).slides] == [
        ((0.5, 0.5), False), ((0.25, 0.25), False), ((0.5, 0.5), True), ((0.5, 0.5), True),
    ]  # fmt: skip


def test_a_table_of_two_sources_is_judged_over_both(tmp_path: Path) -> None:
    for name in ("a/1.svs", "b/2.svs"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"slide")
    write_scales(tmp_path, "1", "b-2")
    both = [{**change, "scale_csv": "scale.csv"} for change in TWO_FOLDERS]
    assert [item.given_mpp for item in found(tmp_path, *both).slides] == [(0.5, 0.5)] * 2
    with pytest.raises(ConfigError, match=r"1 of 2 rows matches no slide: 'b-2' \(line 3"):
        found(tmp_path, both[0])


def test_a_row_that_means_slides_of_two_sources_names_both(tmp_path: Path) -> None:
    for name in ("a/1.svs", "b/1.svs"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"slide")
    write_about(tmp_path, ("1",))
    both = [{**change, "slide_csv": "about.csv"} for change in TWO_FOLDERS]
    with pytest.raises(ConfigError, match="line 2 '1' means both slide 1 and b-1"):
        found(tmp_path, *both)
    write_about(tmp_path, ("1", "x", "b-1"))
    left_out = [{**change, "unmatched_rows": "leave_out"} for change in both]
    assert [item.patient_id for item in found(tmp_path, *left_out).slides] == ["P0", "P1"]


def test_accents_are_the_same_however_they_are_stored(tmp_path: Path) -> None:
    name = "Uto\u0308"
    (tmp_path / f"{name}.svs").write_bytes(b"slide")
    write_about(tmp_path, (unicodedata.normalize("NFC", name),))
    (one,) = found(tmp_path, {"slide_csv": "about.csv"}).slides
    assert (one.slide_id, one.patient_id) == (name, "P0")
    (tmp_path / "annotations").mkdir()
    composed = unicodedata.normalize("NFC", name)
    (tmp_path / "annotations" / f"{composed}.geojson").write_text("{}")
    (one,) = found(tmp_path, {"annotations": "annotations"}).slides
    assert len(one.companions) == 1


def test_masks_of_some_slides_are_taken_also_by_the_names_that_tile_writes(tmp_path: Path) -> None:
    for name in IDS:
        (tmp_path / f"{name}.tif").write_bytes(b"slide")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "x%2F00101.geojson").write_text("{}")
    (tmp_path / "masks" / "00102.json").write_text("{}")
    slides = found(tmp_path, {"masks": "masks", "prefix": "x/"}).slides
    assert [len(item.companions) for item in slides] == [1, 1, 0, 0]
    (tmp_path / "masks" / "00102.geojson").write_text("{}")
    with pytest.raises(ConfigError, match=r"file '00102\.json' is slide x/00102, .* listed twice"):
        found(tmp_path, {"masks": "masks", "prefix": "x/"})


def test_annotations_of_some_slides_need_the_field(folder: Path) -> None:
    (folder / "drawn").mkdir()
    (folder / "drawn" / "00101.geojson").write_text(json.dumps({"features": []}))
    with pytest.raises(ConfigError, match=r"3 of 4 slides of .* have no file: 00102, 00201"):
        found(folder, {"annotations": "drawn"})
    slides = found(folder, {"annotations": "drawn", "unlisted_slides": "take"}).slides
    assert [len(item.companions) for item in slides] == [1, 0, 0, 0]
