"""Real patches that no network of the samples saw, and those that one saw, told apart by split."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.runtime import generator_for
from histodiff.workflows.quality.patches import PatchSource
from histodiff.workflows.select.config import AllOfRule, SelectConfig
from histodiff.workflows.select.lineage import Seen

_FEWEST = 6


def held_out_patches(
    config: SelectConfig,
    rule: AllOfRule,
    inputs: Mapping[str, Artifact],
    target: PatchIndex,
    seen: Seen,
) -> PatchSource:
    """Patches of the wanted splits that none of the samples' networks saw.

    Args:
        config: The command's.
        rule: Its rule.
        inputs: Its artifacts, by the config key that names them.
        target: The labelled target, divided as the config says.
        seen: Lineage of the samples.

    Raises:
        ConfigError: There are hardly any, or they have another size than the samples.
    """
    artifact = inputs.get("rule.held_out.patches", inputs["patches"])
    address = str(artifact.reference)
    of_target = address == str(inputs["patches"].reference)
    stored = PatchIndex.open(artifact.path)
    index = target if of_target else stored
    spoilt = np.zeros(index.patches.num_rows, bool)
    if address in (seen.unlabelled if of_target else {str(a.reference) for a in seen.patches}):
        spoilt |= in_splits(stored, ("train",))
    if of_target:  # new divisions deal labels out of their own training split
        spoilt |= in_splits(target, ("train",))
    rows = np.flatnonzero(in_splits(index, rule.held_out.splits) & ~spoilt)
    if len(rows) < _FEWEST:
        raise ConfigError(
            f"rule.held_out: {address} has {len(rows)} patches in split"
            f" {', '.join(rule.held_out.splits)} that no network of the samples saw, and"
            f" {_FEWEST} are needed; name other splits, or other patches"
        )
    if index.patch_px != inputs["samples"].manifest.contents["image_px"]:
        raise ConfigError(
            f"rule.held_out.patches {address} has patches of {index.patch_px} px, other than the"
            " samples; tile the same tissue at their size"
        )
    return drawn_patches(index, address, rows, limit=rule.held_out.images, seed=config.seed)


def drawn_patches(
    index: PatchIndex,
    address: str,
    rows: npt.NDArray[np.int64],
    *,
    limit: int | None,
    seed: int,
) -> PatchSource:
    """At most ``limit`` of the patches with these numbers, drawn by ``seed``, in their order."""
    if limit is not None and len(rows) > limit:
        rng = generator_for(seed, "select", "patches", address)
        rows = np.sort(rng.choice(rows, size=limit, replace=False))
    return PatchSource(index, address, rows)


def in_splits(index: PatchIndex, splits: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which patches of an index are in one of these splits."""
    found: npt.NDArray[np.bool_] = np.isin(
        np.asarray(index.patches["split"].to_pylist(), dtype=object), list(splits)
    )
    return found
