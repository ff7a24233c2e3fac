"""The files that rows of a list mean: by the path that is written, however it is written.

``./a.png``, an absolute path into the folder, and accents as macOS writes them are the same path in
other words, and are read. What is not there is named, with the file that may have been meant.
"""

import difflib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from histodiff.data_prep.sources.csv_files import CsvTable, Row
from histodiff.data_prep.sources.spelling import composed, shown
from histodiff.errors import ConfigError
from histodiff.storage import StoragePath, is_local

_COMPARED = 5_000
"""Names that a missing one is compared with."""


class ListedFiles:
    """The files below the folder of a list.

    Args:
        folder: What paths are relative to.
        sizes: Bytes of every file below it, by relative path.
    """

    def __init__(self, folder: StoragePath, sizes: Mapping[str, int]) -> None:
        self.folder = folder
        self.sizes = sizes

    def names(self, table: CsvTable, rows: Sequence[Row], column: str) -> list[str]:
        """Relative path of the file of every row.

        Raises:
            ConfigError: One is not there, is one of two, or is listed twice; names the first and
                its line, and how many there are.
        """
        found = [self._name_of(table, row, column) for row in rows]
        missing = [row for row, name in zip(rows, found, strict=True) if name is None]
        if missing:
            raise ConfigError(self._absence(table, missing, column))
        names = [name for name in found if name is not None]
        first: dict[str, Row] = {}
        for row, name in zip(rows, names, strict=True):
            if first.setdefault(name, row) is not row:
                raise ConfigError(
                    f"{table.at(row)}: '{shown(name)}' is listed more than once, first in"
                    f" {table.unit} {table.number_of(first[name])}; remove the other rows"
                )
        return names

    def _name_of(self, table: CsvTable, row: Row, column: str) -> str | None:
        listed = row[column]
        if listed in self.sizes:
            return listed
        plain = PurePosixPath(self._relative(listed)).as_posix()
        if plain in self.sizes:
            return plain
        same = self._by_text.get(composed(plain), [])
        if len(same) > 1:
            raise ConfigError(
                f"{table.at(row)}: {column} '{shown(listed)}' is one of {len(same)} files whose"
                " names differ in how accents are stored; rename one"
            )
        return same[0] if same else None

    def _relative(self, listed: str) -> str:
        """The path without the folder, where it is written with it."""
        folders = [str(self.folder), self.folder.path]
        if is_local(self.folder):
            folders.append(str(Path(self.folder.path).resolve()))
        for folder in folders:
            start = folder.rstrip("/") + "/"
            if listed.startswith(start):
                return listed.removeprefix(start)
        return listed

    @cached_property
    def _by_text(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self.sizes:
            found.setdefault(composed(name), []).append(name)
        return found

    def _absence(self, table: CsvTable, missing: Sequence[Row], column: str) -> str:
        listed = missing[0][column]
        more = f", and {len(missing) - 1:,} more are missing" if len(missing) > 1 else ""
        close = self._closest(listed)
        hint = f"did you mean '{shown(close)}'? Paths" if close else "paths"
        return (
            f"{table.at(missing[0])}: lists '{shown(listed)}', which is not there{more}; {hint} are"
            f" relative to the list, {self.folder}"
        )

    def _closest(self, listed: str) -> str | None:
        """The one file that the path may mean."""
        wanted = composed(listed.replace("\\", "/")).casefold()
        ends = [
            name
            for name in self.sizes
            if wanted == composed(name).casefold()
            or wanted.endswith(f"/{composed(name).casefold()}")
            or composed(name).casefold().endswith(f"/{wanted}")
        ]
        if len(ends) == 1:
            return ends[0]
        names = list(self.sizes)[:_COMPARED]
        close = difflib.get_close_matches(listed[:200], names, n=1, cutoff=0.8)
        return close[0] if close else None
