"""Random lists, tables and names: read whole, or refused in one line; never a traceback, no loss.

What is written is known, so what is read is compared with it.
"""

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from histodiff.data_prep.sources.finding import find_inputs
from histodiff.data_prep.sources.identifiers import parse_identifier
from histodiff.data_prep.sources.inputs import ImageInput, Inputs
from histodiff.data_prep.sources.sources import CsvSource, SlidesSource
from histodiff.errors import ConfigError

pytestmark = pytest.mark.fuzz
fuzzed = settings(
    max_examples=max(100, settings.default.max_examples),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NFD = unicodedata.normalize("NFD", "Uto\u0308.png")
FILES = ("a.png", "b c.png", 'q"uote.png', "com,ma.png", "sub/d.png", "sub/007.png", NFD, "nan.png")
WORDS = st.one_of(
    st.sampled_from(["1", "1.0", "01", "nan", "NA", "x", "X", "a,b", 'a"b', "a\nb", "\ufeff", "*"]),
    st.text(max_size=6),
    st.text(alphabet="01.ab ,;\"'\t\r\n\0\x1b\u200b\xa0", max_size=8),
)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])
SLIDES = ("00101.svs", "00102.svs", "B 1.ome.tif", "\u00e4.tif", "x.y.png")
NAMES = {
    "tcga": "TCGA-02-0001-01Z-00-DX1.83fce43e-42ac-4dcd-b156-2908e75f2e47.svs",
    "breakhis": "SOB_B_A-14-22549AB-40-001.png",
    "chaoyang": "535940-IMG009x026-2.JPG",
    "panda": "006f4d8d3556dd21f6424202c2d294a9_12.png",
}


def mostly(plain: st.SearchStrategy[str], odd: st.SearchStrategy[str]) -> Any:
    """One in twelve is odd, so that whole tables are read too."""
    return st.integers(0, 11).flatmap(lambda number: odd if number == 0 else plain)


def written(rows: list[list[str]], end: str, quoting: Any, *, tab: bool = False) -> str:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator=end, quoting=quoting, delimiter="\t" if tab else ",")
    writer.writerows(rows)
    return sink.getvalue()


@st.composite
def mutated(draw: Callable[..., Any], text: str) -> str:
    """The text with some characters removed, doubled or put in."""
    characters = list(text)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, max(len(characters) - 1, 0)))
        put = draw(st.text(alphabet=st.characters(), max_size=2) | st.sampled_from('",\n\r;\0'))
        cut = draw(st.integers(0, 3))
        characters[place : place + cut] = list(put)
    return "".join(characters)


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def one_line(error: ConfigError) -> None:
    message = str(error)
    assert message.isprintable(), message
    assert 10 < len(message) < 2_000


def plain(path: str, folder: Path) -> str:
    """The file that a path means, by rules written anew: what is listed, without ``./``."""
    inside = path.strip().removeprefix(f"{folder}/")
    return composed(str(PurePosixPath(inside)))


@pytest.fixture(scope="module")
def images_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"image")
    return folder


def listed(folder: Path, text: str, suffix: str = "csv", **columns: str) -> list[ImageInput]:
    path = folder / f"patches.{suffix}"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    source = CsvSource.model_validate(
        {"type": "csv", "path": path.name, "columns": columns, "mpp": 1.0, "fit": "crop"}
    )
    found = find_inputs(str(folder), [source])
    return [image for part in found.image_sets for image in part.images]


@fuzzed
@given(data=st.data(), end=ENDS, quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_list_of_images_is_read_whole_or_refused(
    images_folder: Path, data: st.DataObject, end: str, quoting: Any
) -> None:
    forms = st.sampled_from(["{}", "./{}", " {} ", f"{images_folder}/{{}}"])
    files = data.draw(st.lists(st.sampled_from(FILES), max_size=6, unique=True))
    patient = data.draw(mostly(st.just("p"), WORDS))
    rows = []
    for file in files:
        path = data.draw(forms).format(data.draw(st.sampled_from([file, file, composed(file)])))
        label = data.draw(mostly(st.sampled_from(["x", "y", 'a"b', "1", "\u00e4"]), WORDS))
        slide = data.draw(mostly(st.sampled_from(["s", "t, u", "101"]), WORDS))
        rows.append([data.draw(mostly(st.just(path), WORDS)), label, slide, patient])
    tab = data.draw(st.booleans())
    header = ["path", "label", "slide", "patient"]
    text = written([header, *rows], end, quoting, tab=tab)
    columns = {"label": "label", "slide_id": "slide", "patient_id": "patient"}
    try:
        images = listed(images_folder, text, "tsv" if tab else "csv", **columns)
    except ConfigError as error:
        one_line(error)
        event("refused")
        return
    event("read")
    values = [[value.strip() for value in values] for values in rows]
    wanted = Counter(
        (plain(path, images_folder), *rest) for path, *rest in values if any([path, *rest])
    )
    assert wanted == Counter(
        (composed(image.path), image.label, image.slide_id, image.patient_id) for image in images
    )
    assert {image.path for image in images} <= set(FILES)


@fuzzed
@given(data=st.data(), end=ENDS)
def test_list_of_images_that_was_damaged_loses_no_line(
    images_folder: Path, data: st.DataObject, end: str
) -> None:
    rows = [["path", "label"], *([name, str(number)] for number, name in enumerate(FILES[:5]))]
    text = data.draw(mutated(written(rows, end, csv.QUOTE_MINIMAL)))
    try:
        images = listed(images_folder, text, label="label")
    except ConfigError as error:
        one_line(error)
        event("refused")
        return
    event("read")
    if '"' not in text:
        lines = [line for line in re.split("\r\n|\r|\n", text) if line.replace(",", "").strip()]
        assert len(images) == len(lines) - 1
    assert all(image.path in FILES and image.label for image in images)


@pytest.fixture(scope="module")
def slides_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for name in SLIDES:
        (folder / name).write_bytes(b"slide")
    return folder


def slide_names() -> st.SearchStrategy[str]:
    """Names of slides, and what is made of them."""
    stems = [re.sub(r"(\.ome)?\.\w+$", "", name) for name in SLIDES]
    known = st.sampled_from([*stems, *SLIDES])
    odd = st.one_of(
        known.map(lambda name: name.lstrip("0")),
        known.map(str.upper),
        known.map(lambda name: f"p-{name}"),
        WORDS,
    )
    return mostly(known | known.map(lambda name: f" {unicodedata.normalize('NFD', name)}"), odd)


def of_slides(folder: Path, **changes: Any) -> Inputs:
    return find_inputs(str(folder), [SlidesSource.model_validate({"type": "slides", **changes})])


def num_named(found: Inputs, what: str) -> int:
    """How many the traps say are left out or taken without."""
    matches = (re.match(rf"([\d,]+) of [\d,]+ {what}", trap.what) for trap in found.traps)
    return sum(int(match[1]) for match in matches if match)


@fuzzed
@given(
    names=st.lists(slide_names(), max_size=8, unique=True),
    end=ENDS,
    prefix=st.sampled_from(["", "p-"]),
    rows=st.sampled_from(["refuse", "leave_out"]),
    slides=st.sampled_from(["refuse", "take"]),
    label=mostly(st.sampled_from(["", "x", "T, 1"]), WORDS),
)
def test_slide_table_has_a_slide_for_every_row_or_names_it(
    slides_folder: Path, names: list[str], end: str, prefix: str, rows: str, slides: str, label: str
) -> None:
    table = [["slide", "patient_id", "label"]]
    table += [[name, f"P{number}", label] for number, name in enumerate(names)]
    (slides_folder / "about.csv").write_bytes(written(table, end, csv.QUOTE_MINIMAL).encode())
    fields = {"prefix": prefix, "unmatched_rows": rows, "unlisted_slides": slides}
    try:
        found = of_slides(slides_folder, slide_csv="about.csv", **fields)
    except ConfigError as error:
        one_line(error)
        event("refused")
        return
    event("read")
    used = [slide for slide in found.slides if re.fullmatch(r"P\d", slide.patient_id)]
    assert len({slide.patient_id for slide in used}) == len(used)
    assert len(used) + num_named(found, "rows? match") == len(names)
    assert len(used) + num_named(found, "slides of") == len(SLIDES)
    assert all(slide.label == (label.strip() or None) for slide in used)
    assert rows == "leave_out" or len(used) == len(names)
    assert slides == "take" or len(used) == len(SLIDES)
    for slide in used:
        name = composed(names[int(slide.patient_id[1])].strip())
        assert name.removeprefix(prefix) in (
            slide.slide_id.removeprefix(prefix), slide.url.rpartition("/")[2], name,
        )  # fmt: skip


@fuzzed
@given(
    names=st.lists(slide_names(), min_size=1, max_size=8, unique=True),
    values=st.lists(
        mostly(st.sampled_from(["0.5", "0.25", "1e-1", "5e-1", " 0.75"]), WORDS),
        min_size=8,
        max_size=8,
    ),
    end=ENDS,
    two=st.booleans(),
    rows=st.sampled_from(["refuse", "leave_out"]),
)
def test_scale_table_has_a_slide_for_every_row_or_names_it(
    slides_folder: Path, names: list[str], values: list[str], end: str, two: bool, rows: str
) -> None:
    head = ["slide", "mpp_x", "mpp_y"] if two else ["slide", "mpp"]
    table = [
        head,
        *([name, *[value] * (1 + two)] for name, value in zip(names, values, strict=False)),
    ]
    (slides_folder / "scale.csv").write_bytes(written(table, end, csv.QUOTE_MINIMAL).encode())
    try:
        found = of_slides(slides_folder, scale_csv="scale.csv", unmatched_rows=rows)
    except ConfigError as error:
        one_line(error)
        event("refused")
        return
    event("read")
    given_scales = [slide for slide in found.slides if not slide.mpp_is_default]
    stars = sum(name.strip() == "*" for name in names)
    assert len(given_scales) + stars + num_named(found, "rows? match") == len(names)
    scales = [float(value) for value in values[: len(names)]]
    assert {slide.given_mpp for slide in given_scales} <= {(scale, scale) for scale in scales}


@fuzzed
@given(rule=st.sampled_from(sorted(NAMES)), data=st.data())
@example(rule="panda", data=None)
def test_name_is_parsed_to_parts_of_it_or_refused(rule: Any, data: st.DataObject | None) -> None:
    name = NAMES[rule] + "\n" if data is None else data.draw(mutated(NAMES[rule]) | st.text())
    try:
        parsed = parse_identifier(rule, name)
    except ConfigError as error:
        one_line(error)
        event("refused")
        return
    event("read")
    file = PurePosixPath(name).name
    for part in (parsed.slide_id, parsed.patient_id, parsed.site, parsed.label):
        assert part is None or (
            part.isascii() and part in (file.upper() if rule == "tcga" else file)
        )
    assert rule == "tcga" or file.isprintable()
