"""Seeds per sample: ``(seed, index, purpose)`` decides every random draw.

Results therefore do not depend on world size, micro-batch, worker count or a restart. NumPy takes
longer to seed a generator than a sample takes to draw from it, so those of a batch are seeded
together (``generators_for``). Legend: N samples.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise, permutations

import numpy as np
import numpy.typing as npt
from numpy.random.bit_generator import ISeedSequence

_Words = npt.NDArray[np.uint32]
_Keys = npt.NDArray[np.uint64]


def derived_seed(seed: int, *parts: int | str) -> int:
    """A 63-bit seed that is a pure function of ``seed`` and ``parts``."""
    return int.from_bytes(_digest((seed, *parts)), "big") >> 1


def generator_for(seed: int, *parts: int | str) -> np.random.Generator:
    """A NumPy generator seeded with ``derived_seed(seed, *parts)``."""
    return np.random.Generator(np.random.Philox(derived_seed(seed, *parts)))


def generators_for(
    seed: int, purpose: str, indices: Sequence[int]
) -> Iterator[np.random.Generator]:
    """``generator_for(seed, purpose, index)`` of every index, in half the time."""
    digests = b"".join(_digest((seed, purpose, index)) for index in indices)
    for key in _philox_keys(np.frombuffer(digests, ">u8").astype(np.uint64) >> np.uint64(1)):
        yield np.random.Generator(np.random.Philox(_Seeded(key)))  # type: ignore[arg-type]


def _digest(parts: Sequence[int | str]) -> bytes:
    text = "\x1f".join(map(str, parts))
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


class _Seeded(ISeedSequence):
    """What NumPy's ``SeedSequence`` would give a Philox generator, known beforehand."""

    def __init__(self, key: _Keys) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: npt.DTypeLike = np.uint32) -> _Keys:
        assert (n_words, dtype) == (2, np.uint64)
        return self._key


def _powers(first: int, factor: int) -> list[np.uint32]:
    return [np.uint32(first * pow(factor, power, 2**32) % 2**32) for power in range(17)]


# NumPy's SeedSequence: seed_seq_fe128 of O'Neill 2015 (pcg-random.org, "Developing a seed_seq
# alternative"), whose numbers NumPy promises to keep (NEP 19)
_POOL_WORDS = 4
_HASH_POOL = _powers(0x43B0D7E5, 0x931E8875)
_HASH_STATE = _powers(0x8B51F9DD, 0x58F38DED)
_MIX_TARGET, _MIX_SOURCE = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)


def _philox_keys(seeds_N: _Keys) -> _Keys:
    """``SeedSequence(seed).generate_state(2, np.uint64)`` of every 64-bit seed, (N, 2)."""
    low, high = (seeds_N >> shift for shift in (np.uint64(0), np.uint64(32)))
    pool = [word.astype(np.uint32) for word in (low, high, seeds_N * 0, seeds_N * 0)]
    constants = pairwise(_HASH_POOL)
    pool = [_hashed(word, *next(constants)) for word in pool]
    for source, target in permutations(range(_POOL_WORDS), 2):
        hashed = _hashed(pool[source], *next(constants))
        pool[target] = _folded(pool[target] * _MIX_TARGET - hashed * _MIX_SOURCE)
    state = [_hashed(*both).astype(np.uint64) for both in _with_constants(pool)]
    keys = (state[n] | state[n + 1] << np.uint64(32) for n in (0, 2))
    return np.stack(list(keys), axis=1)


def _with_constants(pool: Sequence[_Words]) -> Iterator[tuple[_Words, np.uint32, np.uint32]]:
    for word, (before, after) in zip(pool, pairwise(_HASH_STATE), strict=False):
        yield word, before, after


def _hashed(word_N: _Words, before: np.uint32, after: np.uint32) -> _Words:
    return _folded((word_N ^ before) * after)


def _folded(word_N: _Words) -> _Words:
    return word_N ^ (word_N >> np.uint32(16))
