"""A patch as a fixed number of bytes that later finds its near duplicates.

A descriptor is up to `NUM_KEYPOINTS` blobs, each with its place, its size and an 8-bit vector of
its surroundings. It is a fixed-size binary column of a Parquet file, the same for a patch and for
the thumbnail of a slide, and depends on nothing but the pixels.
"""

import numpy as np
import numpy.typing as npt

from histodiff.data_prep.duplicates.keypoints import (
    NUM_FEATURES,
    Keypoints,
    keypoints,
    working_picture,
)

NUM_KEYPOINTS = 96

_RECORD = np.dtype(
    [
        ("x", "<u2"),
        ("y", "<u2"),
        ("size", "u1"),
        ("kind", "u1"),
        ("features", "i1", (NUM_FEATURES,)),
    ]
)
DESCRIPTOR_BYTES = NUM_KEYPOINTS * _RECORD.itemsize
_PLACE_STEPS = 256
"""Places are kept to 1/256 of a working pixel."""
_SIZE_STEPS = 32
"""Sizes are kept to 1/32 of an octave."""
_FEATURE_STEPS = 320
_NONE, _DARK, _BRIGHT = 0, 1, 2

Bytes = npt.NDArray[np.uint8]


def describe(pixels: npt.NDArray[np.uint8]) -> Bytes:
    """The descriptor of a picture: ``DESCRIPTOR_BYTES`` bytes.

    Args:
        pixels: uint8 ``(H, W, 3)``: a patch, or the thumbnail of a slide. Both are shrunk (or
            enlarged) to the same working size, so pictures of equal fields compare best.

    Returns:
        uint8 ``(DESCRIPTOR_BYTES,)``; all zero for a picture without blobs (glass, fat, blur).
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels are {pixels.dtype} {pixels.shape}, not uint8 (H, W, 3)")
    found = keypoints(working_picture(pixels), limit=NUM_KEYPOINTS)
    records = np.zeros(NUM_KEYPOINTS, dtype=_RECORD)
    used = records[: len(found.size_px)]
    used["x"] = np.rint(found.position.real.clip(0) * _PLACE_STEPS)
    used["y"] = np.rint(found.position.imag.clip(0) * _PLACE_STEPS)
    used["size"] = np.rint(np.log2(found.size_px) * _SIZE_STEPS).clip(0, 255)
    used["kind"] = np.where(found.bright, _BRIGHT, _DARK)
    used["features"] = np.rint(found.features * _FEATURE_STEPS).clip(-127, 127)
    return records.view(np.uint8).reshape(DESCRIPTOR_BYTES)


def unpacked(descriptor: Bytes) -> Keypoints:
    """The blobs of one descriptor."""
    records = np.ascontiguousarray(descriptor).view(_RECORD)
    records = records[records["kind"] != _NONE]
    features = records["features"].astype(np.float32)
    lengths = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)
    return Keypoints(
        position=(records["x"] + 1j * records["y"]) / _PLACE_STEPS,
        size_px=np.exp2(records["size"] / _SIZE_STEPS),
        bright=records["kind"] == _BRIGHT,
        features=features / lengths,
    )


def num_keypoints(descriptors: Bytes) -> npt.NDArray[np.int64]:
    """How many blobs each of the descriptors ``(N, DESCRIPTOR_BYTES)`` has."""
    kinds = np.ascontiguousarray(descriptors).view(_RECORD)["kind"]
    return np.asarray((kinds != _NONE).sum(axis=1), dtype=np.int64)


def stacked_features(descriptors: Bytes) -> npt.NDArray[np.float32]:
    """Vectors of all blobs of descriptors ``(N, DESCRIPTOR_BYTES)``, patch by patch."""
    records = np.ascontiguousarray(descriptors).view(_RECORD)
    records = records[records["kind"] != _NONE]
    features = records["features"].astype(np.float32)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-6), dtype=np.float32)
