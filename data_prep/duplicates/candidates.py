"""Which patches are worth comparing: those that share rare kinds of blobs.

The blobs of all patches are sorted into thousands of kinds ("visual words", Sivic and Zisserman
2003), sampled from the patches themselves; a patch is a sparse row of how often it has each, rare
kinds weighing more. The nearest rows are the candidates. Memory: the rows, and one block of
products at a time.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from histodiff.data_prep.duplicates.descriptors import Bytes, num_keypoints, stacked_features

_SAMPLE = 200_000
_NUM_COMPONENTS = 32
_WORDS_PER_BLOB = 3
_MIN_WORDS = 16
"""With fewer blobs in all there is nothing to compare."""
_BLOBS_PER_WORD = 12
_BLOCK_BLOBS = 1024
_BLOCK_PATCHES = 512
_BLOCK_PRODUCTS = 2**23
"""Similarities that are in memory at once (100 MB)."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Vocabulary:
    mean: Floats
    projection: Floats
    words: Floats


def candidate_pairs(
    descriptors: Bytes, *, neighbours: int, max_words: int
) -> npt.NDArray[np.int64]:
    """Pairs ``(num, 2)`` of patches, the first number smaller, sorted, each once.

    Args:
        descriptors: uint8 ``(N, DESCRIPTOR_BYTES)``.
        neighbours: Candidates per patch.
        max_words: Kinds of blobs that are told apart, at most.
    """
    if len(descriptors) <= neighbours + 1:
        return np.argwhere(np.triu(np.ones((len(descriptors),) * 2, dtype=bool), 1))
    if num_keypoints(descriptors).sum() < _MIN_WORDS:
        return np.empty((0, 2), dtype=np.int64)
    rows = _weighted_rows(descriptors, _vocabulary(descriptors, max_words))
    columns = rows.T.tocsr()
    block = max(1, _BLOCK_PRODUCTS // len(descriptors))
    found = [
        _nearest(rows[start : start + block] @ columns, start, neighbours)
        for start in range(0, len(descriptors), block)
    ]
    pairs = np.sort(np.concatenate(found), axis=1)
    return np.unique(pairs, axis=0).astype(np.int64)


def _vocabulary(descriptors: Bytes, max_words: int) -> _Vocabulary:
    """Words and whitening from blobs that are spread evenly over the patches."""
    counts = num_keypoints(descriptors)
    total = int(counts.sum())
    step = max(1, -(-total // _SAMPLE))
    blocks = [
        stacked_features(descriptors[start : start + _BLOCK_PATCHES])[::step]
        for start in range(0, len(descriptors), _BLOCK_PATCHES)
    ]
    sample = np.concatenate(blocks)
    mean = sample.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((sample - mean).T))
    scale = 1 / np.sqrt(values + 0.1 * values.mean())
    projection = (vectors * scale)[:, -_NUM_COMPONENTS:].astype(np.float32)
    num_words = min(max_words, max(_MIN_WORDS, total // _BLOBS_PER_WORD), len(sample))
    chosen = np.linspace(0, len(sample) - 1, num_words).astype(np.int64)
    return _Vocabulary(mean, projection, _unit((sample[chosen] - mean) @ projection))


def _weighted_rows(descriptors: Bytes, vocabulary: _Vocabulary) -> Any:
    """Sparse unit rows: square roots of how much of each word, times its rarity."""
    counts = num_keypoints(descriptors)
    blocks = []
    for start in range(0, len(descriptors), _BLOCK_PATCHES):
        features = stacked_features(descriptors[start : start + _BLOCK_PATCHES])
        owner = np.repeat(
            np.arange(len(counts[start : start + _BLOCK_PATCHES])),
            counts[start : start + _BLOCK_PATCHES],
        )
        blocks.append(_block_rows(features, owner, vocabulary, len(descriptors) - start))
    rows = sparse.vstack(blocks).tocsr()
    present = np.bincount(rows.indices, minlength=rows.shape[1])
    rarity = np.log(len(descriptors) / np.maximum(present, 1))
    rows = rows.sqrt() @ sparse.diags_array(rarity.astype(np.float32))
    length = np.sqrt(np.asarray(rows.power(2).sum(axis=1)).ravel())
    return sparse.diags_array(1 / np.maximum(length, 1e-6).astype(np.float32)) @ rows


def _block_rows(
    features: Floats, owner: npt.NDArray[np.int64], vocabulary: _Vocabulary, remaining: int
) -> Any:
    words, amounts = [], []
    for start in range(0, len(features), _BLOCK_BLOBS):
        block = features[start : start + _BLOCK_BLOBS]
        alike = _unit((block - vocabulary.mean) @ vocabulary.projection) @ vocabulary.words.T
        best = np.argpartition(alike, -_WORDS_PER_BLOB, axis=1)[:, -_WORDS_PER_BLOB:]
        words.append(best.copy())  # a view would keep the whole block alive
        amounts.append(np.exp(4 * (np.take_along_axis(alike, best, axis=1) - 1)))
    shape = (min(_BLOCK_PATCHES, remaining), len(vocabulary.words))
    if not words:
        return sparse.csr_array(shape, dtype=np.float32)
    return sparse.coo_array(
        (
            np.concatenate(amounts).ravel().astype(np.float32),
            (np.repeat(owner, _WORDS_PER_BLOB), np.concatenate(words).ravel()),
        ),
        shape=shape,
    ).tocsr()


def _nearest(products: Any, start: int, neighbours: int) -> npt.NDArray[np.int64]:
    """Pairs of each row with its nearest others."""
    products = products.tocsr()
    pairs = []
    for row in range(products.shape[0]):
        span = slice(products.indptr[row], products.indptr[row + 1])
        others, alike = products.indices[span], products.data[span]
        worth = (others != start + row) & (alike >= _least_of_best(alike, neighbours + 1))
        others, alike = others[worth], alike[worth]
        # numbers break ties, so that the order inside a sparse row does not matter
        best = np.lexsort((others, -alike))[:neighbours]
        pairs.append(np.stack([np.full(len(best), start + row), others[best]], axis=1))
    return np.concatenate(pairs)


def _least_of_best(values: Floats, count: int) -> float:
    return float(np.partition(values, -count)[-count]) if len(values) > count else 0.0


def _unit(vectors: npt.NDArray[Any]) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-6), dtype=np.float32)
