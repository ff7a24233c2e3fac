"""Encoding some rows of a finished store again, to compare them with what is stored.

Digests find bytes that changed after they were recorded. That the recorded bytes are those that the
recorded encoder gives for the recorded pixels, only encoding again can tell.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from histodiff.artifacts import Artifact, fingerprint, open_artifact
from histodiff.artifacts.artifact import read_plan
from histodiff.artifacts.provenance import provenance
from histodiff.cluster.site import Site
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.data_prep.stages.encode import EncodeSettings, ShardEncoder
from histodiff.data_prep.stages.parts import EncodeReader, parts_of
from histodiff.errors import ArtifactError, ConfigError, TransientError
from histodiff.latents import LatentStore, ShardRecord, ShardUnit, ShardWriter
from histodiff.latents.arrow import arrow_numbers
from histodiff.latents.layout import shard_name
from histodiff.models.autoencoder import Autoencoder, load_autoencoder
from histodiff.runtime import encode_in_process
from histodiff.runtime.patches import READ_SCHEMA
from histodiff.storage import read_bytes
from histodiff.workflows.encode.config import EncodeConfig, store_layout

TOLERANCE = {"fp32": 2e-3, "bf16": 3e-2}
"""Largest difference, relative to ``1 + |stored|``, between unlike devices or libraries."""
_UNREACHABLE = (ArtifactError, ConfigError, TransientError, OSError)
_log = logging.getLogger(__name__)


def reencoding_problems(
    artifact: Artifact, store: LatentStore, site: Site, *, rows: int
) -> list[str]:
    """One line per row that another encoder, other pixels or a changed scale must have made.

    On the kind of device, platform and torch that encoded the store, rows must be equal to the bit;
    elsewhere within ``TOLERANCE``. Slides or an autoencoder that are not to be reached are no
    problem, but said in one line of the log.

    Args:
        artifact: The store's artifact; its inputs are looked up beside it.
        store: The same, opened.
        site: Its device encodes.
        rows: How many rows, drawn from those that are not quarantined.
    """
    try:
        config = EncodeConfig.model_validate(artifact.manifest.config)
        root = artifact.path.parent.parent.parent
        inputs = {key: open_artifact(root, ref) for key, ref in config.inputs().items()}
    except _UNREACHABLE as error:
        return _said(artifact, f"its inputs are not there: {error}")
    problems = list(_input_problems(artifact, store, inputs))
    if problems:
        return problems
    try:
        autoencoder = load_autoencoder(inputs["autoencoder"].path, device=site.device)
        drawn = _drawn(store, rows, seed=int(artifact.manifest.content_sha256[:8], 16))
        return _row_problems(artifact, store, config, inputs, autoencoder, site, drawn)
    except ArtifactError as error:
        return [f"{inputs['autoencoder'].reference}: {error}"]
    except _UNREACHABLE as error:
        return _said(artifact, str(error))


def _input_problems(
    artifact: Artifact, store: LatentStore, inputs: dict[str, Artifact]
) -> Iterator[str]:
    recorded = artifact.manifest.contents.get("encoder_sha256")
    if recorded != store.encoder_sha256:
        said = store.encoder_sha256[:12]
        yield f"zarr.json: says encoder {said}, the manifest {str(recorded)[:12]}"
    facts = json.loads(read_bytes(inputs["autoencoder"].path / "autoencoder.json"))
    made_by = facts["encoder_sha256"]
    if made_by not in (store.encoder_sha256, recorded):
        yield _swapped(inputs["autoencoder"], made_by, store)
    planned = (read_plan(artifact.path) or {}).get("what", {}).get("inputs", {})
    for key, item in inputs.items():
        content = item.manifest.content_sha256
        if planned.get(key, content) != content:
            yield (
                f"{item.reference}: has content {content[:12]}, but the store was made from"
                f" {planned[key][:12]}: it was replaced"
            )


def _swapped(autoencoder: Artifact, found: str, store: LatentStore) -> str:
    return (
        f"{autoencoder.reference}: has encoder {found[:12]}, but the store records"
        f" {store.encoder_sha256[:12]}: the encoder was swapped"
    )


def _drawn(store: LatentStore, rows: int, *, seed: int) -> npt.NDArray[np.int64]:
    valid = store.valid_rows
    count = min(rows, len(valid))
    drawn = np.random.default_rng(seed).choice(valid, size=count, replace=False)
    return np.sort(drawn).astype(np.int64)


def _row_problems(
    artifact: Artifact,
    store: LatentStore,
    config: EncodeConfig,
    inputs: dict[str, Artifact],
    autoencoder: Autoencoder,
    site: Site,
    drawn: npt.NDArray[np.int64],
) -> list[str]:
    if not len(drawn):
        return []
    patches = store.rows["patch"].to_numpy()[drawn]
    kept = _encoded_again(artifact, config, inputs, autoencoder, site, patches)
    unread = sorted(kept.failures.values())
    if unread:
        _said(artifact, f"{len(unread)} of {len(drawn)} rows cannot be read: {unread[0]}")
    readable = np.array([k for k in range(len(drawn)) if k not in kept.failures], np.int64)
    stored = store.read_rows(drawn[readable])
    limit = 0.0 if _alike(artifact, site) else TOLERANCE[config.precision]
    return list(_differing(store, drawn[readable], stored, kept.moments[0][readable], limit))


@dataclass(frozen=True)
class _Kept(ShardWriter):
    """Takes a shard and keeps it in memory."""

    moments: list[npt.NDArray[np.float16]] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)

    def write(
        self,
        shard: int,
        moments: npt.NDArray[np.float16],
        quarantined: dict[int, str],
        *,
        pictures: Mapping[int, bytes] | None = None,
    ) -> ShardRecord:
        del pictures
        self.moments.append(moments)
        self.failures.update(quarantined)
        return ShardRecord(
            shard=shard, rows=len(moments), size_bytes=0, sha256="", quarantined=quarantined
        )


def _encoded_again(
    artifact: Artifact,
    config: EncodeConfig,
    inputs: dict[str, Artifact],
    autoencoder: Autoencoder,
    site: Site,
    patches: npt.NDArray[np.int64],
) -> _Kept:
    index = PatchIndex.open(inputs["patches"].path)
    kept = _Kept(artifact.path, store_layout(config, index, inputs["autoencoder"]))
    encoder = partial(
        ShardEncoder,
        lambda: autoencoder,
        writer=kept,
        settings=EncodeSettings(config.batch, config.threads, config.precision, config.compiled),
        device=site.device,
    )
    rows = index.patches.select(READ_SCHEMA.names).take(arrow_numbers(patches)).cast(READ_SCHEMA)
    unit = ShardUnit(0, patches, np.arange(len(patches)), np.array([len(patches)]), rows)
    reader = partial(EncodeReader, inputs["patches"].path)
    cut = partial(parts_of, batch=config.batch)
    for _ in encode_in_process(reader, encoder, [unit], parts_of=cut):
        pass
    return kept


def _differing(
    store: LatentStore,
    rows: npt.NDArray[np.int64],
    stored: npt.NDArray[np.float16],
    again: npt.NDArray[np.float16],
    limit: float,
) -> Iterator[str]:
    for row, before, now in zip(rows, stored.astype(np.float64), again, strict=True):
        worst = float((np.abs(now - before) / (1 + np.abs(before))).max())
        if worst > limit or not np.isfinite(worst):
            shard = int(row) // store.layout.rows_per_shard
            yield (
                f"{shard_name(shard)}: row {row} is not what encoder {store.encoder_sha256[:12]}"
                f" gives for its patch {store.rows['patch'][int(row)]} (differs by {worst:.2g},"
                f" allowed {limit:.2g})"
            )


def _alike(artifact: Artifact, site: Site) -> bool:
    """Whether the store was encoded on this kind of device, platform and torch."""
    plan = read_plan(artifact.path) or {}
    device: bool = plan.get("what", {}).get("inventory") == fingerprint(
        {"device_class": site.device}
    )
    then, now = artifact.manifest.provenance, provenance(0.0)
    same_torch: bool = then.get("packages", {}).get("torch") == now["packages"].get("torch")
    return device and same_torch and bool(then.get("platform") == now["platform"])


def _said(artifact: Artifact, why: str) -> list[str]:
    _log.warning("%s: not encoded again: %s", artifact.reference, " ".join(why.split()))
    return []
