"""Files that hold many patches as one array: HDF5, plain and zipped NumPy.

A patch in such a file is named ``<file>#<index>``; the index is padded, so that names sort like the
array. Nothing is ever whole in memory: HDF5 reads chunks, ``.npy`` is mapped, and a member of an
``.npz`` is unpacked once, when first needed, to a temporary file that is mapped and already
unlinked, so that it is gone with the process. A remote file is copied while it is open.
"""

import contextlib
import math
import re
import shutil
import tempfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from histodiff.data_prep.readers.hdf5 import check_stored, own_datasets
from histodiff.data_prep.readers.image_files import MAX_PIXELS
from histodiff.errors import ConfigError, SkipReason, SlideError
from histodiff.storage import StoragePath, file_size, local_copy

HDF5_SUFFIXES = (".h5", ".hdf5")
NPZ_IMAGES = ("train_images", "val_images", "test_images")
"""Members of an ``.npz`` that are read, as one sequence in this order."""

_MEMBER = re.compile(r"(.+\.(?:h5|hdf5|npz|npy))#(\d+)", re.IGNORECASE)
_CHUNK_CACHE_BYTES = 64 * 2**20
_BROKEN = (
    OSError, EOFError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What h5py, numpy and zipfile raise on damaged files."""


class ImageContainer(Protocol):
    """An open file with patches."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """One patch, uint8 ``(H, W, 3)``.

        Raises:
            SlideError: UNREADABLE: there is no such patch, it is damaged, or no 8-bit image.
        """

    def close(self) -> None:
        """Closes the file and removes what is temporary."""


def member_path(file: str, index: int) -> str:
    """Name of a patch in the container ``file``."""
    return f"{file}#{index:07d}"


def member_of(path: str) -> tuple[str, int] | None:
    """Container and index that the name of a patch means, None for a plain file."""
    found = _MEMBER.fullmatch(path)
    return (found[1], int(found[2])) if found else None


def reader_of(path: str) -> tuple[str, str] | None:
    """Library that reads the patch, with its version; None for a plain file."""
    member = member_of(path)
    if member is None:
        return None
    is_hdf5 = member[0].lower().endswith(HDF5_SUFFIXES)
    return ("h5py", h5py.__version__) if is_hdf5 else ("numpy", np.__version__)


def num_images(path: StoragePath) -> int:
    """Patches in a container, from its headers alone.

    Raises:
        SlideError: UNREADABLE: missing, damaged, or without an array of images.
    """
    with _unreadable(path.name), path.open("rb") as stream:
        if path.name.lower().endswith(HDF5_SUFFIXES):
            with h5py.File(stream, "r") as file:
                return len(_image_dataset(file))
        if path.name.lower().endswith(".npz"):
            return sum(npz_lengths(stream).values())
        shape = _checked_shape(array_shape(stream), path.name)
        if stream.tell() + math.prod(shape) > file_size(path):
            raise ValueError(f"its header says {shape}, and it has {file_size(path):,} bytes")
        return shape[0]


def open_container(path: StoragePath) -> ImageContainer:
    """The container at a path or URL, by its ending.

    Raises:
        SlideError: UNREADABLE: missing, damaged, or without an array of images.
    """
    kinds: dict[str, type[_Container]] = {".npz": _NpzContainer, ".npy": _NpyContainer}
    kind = kinds.get(path.suffix.lower(), _Hdf5Container)
    with contextlib.ExitStack() as stack, _unreadable(path.name):
        container = kind(stack.enter_context(local_copy(path)), stack)
        container.resources = stack.pop_all()
        return container
    raise AssertionError("unreachable: nothing is suppressed")


def array_shape(stream: IO[bytes]) -> tuple[int, ...]:
    """Shape of the ``.npy`` array in ``stream``, from its header; not for arrays of objects."""
    return _array_header(stream)[0]


def zipped_array(archive: zipfile.ZipFile, member: str) -> tuple[int, ...]:
    """Shape of the ``.npy`` array that is the ``member`` of an ``.npz``, from its header.

    Raises:
        ValueError: It is no array, or would not unpack to what its header says.
    """
    with archive.open(member) as stream:
        shape, dtype = _array_header(stream)
        wanted = stream.tell() + math.prod(shape) * dtype.itemsize
    found = archive.getinfo(member).file_size
    if found != wanted:
        raise ValueError(f"{member} unpacks to {found:,} bytes, and its header says {wanted:,}")
    return shape


def _array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    reads = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in reads:
        raise ValueError(f"npy version {version} is not supported")
    shape, _, dtype = reads[version](stream)
    if dtype.hasobject:
        raise ValueError("holds Python objects, which are never unpickled")
    return tuple(shape), dtype


def npz_lengths(stream: IO[bytes]) -> dict[str, int]:
    """Patches of every array of images in the ``.npz`` in ``stream``, in the order of the index."""
    with zipfile.ZipFile(stream) as archive:
        lengths = {}
        for name in NPZ_IMAGES:
            if f"{name}.npy" in archive.namelist():
                shape = zipped_array(archive, f"{name}.npy")
                lengths[name] = _checked_shape(shape, name)[0]
        if not lengths:
            raise ValueError(f"has none of {', '.join(NPZ_IMAGES)}, but {archive.namelist()}")
        return lengths


def rgb_pixels(pixels: npt.NDArray[Any], *, name: str) -> npt.NDArray[np.uint8]:
    """``pixels`` (grey or RGB, of any number type) as uint8 ``(H, W, 3)``, exactly.

    Raises:
        SlideError: UNREADABLE: no image, or values that are no whole numbers from 0 to 255.
    """
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise SlideError(SkipReason.UNREADABLE, f"{name}: {pixels.shape} is not an RGB image")
    if pixels.dtype != np.uint8:
        inside = pixels.dtype.kind in "uif" and bool(((pixels >= 0) & (pixels <= 255)).all())
        if not inside or not np.array_equal(pixels, np.trunc(pixels)):
            raise SlideError(
                SkipReason.UNREADABLE,
                f"{name}: {pixels.dtype} values are not whole numbers from 0 to 255; save uint8",
            )
    whole = np.array(pixels, dtype=np.uint8)
    return np.repeat(whole, 3, axis=2) if whole.shape[2] == 1 else whole


class _Container(ABC):
    """What all containers share: bounds, conversion, errors and temporary files."""

    def __init__(self, path: Path, resources: contextlib.ExitStack) -> None:
        self.name = path.name
        self.resources = resources

    @abstractmethod
    def __len__(self) -> int: ...

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        if not 0 <= index < len(self):
            raise SlideError(
                SkipReason.UNREADABLE, f"{self.name}: has no patch {index}, only {len(self)}"
            )
        name = f"{self.name}#{index}"
        with _unreadable(name):
            return rgb_pixels(self._pixels(index), name=name)

    def close(self) -> None:
        self.resources.close()

    @abstractmethod
    def _pixels(self, index: int) -> npt.NDArray[Any]: ...


class _Hdf5Container(_Container):
    def __init__(self, path: Path, resources: contextlib.ExitStack) -> None:
        super().__init__(path, resources)
        file = h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES, locking=False)
        resources.callback(file.close)
        self._images = _image_dataset(file)

    def __len__(self) -> int:
        return len(self._images)

    def _pixels(self, index: int) -> npt.NDArray[Any]:
        return np.asarray(self._images[index])


class _NpyContainer(_Container):
    def __init__(self, path: Path, resources: contextlib.ExitStack) -> None:
        super().__init__(path, resources)
        self._images = _mapped(path)
        _checked_shape(self._images.shape, self.name)

    def __len__(self) -> int:
        return len(self._images)

    def _pixels(self, index: int) -> npt.NDArray[Any]:
        return np.asarray(self._images[index])


class _NpzContainer(_Container):
    def __init__(self, path: Path, resources: contextlib.ExitStack) -> None:
        super().__init__(path, resources)
        self._path = path
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._damaged: dict[str, str] = {}
        with path.open("rb") as stream:
            self._lengths = npz_lengths(stream)

    def __len__(self) -> int:
        return sum(self._lengths.values())

    def _pixels(self, index: int) -> npt.NDArray[Any]:
        for name, length in self._lengths.items():
            if index < length:
                return np.asarray(self._array(name)[index])
            index -= length
        raise AssertionError("unreachable: the index was checked")

    def _array(self, name: str) -> npt.NDArray[Any]:
        if name in self._damaged:  # else every patch would unpack up to the damage again
            raise ValueError(self._damaged[name])
        if name not in self._arrays:
            try:
                self._arrays[name] = _unpacked(self._path, f"{name}.npy")
            except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                self._damaged[name] = f"{name}: {error}"
                raise
        return self._arrays[name]

    def close(self) -> None:
        self._arrays.clear()
        super().close()


def _image_dataset(file: Any) -> Any:
    """The one dataset of images in an HDF5 file: ``(n, H, W)`` or ``(n, H, W, channels)``."""
    shapes = {name: item.shape for name, item in own_datasets(file).items()}
    found = [name for name, shape in shapes.items() if _is_images(shape)]
    if len(found) != 1:
        raise ValueError(f"has {len(found)} datasets of images instead of one, among {shapes}")
    images = file[found[0]]
    check_stored(images)
    return images


def _is_images(shape: tuple[int, ...]) -> bool:
    sides = len(shape) in (3, 4) and min(shape[1:3]) > 1 and shape[3:] in ((), (1,), (3,))
    return sides and shape[1] * shape[2] <= MAX_PIXELS


def _checked_shape(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    if not _is_images(shape):
        raise ValueError(f"{name} {shape} is no array of images (n, H, W, 3)")
    return shape


def _mapped(path: Path) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _unpacked(path: Path, member: str) -> npt.NDArray[Any]:
    """A zipped array, mapped from a temporary file that has no name any more."""
    try:
        with (
            zipfile.ZipFile(path) as archive,
            archive.open(member) as source,
            tempfile.NamedTemporaryFile(prefix="histodiff-", suffix=".npy") as scratch,
        ):
            shutil.copyfileobj(source, scratch, 2**20)
            scratch.flush()
            return _mapped(Path(scratch.name))
    except OSError as error:
        # a full disk is no damage of the data: it must end the command
        raise ConfigError(
            f"{path}: {member} cannot be unpacked to {tempfile.gettempdir()} ({error}); set TMPDIR"
            " to a folder with more room"
        ) from error


@contextlib.contextmanager
def _unreadable(name: str) -> Iterator[None]:
    try:
        yield
    except ConfigError:  # is a ValueError
        raise
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SlideError(SkipReason.UNREADABLE, f"{name}: {reason}") from error
