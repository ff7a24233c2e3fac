"""Patch coordinates that TRIDENT and CLAM wrote: imported as they are, not computed again.

Both write one HDF5 file per slide with a dataset ``coords`` of level-0 corners ``(x, y)``; its
attributes say how large a patch is. What cannot be understood for certain is refused.
"""

from dataclasses import dataclass
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from histodiff.data_prep.readers.hdf5 import DataElsewhere, own_dataset
from histodiff.errors import SkipReason, SlideError
from histodiff.storage import StoragePath

_SQUARE = 0.01


@dataclass(frozen=True)
class ImportedGrid:
    """Corners of the patches of one slide, in level-0 pixels."""

    corners: npt.NDArray[np.int64]
    """Top-left corners ``(n, 2)`` as ``(x, y)``, in the order of the file."""
    side: int
    """Side of every patch."""
    writer: Literal["trident", "clam"]
    """Program that wrote the file."""
    level0_size: tuple[int, int] | None
    """Width and height of the slide, where the file states them."""


def read_coordinates(path: StoragePath) -> ImportedGrid:
    """The patches in a coordinate file of TRIDENT or CLAM.

    Raises:
        SlideError: UNREADABLE: no such file, damaged, or a dataset or attribute is missing or
            makes no sense; the message names it.
    """
    try:
        with path.open("rb") as stream, h5py.File(stream, "r") as file:
            dataset = own_dataset(file, "coords")
            if dataset is None:
                raise _refused(path, f"has no dataset 'coords', only {sorted(file)}")
            corners = np.asarray(dataset)
            attributes = dict(dataset.attrs)
    except DataElsewhere as error:
        raise _refused(path, str(error)) from error
    except (OSError, RuntimeError, KeyError) as error:
        raise _refused(path, f"cannot be read ({error})") from error
    if "patch_size_level0" in attributes:
        return _trident(path, _checked(path, corners), attributes)
    return _clam(path, _checked(path, corners), attributes)


def _checked(path: StoragePath, corners: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    if corners.size == 0:  # TRIDENT writes a slide without tissue as an empty float array
        return np.zeros((0, 2), dtype=np.int64)
    if corners.ndim != 2 or corners.shape[1] != 2 or corners.dtype.kind not in "iu":
        raise _refused(
            path, f"'coords' is {corners.dtype} {corners.shape}, not whole numbers (n, 2)"
        )
    if corners.min() < 0:
        raise _refused(path, "'coords' has negative corners")
    return corners.astype(np.int64)


def _trident(
    path: StoragePath, corners: npt.NDArray[np.int64], attributes: dict[str, Any]
) -> ImportedGrid:
    side = _pixels(path, attributes, "patch_size_level0")
    if "overlap" in attributes:  # stated at the scale of the patch, of patch_size pixels
        _pixels(path, attributes, "patch_size")
        _pixels(path, attributes, "overlap", least=0)
    size = None
    if "level0_width" in attributes and "level0_height" in attributes:
        size = (
            _pixels(path, attributes, "level0_width"),
            _pixels(path, attributes, "level0_height"),
        )
    return ImportedGrid(corners, side, "trident", size)


def _clam(
    path: StoragePath, corners: npt.NDArray[np.int64], attributes: dict[str, Any]
) -> ImportedGrid:
    missing = [key for key in ("patch_size", "patch_level", "downsample") if key not in attributes]
    if missing:
        raise _refused(
            path,
            f"'coords' has no attribute {', '.join(missing)} as CLAM writes, nor patch_size_level0"
            " as TRIDENT does; give the file of coordinates, not of features",
        )
    if int(attributes.get("custom_downsample", 1)) != 1:
        raise _refused(path, "'coords' has custom_downsample, which leaves its scale unclear")
    sides = _pixels(path, attributes, "patch_size") * np.asarray(attributes["downsample"], float)
    if not np.isfinite(sides).all() or sides.min() < 1 or np.ptp(sides) > _SQUARE * sides.max():
        raise _refused(path, f"downsample is {attributes['downsample']}, which is no square")
    size = None
    if _pixels(path, attributes, "patch_level", least=0) == 0 and "level_dim" in attributes:
        width, height = attributes["level_dim"]
        size = (int(width), int(height))
    return ImportedGrid(corners, round(float(sides.flat[0])), "clam", size)


def _pixels(path: StoragePath, attributes: dict[str, Any], key: str, *, least: int = 1) -> int:
    value = attributes.get(key)
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "iuf" or number.item() != int(number.item()):
        raise _refused(path, f"'coords' has {key} {value!r}, not a whole number")
    if number.item() < least:
        raise _refused(path, f"'coords' has {key} {value!r}, below {least}")
    return int(number.item())


def _refused(path: StoragePath, what: str) -> SlideError:
    return SlideError(SkipReason.UNREADABLE, f"{path}: {what}; write it again with TRIDENT or CLAM")
