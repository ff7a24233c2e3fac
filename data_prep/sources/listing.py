"""Files of a source: where they lie, which there are, and what their names say."""

from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from histodiff.data_prep.sources.identifiers import (
    IdentifierRule,
    ParsedIdentifier,
    parse_identifier,
)
from histodiff.data_prep.sources.sources import (
    PatchSetSource,
)
from histodiff.errors import ConfigError, TransientError
from histodiff.storage import StoragePath, file_size, file_sizes, is_http, storage_path


def joined(data: str, path: str) -> StoragePath:
    """``path`` relative to ``data``, unless it is absolute or a URL."""
    if "://" in path or Path(path).is_absolute():
        return storage_path(path)
    base = storage_path(data)
    return base if path in ("", ".") else base / path


def parsed_name(rule: IdentifierRule | None, name: str, where: str) -> ParsedIdentifier | None:
    """What a file name says by ``rule``; None without one."""
    if rule is None:
        return None
    try:
        return parse_identifier(rule, name)
    except ConfigError as error:
        raise ConfigError(f"{where}.identifiers: {error}") from error


def mapped_label(label: str, source: PatchSetSource, where: str) -> str | None:
    """The label by the source's ``label_map``; None for one that is left out."""
    if label not in source.label_map:
        raise ConfigError(
            f"{where}.label_map: has no '{label}'; add it, with null to leave those patches out"
        )
    return source.label_map[label]


def stem_id(path: str) -> str:
    """The id of an image that nothing else names: its path without the ending."""
    return path.removesuffix(PurePosixPath(path).suffix)


def is_file(path: StoragePath, suffixes: tuple[str, ...]) -> bool:
    """Whether the path is one file; of a web address its ending decides."""
    if is_http(path):
        return path.name.lower().endswith(suffixes)
    return bool(path.fs.isfile(path.path))


def url_below(root: StoragePath, name: str) -> str:
    """URL of a file below ``root``."""
    return str(root / (quote(name) if is_http(root) else name))


def _is_hidden(name: str) -> bool:
    """Whether programs left it behind: hidden files and folders, and what macOS puts into zips."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def files_below(
    root: StoragePath, suffixes: tuple[str, ...], where: str, what: str, *, recursive: bool = True
) -> dict[str, int]:
    """Sizes of the files with these endings below ``root``, by relative path, sorted."""
    try:
        if is_file(root, suffixes):
            return {unquote(root.name) if is_http(root) else root.name: file_size(root)}
        if not is_http(root) and not root.fs.exists(root.path):
            raise FileNotFoundError(root)
        sizes = file_sizes(root, suffixes=suffixes, recursive=recursive)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{where}.path: {root} does not exist; set `data` or `path` to the {what}"
        ) from error
    except (PermissionError, TransientError) as error:
        raise ConfigError(
            f"{where}.path: {root} cannot be listed ({error}); check its address and permissions"
        ) from error
    found = {name: size for name, size in sizes.items() if not _is_hidden(name)}
    if not found:
        raise ConfigError(
            f"{where}.path: {root} has no {what} ({', '.join(suffixes)}); set `data` or `path`"
            f" to a folder with {what}"
        )
    return found
