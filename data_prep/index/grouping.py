"""Groups of things that links connect, directly or by way of others."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import connected_components


def connected_groups(num: int, links: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Group of each of ``num`` things, numbered in the order of their first members.

    Args:
        num: How many things there are.
        links: Pairs of their numbers, ``(num_links, 2)``.
    """
    ends = np.asarray(links, dtype=np.int64).reshape(-1, 2)
    weights = np.ones(len(ends), dtype=np.int8)
    graph = sparse.coo_array((weights, (ends[:, 0], ends[:, 1])), shape=(num, num))
    found = connected_components(graph, directed=False)[1]
    _, start, group = np.unique(found, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(start))[group], dtype=np.int64)


def links_of_equals(keys: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Links between numbers with equal keys, enough to connect them."""
    first: dict[Hashable, int] = {}
    return [(first.setdefault(key, number), number) for number, key in enumerate(keys)]


def chained(groups: Iterable[Sequence[int]]) -> list[tuple[int, int]]:
    """Links from the first member of every group to its others."""
    return [(group[0], member) for group in groups for member in group[1:]]
