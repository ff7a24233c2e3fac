"""The images of a patch set that a CSV lists."""

from histodiff.data_prep.sources.csv_files import CsvTable, read_csv
from histodiff.data_prep.sources.inputs import ImageInput
from histodiff.data_prep.sources.listing import joined, mapped_label, parsed_name, stem_id
from histodiff.data_prep.sources.sources import (
    CsvSource,
)
from histodiff.errors import ConfigError
from histodiff.storage import StoragePath, file_sizes


def listed_images(source: CsvSource, data: str, where: str) -> tuple[StoragePath, list[ImageInput]]:
    """The folder that paths are relative to, and the images in it that the CSV lists.

    Raises:
        ConfigError: A column or a file is missing.
    """
    path = joined(data, source.path)
    if not path.name.lower().endswith((".csv", ".tsv")):
        path = path / "patches.csv"
    table = read_csv(path, place=f"{where}.path")
    columns = source.columns
    named = (columns.path, columns.label, columns.slide_id, columns.patient_id, columns.site)
    folder = path.parent
    sizes = file_sizes(folder)
    images = []
    for row in table.rows(required=[column for column in named if column is not None]):
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
            )
        )
    return folder, images


def _listed_size(sizes: dict[str, int], image: str, table: CsvTable) -> int:
    if image not in sizes:
        raise ConfigError(
            f"{table.path}: lists '{image}', which is not there; paths are relative to the CSV"
        )
    return sizes[image]
