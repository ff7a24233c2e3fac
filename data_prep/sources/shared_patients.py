"""Patients whom published splits have in two parts, and what is done about them.

A published split is kept as it is. Where it parts the images of one patient, results on its test
are too good; so that is refused unless the config says what to do, and it is recorded.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace

from histodiff.data_prep.index.splits import SPLITS, SharedPatients
from histodiff.data_prep.sources.inputs import MET_HERE, FoundTrap, ImageInput
from histodiff.data_prep.sources.patch_sets import FoundImages
from histodiff.errors import ConfigError

_ORDER = (None, *SPLITS)
"""Parts from the first that gives way to the last; None is what is still divided."""
_NAMED = 3


def without_shared_patients(
    found: Sequence[FoundImages], shared: SharedPatients
) -> tuple[list[FoundImages], list[FoundTrap]]:
    """``found`` with every patient in one part, and a trap for each source that had others.

    Args:
        found: Images of all sources, with the splits that were published.
        shared: What is done about patients in several parts.

    Raises:
        ConfigError: There are such patients, and ``shared`` is ``refuse``.
    """
    parts: defaultdict[str, set[str | None]] = defaultdict(set)
    for item in found:
        for image in item.images:
            parts[image.patient_id].add(image.given_split)
    in_two = {patient: _last(known) for patient, known in parts.items() if len(known) > 1}
    if not in_two:
        return list(found), []
    if shared == "refuse":
        raise ConfigError(_refusal(found, in_two))
    settled = []
    traps = []
    for item in found:
        affected = [image for image in item.images if image.patient_id in in_two]
        images = [image for image in item.images if image.patient_id not in in_two]
        if shared == "keep":
            images += [_apart(image) for image in affected]
        else:
            images += [image for image in affected if image.given_split == in_two[image.patient_id]]
        settled.append(replace(item, images=images))
        if affected:
            traps.append(_trap(item, affected, len(item.images) - len(images), shared))
    return settled, traps


def _last(parts: set[str | None]) -> str | None:
    return max(parts, key=_ORDER.index)


def _apart(image: ImageInput) -> ImageInput:
    """The image as one of another slide and patient, named after its part."""
    if image.given_split is None:
        return image
    end = f"@{image.given_split}"
    return replace(image, slide_id=image.slide_id + end, patient_id=image.patient_id + end)


def _refusal(found: Sequence[FoundImages], in_two: dict[str, str | None]) -> str:
    patient = min(in_two)
    own = [
        (item.where, image.given_split or "those to be divided")
        for item in found
        for image in item.images
        if image.patient_id == patient
    ]
    counts = Counter(part for _, part in own)
    parts = " and ".join(f"{part} ({count} images)" for part, count in sorted(counts.items()))
    return (
        f"{own[0][0]}: the published splits have {_counted(in_two)} in two parts, such as"
        f" '{patient}' in {parts}; set split.shared: leave_out (each stays in its last part, test"
        " before val before train) or keep (as published), or divide all by `split`"
    )


def _counted(patients: Collection[str]) -> str:
    return "1 patient" if len(patients) == 1 else f"{len(patients):,} patients"


def _trap(
    item: FoundImages, affected: Sequence[ImageInput], left_out: int, shared: SharedPatients
) -> FoundTrap:
    patients = sorted({image.patient_id for image in affected})
    named = ", ".join(patients[:_NAMED]) + (", ..." if len(patients) > _NAMED else "")
    done = (
        f"{left_out:,} of {len(item.images):,} images were left out, so that each is in one"
        if shared == "leave_out"
        else f"{len(affected):,} of {len(item.images):,} images are theirs and are used as"
        " published, so results on the test may be too good"
    )
    return FoundTrap(
        data=item.source.path,
        what=f"The published splits have {_counted(patients)} ({named}) in two parts: {done}.",
        source=MET_HERE,
    )
