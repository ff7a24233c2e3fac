"""What a person does next about slides that were left out, in words.

Every reason has a plain meaning and a fix; the fix names the line, the value or the key that is
needed. The words are fixed here, the numbers are from the table of slides.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from histodiff.errors import SkipReason

Slide = Mapping[str, Any]

OK = "ok"
WARNED, MOSTLY_REJECTED = "warned", "mostly-rejected"
"""Filters that are no status."""
MPP_PLACEHOLDER = "<microns per pixel>"
REJECTIONS = ("pen", "blurred", "black", "white", "unreadable")
"""Why patches are left out; ``num_<reason>`` in the table of slides."""
_MOST = 0.5
_STATUS_WORDS = {
    OK: "used",
    SkipReason.NO_TISSUE: "no tissue",
    SkipReason.MISSING_MPP: "no scale",
    SkipReason.TOO_COARSE: "too coarse",
    SkipReason.TOO_SMALL: "too small",
    SkipReason.UNREADABLE: "unreadable",
}
_UM = "\u00b5m"
_OVERVIEW = 4
"""Times the wanted scale above which a picture is an overview."""


@dataclass(frozen=True)
class Advice:
    """One thing to do, for all slides that need it."""

    key: str
    """Filter of the list that shows these slides."""
    title: str
    meaning: str
    fix: str
    slides: tuple[tuple[str, str], ...]
    """Every slide, and what is particular about it."""
    csv: str = ""
    """Lines to complete and add to a file."""

    @property
    def kind(self) -> str:
        """Class of its colour."""
        return "look" if self.key in (WARNED, MOSTLY_REJECTED) else kind(self.key)


def status_words(status: str) -> str:
    """The status as people say it; one that is not known here as it is."""
    return _STATUS_WORDS.get(status, status)


def is_failure(status: str) -> bool:
    """Whether the slide failed rather than was rightly left out."""
    return status in set(SkipReason) and SkipReason(status).is_failure


def kind(status: str) -> str:
    """Class of the colour of a status."""
    return "used" if status == OK else "failed" if is_failure(status) else "skipped"


def rejected(slide: Slide) -> int:
    """Patches on tissue that were left out for what they show."""
    return sum(slide[f"num_{reason}"] or 0 for reason in REJECTIONS)


def is_warned(slide: Slide) -> bool:
    """Whether a slide is used although something about it is odd."""
    return bool(slide["status"] == OK and slide["warning"])


def is_mostly_rejected(slide: Slide) -> bool:
    """Whether more patches were rejected than kept, of a slide that is used."""
    lost = rejected(slide)
    return bool(slide["status"] == OK and lost > _MOST * (lost + (slide["num_patches"] or 0)))


def advice(slides: Sequence[Slide], *, mpp: float | None, patch_px: int) -> list[Advice]:
    """What to do, failures first, then slides left out, then what to look at."""
    found = []
    for reason in sorted(SkipReason, key=lambda item: (not item.is_failure, item)):
        members = [slide for slide in slides if slide["status"] == reason]
        if members:
            found.append(_for_reason(reason, members, mpp=mpp, patch_px=patch_px))
    warned = [slide for slide in slides if is_warned(slide)]
    if warned:
        found.append(_warned(warned))
    lost = [slide for slide in slides if is_mostly_rejected(slide)]
    if lost:
        found.append(_mostly_rejected(lost))
    return found


def _for_reason(
    reason: SkipReason, members: Sequence[Slide], *, mpp: float | None, patch_px: int
) -> Advice:
    count = _slides(members)
    details = tuple((slide["slide_id"], slide["reason"] or "") for slide in members)
    wanted = f"{mpp:g} {_UM}/px" if mpp is not None else "the wanted scale"
    match reason:
        case SkipReason.MISSING_MPP:
            return Advice(
                reason,
                f"{count} without a scale",
                f"The files do not say how many microns a pixel is, and it is never guessed."
                f"{_powers(members)}",
                "Ask the scanner's owner for the scale. Complete these lines, save them as a CSV"
                " file and name it as scale_csv of the source.",
                tuple((slide["slide_id"], _power(slide)) for slide in members),
                missing_mpp_csv([slide["slide_id"] for slide in members]),
            )
        case SkipReason.TOO_COARSE:
            return Advice(
                reason,
                f"{count} scanned too coarsely",
                f"They have fewer details than {wanted} needs, and no slide is ever enlarged.",
                _about_coarse(members, mpp),
                details,
            )
        case SkipReason.NO_TISSUE:
            return Advice(
                reason,
                f"{count} without usable tissue",
                "Nowhere was enough brightfield tissue free of pen, blur and black: empty glass,"
                " fluorescence, very pale stain, or all of it under marks.",
                "Look at the pictures. If you see tissue, lower tissue.min_fraction or clean and"
                " rescan the glass; otherwise leave them out.",
                details,
            )
        case SkipReason.TOO_SMALL:
            return Advice(
                reason,
                f"{count} smaller than one patch",
                f"A patch of {patch_px} px at {wanted} does not fit into the scanned area.",
                "Leave them out, or lower patch_px; images of a patch set can be padded or enlarged"
                " (fit).",
                details,
            )
        case SkipReason.UNREADABLE:
            return Advice(
                reason,
                f"{count} that cannot be read",
                f"The files are damaged, incomplete or of an unknown kind.{_common(members)}",
                "Copy them again from the scanner or the archive and compare the sizes. If they"
                " open elsewhere, export them as tiled TIFF with their scale.",
                details,
            )


def missing_mpp_csv(slide_ids: Sequence[str]) -> str:
    """A scale CSV with a placeholder for every slide."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["slide", "mpp"])
    writer.writerows([slide_id, MPP_PLACEHOLDER] for slide_id in slide_ids)
    return sink.getvalue()


def _warned(members: Sequence[Slide]) -> Advice:
    return Advice(
        WARNED,
        f"{_slides(members)} used in spite of a contradiction",
        "What the file says about itself does not agree; the stated microns per pixel were used.",
        "Look at one patch of each. If the scale is wrong, put the right one into the scale CSV.",
        tuple((slide["slide_id"], slide["warning"]) for slide in members),
    )


def _mostly_rejected(members: Sequence[Slide]) -> Advice:
    return Advice(
        MOSTLY_REJECTED,
        f"{_slides(members)} with more patches rejected than kept",
        "Pen, blur or folds cover most of the tissue that was found.",
        "Look at the pictures; clean the glass and scan again where the tissue matters.",
        tuple((slide["slide_id"], _losses(slide)) for slide in members),
    )


def _slides(members: Sequence[Slide]) -> str:
    return "1 slide" if len(members) == 1 else f"{len(members):,} slides"


def _about_coarse(members: Sequence[Slide], mpp: float | None) -> str:
    scales = [slide["mpp_x"] for slide in members if slide["mpp_x"] is not None]
    if not scales or (mpp is not None and max(scales) > _OVERVIEW * mpp):
        return "Leave them out; those of many um/px are overviews, not scans for diagnosis."
    return (
        f"Leave them out, or set mpp to {max(scales):.4g} to take all of them; then all slides are"
        " read at that scale."
    )


def _power(slide: Slide) -> str:
    power = slide["objective_power"]
    return f"objective {power:g}x" if power else "no objective stated"


def _powers(members: Sequence[Slide]) -> str:
    """What the stated objectives suggest; a hint, never used."""
    counts = Counter(slide["objective_power"] for slide in members if slide["objective_power"])
    if not counts:
        return ""
    stated = ", ".join(
        f"{count:,} with a {power:g}x objective (often about {10 / power:.2g} {_UM}/px)"
        for power, count in sorted(counts.items())
    )
    return f" A hint: {stated}."


def _common(members: Sequence[Slide]) -> str:
    """The commonest message, where many slides share one."""
    text, count = Counter(slide["reason"] or "" for slide in members).most_common(1)[0]
    return f' The commonest message, {count:,} times: "{text}".' if text and count > 1 else ""


def _losses(slide: Slide) -> str:
    """Numbers of rejected patches, the largest first."""
    counts = {reason: slide[f"num_{reason}"] or 0 for reason in REJECTIONS}
    listed = sorted((item for item in counts.items() if item[1]), key=lambda item: -item[1])
    kept = slide["num_patches"] or 0
    return f"{kept:,} kept; " + ", ".join(f"{count:,} {reason}" for reason, count in listed)
