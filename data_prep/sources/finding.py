"""The slides and images that the sources of a config mean.

Nothing is decoded here. Paths that are kept are relative to the source, so that moving the data
changes nothing that has identity.
"""

from collections.abc import Iterable, Sequence

from histodiff.data_prep.index.patch_index import file_name_of
from histodiff.data_prep.sources.inputs import ImageSet, Inputs, SlideInput
from histodiff.data_prep.sources.patch_sets import image_sets_of
from histodiff.data_prep.sources.slides import slides_of
from histodiff.data_prep.sources.sources import (
    PatchSetSource,
    SlidesSource,
)
from histodiff.errors import ConfigError

MAX_NAME_BYTES = 200


def find_inputs(data: str, sources: Sequence[SlidesSource | PatchSetSource]) -> Inputs:
    """The slides and images of ``sources``, whose paths are relative to ``data``.

    Raises:
        ConfigError: A path is missing or empty, a CSV does not fit, or two things share a slide id.
    """
    slides: list[SlideInput] = []
    sets: list[ImageSet] = []
    owners: dict[str, str] = {}
    for number, source in enumerate(sources):
        where = f"sources.{number}"
        if isinstance(source, SlidesSource):
            found = slides_of(source, data, where)
            _check_names(found)
            _claim(owners, ((slide.slide_id, slide.url) for slide in found))
            slides += found
        else:
            parts = image_sets_of(source, data, where, number)
            ids = sorted({image.slide_id for part in parts for image in part.images})
            _claim(owners, ((slide_id, parts[0].url) for slide_id in ids))
            sets += parts
    slides.sort(key=lambda slide: slide.slide_id)
    return Inputs(tuple(slides), tuple(sets))


def _claim(owners: dict[str, str], claims: Iterable[tuple[str, str]]) -> None:
    for slide_id, owner in claims:
        if slide_id in owners:
            raise ConfigError(
                f"slide id '{slide_id}' means both {owners[slide_id]} and {owner}; rename one,"
                " or give one source a `prefix`"
            )
        owners[slide_id] = owner


def _check_names(slides: Iterable[SlideInput]) -> None:
    """Files are named after slides; file systems take 255 bytes, endings included."""
    for slide in slides:
        length = len(file_name_of(slide.slide_id).encode())
        if length > MAX_NAME_BYTES:
            raise ConfigError(
                f"{slide.url}: slide id '{slide.slide_id}' is too long for file names"
                f" ({length} bytes, at most {MAX_NAME_BYTES}); rename the file, or shorten `prefix`"
            )
