"""export: a denoiser of the root -> a folder that plain diffusers opens, with a model card.

The folder is no artifact: it leaves the system. ``histodiff.json`` in it says what it is of, so
that the same command again writes it anew, and another one does not overwrite it.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from histodiff.artifacts import Artifact, Kind, open_artifact
from histodiff.cluster.site import Site
from histodiff.errors import ConfigError
from histodiff.models.autoencoder import Autoencoder
from histodiff.models.denoiser import LoadedDenoiser
from histodiff.models.diffusers_pipeline import DiffusersPipeline, diffusers_pipeline
from histodiff.storage import (
    StoragePath,
    file_sizes,
    read_bytes,
    storage_path,
    upload_tree,
    write_bytes,
)
from histodiff.workflows.export.config import ExportConfig
from histodiff.workflows.export.lineage import autoencoder_of, measures
from histodiff.workflows.export.pictures import GRID_SIDE, grid_png, largest_difference
from histodiff.workflows.inspect import located
from histodiff.workflows.lineage import ancestors
from histodiff.workflows.networks import open_autoencoder, open_denoiser

CARD, GRID, CLAIM = "README.md", "samples.png", "histodiff.json"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: str
    denoiser: str
    """Full address of the denoiser."""
    autoencoder: str
    """Full address of the autoencoder that decodes."""
    largest_difference: float
    """Of a value of a picture, of 0 to 1, to what histodiff draws from the same noise."""


def export(address: str, config: ExportConfig, site: Site) -> Exported:
    """Writes the denoiser at ``address`` as a folder of diffusers.

    Args:
        address: As ``inspect`` takes it.
        config: Where to, and under which licence.
        site: Its root is where addresses are looked up; its device draws.

    Raises:
        ConfigError: It is no denoiser, cannot be put so, or the folder holds something else.
        ArtifactError: An artifact is missing or damaged.
    """
    root, reference = located(address, site)
    denoiser = open_artifact(root, reference)
    if denoiser.manifest.kind != Kind.DENOISERS:
        raise ConfigError(f"export '{address}': is one of {denoiser.manifest.kind}, no denoiser")
    autoencoder = autoencoder_of(root, denoiser, config.autoencoder)
    folder = storage_path(config.folder)
    claim = _claim(config, denoiser, autoencoder)
    _require_own(folder, claim)
    networks = _Networks(
        open_denoiser(denoiser, device=site.device, snapshot=config.snapshot),
        open_autoencoder(autoencoder, device=site.device),
    )
    pipeline = diffusers_pipeline(networks.denoiser, networks.autoencoder).to(site.device)
    _require_steps(config.steps, pipeline)
    drawn = {"steps": config.steps, "seed": config.seed}
    difference = largest_difference(pipeline, networks.denoiser, networks.autoencoder, **drawn)
    write_bytes(folder / CLAIM, claim)
    _write_pipeline(folder, pipeline)
    write_bytes(folder / GRID, grid_png(pipeline, **drawn))
    facts = _described(networks, pipeline, difference) | {
        "denoiser": str(denoiser.reference),
        "autoencoder": str(autoencoder.reference),
        "fingerprint": denoiser.manifest.fingerprint,
        "ancestors": ancestors(root, denoiser),
        "measures": [
            (str(artifact.reference), name, value)
            for artifact in (denoiser, autoencoder)
            for name, value in measures(artifact).items()
        ],
    }
    write_bytes(folder / CARD, _card(config, facts).encode())
    return Exported(str(folder), str(denoiser.reference), str(autoencoder.reference), difference)


@dataclass(frozen=True)
class _Networks:
    """The two that are exported."""

    denoiser: LoadedDenoiser
    autoencoder: Autoencoder


def _claim(config: ExportConfig, denoiser: Artifact, autoencoder: Artifact) -> bytes:
    """What the folder is of."""
    claim = {
        "denoiser": str(denoiser.reference),
        "denoiser_sha256": denoiser.manifest.content_sha256,
        "autoencoder": str(autoencoder.reference),
        "autoencoder_sha256": autoencoder.manifest.content_sha256,
        "snapshot": config.snapshot,
    }
    return (json.dumps(claim, indent=2, sort_keys=True) + "\n").encode()


def _require_own(folder: StoragePath, claim: bytes) -> None:
    """Checks that the folder is empty, or was written by the same export."""
    names = file_sizes(folder)
    if names and (CLAIM not in names or read_bytes(folder / CLAIM) != claim):
        raise ConfigError(f"folder={folder}: holds other files; choose an empty one")


def _require_steps(steps: int, pipeline: DiffusersPipeline) -> None:
    most = _max_steps(pipeline)
    if steps > most:
        raise ConfigError(f"steps={steps}: the exported pipeline takes at most {most}")


def _max_steps(pipeline: DiffusersPipeline) -> int:
    """Steps after which the last one still ends without noise (``steps_offset``)."""
    config = pipeline.scheduler.config
    return int(config.num_train_timesteps) // (1 + int(config.steps_offset))


def _write_pipeline(folder: StoragePath, pipeline: DiffusersPipeline) -> None:
    with tempfile.TemporaryDirectory(prefix="histodiff-") as scratch:
        pipeline.save_pretrained(scratch, safe_serialization=True)
        upload_tree(Path(scratch), folder)


def _described(
    networks: _Networks, pipeline: DiffusersPipeline, difference: float
) -> dict[str, Any]:
    """What the card says of the networks."""
    denoiser, learned = networks.denoiser, pipeline.unet.config.time_embedding_type == "learned"
    return {
        "objective": denoiser.denoiser.config.objective.type,
        "images_seen": denoiser.info.images_seen,
        "patch_px": denoiser.patch_px,
        "mpp": denoiser.mpp,
        "latent_shape": denoiser.latent_shape,
        "encoder_sha256": denoiser.encoder_sha256,
        "decoder_sha256": networks.autoencoder.decoder_sha256,
        "num_levels": pipeline.unet.config.num_train_timesteps if learned else None,
        "max_steps": _max_steps(pipeline),
        "difference": difference,
    }


def _card(config: ExportConfig, facts: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("histodiff.workflows.export", "."), undefined=StrictUndefined,
        autoescape=False, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("card.md.j2").render(
        license=config.license, snapshot=config.snapshot, steps=config.steps, seed=config.seed,
        grid=GRID, grid_count=GRID_SIDE**2, **facts,
    )  # fmt: skip
