"""Decodes the images of patch sets, whether they are files or patches in a container.

The last image and a few containers stay open, because neighbouring rows come from the same ones.
"""

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.readers.containers import ImageContainer, member_of, open_container
from histodiff.data_prep.readers.image_files import decode_image
from histodiff.storage import StoragePath, below
from histodiff.telemetry.metrics import TILE_DECODED_BYTES

MAX_OPEN_CONTAINERS = 4


class ImageDecoder:
    """Decodes images by folder and relative path. Picklable; what is open does not travel."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, ImageContainer] = OrderedDict()
        self._last: tuple[str, npt.NDArray[np.uint8]] | None = None

    def decode(self, folder: StoragePath, path: str) -> npt.NDArray[np.uint8]:
        """All pixels of the image ``path`` (a file, or ``<file>#<index>``), uint8 ``(H, W, 3)``.

        Raises:
            SlideError: UNREADABLE: missing, damaged, not an image, or not of 8 bits.
        """
        key = f"{folder}/{path}"
        if self._last is None or self._last[0] != key:
            member = member_of(path)
            pixels = (
                self._container(below(folder, member[0])).read(member[1])
                if member
                else decode_image(below(folder, path))
            )
            TILE_DECODED_BYTES.inc(pixels.nbytes)
            self._last = (key, pixels)
        return self._last[1]

    def close(self) -> None:
        """Closes what is open; it opens again when needed."""
        while self._open:
            self._open.popitem()[1].close()
        self._last = None

    def __reduce__(self) -> tuple[type["ImageDecoder"], tuple[()]]:
        return (ImageDecoder, ())

    def _container(self, path: StoragePath) -> ImageContainer:
        key = str(path)
        if key not in self._open:
            self._open[key] = open_container(path)
        self._open.move_to_end(key)
        while len(self._open) > MAX_OPEN_CONTAINERS:
            self._open.popitem(last=False)[1].close()
        return self._open[key]
