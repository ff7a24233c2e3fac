"""Which row of a table, or file of a folder, belongs to which slide: all of them, or an error.

A slide is named by its id (with the source's prefix), its file name without the ending, or its file
name. A name that almost fits is offered and never taken. Tables that several sources share are
judged over all of them.
"""

import difflib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Literal

from histodiff.data_prep.readers.opening import SLIDE_SUFFIXES
from histodiff.data_prep.sources.inputs import MET_HERE, FoundTrap
from histodiff.data_prep.sources.spelling import composed, shown
from histodiff.errors import ConfigError

_NAMED = 3
_COMPARED = 2_000
"""Slides that a name is compared with, letter by letter."""
_ENDINGS = (".ome", *SLIDE_SUFFIXES, "_patches.h5", ".h5", ".geojson", ".json")


WithoutEntry = Literal["fine", "take", "refuse", "never"]


@dataclass(frozen=True)
class SlideName:
    """What a slide may be called."""

    slide_id: str
    """With the source's prefix."""
    stem: str
    """File name without its ending."""
    file: str
    """File name."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, the surest first."""
        return tuple(dict.fromkeys((self.slide_id, self.stem, self.file)))


@dataclass(frozen=True)
class Matches:
    """One table or folder of one source, beside the source's slides."""

    table: str
    """Its path, or its key in the config: equal for sources that share it."""
    source: str
    """Config key of the source."""
    noun: str
    """What one entry is, such as ``row``."""
    entries: Mapping[str, str]
    """Place, such as ``line 3``, by the name that is written."""
    slides: Mapping[str, Sequence[str]]
    """Names that mean a slide, the surest first, by slide id."""
    leaves_out_rows: bool
    """Whether the config lets entries without a slide be."""
    without: WithoutEntry
    """What is done about slides without an entry: nothing; they are taken and named; they are
    refused, unless a field of the config says otherwise; refused whatever it says."""

    @cached_property
    def name_of(self) -> dict[str, str]:
        """The name by which each slide that has an entry is written."""
        by_text = {composed(name): name for name in self.entries}
        found = {
            slide_id: next((by_text[key] for key in map(composed, names) if key in by_text), None)
            for slide_id, names in self.slides.items()
        }
        return {slide_id: name for slide_id, name in found.items() if name is not None}


def require_matches(found: Iterable[Matches]) -> list[FoundTrap]:
    """Checks that every entry has one slide, and every slide that needs one an entry.

    Returns:
        What the config allows to be otherwise, with counts and names.

    Raises:
        ConfigError: One line that names what fits nothing, what is listed twice, and what may have
            been meant.
    """
    shared: defaultdict[str, list[Matches]] = defaultdict(list)
    for item in found:
        shared[item.table].append(item)
    return [trap for group in shared.values() for trap in _allowed(group)]


def _allowed(group: Sequence[Matches]) -> list[FoundTrap]:
    """What does not fit of one table, and is allowed; anything else is an error."""
    table = group[0]
    owners = _owners(group)
    left = [name for name in table.entries if name not in owners]
    _require_listed_once(group, left)
    refused, fields, allowed = [], [], []
    if left:
        said = _unmatched(table, left, _slides_without(group))
        if any(item.leaves_out_rows for item in group):
            allowed.append(f"{said}; left out.")
        else:
            refused.append(said)
            fields.append(f"{table.source}.unmatched_rows: leave_out")
    for item in group:
        said = _without(item)
        if said and item.without == "take":
            allowed.append(f"{said}; taken as they are.")
        elif said:
            refused.append(said)
            fields += [f"{item.source}.unlisted_slides: take"] * (item.without == "refuse")
    if refused:
        change = f", or set {' and '.join(fields)}" if fields else ""
        raise ConfigError(
            f"{table.table}: {'; '.join(refused)}; a {table.noun} is named like its slide's file"
            f" without the ending: correct the names{change}"
        )
    return [FoundTrap(table.table, line, MET_HERE) for line in allowed]


def _owners(group: Sequence[Matches]) -> dict[str, str]:
    """The slide that each used entry means, over all sources."""
    owners: dict[str, str] = {}
    for item in group:
        for slide_id, name in item.name_of.items():
            other = owners.setdefault(name, slide_id)
            if other != slide_id:
                raise ConfigError(
                    f"{_at(item, name)} means both slide {shown(other)} and {shown(slide_id)};"
                    " write their ids, with the `prefix` of the source"
                )
    return owners


def _require_listed_once(group: Sequence[Matches], left: Collection[str]) -> None:
    """Whether what is left is not a second entry of a slide that has one."""
    rest = {composed(name): name for name in left}
    for item in group if rest else ():
        for slide_id, name in item.name_of.items():
            for other in map(composed, item.slides[slide_id]):
                if other in rest:
                    raise ConfigError(
                        f"{_at(item, rest[other])} is slide {shown(slide_id)}, which is listed"
                        f" twice: {_place(item, name)} '{shown(name)}'; remove one"
                    )


def _slides_without(group: Sequence[Matches]) -> dict[str, Sequence[str]]:
    return {
        slide: names
        for item in group
        for slide, names in item.slides.items()
        if slide not in item.name_of
    }


def _unmatched(table: Matches, left: Sequence[str], without: Mapping[str, Sequence[str]]) -> str:
    likely = _likely_slides(left[:_NAMED], without)
    named = []
    for name in left[:_NAMED]:
        hint = f"did you mean {shown(likely[name])}?" if name in likely else ""
        about = "; ".join(part for part in (table.entries[name], hint) if part)
        named.append(f"'{shown(name)}'" + (f" ({about})" if about else ""))
    verb = "matches" if len(left) == 1 else "match"
    return (
        f"{len(left):,} of {_counted(len(table.entries), table.noun)} {verb} no slide:"
        f" {_listed(named, len(left))}"
    )


def _without(item: Matches) -> str:
    """What is said of slides without an entry; nothing where that is fine."""
    unlisted = [slide for slide in item.slides if slide not in item.name_of]
    if not unlisted or item.without == "fine":
        return ""
    verb = "has" if len(unlisted) == 1 else "have"
    return (
        f"{len(unlisted):,} of {_counted(len(item.slides), 'slide')} of {item.source} {verb} no"
        f" {item.noun}: {_listed([shown(slide) for slide in unlisted[:_NAMED]], len(unlisted))}"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _listed(named: Sequence[str], count: int) -> str:
    return ", ".join(named) + (f" and {count - len(named):,} more" if count > len(named) else "")


def _place(table: Matches, name: str) -> str:
    return table.entries[name] or table.noun


def _at(table: Matches, name: str) -> str:
    return f"{table.table}: {_place(table, name)} '{shown(name)}'"


def _likely_slides(names: Sequence[str], slides: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The slide that each name may mean, where only one comes into question."""
    loose: defaultdict[str, set[str]] = defaultdict(set)
    for slide_id, known in slides.items():
        for name in known:
            loose[_loose(name)].add(slide_id)
    few = list(slides)[:_COMPARED]
    found = {}
    for name in names:
        same = loose.get(_loose(name), set())
        close = difflib.get_close_matches(name[:200], few, n=1, cutoff=0.85)
        if len(same) == 1:
            found[name] = next(iter(same))
        elif not same and close:
            found[name] = close[0]
    return found


def _loose(name: str) -> str:
    """Equal for names that spreadsheets and systems make of one: without folder, ending, zeros."""
    text = composed(PurePosixPath(name.replace("\\", "/")).name).strip().casefold()
    for ending in sorted(_ENDINGS, key=len, reverse=True):
        text = text.removesuffix(ending)
    return re.sub(r"\.0+$", "", text.removesuffix(".ome")).lstrip("0")
