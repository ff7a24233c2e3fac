"""What can be tiled: slides, folders of images, lists of images, and data sets as published.

A source is config; ``find_inputs`` turns sources into the slides and images that there are, with
their ids, labels and known scales, without opening one. Every slide id must mean one thing over all
sources.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from histodiff.config import Added, Config, Location
from histodiff.data_prep.sources.any_source import AnySource, Mpp, PatchSet
from histodiff.data_prep.sources.identifiers import RULES_WITH_LABELS, IdentifierRule
from histodiff.data_prep.sources.published_sets import (
    BreakhisSource,
    MedmnistSource,
    PannukeSource,
    PcamSource,
)


class SlidesSource(AnySource):
    """Whole-slide images, or images that are treated like slides."""

    type: Literal["slides"]
    path: Annotated[str, Location()] = "."
    """Folder, URL or one file, relative to `data`."""
    pattern: str = "*"
    """Which file names, such as `*.svs`; files that are no slides are left out."""
    recursive: bool = False
    """Look into sub-folders too."""
    prefix: str = ""
    """Put before every slide id, to tell sources apart."""
    scale: dict[str, Mpp] = Field(default={})
    """mpp by slide id (the file name without its ending) that replaces the slide's own; the id `*`
    gives it to every slide that has none."""
    scale_csv: Annotated[str | None, Location()] = None
    """CSV with columns `slide` and `mpp` (or `mpp_x` and `mpp_y`), like `scale`; relative to
    `data`, or one that ships with histodiff."""
    slide_csv: Annotated[str | None, Location()] = None
    """CSV with columns `slide` and any of `patient_id`, `site`, `label`."""
    unmatched_rows: Annotated[Literal["refuse", "leave_out"], Location()] = "refuse"
    """What is done about rows of `slide_csv`, `scale_csv` and `scale`, and files of `masks`,
    `annotations` and `coordinates`, that no slide is named like: an error that names them, or they
    are left out and counted."""
    unlisted_slides: Annotated[Literal["refuse", "take"], Location()] = "refuse"
    """What is done about slides without a row in `slide_csv` or a file in `annotations`, and about
    rows without a patient: an error that names them, or they are taken without label, each its own
    patient."""
    identifiers: IdentifierRule | None = None
    """How the files are named: gives patient and site where `slide_csv` does not."""
    masks: Annotated[str | None, Location()] = None
    """Folder of `<slide>.geojson` whose areas are taken as the tissue, such as edited copies of
    those that tile wrote; slides without one are masked as usual."""
    annotations: Annotated[str | None, Location()] = None
    """Folder of `<slide>.geojson` whose classes are the labels of the patches."""
    min_coverage: float = Field(default=0.5, gt=0, le=1)
    """Least fraction of a patch that an annotation must cover to be its label."""
    coordinates: Annotated[str | None, Location()] = None
    """Folder of `<slide>.h5` or `<slide>_patches.h5` that TRIDENT or CLAM wrote: their patches are
    taken, instead of a grid."""


class ImageFolderSource(PatchSet):
    """A folder of patches as images."""

    type: Literal["image_folder"]
    path: Annotated[str, Location()] = "."
    """Folder or URL, relative to `data`; sub-folders are read too."""
    labels: Literal["folder", "identifiers", "none"] = "none"
    """`folder`: the first sub-folder is the label; `identifiers`: the one in the file name."""
    slides: Literal["image", "folder"] = "image"
    """What is known of origins: `image`: each image is a slide of its own; `folder`: all images
    of a sub-folder are of one slide."""
    identifiers: IdentifierRule | None = None
    """How the files are named: gives slide, patient and site, instead of `slides`."""

    @model_validator(mode="after")
    def _identifiers_have_what_is_asked(self) -> "ImageFolderSource":
        _check_labels(self.labels, self.identifiers)
        if self.identifiers and self.slides == "folder":
            raise ValueError("slides: folder and identifiers both name the slide; remove one")
        return self


class CsvColumns(Config):
    """Names of the columns of a CSV, or of the keys of a JSON list; null: there is none."""

    path: str = "path"
    """Path of the image, relative to the list."""
    label: str | None = None
    """Label of the image."""
    slide_id: str | None = None
    """Slide, field or other origin whose images belong together; else each image is its own."""
    patient_id: str | None = None
    """Patient; else each slide is its own."""
    site: str | None = None
    """Hospital or scanner."""
    split: Annotated[str | None, Added()] = None
    """Published split: `train`, `val` (`valid`, `validation`) or `test`."""


class CsvSource(PatchSet):
    """Patches as images that a CSV lists, or a JSON list of objects."""

    type: Literal["csv", "json"]
    path: Annotated[str, Location()] = "."
    """The list, or the folder with `patches.csv` or `patches.json`; relative to `data`."""
    columns: CsvColumns
    """Names of the columns."""
    labels: Literal["column", "identifiers"] = "column"
    """Where labels are from: `columns.label` (none without it), or the file names."""
    identifiers: IdentifierRule | None = None
    """How the images are named: gives slide, patient and site where no column does."""

    @model_validator(mode="after")
    def _identifiers_have_what_is_asked(self) -> "CsvSource":
        _check_labels(self.labels, self.identifiers)
        if self.labels == "identifiers" and self.columns.label is not None:
            raise ValueError("columns.label and labels: identifiers both name it; remove one")
        if self.published_split is not None and self.columns.split is not None:
            raise ValueError("published_split and columns.split both name it; remove one")
        return self


PatchSetSource = (
    ImageFolderSource | CsvSource | BreakhisSource | PcamSource | MedmnistSource | PannukeSource
)
Source = Annotated[SlidesSource | PatchSetSource, Field(discriminator="type")]


def unknown_scales(sources: Sequence[SlidesSource | PatchSetSource]) -> list[int]:
    """Numbers of the sources that say `mpp: unknown`."""
    return [
        number
        for number, source in enumerate(sources)
        if not isinstance(source, SlidesSource) and source.mpp == "unknown"
    ]


def _check_labels(labels: str, rule: IdentifierRule | None) -> None:
    if labels == "identifiers" and rule not in RULES_WITH_LABELS:
        raise ValueError(
            f"labels: identifiers needs names with a label in them, but identifiers is"
            f" {rule or 'null'}; set it to {' or '.join(RULES_WITH_LABELS)}"
        )
