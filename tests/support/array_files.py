"""Small PatchCamelyon, MedMNIST and PanNuke files, as their makers lay them out."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
PCAM = "camelyonpatch_level_2_split"


def random_patches(seed: int, count: int, side_px: int) -> Pixels:
    rng = np.random.default_rng(seed)
    return rng.integers(60, 220, (count, side_px, side_px, 3), dtype=np.uint8)


def write_hdf5(path: Path, **arrays: npt.NDArray[Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            chunks = (1, *array.shape[1:])
            file.create_dataset(name, data=array, chunks=chunks, compression="gzip")
    return path


def write_pcam(
    folder: Path, split: str, pixels: Pixels, labels: Sequence[int], slides: Sequence[str] = ()
) -> None:
    """One split: x and y, and the meta CSV if slides are given."""
    write_hdf5(folder / f"{PCAM}_{split}_x.h5", x=pixels)
    y = np.array(labels, dtype=np.uint8).reshape(-1, 1, 1, 1)
    write_hdf5(folder / f"{PCAM}_{split}_y.h5", y=y)
    if slides:
        with (folder / f"{PCAM}_{split}_meta.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["", "coord_y", "coord_x", "tumor_patch", "center_tumor_patch", "wsi"])
            writer.writerows([n, 96 * n, 0, True, True, name] for n, name in enumerate(slides))


def write_medmnist(path: Path, **splits: tuple[npt.NDArray[Any], Sequence[int]]) -> Path:
    """A zipped archive with images and labels ``(n, 1)`` of every split."""
    members: dict[str, npt.NDArray[Any]] = {}
    for name, (pixels, labels) in splits.items():
        members[f"{name}_images"] = pixels
        members[f"{name}_labels"] = np.array(labels, dtype=np.uint8).reshape(-1, 1)
    np.savez_compressed(path, **members)
    return path


def write_pannuke(folder: Path, pixels: npt.NDArray[Any], tissues: Sequence[str]) -> None:
    """One fold: images, types, and masks that nobody reads."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", pixels)
    np.save(folder / "types.npy", np.array(tissues))
    (folder / "masks.npy").write_bytes(b"not read")


def cut(path: Path, keep: float = 0.5) -> Path:
    """Cuts a file off."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path
