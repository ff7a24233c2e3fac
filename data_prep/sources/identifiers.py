"""Slide, patient, label and site out of the file names of known data sets.

A rule is chosen by name in the config, never guessed, and a name that it does not fit is an error:
a patient that is missed would leak between the splits.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from histodiff.data_prep.sources.spelling import shown
from histodiff.errors import ConfigError

IdentifierRule = Literal["tcga", "breakhis", "chaoyang", "panda"]
"""How the files of a data set are named."""
RULES_WITH_LABELS = ("breakhis", "chaoyang")
"""Rules whose names have the label in them."""


@dataclass(frozen=True)
class ParsedIdentifier:
    """What a file name says."""

    slide_id: str
    patient_id: str
    label: str | None
    site: str | None


@dataclass(frozen=True)
class _Rule:
    pattern: re.Pattern[str]
    """Has the groups slide, and where there are such things patient, label, site."""
    example: str


_RULES: dict[IdentifierRule, _Rule] = {
    "tcga": _Rule(
        re.compile(
            r"(?<![A-Z0-9])(?P<slide>(?P<patient>TCGA-(?P<site>[A-Z0-9]{2})-[A-Z0-9]{4})"
            r"-\d{2}[A-Z]-\d{2}[A-Z]?-(?:DX|TS|BS|MS)[A-Z0-9]{0,2})(?![A-Z0-9])",
            re.IGNORECASE | re.ASCII,
        ),
        "TCGA-02-0001-01Z-00-DX1.<uuid>.svs",
    ),
    "breakhis": _Rule(
        re.compile(
            r"^SOB_(?P<label>B_(?:A|F|PT|TA)|M_(?:DC|LC|MC|PC))-(?P<slide>\d{2}-[0-9A-Z]+)"
            r"-(?:40|100|200|400)-\d+\.\w+\Z",
            re.ASCII,
        ),
        "SOB_B_A-14-22549AB-40-001.png",
    ),
    "chaoyang": _Rule(
        re.compile(r"^(?P<slide>[0-9A-Za-z-]+)-IMG\d+x\d+-(?P<label>[0-3])\.\w+\Z", re.ASCII),
        "535940-IMG009x026-2.JPG",
    ),
    "panda": _Rule(
        re.compile(r"^(?P<slide>[0-9a-f]{32})(?:_\d+)*\.\w+\Z", re.ASCII),
        "006f4d8d3556dd21f6424202c2d294a9_12.png",
    ),
}


def parse_identifier(rule: IdentifierRule, name: str) -> ParsedIdentifier:
    """What the file name ``name`` says by ``rule``; folders before it do not count.

    ``tcga``: the slide is the barcode without its UUID, the patient its first three fields, the
    site the code of the tissue source site; upper case. ``breakhis``: patient and slide are year
    and number with its letters (as published: 22549AB and 22549CD are two), the label is class and
    subtype, as ``B_A``. ``chaoyang``: the label is the last
    digit. ``panda``: the slide is the image id. Where there is no patient, the slide is.

    Raises:
        ConfigError: The name does not fit the rule.
    """
    known = _RULES[rule]
    found = known.pattern.search(PurePosixPath(name).name)
    if found is None:
        raise ConfigError(
            f"'{shown(name)}' is not named like {rule}, such as {known.example}; rename it, leave"
            " it out, or remove `identifiers`"
        )
    parts = {key: value for key, value in found.groupdict().items() if value is not None}
    if rule == "tcga":
        parts = {key: value.upper() for key, value in parts.items()}
    return ParsedIdentifier(
        slide_id=parts["slide"],
        patient_id=parts.get("patient", parts["slide"]),
        label=parts.get("label"),
        site=parts.get("site"),
    )
