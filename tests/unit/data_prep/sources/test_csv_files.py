"""Lists that people and their programs write: read as they stand, or one line with the place."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from histodiff.data_prep.sources.csv_files import read_csv, read_json_list
from histodiff.data_prep.sources.finding import find_inputs
from histodiff.data_prep.sources.inputs import ImageInput
from histodiff.data_prep.sources.sources import CsvSource
from histodiff.errors import ConfigError
from histodiff.storage import storage_path

NFC = "Universit\u00e4t.png"
NFD = unicodedata.normalize("NFD", NFC)


def images(folder: Path, *, kind: str = "csv", **changes: Any) -> list[ImageInput]:
    columns = {"path": "path", "label": "label", **changes.pop("columns", {})}
    source = CsvSource.model_validate(
        {"type": kind, "columns": columns, "mpp": 1.0, "fit": "crop", **changes}
    )
    found = find_inputs(str(folder), [source])
    return [image for part in found.image_sets for image in part.images]


def write_images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)


def listed(folder: Path, text: str, **changes: Any) -> dict[str, str | None]:
    """Label of every image of the list."""
    (folder / "patches.csv").write_bytes(text.encode())
    return {image.path: image.label for image in images(folder, **changes)}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_is_read_with_any_line_ends_and_empty_lines(tmp_path: Path, end: str) -> None:
    text = end.join(["\ufeffpath,label,", "", "a.png,x,", ",,", '"b.png", "y, z",', ""])
    write_images(tmp_path, "a.png", "b.png")
    assert listed(tmp_path, text) == {"a.png": "x", "b.png": "y, z"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label,label\na.png,x,y\n", r"line 1: columns 2 and 3 are both called 'label'"),
        ("path,label, label \na.png,x,y\n", r"line 1: columns 2 and 3 are both called 'label'"),
        ("path,label\na.png,nan\n", r"line 2: label is 'nan'"),
        ("path,label\na.png,NA\n", r"line 2: label is 'NA'"),
        ("path,label\na.png,1\nb.png,1.0\n", r"line 3: label is '1\.0', but it is '1' in .*line 2"),
        ("path,label\na.png,Tumour\nb.png,tumour\n", r"line 3: label is 'tumour', but"),
        (f"path,label\na.png,{NFC}\nb.png,{NFD}\n", r"line 3: label is "),
        ('path,label\na.png,x\nb.png,"y\nc.png,z\n', r"line 3: a quote \(\"\) is opened and never"),
        ('path,label\r"a.png,x\r', r"line 2: a quote \(\"\) is opened and never"),
        ('path,label\na.png,"x"y\n', r"line 2: a quote \(\"\) stands inside a value"),
        (f"path,label\na.png,{'x' * 140_000}\n", r"line 2: a value has more than 131,072 char"),
        ("path,label\n\na.png\n", r"line 3: has 1 values, but the header has 2"),
        ("path;label\na.png;x\n", r"are path;label; its values are not separated by commas"),
        ("path,Label\na.png,x\n", r"no column 'label'.*did you mean Label\?"),
        ('path,label\na.png,"x\ny"\n', r"line 2: label is 'x\\ny', with control characters"),
        ("path,label\na.png,x\0y\n", r"line 2: label is 'x\\x00y', with control characters"),
        ("path,label\na.png,x\nc.png,y\nd.png,z\n", r"line 3: lists 'c\.png'.* 1 more are missing"),
        ("path,label\nA.PNG,x\n", r"line 2: lists 'A\.PNG'.*did you mean 'a\.png'\?"),
        ("path,label\nx\\a.png,x\n", r"lists 'x\\\\?a\.png'.*did you mean 'a\.png'\?"),
        ("path,label\na.png,x\nb.png,y\n./a.png,x\n", r"line 4: 'a\.png' is listed more than once"),
        ("", "has no rows"),
        ("path,label\n", "has no rows"),
    ],
)  # fmt: skip
def test_csv_that_cannot_be_meant_names_file_and_line(
    text: str, message: str, tmp_path: Path
) -> None:
    write_images(tmp_path, "a.png", "b.png")
    with pytest.raises(ConfigError, match=message) as caught:
        listed(tmp_path, text)
    assert str(tmp_path / "patches.csv") in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_csv_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "patches.csv").write_bytes("path,label\na.png,gr\u00fcn\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="line 2: is not UTF-8 text"):
        images(tmp_path)


def test_csv_paths_in_other_words_are_the_files_that_are_there(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "sub/b.png", "c.png", NFD)
    (tmp_path / "link").symlink_to(tmp_path)
    text = f"path,label\n./a.png,1\n{tmp_path}/sub/b.png,2\nsub/.././c.png,3\n{NFC},4\n"
    with pytest.raises(ConfigError, match=r"line 4: lists 'sub/\.\./\./c\.png'"):
        listed(tmp_path, text)
    right = listed(tmp_path, text.replace("sub/../", ""))
    assert right == {"a.png": "1", "sub/b.png": "2", "c.png": "3", NFD: "4"}
    (tmp_path / NFC).write_bytes(b"")
    write_images(tmp_path, "d.png")
    assert listed(tmp_path, f"path,label\n{NFC},4\n") == {NFC: "4"}  # the very name wins
    by_link = f"path,label\n{tmp_path.resolve()}/a.png,1\n"
    (tmp_path / "patches.csv").write_text(by_link)
    assert [image.path for image in images(tmp_path / "link")] == ["a.png"]


def test_csv_word_for_a_missing_label_counts_where_label_map_names_it(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png", "c.png")
    text = "path,label\na.png,nan\nb.png,NA\nc.png,1.0\n"
    label_map = {"nan": None, "NA": "no atypia", "1.0": "1"}
    assert listed(tmp_path, text, label_map=label_map) == {"b.png": "no atypia", "c.png": "1"}


@pytest.mark.parametrize("column", ["slide_id", "patient_id", "site"])
@pytest.mark.parametrize("values", [("7", "7.0"), ("nan", "7"), (NFC, NFD)])
def test_csv_ids_in_two_spellings_or_missing_are_refused(
    column: str, values: tuple[str, str], tmp_path: Path
) -> None:
    write_images(tmp_path, "a.png", "b.png")
    text = f"path,label,{column}\na.png,x,{values[0]}\nb.png,x,{values[1]}\n"
    with pytest.raises(ConfigError, match=rf"line [23]: {column} is "):
        listed(tmp_path, text, columns={column: column})


def test_labels_of_two_lists_in_two_spellings_are_refused(tmp_path: Path) -> None:
    for part, label in (("one", "1"), ("two", "1.0")):
        write_images(tmp_path, f"{part}/{part}.png")
        (tmp_path / part / "patches.csv").write_text(f"path,label\n{part}.png,{label}\n")
    sources = [
        CsvSource.model_validate(
            {"type": "csv", "path": part, "columns": {"label": "label"}, "mpp": 1.0, "fit": "crop"}
        )
        for part in ("one", "two")
    ]
    with pytest.raises(ConfigError, match=r"sources\.1.*label is '1\.0'.*'1' in sources\.0"):
        find_inputs(str(tmp_path), sources)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"path": "a.png", "label": 1, "label": 2}]', "the key 'label' twice"),
        ('[{"path": "a.png", "label": NaN}]', "object 1: label is 'NaN'"),
        ('[{"path": "a.png", "label": [1]}]', r"object 1: label is '\[1\]', a list or an object"),
        ('[{"path": "a.png", "label": "\\ud800"}]', "with control characters"),
        ('[{"path": "a.png", "label": 1}, {"path": "b.png", "label": 1.0}]', "object 2: label is"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "1" * 5_000 + "]", "is no JSON"),
        ("[{}]", "without any key"),
        ('{"path": "a.png"}', "no list of objects"),
    ],
)  # fmt: skip
def test_json_list_that_cannot_be_meant_names_file_and_place(
    text: str, message: str, tmp_path: Path
) -> None:
    write_images(tmp_path, "a.png", "b.png")
    (tmp_path / "patches.json").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        images(tmp_path, kind="json")
    assert str(caught.value).isprintable()


def test_nested_values_of_a_json_list_do_no_harm_where_they_are_not_used(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "patches.json").write_text(
        json.dumps([{"path": "a.png", "label": 1, "box": [1, 2]}])
    )
    assert [image.label for image in images(tmp_path, kind="json")] == ["1"]


@pytest.mark.parametrize("text", ["1_0", "0,5", "", "nan", "inf", "1e400", "-1", "0"])
def test_number_of_a_table_is_plain_and_possible(text: str, tmp_path: Path) -> None:
    path = tmp_path / "scale.csv"
    path.write_text(f'slide,mpp\na,"{text}"\n')
    table = read_csv(storage_path(path), place="sources.0.scale_csv")
    (row,) = table.rows(required=["slide"])
    with pytest.raises(ConfigError, match=r"scale\.csv: line 2: mpp is "):
        table.number(row, "mpp", low=0, high=100)


def test_json_list_that_is_missing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sources\.0\.path: .*does not exist"):
        read_json_list(storage_path(tmp_path / "no.json"), place="sources.0.path")
