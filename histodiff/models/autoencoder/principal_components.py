"""The best linear autoencoder of square blocks of pixels, in a basis that turns with them.

Principal components are the linear map with the least squared error. Those of tissue in every
orientation fall into five kinds, the irreducible representations of the dihedral group D4: four in
which a turn or flip changes the sign at most, and one of pairs (an edge across, an edge down) that
turns exchange. Computed kind by kind, a symmetry of the pixels is a signed permutation of the
components, exactly. Legend: N blocks, D = 3 f f values of a block, C components, channels first.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from histodiff.errors import ConfigError
from histodiff.runtime import generator_for
from histodiff.runtime.symmetries import NAMES, ChannelSymmetries, square_symmetry

Floats = npt.NDArray[np.float64]

_COLOURS = 3
_BLOCKS = 65_536
_QUARTERS = 4
_ARRAYS, _CHANNELS = ("mean_D", "components_CD", "variance_C"), "channels"


@dataclass(frozen=True)
class LinearMap:
    """``z = components (x - mean)``, and back with the transpose; the rows are orthonormal."""

    mean_D: Floats
    """Mean block, pixels in -1..1, in the order of ``torch.nn.functional.pixel_unshuffle``."""
    components_CD: Floats
    """Components in descending order of variance; pairs stay together."""
    variance_C: Floats
    """Variance of each component over the blocks and their symmetries."""
    channels: ChannelSymmetries
    """What turning the pixels does to the components."""

    def to_bytes(self) -> bytes:
        """The map as safetensors, the same to the bit when it is read again."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        channels = np.frombuffer(self.channels.model_dump_json().encode(), np.uint8)
        data: bytes = safetensors.numpy.save(arrays | {_CHANNELS: channels})
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> "LinearMap":
        """What ``to_bytes`` gave."""
        arrays = safetensors.numpy.load(data)
        channels = ChannelSymmetries.model_validate_json(arrays.pop(_CHANNELS).tobytes())
        return cls(**arrays, channels=channels)


@dataclass(frozen=True)
class _Candidate:
    variance: float
    vectors: tuple[Floats, ...]
    """One component, or the two of a pair."""


def principal_components(
    patches_NHWC: npt.NDArray[np.uint8], *, side: int, count: int, seed: int
) -> LinearMap:
    """The ``count`` principal components of blocks of ``side`` px at random places of patches.

    Raises:
        ConfigError: There are not as many components, or the last one would be half of a pair.
    """
    size = _COLOURS * side * side
    if count > size:
        raise ConfigError(
            f"latent_channels {count}: a block of {side}x{side} px has {size} values; give fewer"
        )
    blocks_ND = _blocks(patches_NHWC, side, seed)
    symmetries = [_matrix(side, which) for which in range(len(NAMES))]
    # The mean over the symmetries: what tissue in every orientation has.
    mean_D = np.mean([matrix @ blocks_ND.mean(axis=0) for matrix in symmetries], axis=0)
    centred_ND = blocks_ND - mean_D
    covariance_DD = centred_ND.T @ centred_ND / len(centred_ND)
    covariance_DD = np.mean([g @ covariance_DD @ g.T for g in symmetries], axis=0)
    chosen = _chosen(_candidates(covariance_DD, symmetries), count)
    components_CD = np.stack([vector for one in chosen for vector in one.vectors])
    variances = [one.variance for one in chosen for _ in one.vectors]
    return LinearMap(
        mean_D, components_CD, np.array(variances), _channels(components_CD, symmetries)
    )


def _blocks(patches_NHWC: npt.NDArray[np.uint8], side: int, seed: int) -> Floats:
    """Blocks (N, D) in -1..1; the values of a block as ``pixel_unshuffle`` orders them."""
    rng = generator_for(seed, "principal components")
    number, height, width, _ = patches_NHWC.shape
    which = rng.integers(number, size=_BLOCKS)
    top = rng.integers(height - side + 1, size=_BLOCKS)
    left = rng.integers(width - side + 1, size=_BLOCKS)
    offsets = np.arange(side)
    blocks_NHWC = patches_NHWC[
        which[:, None, None],
        (top[:, None] + offsets)[:, :, None],
        (left[:, None] + offsets)[:, None, :],
    ]
    blocks_NCHW = blocks_NHWC.transpose(0, 3, 1, 2)
    blocks_ND: Floats = blocks_NCHW.reshape(_BLOCKS, -1).astype(np.float64) / 127.5 - 1
    return blocks_ND


def _matrix(side: int, which: int) -> Floats:
    """The symmetry as a (D, D) permutation of the values of a block."""
    size = _COLOURS * side * side
    places = np.arange(size, dtype=np.float32).reshape(_COLOURS, side, side)
    turned = square_symmetry(places, which).reshape(-1).astype(np.int64)
    matrix: Floats = np.eye(size)[turned]
    return matrix


def _candidates(covariance_DD: Floats, symmetries: list[Floats]) -> list[_Candidate]:
    """Principal components of every kind, in descending order of variance."""
    found = []
    for turn, flip in product((1, -1), repeat=2):  # the kinds A1, A2, B1, B2 of D4
        character = [
            turn ** (which % _QUARTERS) * (flip if which >= _QUARTERS else 1)
            for which in range(len(NAMES))
        ]
        projection = np.mean([c * g for c, g in zip(character, symmetries, strict=True)], axis=0)
        found += [_Candidate(v, (u,)) for v, u in _eigenvectors(covariance_DD, projection)]
    identity, quarter, half, _, mirror = symmetries[:5]
    # The pairs: odd under half a turn. One of each is odd under the mirror, the other a turn of it.
    odd = (identity - half) @ (identity - mirror) / 4
    found += [_Candidate(v, (u, quarter @ u)) for v, u in _eigenvectors(covariance_DD, odd)]
    return sorted(found, key=lambda one: -one.variance)


def _eigenvectors(covariance_DD: Floats, projection_DD: Floats) -> list[tuple[float, Floats]]:
    """Eigenvalues and -vectors of the covariance within the image of a projection."""
    rank = round(float(np.trace(projection_DD)))
    values, vectors = np.linalg.eigh(projection_DD)
    basis_DR = vectors[:, np.argsort(values)[len(values) - rank :]]
    within_RR = basis_DR.T @ covariance_DD @ basis_DR
    variances, coordinates_RR = np.linalg.eigh(within_RR)
    vectors_DR = basis_DR @ coordinates_RR
    return [(float(variances[k]), vectors_DR[:, k]) for k in range(rank)]


def _chosen(candidates: list[_Candidate], count: int) -> list[_Candidate]:
    """The first that fill ``count`` places; a pair that does not fit is passed over."""
    chosen, left = [], count
    for candidate in candidates:
        if len(candidate.vectors) <= left:
            chosen.append(candidate)
            left -= len(candidate.vectors)
    if left:
        raise ConfigError(
            f"latent_channels {count}: the last component would be half of a pair; give one more or"
            " one less"
        )
    return chosen


def _channels(components_CD: Floats, symmetries: list[Floats]) -> ChannelSymmetries:
    permutation, sign = [], []
    for matrix in symmetries:
        moved_CC = components_CD @ matrix @ components_CD.T
        order = np.abs(moved_CC).argmax(axis=1)
        permutation.append(tuple(int(place) for place in order))
        signs = moved_CC[np.arange(len(order)), order]
        sign.append(tuple(int(value) for value in np.rint(signs)))
    return ChannelSymmetries(permutation=tuple(permutation), sign=tuple(sign))
