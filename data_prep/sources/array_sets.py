"""The patches of PatchCamelyon, MedMNIST and PanNuke files: names, labels, origins and splits.

Only headers and labels are read, no pixels. Every patch gets a slide id: that of the set where it
states one, else one of its own.
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import h5py
import numpy as np
import numpy.typing as npt

from histodiff.data_prep.readers.containers import (
    member_path,
    npz_lengths,
    num_images,
    zipped_array,
)
from histodiff.data_prep.readers.hdf5 import DataElsewhere, own_dataset
from histodiff.data_prep.sources.csv_files import read_csv
from histodiff.data_prep.sources.left_out import is_foreign
from histodiff.data_prep.sources.published_sets import MedmnistSource, PannukeSource, PcamSource
from histodiff.errors import ConfigError, SlideError
from histodiff.storage import StoragePath, file_sizes, list_names

ArraySource = PcamSource | MedmnistSource | PannukeSource

_PCAM = "camelyonpatch_level_2_split"
_PCAM_SPLITS = {"train": "train", "valid": "val", "test": "test"}

MAX_LABEL_BYTES = 256 * 2**20
"""Labels of one array, unpacked."""


@dataclass(frozen=True)
class ArrayPatch:
    """One patch of an array file."""

    path: str
    """``<file>#<index>``, relative to the folder of the set."""
    slide_id: str
    label: str | None
    site: str | None
    given_split: str | None
    """The split that the files state, if the source keeps it."""
    size_bytes: int
    """Its share of the file."""


def array_patches(
    source: ArraySource, root: StoragePath, *, where: str
) -> tuple[StoragePath, list[ArrayPatch]]:
    """Folder and patches of an array source.

    Args:
        source: What to look for.
        root: Folder or file of the source.
        where: Config key of the source, for errors.

    Raises:
        ConfigError: A file is missing, still packed, damaged, or does not fit the others.
    """
    if isinstance(source, PcamSource):
        return root, _pcam(source, root, where)
    if isinstance(source, PannukeSource):
        return root, _pannuke(source, root, where)
    return _medmnist(source, root, where)


def _pcam(source: PcamSource, folder: StoragePath, where: str) -> list[ArrayPatch]:
    names = set(list_names(folder))
    found: list[ArrayPatch] = []
    for name, split in _PCAM_SPLITS.items():
        images = f"{_PCAM}_{name}_x.h5"
        for file in (images, f"{_PCAM}_{name}_y.h5"):
            if file not in names and f"{file}.gz" in names:
                raise ConfigError(
                    f"{where}.path: {folder / file}.gz is packed; run: gunzip -k {folder / file}.gz"
                )
        if images not in names:
            continue
        labels = _hdf5_labels(folder / f"{_PCAM}_{name}_y.h5", where)
        slides = _pcam_slides(folder / f"{_PCAM}_{name}_meta.csv", names, where)
        found += _array(
            folder,
            images,
            labels=labels,
            slides=slides or [f"{name}-{index:07d}" for index in range(len(labels))],
            split=split if source.splits == "given" else None,
            where=where,
        )
    if not found:
        raise ConfigError(
            f"{where}.path: {folder} has no {_PCAM}_<train|valid|test>_x.h5; set `data` or `path`"
        )
    return found


def _pcam_slides(path: StoragePath, names: set[str], where: str) -> list[str]:
    """Slide of every patch, empty without a meta CSV."""
    if path.name not in names:
        return []
    table = read_csv(path, place=f"{where}.path")
    return [table.value(row, "wsi") for row in table.rows(required=("wsi",))]


def _hdf5_labels(path: StoragePath, where: str) -> list[str]:
    try:
        with path.open("rb") as stream, h5py.File(stream, "r") as file:
            dataset = own_dataset(file, "y")
            if dataset is None:
                raise ValueError(f"has no dataset 'y', only {sorted(file)}")
            values = np.asarray(dataset)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise _damaged(path, error, where) from error
    return _labels(values, path, where)


def _medmnist(
    source: MedmnistSource, root: StoragePath, where: str
) -> tuple[StoragePath, list[ArrayPatch]]:
    path = _the_npz(root, where)
    try:
        with path.open("rb") as stream:
            lengths = npz_lengths(stream)
            labels = {name: _npz_labels(stream, name) for name in lengths}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error, where) from error
    values: list[str] = []
    slides: list[str] = []
    splits: list[str | None] = []
    for name, length in lengths.items():
        split = name.removesuffix("_images")
        own = _labels(labels[name], path, where)
        _same_length(own, length, path, f"{split}_labels", where)
        values += own
        slides += [f"{path.stem}-{split}-{index:07d}" for index in range(length)]
        splits += [split if source.splits == "given" else None] * length
    return path.parent, [
        ArrayPatch(member_path(path.name, index), slide, label, None, split, size)
        for index, (slide, label, split, size) in enumerate(
            zip(slides, values, splits, _shares(path, len(values)), strict=True)
        )
    ]


def _the_npz(root: StoragePath, where: str) -> StoragePath:
    if root.name.lower().endswith(".npz"):
        return root
    names = (name for name in list_names(root) if not is_foreign(name))
    found = [name for name in names if name.lower().endswith(".npz")]
    if len(found) != 1:
        raise ConfigError(
            f"{where}.path: {root} has {len(found)} .npz files; name one file, such as"
            " path: pathmnist.npz"
        )
    return root / found[0]


def _npz_labels(stream: IO[bytes], images: str) -> npt.NDArray[Any]:
    name = images.replace("_images", "_labels") + ".npy"
    with zipfile.ZipFile(stream) as archive:
        zipped_array(archive, name)
        if archive.getinfo(name).file_size > MAX_LABEL_BYTES:
            raise ValueError(f"{name} would unpack to more than {MAX_LABEL_BYTES:,} bytes")
        with archive.open(name) as member:
            values: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
    return values


def _pannuke(source: PannukeSource, folder: StoragePath, where: str) -> list[ArrayPatch]:
    files = [name for name in file_sizes(folder) if not is_foreign(name)]
    found: list[ArrayPatch] = []
    for images in (name for name in files if name == "images.npy" or name.endswith("/images.npy")):
        fold = images.removesuffix("images.npy").rstrip("/")
        types = folder / fold / "types.npy" if fold else folder / "types.npy"
        try:
            with types.open("rb") as stream:
                tissues = np.lib.format.read_array(stream, allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise _damaged(types, error, where) from error
        names = [str(value) for value in np.ravel(tissues)]
        unlabelled: list[str | None] = [None] * len(names)
        found += _array(
            folder,
            images,
            labels=names if source.tissue == "label" else unlabelled,
            sites=names if source.tissue == "site" else None,
            slides=[f"{fold or 'images'}-{index:07d}" for index in range(len(names))],
            split=None,
            where=where,
        )
    if not found:
        raise ConfigError(
            f"{where}.path: {folder} has no images.npy with its types.npy in any sub-folder;"
            " set `data` or `path` to the folder with the folds"
        )
    return found


def _array(
    folder: StoragePath,
    file: str,
    *,
    labels: Sequence[str | None],
    slides: Sequence[str],
    split: str | None,
    where: str,
    sites: Sequence[str] | None = None,
) -> list[ArrayPatch]:
    """The patches of one array file; labels, slides and sites are by index."""
    path = folder / file
    try:
        length = num_images(path)
    except SlideError as error:
        if isinstance(error.__cause__, DataElsewhere):
            raise _damaged(path, error.__cause__, where) from error
        raise ConfigError(
            f"{where}.path: {path} is damaged or no such file ({error.detail}); fetch it again"
        ) from error
    _same_length(labels, length, path, "labels", where)
    _same_length(slides, length, path, "rows of the meta CSV", where)
    sizes = _shares(path, length)
    return [
        ArrayPatch(
            path=member_path(file, index),
            slide_id=slides[index],
            label=labels[index],
            site=sites[index] if sites else None,
            given_split=split,
            size_bytes=sizes[index],
        )
        for index in range(length)
    ]


def _labels(values: npt.NDArray[Any], path: StoragePath, where: str) -> list[str]:
    if values.ndim == 0 or values.size != len(values) or values.dtype.kind not in "uib":
        raise ConfigError(
            f"{where}.path: {path} has labels {values.dtype} {values.shape}, not one class number"
            " per patch; only sets with one class per patch are taken"
        )
    return [str(int(value)) for value in np.ravel(values)]


def _same_length(
    found: Sequence[object], length: int, path: StoragePath, what: str, where: str
) -> None:
    if len(found) != length:
        raise ConfigError(
            f"{where}.path: {path} has {length} patches, but there are {len(found)} {what}; the"
            " files are not of one download"
        )


def _shares(path: StoragePath, length: int) -> list[int]:
    """The size of the file, divided over its patches."""
    each, rest = divmod(int(path.fs.size(path.path)), max(length, 1))
    return [each + (index < rest) for index in range(length)]


def _damaged(path: StoragePath, error: Exception, where: str) -> ConfigError:
    if isinstance(error, FileNotFoundError):
        return ConfigError(f"{where}.path: {path} does not exist; fetch it, or correct `path`")
    if isinstance(error, DataElsewhere):
        return ConfigError(f"{where}.path: {path}: {error}")
    reason = " ".join(str(error).split()) or type(error).__name__
    return ConfigError(f"{where}.path: {path} is damaged or incomplete ({reason}); fetch it again")
