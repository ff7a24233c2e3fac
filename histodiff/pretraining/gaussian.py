"""The Gaussian that a denoiser starts from: mean and covariance of the latents it is trained on.

Measured once, on rows of the mixture in their whitening, and kept beside the run, so that ranks and
restarts see the same. Turned and flipped latents count as well where training sees them: a symmetry
is a signed permutation of a latent's values, so their covariance costs nothing. Legend: N rows,
D = C h w values of a latent, M = 2C moments.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from histodiff.errors import ConfigError
from histodiff.latents import LatentStore, View, Whitening
from histodiff.models.gaussian import GaussianFit, GaussianStart
from histodiff.runtime import generator_for
from histodiff.runtime.symmetries import GROUPS, Symmetries, square_symmetry
from histodiff.storage import StoragePath, read_bytes, write_bytes

_READ_ROWS = 1024
_MOST_VALUES = 8192
"""Of a latent: its covariance has the square of it, and is decomposed."""

Floats = npt.NDArray[np.float64]


def fitted_gaussian(
    stores: Sequence[LatentStore],
    weights: Sequence[float],
    *,
    start: GaussianStart,
    whitening: Whitening,
    view: View,
    symmetries: Symmetries,
    seed: int,
) -> GaussianFit:
    """Mean and covariance of what training sees of the mixture, in its whitening.

    Rows of a store count equally, stores by their weight.

    Raises:
        ConfigError: Latents are too large for a covariance.
    """
    channels, (_, height, width) = stores[0].latent_channels, stores[0].moment_shape
    size = channels * height * width
    if size > _MOST_VALUES:
        raise ConfigError(
            f"denoiser.gaussian_start: latents have {size} values, and a covariance of more than"
            f" {_MOST_VALUES} is too much; set it to null"
        )
    mean_D, second_DD = np.zeros(size), np.zeros((size, size))
    shares = np.asarray(weights, np.float64) / np.sum(weights)
    for number, (store, share) in enumerate(zip(stores, shares, strict=True)):
        rows = store.rows_of_split("train")
        rng = generator_for(seed, "gaussian start", number)
        count = min(len(rows), max(1, round(start.rows * float(share))))
        drawn = np.sort(rng.choice(rows, size=count, replace=False))
        own_mean_D, own_DD = _moments(store, drawn, whitening=whitening, view=view)
        mean_D += share * own_mean_D
        second_DD += share * own_DD
    moves = [
        _move((channels, height, width), which, store=stores[0]) for which in GROUPS[symmetries]
    ]
    mean_D = np.mean([sign * mean_D[order] for order, sign in moves], axis=0)
    covariance_DD = -np.outer(mean_D, mean_D)
    for order, sign in moves:  # one at a time: each is as large as the covariance
        covariance_DD += second_DD[np.ix_(order, order)] * sign * sign[:, None] / len(moves)
    return GaussianFit.of_covariance(
        torch.from_numpy(mean_D), torch.from_numpy(covariance_DD), rank=start.rank
    )


def save_fit(path: StoragePath, fit: GaussianFit) -> None:
    """Writes the fit as one safetensors file."""
    tensors = {"mean": fit.mean_D, "variance": fit.variance_R, "basis": fit.basis_DR.contiguous()}
    rest = torch.tensor([fit.rest], dtype=torch.float64)
    write_bytes(path, safetensors.torch.save({**tensors, "rest": rest}))


def load_fit(path: StoragePath) -> GaussianFit:
    """What ``save_fit`` wrote."""
    found = safetensors.torch.load(read_bytes(path))
    return GaussianFit(found["mean"], found["variance"], found["basis"], float(found["rest"]))


def _moments(
    store: LatentStore, rows: npt.NDArray[np.int64], *, whitening: Whitening, view: View
) -> tuple[Floats, Floats]:
    """Mean (D) and second moments (D, D) over rows; posterior noise adds to the diagonal."""
    total_D: Floats | float = 0.0
    second_DD: Floats | float = 0.0
    noise_D: Floats | float = 0.0
    scale_C11 = np.asarray(whitening.scale).reshape(-1, 1, 1)
    for begin in range(0, len(rows), _READ_ROWS):
        moments_NMHW = store.read_rows(rows[begin : begin + _READ_ROWS]).astype(np.float64)
        mean_NCHW, std_NCHW = np.split(moments_NMHW, 2, axis=1)
        values_ND = whitening.apply(mean_NCHW).reshape(len(mean_NCHW), -1)
        total_D = total_D + values_ND.sum(axis=0)
        second_DD = second_DD + values_ND.T @ values_ND
        noise_D = noise_D + np.square(std_NCHW / scale_C11).reshape(len(values_ND), -1).sum(axis=0)
    if view == "sample":
        second_DD = second_DD + np.diag(noise_D)
    return np.asarray(total_D / len(rows)), np.asarray(second_DD / len(rows))


def _move(
    shape: tuple[int, int, int], which: int, *, store: LatentStore
) -> tuple[npt.NDArray[np.int64], Floats]:
    """A symmetry as the place that each value of a flat latent comes from, and its sign."""
    channels = store.layout.attributes.symmetries
    # One more than the place, so that the first can have a sign; fp32 counts to 2**24 exactly.
    places = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    moved = square_symmetry(places, which, channels=channels).reshape(-1)
    return np.abs(moved).astype(np.int64) - 1, np.sign(moved).astype(np.float64)
