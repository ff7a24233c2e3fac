"""What lies in a folder.

Listings are never cached: progress is read from them, by many processes.
"""

from dataclasses import replace

from histodiff.storage.local_files import FoundFiles, local_files
from histodiff.storage.places import StoragePath, is_local
from histodiff.storage.remote import http_files, is_http, told_apart


def list_names(folder: StoragePath) -> list[str]:
    """Sorted names of what lies directly in ``folder``; empty when there is no such folder."""
    try:
        with told_apart(folder):
            found = folder.fs.ls(folder.path, detail=False)
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = (str(item).rstrip("/").rsplit("/", 1)[-1] for item in found)
    return sorted(name for name in names if not name.endswith(".part"))


def file_sizes(
    folder: StoragePath, *, suffixes: tuple[str, ...] = ("",), recursive: bool = True
) -> dict[str, int]:
    """Size in bytes of every file below ``folder``, by its relative path, sorted.

    Args:
        folder: Where to look.
        suffixes: Endings of the names that count, in lower case; over HTTP others cost nothing.
        recursive: Whether folders and web pages in it are followed.
    """
    return found_files(folder, suffixes=suffixes, recursive=recursive).sizes


def found_files(
    folder: StoragePath, *, suffixes: tuple[str, ...] = ("",), recursive: bool = True
) -> FoundFiles:
    """What lies below ``folder``, with what else there is; nothing when there is no such folder.

    Links are followed once. Arguments are those of `file_sizes`.
    """
    if is_http(folder):
        return http_files(folder, suffixes=suffixes, recursive=recursive)
    try:
        with told_apart(folder):
            if is_local(folder):
                found = local_files(folder.path, suffixes=suffixes, recursive=recursive)
            else:
                found = _objects(folder, suffixes=suffixes, recursive=recursive)
    except (FileNotFoundError, NotADirectoryError):
        return FoundFiles()
    finished = {name: size for name, size in found.sizes.items() if not name.endswith(".part")}
    return replace(found, sizes=finished)


def _objects(folder: StoragePath, *, suffixes: tuple[str, ...], recursive: bool) -> FoundFiles:
    base = folder.path.rstrip("/")
    listed = folder.fs.find(base, detail=True)
    below = {name[len(base) :].lstrip("/"): details for name, details in listed.items()}
    names = {name: details for name, details in below.items() if recursive or "/" not in name}
    wanted = {name for name in names if name.lower().endswith(suffixes)}
    return FoundFiles(
        {name: int(names[name]["size"]) for name in sorted(wanted)},
        tuple(sorted(names.keys() - wanted)),
    )
