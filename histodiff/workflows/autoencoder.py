"""``autoencoder``: import a KL autoencoder or train a small one, and measure it.

Writes the network in diffusers' layout, ``metrics.json`` (PSNR and SSIM, size of the latents),
``reconstructions.png`` (originals beside reconstructions) and, after training, the loss curve.
Training resumes from ``checkpoints/``.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator

from histodiff.artifacts import (
    Artifact,
    CommandConfig,
    Kind,
    Reference,
    UnitIssue,
    begin,
    open_artifact,
)
from histodiff.cluster.site import Site
from histodiff.config import Config, Location
from histodiff.data_prep.slides.patch_index import PatchIndex
from histodiff.data_prep.slides.splits import assert_disjoint
from histodiff.evaluation.equivariance import equivariance
from histodiff.evaluation.reconstruction import comparison_picture, reconstruction_quality
from histodiff.models.autoencoder import (
    Autoencoder,
    create_network,
    import_autoencoder,
    save_autoencoder,
)
from histodiff.models.weights import num_parameters
from histodiff.pretraining.autoencoder import (
    AutoencoderTraining,
    LoadedPatches,
    load_patches,
    training_loss,
)
from histodiff.runtime import derived_seed
from histodiff.storage import StoragePath, sha256_of, storage_path, write_bytes
from histodiff.telemetry import progress
from histodiff.training.fit import FitRecord, fit
from histodiff.workflows.tables import write_losses

_EVALUATION_BATCH = 16
_PICTURED = 16
_TURNED = 32
"""Held-out patches on which equivariance is measured: 15 passes over them."""
_FLOAT_BYTES = 4


class ImportMode(Config):
    """Take an existing diffusers ``AutoencoderKL``."""

    type: Literal["import"]
    source: Annotated[str, Location()]
    """A folder with config.json and safetensors weights, or a Hugging Face hub id."""
    revision: str | None = None
    """Commit of the hub repository; required for a hub id."""
    subfolder: str | None = None
    """Folder below the source, such as `vae`."""


class TrainMode(AutoencoderTraining):
    """Train an own autoencoder on the train split of the patches."""

    type: Literal["train"]


class AutoencoderConfig(CommandConfig):
    """Config of ``autoencoder``."""

    kind: ClassVar[Kind] = Kind.AUTOENCODERS

    patches: Annotated[tuple[Reference, ...], Location()] = ()
    """PatchIndexes to train on (train split) and to measure on (val split); needed for training."""
    mode: ImportMode | TrainMode = Field(discriminator="type")
    """`import` or `train`."""
    num_held_out: int = Field(default=128, ge=1)
    """At most this many validation patches are measured."""
    threads: int = Field(ge=1)
    """Torch threads; part of the identity, as results on a CPU depend on it."""
    seed: int
    """Decides the first weights, the patches, and every draw."""

    @model_validator(mode="after")
    def _training_needs_patches(self) -> "AutoencoderConfig":
        if isinstance(self.mode, TrainMode) and not self.patches:
            raise ValueError("mode 'train' needs patches; give a list of PatchIndexes")
        return self

    def inputs(self) -> dict[str, Reference]:
        return {
            f"patches.{number}": reference.as_kind(Kind.PATCHES)
            for number, reference in enumerate(self.patches)
        }


def autoencoder(config: AutoencoderConfig, site: Site) -> Artifact:
    """Imports or trains the autoencoder that ``config`` describes.

    Raises:
        ConfigError: The source cannot be loaded, or the patches do not suit.
    """
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    draft = begin(root, config, inputs=inputs, inventory=_inventory(config.mode, site))
    if draft.finished is not None:
        return draft.finished
    with draft:
        torch.set_num_threads(config.threads)
        indexes = [PatchIndex.open(artifact.path) for artifact in inputs.values()]
        for index in indexes:
            assert_disjoint(index.patches)
        held_out = _held_out(
            config, indexes
        )  # that there are none should not show after the training
        made = _made(config, indexes, draft.path, site.device)
        save_autoencoder(draft.path, made.network)
        if made.records:
            write_losses(draft.path, made.records)
        failed = list(made.failed)
        measured: dict[str, Any] = {}
        if held_out is not None:
            failed += held_out.failed
            measured = _measured(made.network, held_out.pixels_NHWC, draft.path)
        contents = {
            "encoder_sha256": made.network.encoder_sha256,
            "decoder_sha256": made.network.decoder_sha256,
            "downsampling": made.network.downsampling,
            "latent_channels": made.network.latent_channels,
            "parameters": num_parameters(made.network.network),
            **measured,
        }
        return draft.finish(contents, failed=failed)


def estimate(config: AutoencoderConfig, site: Site) -> dict[str, float | int | str]:
    """What would be done: steps, crops, size of the weights."""
    planned: dict[str, float | int | str] = {}
    for reference in config.inputs().values():
        index = PatchIndex.open(open_artifact(site.storage_root, reference).path)
        planned["patches"] = int(planned.get("patches", 0)) + index.patches.num_rows
    match config.mode:
        case TrainMode() as training:
            with torch.device("meta"):
                network = create_network(training.architecture, device="meta")
            planned["steps"] = training.fit.steps
            planned["crops"] = training.fit.steps * training.batch
            planned["bytes"] = num_parameters(network) * _FLOAT_BYTES
        case ImportMode() as imported:
            planned["source"] = imported.source
    return planned


def _inventory(mode: ImportMode | TrainMode, site: Site) -> dict[str, str]:
    """What decides the result beside the config: the bytes that are imported, the device."""
    if isinstance(mode, TrainMode):
        return {"device_class": site.device}
    folder = storage_path(Path(mode.source).expanduser()) / (mode.subfolder or "")
    if not folder.is_dir():
        return {"hub": mode.source, "device_class": site.device}
    files = [file for file in folder.iterdir() if file.name.endswith((".json", ".safetensors"))]
    digests = {file.name: sha256_of(file) for file in sorted(files, key=str)}
    return {**digests, "device_class": site.device}


def _held_out(config: AutoencoderConfig, indexes: Sequence[PatchIndex]) -> LoadedPatches | None:
    """The patches to measure on; None for an import without patches."""
    if not indexes:
        return None
    return load_patches(indexes, split="val", count=config.num_held_out, seed=config.seed)


@dataclass(frozen=True)
class _Made:
    """An autoencoder, how its training went, and the patches that could not be read."""

    network: Autoencoder
    records: Sequence[FitRecord] = ()
    failed: tuple[UnitIssue, ...] = ()


def _made(
    config: AutoencoderConfig, indexes: Sequence[PatchIndex], folder: StoragePath, device: str
) -> _Made:
    match config.mode:
        case ImportMode(source=source, revision=revision, subfolder=subfolder):
            return _Made(
                import_autoencoder(source, revision=revision, subfolder=subfolder, device=device)
            )
        case TrainMode() as training:
            return _trained(training, config.seed, indexes, folder, device)


def _trained(
    training: TrainMode, seed: int, indexes: Sequence[PatchIndex], folder: StoragePath, device: str
) -> _Made:
    patches = load_patches(indexes, split="train", count=training.max_patches, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, "autoencoder weights"))
        network = create_network(training.architecture, device=device)
    records = fit(
        network.train(),
        loss=training_loss(network, patches.pixels_NHWC, training, seed=seed),
        config=training.fit,
        seed=seed,
        checkpoint=folder / "checkpoints",
        description="train autoencoder",
    )
    return _Made(Autoencoder(network, device=device), records, patches.failed)


def _measured(
    network: Autoencoder, originals_NHWC: npt.NDArray[np.uint8], folder: StoragePath
) -> dict[str, Any]:
    """Writes metrics and picture of held-out patches; returns quality for the manifest."""
    decoded, means, stds = [], [], []
    with progress("measure", total=len(originals_NHWC), unit="patches") as bar:
        for start in range(0, len(originals_NHWC), _EVALUATION_BATCH):
            part_NHWC = originals_NHWC[start : start + _EVALUATION_BATCH]
            moments = network.encode(torch.from_numpy(part_NHWC).permute(0, 3, 1, 2))
            decoded.append(network.decode(moments.mean).permute(0, 2, 3, 1).cpu().numpy())
            means.append(moments.mean.cpu())
            stds.append(moments.std.cpu())
            bar.advance(len(part_NHWC))
    reconstructions_NHWC = np.concatenate(decoded)
    quality = asdict(reconstruction_quality(originals_NHWC, reconstructions_NHWC))
    mean_BCHW, std_BCHW = torch.cat(means), torch.cat(stds)
    latents = {
        "latent_mean": mean_BCHW.mean(dim=(0, 2, 3)).tolist(),
        "latent_std": mean_BCHW.std(dim=(0, 2, 3)).tolist(),
        "posterior_std": std_BCHW.mean(dim=(0, 2, 3)).tolist(),
    }
    record = json.dumps({**quality, **latents}, indent=2, sort_keys=True) + "\n"
    write_bytes(folder / "metrics.json", record.encode())
    spread = np.linspace(0, len(originals_NHWC) - 1, min(_PICTURED, len(originals_NHWC)))
    chosen = spread.astype(int)
    picture = comparison_picture(originals_NHWC[chosen], reconstructions_NHWC[chosen])
    write_bytes(folder / "reconstructions.png", picture)
    few = np.linspace(0, len(originals_NHWC) - 1, min(_TURNED, len(originals_NHWC))).astype(int)
    turned = equivariance(network, originals_NHWC[few], batch=_EVALUATION_BATCH)
    return {**quality, "equivariance": json.loads(json.dumps(asdict(turned)))}
