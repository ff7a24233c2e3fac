"""Real patches that may join without a label: which they are, and that none is scored later."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.runtime import generator_for

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """Patches of an index that may join."""

    index: PatchIndex
    patches_N: Numbers


def candidates(
    target: PatchIndex,
    labelled_N: Numbers,
    pool: Artifact | None,
    *,
    limit: int | None,
    seed: int,
    field: str = "added.pool",
) -> Candidates:
    """Training patches of the pool; without one, those of the target beyond the budget.

    Args:
        target: The labelled index.
        labelled_N: Its patches in the budget.
        pool: Another PatchIndex.
        limit: How many at most, drawn by ``seed``.
        seed: Draws them.
        field: Where the pool is named, for errors.

    Raises:
        ConfigError: There are none; they have another size; or the pool has slides or patients
            that the target keeps for validation or test.
    """
    index = target if pool is None else PatchIndex.open(pool.path)
    free = np.asarray(index.patches["split"].to_pylist(), dtype=object) == "train"
    if pool is None:
        free[labelled_N] = False
    found = np.flatnonzero(free).astype(np.int64)
    source = "patches" if pool is None else f"{field} {pool.reference}"
    if index.patch_px != target.patch_px:
        raise ConfigError(
            f"{source} has patches of {index.patch_px} px, the target {target.patch_px} px; tile"
            " both alike"
        )
    if not len(found):
        raise ConfigError(
            f"{source}: no training patch may join; lower the budget, or name another `{field}`"
        )
    if pool is not None:
        _require_apart(target, index, found, source=source)
    if limit is not None and limit < len(found):
        drawn = generator_for(seed, "candidates").permutation(len(found))[:limit]
        found = found[np.sort(drawn)]
    return Candidates(index, found)


def _require_apart(target: PatchIndex, pool: PatchIndex, found: Numbers, *, source: str) -> None:
    splits = np.asarray(target.patches["split"].to_pylist(), dtype=object)
    held_out = np.flatnonzero(np.isin(splits, ["val", "test"]))
    for column in ("slide_id", "patient_id"):
        kept = set(target.patches[column].take(held_out).to_pylist()) - {None}
        shared = sorted(kept & set(pool.patches[column].take(found).to_pylist()))
        if shared:
            raise ConfigError(
                f"{source}: training patches share {len(shared)} {column}s with validation or test"
                f" of the target ({', '.join(shared[:3])}); tile the pool without them"
            )
