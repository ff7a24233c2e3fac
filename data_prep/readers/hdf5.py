"""Datasets of HDF5 files whose bytes lie in the file itself.

HDF5 lets a dataset live in other files: external storage (a stretch of any file as raw bytes),
virtual datasets, links. A patch set from elsewhere could so have a user's own files read, and
pictures made of them; nothing of the kind is opened.
"""

import math
from typing import Any

import h5py

MAX_CHUNK_BYTES = 2 * 2**30
"""Largest chunk that is read: a chunk is unpacked whole for any part of it."""


class DataElsewhere(ValueError):
    """A dataset is kept in another file than the one that was opened."""


def own_dataset(file: Any, name: str) -> Any:
    """The dataset ``name`` at the top of an open HDF5 file; None where there is none.

    Raises:
        DataElsewhere: It is a link, a virtual dataset, or has external storage.
    """
    link = file.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise _elsewhere(name, f"a link to {_target(link)}")
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        return None
    if item.is_virtual:
        raise _elsewhere(name, "a virtual dataset of other files")
    if item.external:
        raise _elsewhere(name, f"stored in {item.external[0][0]}")
    return item


def own_datasets(file: Any) -> dict[str, Any]:
    """All datasets at the top of an open HDF5 file, by name.

    Raises:
        DataElsewhere: One is a link, a virtual dataset, or has external storage.
    """
    found = {name: own_dataset(file, name) for name in file}
    return {name: item for name, item in found.items() if item is not None}


def check_stored(dataset: Any) -> None:
    """Whether a dataset has all that its header promises: HDF5 gives zeros for what is not there.

    Raises:
        ValueError: It has not, or cannot be read in pieces that fit into memory.
    """
    item_bytes = dataset.dtype.itemsize
    if dataset.chunks is None:
        wanted, found = math.prod(dataset.shape) * item_bytes, dataset.id.get_storage_size()
        what = "bytes"
    else:
        chunk_bytes = math.prod(dataset.chunks) * item_bytes
        if chunk_bytes > MAX_CHUNK_BYTES:
            raise ValueError(f"has chunks of {chunk_bytes:,} bytes, too large to read; repack it")
        sides = zip(dataset.shape, dataset.chunks, strict=True)
        wanted = math.prod(-(-size // chunk) for size, chunk in sides)
        found, what = dataset.id.get_num_chunks(), "chunks"
    if found < wanted:
        raise ValueError(
            f"'{dataset.name}' of {dataset.shape} has {found:,} of {wanted:,} {what}; what is not"
            " there would be black"
        )


def _target(link: Any) -> str:
    file = getattr(link, "filename", None)
    return f"{file}:{link.path}" if file else str(link.path)


def _elsewhere(name: str, what: str) -> DataElsewhere:
    return DataElsewhere(
        f"dataset '{name}' is {what}, and only what lies in the file itself is read; make a whole"
        " file of it (h5py: read the array and write it to a new file)"
    )
