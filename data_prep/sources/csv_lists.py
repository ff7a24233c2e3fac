"""The images of a patch set that a CSV or a JSON file lists."""

from collections.abc import Sequence

from histodiff.data_prep.sources.csv_files import CsvTable, Row, read_csv, read_json_list
from histodiff.data_prep.sources.inputs import ImageInput
from histodiff.data_prep.sources.listed_files import ListedFiles
from histodiff.data_prep.sources.listing import joined, mapped_label, parsed_name, stem_id
from histodiff.data_prep.sources.sources import (
    CsvSource,
)
from histodiff.data_prep.sources.spelling import (
    Spelled,
    id_key,
    label_key,
    require_one_spelling,
)
from histodiff.errors import ConfigError
from histodiff.storage import StoragePath, file_sizes

_SPLITS = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
"""Names of published splits as people write them."""


def listed_images(source: CsvSource, data: str, where: str) -> tuple[StoragePath, list[ImageInput]]:
    """The folder that paths are relative to, and the images in it that the file lists.

    Every row is an image, or of a label that ``label_map`` leaves out.

    Raises:
        ConfigError: A column or a file is missing, an image is listed twice, or one label or id is
            spelled in two ways.
    """
    table = _table(source, data, where)
    columns = source.columns
    named = (columns.path, columns.label, columns.slide_id, columns.patient_id, columns.site)
    required = [column for column in (*named, columns.split) if column is not None]
    kept: list[tuple[Row, str | None]] = []
    for row in table.rows(required=required):
        label = _label(table, row, source, where)
        if label is not None and source.label_map:
            label = mapped_label(label, source, where)
            if label is None:
                continue
        kept.append((row, label))
    rows = [row for row, _ in kept]
    _require_one_spelling(table, rows, source)
    files = ListedFiles(table.path.parent, file_sizes(table.path.parent))
    images = []
    for (row, label), path in zip(kept, files.names(table, rows, columns.path), strict=True):
        parsed = parsed_name(source.identifiers, path, where)
        own_id = parsed.slide_id if parsed else stem_id(path)
        slide_id = source.prefix + (_text(table, row, columns.slide_id) or own_id)
        own_patient = parsed.patient_id if parsed else slide_id
        images.append(
            ImageInput(
                path=path,
                slide_id=slide_id,
                patient_id=_text(table, row, columns.patient_id) or own_patient,
                site=_text(table, row, columns.site) or (parsed.site if parsed else None),
                label=label or None,
                size_bytes=files.sizes[path],
                given_split=_listed_split(row, columns.split, table),
            )
        )
    return files.folder, images


def _table(source: CsvSource, data: str, where: str) -> CsvTable:
    path = joined(data, source.path)
    if source.type == "json":
        whole = path if path.name.lower().endswith(".json") else path / "patches.json"
        return read_json_list(whole, place=f"{where}.path")
    whole = path if path.name.lower().endswith((".csv", ".tsv")) else path / "patches.csv"
    return read_csv(whole, place=f"{where}.path")


def _label(table: CsvTable, row: Row, source: CsvSource, where: str) -> str | None:
    if source.labels == "identifiers":
        parsed = parsed_name(source.identifiers, row[source.columns.path], where)
        return parsed.label if parsed else None
    column = source.columns.label
    return None if column is None else table.value(row, column, stated=source.label_map)


def _text(table: CsvTable, row: Row, column: str | None) -> str:
    return "" if column is None else table.value(row, column)


def _listed_split(row: Row, column: str | None, table: CsvTable) -> str | None:
    if column is None:
        return None
    split = _SPLITS.get(row[column].lower())
    if split is None:
        raise ConfigError(
            f"{table.at(row)}: {column} is {row[column]!r:.80}; write train, val or test"
        )
    return split


def _require_one_spelling(table: CsvTable, rows: Sequence[Row], source: CsvSource) -> None:
    columns = source.columns
    keys = [(columns.slide_id, id_key), (columns.patient_id, id_key), (columns.site, label_key)]
    if not source.label_map:
        keys.append((columns.label, label_key))
    for column, key in keys:
        if column is not None:
            first = {row[column]: row for row in reversed(rows)}
            spelled = [Spelled(text, row) for text, row in reversed(first.items())]
            require_one_spelling(spelled, key=key, what=column, at=table.at)
