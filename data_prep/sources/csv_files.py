"""Lists that people write, as CSV or JSON: read once, errors name file, line and column.

Nothing is guessed: a file is read as it stands, or refused with the place and the fix. Values that
only stand for a missing one (``nan``), and characters that nobody can see, are refused where a
value is used.
"""

import csv
import difflib
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from histodiff.data_prep.sources.spelling import (
    MISSING_WORDS,
    composed,
    has_control_characters,
    shown,
)
from histodiff.errors import ConfigError, TransientError
from histodiff.storage import StoragePath, read_bytes

Row = dict[str, str]
_NAMED_COLUMNS = 20


@dataclass(frozen=True)
class CsvTable:
    """A list of files as text: columns and rows."""

    path: StoragePath
    columns: tuple[str, ...]
    lines: tuple[tuple[int, Row], ...]
    """Number of the line in the file, or place in a JSON list, and its values by column."""
    unit: str = "line"
    """What the numbers count."""
    nested: frozenset[str] = frozenset()
    """Columns with lists or objects in them."""

    def rows(self, *, required: Sequence[str]) -> Iterator[Row]:
        """The rows, stripped; a required value must not be empty.

        Raises:
            ConfigError: A required column or value is missing.
        """
        for column in required:
            self.require_column(column)
        for number, row in self.lines:
            for column in required:
                if not row[column]:
                    raise ConfigError(
                        f"{self.path}: {self.unit} {number}: '{shown(column)}' is empty; give it"
                    )
            yield row

    def require_column(self, column: str) -> None:
        """Raises ConfigError if there is no such column; names the closest."""
        if column in self.columns:
            return
        (only, *others) = self.columns
        if not others and any(mark in only for mark in ";\t"):
            fix = "; its values are not separated by commas: save it with commas"
        else:
            close = difflib.get_close_matches(column, self.columns, n=1, cutoff=0.5)
            fix = f"; did you mean {shown(close[0])}? Rename the column" if close else ""
        listed = ", ".join(map(shown, self.columns[:_NAMED_COLUMNS]))
        raise ConfigError(
            f"{self.path}: has no column '{shown(column)}'; its columns are {listed}{fix}"
        )

    def value(self, row: Row, column: str, *, stated: Collection[str] = ()) -> str:
        """The text in a column, empty where there is none.

        Args:
            row: One of the rows.
            column: Its column.
            stated: Words that the config names, which may then stand for themselves.

        Raises:
            ConfigError: It is a word for a missing value, no single value, or has control
                characters.
        """
        text = row.get(column, "")
        if column in self.nested and text.startswith(("[", "{")):
            raise ConfigError(
                f"{self.at(row)}: {shown(column)} is '{shown(text)}', a list or an object; give one"
                " value"
            )
        if text in MISSING_WORDS and text not in stated:
            raise ConfigError(
                f"{self.at(row)}: {shown(column)} is '{text}', which programs write where a value"
                " is missing; give the value, or another word"
            )
        if has_control_characters(text):
            raise ConfigError(
                f"{self.at(row)}: {shown(column)} is '{shown(text)}', with control characters or"
                " line ends in it; remove them"
            )
        return text

    def number(self, row: Row, column: str, *, low: float, high: float) -> float:
        """The number in a column, above ``low`` and up to ``high``.

        Raises:
            ConfigError: There is no such number.
        """
        text = row.get(column, "")
        try:
            value = float("nan") if "_" in text else float(text)
        except ValueError:
            value = float("nan")
        if not low < value <= high:
            raise ConfigError(
                f"{self.at(row)}: {column} is '{shown(text)}'; give a number above {low:g} and up"
                f" to {high:g}, with a point"
            )
        return value

    def at(self, row: Row) -> str:
        """Where a row stands, for errors: file and line."""
        return f"{self.path}: {self.unit} {self.number_of(row)}"

    def number_of(self, row: Row) -> int:
        """Number of the line of a row."""
        return next(number for number, other in self.lines if other is row)


def read_csv(path: StoragePath, *, place: str) -> CsvTable:
    """The CSV at ``path`` (tab-separated if it ends in ``.tsv``), with any line ends.

    Rows without any value are none.

    Args:
        path: The file.
        place: Config key that named it, for errors.

    Raises:
        ConfigError: It does not exist, is not text, is malformed, names a column twice, or has no
            rows.
    """
    delimiter = "\t" if path.name.lower().endswith(".tsv") else ","
    records = _records(path, _text_at(path, place, "a CSV"), delimiter)
    header_line, header = next(records, (0, []))
    columns = [composed(name) for name in header]
    for name in columns:
        numbers = [number for number, other in enumerate(columns, start=1) if other == name]
        if name and len(numbers) > 1:
            raise ConfigError(
                f"{path}: line {header_line}: columns {numbers[0]} and {numbers[1]} are both called"
                f" '{shown(name)}'; rename or remove one"
            )
    lines = []
    for line, values in records:
        if len(values) != len(columns):
            raise ConfigError(
                f"{path}: line {line}: has {len(values)} values, but the header has"
                f" {len(columns)}; correct the line"
            )
        lines.append((line, dict(zip(columns, values, strict=True))))
    if not lines:
        raise ConfigError(f"{place}: {path} has no rows; it needs a header and one row per file")
    return CsvTable(path, tuple(columns), tuple(lines))


def _records(path: StoragePath, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """First line and values of every record that has any."""
    # newline="" leaves line ends to the reader, which knows \r, \n and \r\n
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    while True:
        line = reader.line_num + 1
        try:
            values = [value.strip() for value in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise ConfigError(f"{path}: line {line}: {_malformed(str(error))}") from error
        if any(values):
            yield line, values


def _malformed(reason: str) -> str:
    """What the reader found, for people."""
    if "end of data" in reason:
        return 'a quote (") is opened and never closed; close it'
    if "field limit" in reason:
        return (
            f"a value has more than {csv.field_size_limit():,} characters; close its quote, or"
            " remove the column"
        )
    return f'a quote (") stands inside a value ({reason}); write it twice, and quote the value'


def read_json_list(path: StoragePath, *, place: str) -> CsvTable:
    """The list of objects in the JSON file at ``path``; its columns are the keys of all of them.

    Args:
        path: The file.
        place: Config key that named it, for errors.

    Raises:
        ConfigError: It does not exist, is no JSON, names a key twice, or is no list of objects.
    """
    text = _text_at(path, place, "a JSON list")
    try:
        found = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        reason = shown(str(error)) if isinstance(error, ValueError) else "is nested too deeply"
        raise ConfigError(
            f"{place}: {path} is no JSON ({reason}); give the path of a JSON list"
        ) from error
    if not isinstance(found, list) or not found or not all(isinstance(row, dict) for row in found):
        raise ConfigError(
            f'{place}: {path} is no list of objects, such as [{{"name": "a.png", "label": 0}}]'
        )
    columns = tuple(dict.fromkeys(key for row in found for key in row))
    if not columns:
        raise ConfigError(f"{place}: {path} has objects without any key; give them a path")
    lines = tuple(
        (number, {key: _text(row.get(key)) for key in columns})
        for number, row in enumerate(found, start=1)
    )
    nested = {key for row in found for key, value in row.items() if isinstance(value, list | dict)}
    return CsvTable(path, columns, lines, unit="object", nested=frozenset(nested))


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key '{twice}' twice")
    return found


def _text(value: object) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value)


def _text_at(path: StoragePath, place: str, what: str) -> str:
    """The file as text."""
    try:
        data = read_bytes(path)
    except (OSError, TransientError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else str(error)
        raise ConfigError(f"{place}: {path} {reason}; give the path of {what}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{place}: {path}: line {line}: is not UTF-8 text ({error.reason}); save it as UTF-8"
            " (of Excel: 'CSV UTF-8')"
        ) from error
