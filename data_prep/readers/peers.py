"""Other readers of slides, for ``bench tile``: those that happen to be installed.

None of them is a dependency. Each reads level-0 regions as its own documentation says.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.readers.limits import BareOpenSlide


class TiffSlide(BareOpenSlide):
    """tiffslide, which reads like OpenSlide."""

    def __init__(self, path: Path) -> None:
        self._slide = import_module("tiffslide").TiffSlide(str(path))


class CuCim:
    """cuCIM on the CPU."""

    def __init__(self, path: Path) -> None:
        self._slide: Any = import_module("cucim").CuImage(str(path))

    def read(self, x: int, y: int, side_px: int) -> npt.NDArray[np.uint8]:
        """Level-0 pixels, uint8 ``(side, side, 3)``."""
        return np.asarray(self._slide.read_region((x, y), (side_px, side_px), level=0))[..., :3]

    def close(self) -> None:
        """Closes the slide."""
        self._slide.close()


class FastSlide:
    """fastslide."""

    def __init__(self, path: Path) -> None:
        self._slide: Any = import_module("fastslide").FastSlide.from_file_path(str(path))

    def read(self, x: int, y: int, side_px: int) -> npt.NDArray[np.uint8]:
        """Level-0 pixels, uint8 ``(side, side, 3)``."""
        region = self._slide.read_region(location=(x, y), level=0, size=(side_px, side_px))
        return np.asarray(getattr(region, "numpy", lambda: region)())[..., :3]

    def close(self) -> None:
        """Closes the slide."""
        self._slide.close()


_PEERS: dict[str, Callable[[Path], Any]] = {
    "tiffslide": TiffSlide,
    "cucim": CuCim,
    "fastslide": FastSlide,
}


def installed_peers() -> dict[str, Callable[[Path], Any]]:
    """Readers that can be imported here, by name."""
    return {name: reader for name, reader in _PEERS.items() if find_spec(name) is not None}
