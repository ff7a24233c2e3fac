"""What must hold over all sources together: a slide has one patient, a name one spelling."""

from collections.abc import Iterable, Sequence

from histodiff.data_prep.sources.inputs import ImageInput, SlideInput
from histodiff.data_prep.sources.patch_sets import FoundImages
from histodiff.data_prep.sources.spelling import (
    Spelled,
    id_key,
    label_key,
    require_one_spelling,
    shown,
)
from histodiff.errors import ConfigError

_Spellings = dict[str, Spelled[str]]


def require_consistent(slides: Sequence[SlideInput], found: Sequence[FoundImages]) -> None:
    """Checks that no slide is of two patients or sites, and that labels and ids have one spelling.

    Raises:
        ConfigError: Names both, and where they are from.
    """
    for item in found:
        _require_one_origin(item)
    labels: _Spellings = {}
    patients: _Spellings = {}
    sites: _Spellings = {}
    for slide in slides:
        place = f"slide '{shown(slide.slide_id)}'"
        _add(labels, slide.label, place, stated=False)
        _add(patients, slide.patient_id, place, stated=False)
        _add(sites, slide.site, place, stated=False)
    for item in found:
        stated = bool(item.source.label_map)
        for image in _distinct(item.images):
            place = f"{item.where} (image '{shown(image.path)}')"
            _add(labels, image.label, place, stated=stated)
            _add(patients, image.patient_id, place, stated=False)
            _add(sites, image.site, place, stated=False)
    require_one_spelling(labels.values(), key=label_key, what="label", at=str)
    require_one_spelling(sites.values(), key=label_key, what="site", at=str)
    require_one_spelling(patients.values(), key=id_key, what="patient", at=str)


def _require_one_origin(item: FoundImages) -> None:
    first: dict[str, ImageInput] = {}
    for image in item.images:
        other = first.setdefault(image.slide_id, image)
        for what, own, before in (
            ("patients", image.patient_id, other.patient_id),
            ("sites", image.site, other.site),
        ):
            if own != before:
                raise ConfigError(
                    f"{item.where}: slide '{shown(image.slide_id)}' has two {what}:"
                    f" '{shown(str(before))}' (image '{shown(other.path)}') and"
                    f" '{shown(str(own))}' (image '{shown(image.path)}'); a slide is of one:"
                    " correct the list, or give their images other slide ids"
                )


def _distinct(images: Sequence[ImageInput]) -> Iterable[ImageInput]:
    """One image of every patient, site and label."""
    seen = {(image.patient_id, image.site, image.label): image for image in reversed(images)}
    return reversed(list(seen.values()))


def _add(found: _Spellings, text: str | None, place: str, *, stated: bool) -> None:
    if text is not None:
        found.setdefault(text, Spelled(text, place, stated))
