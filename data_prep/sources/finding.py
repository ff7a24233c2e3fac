"""The slides and images that the sources of a config mean.

Nothing is decoded here. Paths that are kept are relative to the source, so that moving the data
changes nothing that has identity.
"""

from collections.abc import Iterable, Sequence

from histodiff.data_prep.index.patch_index import file_name_of
from histodiff.data_prep.index.splits import SharedPatients
from histodiff.data_prep.sources.consistency import require_consistent
from histodiff.data_prep.sources.inputs import MET_HERE, FoundTrap, Inputs, SlideInput
from histodiff.data_prep.sources.patch_sets import FoundImages, found_images, image_sets_of
from histodiff.data_prep.sources.shared_patients import without_shared_patients
from histodiff.data_prep.sources.slide_matches import Matches, require_matches
from histodiff.data_prep.sources.slides import slides_of
from histodiff.data_prep.sources.sources import (
    PatchSetSource,
    SlidesSource,
)
from histodiff.data_prep.sources.spelling import shown
from histodiff.errors import ConfigError

MAX_NAME_BYTES = 200


def find_inputs(
    data: str,
    sources: Sequence[SlidesSource | PatchSetSource],
    *,
    shared: SharedPatients = "refuse",
) -> Inputs:
    """The slides and images of ``sources``.

    Args:
        data: What their paths are relative to.
        sources: What is looked for.
        shared: What is done about patients whom published splits have in two parts.

    Raises:
        ConfigError: A path is missing or empty, a list or table does not fit, two things share a
            slide id, a slide has two patients, a name is spelled in two ways, or a published split
            is refused.
    """
    slides: list[SlideInput] = []
    found: list[FoundImages] = []
    left_out: list[FoundTrap] = []
    matches: list[Matches] = []
    owners: dict[str, str] = {}
    for number, source in enumerate(sources):
        if isinstance(source, SlidesSource):
            own = slides_of(source, data, f"sources.{number}")
            _check_names(own.slides)
            _claim(owners, ((slide.slide_id, slide.url) for slide in own.slides))
            slides += own.slides
            matches += own.matches
            left_out += own.traps
        else:
            found.append(found_images(source, data, number))
            left_out += found[-1].traps
    left_out += require_matches(matches)
    require_consistent(slides, found)
    stated = _stated_traps(sources, found)
    found, met = without_shared_patients(found, shared)
    for item in found:
        ids = sorted({image.slide_id for image in item.images})
        _claim(owners, ((slide_id, str(item.folder)) for slide_id in ids))
    slides.sort(key=lambda slide: slide.slide_id)
    sets = [part for item in found for part in image_sets_of(item)]
    return Inputs(tuple(slides), tuple(sets), (*stated, *left_out, *met))


def _stated_traps(
    sources: Sequence[SlidesSource | PatchSetSource], found: Sequence[FoundImages]
) -> list[FoundTrap]:
    """Traps that the config states, and sets that are not as large as they were published."""
    traps = [
        FoundTrap(source.path, trap.what, trap.source)
        for source in sources
        for trap in source.traps
    ]
    for item in found:
        wanted, here = item.source.num_published, len(item.images)
        whole = None not in item.source.label_map.values()
        if wanted is not None and whole and wanted != here:
            what = f"{wanted:,} images were published, {here:,} are here: it is not the whole set."
            traps.append(FoundTrap(item.source.path, what, MET_HERE))
    return traps


def _claim(owners: dict[str, str], claims: Iterable[tuple[str, str]]) -> None:
    for slide_id, owner in claims:
        if slide_id in owners:
            raise ConfigError(
                f"slide id '{shown(slide_id)}' means both {shown(owners[slide_id], most=500)} and"
                f" {shown(owner, most=500)}; rename one,"
                " or give one source a `prefix`"
            )
        owners[slide_id] = owner


def _check_names(slides: Iterable[SlideInput]) -> None:
    """Files are named after slides; file systems take 255 bytes, endings included."""
    for slide in slides:
        length = len(file_name_of(slide.slide_id).encode())
        if length > MAX_NAME_BYTES:
            raise ConfigError(
                f"{shown(slide.url, most=500)}: slide id '{shown(slide.slide_id)}' is too long for"
                f" file names ({length} bytes, at most {MAX_NAME_BYTES}); rename the file, or"
                " shorten `prefix`"
            )
