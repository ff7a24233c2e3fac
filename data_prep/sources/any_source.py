"""What kinds of sources have in common: traps of the data, and of patch sets scale and split."""

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field

from histodiff.config import Added, Config, Location
from histodiff.data_prep.index.geometry import Fit

MppT = TypeVar("MppT", float, float | Literal["unknown"])


def _plausible_mpp(value: MppT) -> MppT:
    if not isinstance(value, str) and not 0 < value <= 100:
        raise ValueError(
            f"{value:g} is no possible scale; give microns per pixel, such as 0.5 (20x)"
        )
    return value


Mpp = Annotated[float, AfterValidator(_plausible_mpp)]
"""Microns per pixel."""
DeclaredMpp = Annotated[float | Literal["unknown"], AfterValidator(_plausible_mpp)]
"""Microns per pixel, or `unknown`."""

Split = Literal["train", "val", "test"]
"""A part of a labelled set."""


class Trap(Config):
    """Something about a data set that misleads those who do not know it."""

    what: str = Field(min_length=1)
    """The trap in a sentence, with the way around it where there is one."""
    source: str = Field(min_length=1)
    """Who says so: an arXiv number, a DOI, an address."""


class AnySource(Config):
    """What slides and patch sets have in common."""

    traps: Annotated[tuple[Trap, ...], Location()] = ()
    """Known traps of the data, recorded in the index and repeated by cohort page and report."""


class PatchSet(AnySource):
    """What all patch sets have in common."""

    label_map: dict[str, str | None] = Field(default={})
    """New names of labels; null leaves the patches of a label out. Quote numbers."""
    prefix: str = ""
    """Put before every slide id, to tell sources apart."""
    mpp: DeclaredMpp
    """Microns per pixel of the images, or `unknown`."""
    fit: Fit
    """`crop` images into patches at the wanted scale, or `resize` the central square; of images
    smaller than a patch `enlarge` the central square, or `pad` them by reflection."""
    published_split: Annotated[Split | None, Added()] = None
    """Split that the publishers gave to all images of this source: kept. Null: the images are
    divided by `split`, but for those whose own split the files state."""
    num_published: Annotated[int | None, Field(ge=1), Location()] = None
    """Images that were published; another number is a trap that is recorded."""
