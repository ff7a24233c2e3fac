"""Data sets whose files have a layout of their own, as their makers publish them."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from histodiff.config import Location
from histodiff.data_prep.sources.any_source import PatchSet, Split

GivenOrOwn = Literal["given", "own"]
"""Whose splits are used."""
Magnification = Literal[40, 100, 200, 400]
"""Nominal magnification of BreakHis: the `40` of `40X`."""


class BreakhisSource(PatchSet):
    """BreakHis: the images of one magnification below `BreaKHis_v1/`, and `dsfold<n>.txt`.

    Slide, patient and label (`B_A`, `M_DC`, ...) are read from the names.
    """

    type: Literal["breakhis"]
    path: Annotated[str, Location()] = "."
    """Folder or URL with the images, relative to `data`; sub-folders are read too."""
    magnification: Magnification
    """Which images are taken."""
    fold: int | None = Field(default=None, ge=1, le=5)
    """Published fold: its test images are the test, its training images are divided by `split`.
    Null: all are divided."""
    fold_lists: Annotated[str, Location()] = "mkfold"
    """Folder or URL with `dsfold1.txt` to `dsfold5.txt`, relative to `data`."""

    @model_validator(mode="after")
    def _split_is_named_once(self) -> "BreakhisSource":
        if self.fold is not None and self.published_split is not None:
            raise ValueError("published_split and fold both name the split; remove one")
        return self


class PcamSource(PatchSet):
    """PatchCamelyon: `camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5`, unpacked."""

    type: Literal["pcam"]
    path: Annotated[str, Location()] = "."
    """Folder or URL with the files, relative to `data`; the `_meta.csv` beside them give the
    slides, and without one every patch is a slide of its own."""
    splits: GivenOrOwn
    """`given`: the files' own splits are kept; `own`: all patches are divided by `split`."""

    @model_validator(mode="after")
    def _split_is_named_once(self) -> "PcamSource":
        _check_splits(self.splits, self.published_split)
        return self


class MedmnistSource(PatchSet):
    """A MedMNIST `.npz`, such as PathMNIST; every patch is a slide of its own."""

    type: Literal["medmnist"]
    path: Annotated[str, Location()] = "."
    """The `.npz`, or a folder with one; relative to `data`."""
    splits: GivenOrOwn
    """`given`: the file's own splits are kept; `own`: all patches are divided by `split`."""

    @model_validator(mode="after")
    def _split_is_named_once(self) -> "MedmnistSource":
        _check_splits(self.splits, self.published_split)
        return self


class PannukeSource(PatchSet):
    """PanNuke: folders with `images.npy` and `types.npy`; every patch is a slide of its own."""

    type: Literal["pannuke"]
    path: Annotated[str, Location()] = "."
    """Folder or URL with the folds, relative to `data`; masks are not used."""
    tissue: Literal["label", "site", "none"]
    """What the name of the tissue in `types.npy` is taken for."""


def _check_splits(splits: GivenOrOwn, published: Split | None) -> None:
    if splits == "given" and published is not None:
        raise ValueError("published_split and splits: given both name it; set splits: own")
