"""Files of a source: where they lie, which there are, and what their names say."""

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from histodiff.data_prep.sources.identifiers import (
    IdentifierRule,
    ParsedIdentifier,
    parse_identifier,
)
from histodiff.data_prep.sources.inputs import MET_HERE, FoundTrap
from histodiff.data_prep.sources.left_out import (
    foreign_files,
    is_foreign,
    no_files,
    other_kinds,
)
from histodiff.data_prep.sources.sources import (
    PatchSetSource,
)
from histodiff.data_prep.sources.spelling import shown
from histodiff.errors import ConfigError, TransientError
from histodiff.storage import (
    FoundFiles,
    NoFile,
    StoragePath,
    below,
    file_size,
    found_files,
    is_http,
    storage_path,
)


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
            f"{where}.label_map: has no '{shown(label)}'; add it, with null to leave those"
            " patches out"
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
    return str(below(root, name))


@dataclass(frozen=True)
class FilesBelow:
    """The files of a source, and what of its folder is none of them."""

    sizes: dict[str, int]
    """Bytes by relative path, sorted."""
    left_out: tuple[str, ...] = ()
    """Lines that count and name what is left out."""

    def traps(self, data: str) -> tuple[FoundTrap, ...]:
        """What is left out of the source at ``data``, as manifest and cohort page tell it."""
        return tuple(FoundTrap(data, f"{line}.", MET_HERE) for line in self.left_out)


def files_below(
    root: StoragePath,
    suffixes: tuple[str, ...],
    where: str,
    what: str,
    *,
    recursive: bool = True,
    pattern: str = "*",
) -> FilesBelow:
    """The files with these endings below ``root``, without hidden and foreign ones.

    Args:
        root: Folder, or one file.
        suffixes: Endings of their names.
        where: Place of the source in the config, for errors.
        what: What they are, for errors.
        recursive: Whether folders in it are read too.
        pattern: Which names of files are wanted, such as ``*.svs``.

    Raises:
        ConfigError: There is no such folder, it or a part of it may not be read, or it has no such
            file.
    """
    try:
        if is_file(root, suffixes):
            return FilesBelow({unquote(root.name) if is_http(root) else root.name: file_size(root)})
        if not is_http(root) and not root.fs.exists(root.path):
            raise FileNotFoundError(root)
        found = found_files(root, suffixes=suffixes, recursive=recursive)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{where}.path: {root} does not exist; set `data` or `path` to the {what}"
        ) from error
    except (PermissionError, TransientError) as error:
        raise ConfigError(
            f"{where}.path: {root} cannot be listed ({error}); check its address and permissions"
        ) from error
    _check_permissions(root, found, where)
    sizes = {
        name: size
        for name, size in found.sizes.items()
        if not is_foreign(name) and fnmatch(PurePosixPath(name).name, pattern)
    }
    others = [name for name in found.others if fnmatch(PurePosixPath(name).name, pattern)]
    left_out = (
        *foreign_files(found.sizes, what), *other_kinds(others, what), *no_files(found.left_out),
    )  # fmt: skip
    if not sizes:
        named = f" named '{pattern}'" if pattern != "*" else ""
        also = "".join(f"; {line}" for line in left_out)
        deeper = "" if recursive else ", or `recursive: true`"
        raise ConfigError(
            f"{where}.path: {root} has no {what}{named} ({', '.join(suffixes)}){also}; set `data`"
            f" or `path` to a folder with {what}{deeper}"
        )
    return FilesBelow(sizes, left_out)


def _check_permissions(root: StoragePath, found: FoundFiles, where: str) -> None:
    for name, why in found.left_out.items():
        if why is NoFile.FORBIDDEN and not is_foreign(name):
            raise ConfigError(
                f"{where}.path: {root / name} is {why}; give it, or move it out of {root}"
            )
