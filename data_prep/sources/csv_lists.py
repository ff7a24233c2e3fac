"""The images of a patch set that a CSV or a JSON file lists."""

from histodiff.data_prep.sources.csv_files import CsvTable, read_csv, read_json_list
from histodiff.data_prep.sources.inputs import ImageInput
from histodiff.data_prep.sources.listing import joined, mapped_label, parsed_name, stem_id
from histodiff.data_prep.sources.sources import (
    CsvSource,
)
from histodiff.errors import ConfigError
from histodiff.storage import StoragePath, file_sizes

_SPLITS = {
    "train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
"""Names of published splits as people write them."""


def listed_images(source: CsvSource, data: str, where: str) -> tuple[StoragePath, list[ImageInput]]:
    """The folder that paths are relative to, and the images in it that the file lists.

    Raises:
        ConfigError: A column or a file is missing.
    """
    table = _table(source, data, where)
    columns = source.columns
    named = (columns.path, columns.label, columns.slide_id, columns.patient_id, columns.site)
    folder = table.path.parent
    sizes = file_sizes(folder)
    images = []
    required = [column for column in (*named, columns.split) if column is not None]
    for row in table.rows(required=required):
        image = row[columns.path]
        parsed = parsed_name(source.identifiers, image, where)
        label = row[columns.label] if columns.label else None
        if parsed and source.labels == "identifiers":
            label = parsed.label
        if label is not None and source.label_map:
            label = mapped_label(label, source, where)
            if label is None:
                continue
        own_id = parsed.slide_id if parsed else stem_id(image)
        slide_id = source.prefix + (row[columns.slide_id] if columns.slide_id else own_id)
        own_patient = parsed.patient_id if parsed else slide_id
        images.append(
            ImageInput(
                path=image,
                slide_id=slide_id,
                patient_id=row[columns.patient_id] if columns.patient_id else own_patient,
                site=row[columns.site] if columns.site else parsed.site if parsed else None,
                label=label or None,
                size_bytes=_listed_size(sizes, image, table),
                given_split=_listed_split(row, columns.split, table),
            )
        )
    return folder, images


def _table(source: CsvSource, data: str, where: str) -> CsvTable:
    path = joined(data, source.path)
    if source.type == "json":
        whole = path if path.name.lower().endswith(".json") else path / "patches.json"
        return read_json_list(whole, place=f"{where}.path")
    whole = path if path.name.lower().endswith((".csv", ".tsv")) else path / "patches.csv"
    return read_csv(whole, place=f"{where}.path")


def _listed_split(row: dict[str, str], column: str | None, table: CsvTable) -> str | None:
    if column is None:
        return None
    split = _SPLITS.get(row[column].lower())
    if split is None:
        line = next(line for line, other in table.lines if other is row)
        raise ConfigError(
            f"{table.path}: line {line}: {column} is '{row[column]}'; write train, val or test"
        )
    return split


def _listed_size(sizes: dict[str, int], image: str, table: CsvTable) -> int:
    if image not in sizes:
        raise ConfigError(
            f"{table.path}: lists '{image}', which is not there; paths are relative to the CSV"
        )
    return sizes[image]
