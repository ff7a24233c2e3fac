"""How people and programs spell things: missing values, and one thing in two spellings.

Spellings are compared, never corrected: what is meant is offered, and the person decides.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Generic, TypeVar

from histodiff.errors import ConfigError

PlaceT = TypeVar("PlaceT")

MISSING_WORDS = frozenset(
    ("nan", "NaN", "NAN", "NaT", "<NA>", "NA", "N/A", "n/a", "#N/A", "None", "null", "NULL")
)
"""What pandas, R, Excel and Python write where there is no value."""
_SHOWN_CHARACTERS = 80
_NUMBER = re.compile(r"[+-]?\d{1,300}(\.\d{0,300})?", re.ASCII)
_WHOLE_FLOAT = re.compile(r"(\d+)\.0*", re.ASCII)
_CONTROL = ("Cc", "Cs")
_INVISIBLE = "Cf"


def shown(text: str, *, most: int = _SHOWN_CHARACTERS) -> str:
    """The text for one line of a terminal: control characters escaped, cut after ``most``."""
    escaped = "".join(
        character if character.isprintable() else ascii(character)[1:-1]
        for character in text[:most]
    )
    return escaped if len(text) <= most else f"{escaped}..."


def composed(text: str) -> str:
    """The text with letters and their accents as one character (NFC).

    macOS writes file names with accents apart; both are the same text.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def has_control_characters(text: str) -> bool:
    """Whether there are characters that no name has: line ends, escapes, halves of characters."""
    if text.isascii() and text.isprintable():
        return False
    return any(unicodedata.category(character) in _CONTROL for character in text)


def label_key(label: str) -> str:
    """Equal for two spellings of one label: case, spaces, accents, ``1`` and ``1.0``."""
    if _NUMBER.fullmatch(label):
        number = Decimal(label)
        return "0" if number == 0 else format(number.normalize(), "f")
    return " ".join(_visible(composed(label)).split()).casefold()


def id_key(identifier: str) -> str:
    """Equal for two spellings of one id: accents, what cannot be seen, ``101`` and ``101.0``.

    Case and leading zeros tell ids apart.
    """
    whole = _WHOLE_FLOAT.fullmatch(identifier)
    return whole[1] if whole else _visible(composed(identifier))


@dataclass(frozen=True)
class Spelled(Generic[PlaceT]):
    """A text that is used, and where."""

    text: str
    place: PlaceT
    stated: bool = False
    """Whether the config names it: two texts that it names are two things."""


def require_one_spelling(
    found: Iterable[Spelled[PlaceT]],
    *,
    key: Callable[[str], str],
    what: str,
    at: Callable[[PlaceT], str],
) -> None:
    """Checks that nothing is spelled in two ways.

    Args:
        found: Texts that are used.
        key: Equal for spellings of one thing.
        what: What is spelled, such as ``label``.
        at: A place in words.

    Raises:
        ConfigError: Two spellings are of one thing; names both and their places.
    """
    seen: dict[str, Spelled[PlaceT]] = {}
    for item in found:
        other = seen.setdefault(key(item.text), item)
        if other.text != item.text and not (item.stated and other.stated):
            raise ConfigError(
                f"{at(item.place)}: {what} is '{shown(item.text)}', but it is"
                f" '{shown(other.text)}' in {at(other.place)}: two spellings of one thing would be"
                " two things; write one of them"
            )


def _visible(text: str) -> str:
    if text.isascii():
        return text
    return "".join(letter for letter in text if unicodedata.category(letter) != _INVISIBLE)
