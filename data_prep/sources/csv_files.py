"""Lists that people write, as CSV or JSON: read once, errors name file, line and column."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from histodiff.errors import ConfigError
from histodiff.storage import StoragePath


@dataclass(frozen=True)
class CsvTable:
    """A list of files as text: columns and rows."""

    path: StoragePath
    columns: tuple[str, ...]
    lines: tuple[tuple[int, dict[str, str]], ...]
    """Number of the line in the file, or place in a JSON list, and its values by column."""

    def rows(self, *, required: Sequence[str]) -> Iterator[dict[str, str]]:
        """The rows, stripped; a required value must not be empty.

        Raises:
            ConfigError: A required column or value is missing.
        """
        for column in required:
            if column not in self.columns:
                raise ConfigError(
                    f"{self.path}: has no column '{column}'; its columns are"
                    f" {', '.join(self.columns)}"
                )
        for line, row in self.lines:
            for column in required:
                if not row[column]:
                    raise ConfigError(f"{self.path}: line {line}: '{column}' is empty")
            yield row

    def number(self, row: dict[str, str], column: str, *, low: float, high: float) -> float:
        """The number in a column, above ``low`` and up to ``high``.

        Raises:
            ConfigError: There is no such number.
        """
        text = row.get(column, "")
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low < value <= high:
            line = next(line for line, other in self.lines if other is row)
            raise ConfigError(
                f"{self.path}: line {line}: {column} is '{text}'; give a number above {low:g}"
                f" and up to {high:g}"
            )
        return value


def read_csv(path: StoragePath, *, place: str) -> CsvTable:
    """The CSV at ``path`` (tab-separated if it ends in ``.tsv``).

    Args:
        path: The file.
        place: Config key that named it, for errors.

    Raises:
        ConfigError: It does not exist, is not text, or has no rows.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else str(error)
        raise ConfigError(f"{place}: {path} {reason}; give the path of a CSV") from error
    delimiter = "\t" if path.name.lower().endswith(".tsv") else ","
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    columns = tuple((name or "").strip() for name in reader.fieldnames or ())
    lines = []
    for row in reader:
        if None in row or None in row.values():
            raise ConfigError(
                f"{path}: line {reader.line_num}: has not {len(columns)} values like the header"
            )
        lines.append((reader.line_num, {key.strip(): row[key].strip() for key in row}))
    if not lines:
        raise ConfigError(f"{place}: {path} has no rows; it needs a header and one row per file")
    return CsvTable(path, columns, tuple(lines))


def read_json_list(path: StoragePath, *, place: str) -> CsvTable:
    """The list of objects in the JSON file at ``path``; its columns are the keys of all of them.

    Args:
        path: The file.
        place: Config key that named it, for errors.

    Raises:
        ConfigError: It does not exist, is no JSON, or is no list of objects.
    """
    try:
        found = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else str(error)
        raise ConfigError(f"{place}: {path} {reason}; give the path of a JSON list") from error
    if not isinstance(found, list) or not found or not all(isinstance(row, dict) for row in found):
        raise ConfigError(
            f'{place}: {path} is no list of objects, such as [{{"name": "a.png", "label": 0}}]'
        )
    columns = tuple(dict.fromkeys(key for row in found for key in row))
    lines = tuple(
        (number, {key: _text(row.get(key)) for key in columns})
        for number, row in enumerate(found, start=1)
    )
    return CsvTable(path, columns, lines)


def _text(value: object) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value)
