"""``autoencoder``: import one, train one, or train the decoder of one; measure it.

Writes the network in diffusers' layout, ``metrics.json`` (quality on held-out patches, size of the
latents), ``reconstructions.png`` (originals beside reconstructions) and, after training, the losses
term by term. Training runs on the ranks of the site, and resumes from ``checkpoints/`` like
``pretrain``.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from histodiff.artifacts import Artifact, Draft, begin, open_artifact
from histodiff.cluster.gang import torchrun_rank
from histodiff.cluster.site import Site, fewest_ranks, possible_ranks
from histodiff.data_prep.index.disjoint import assert_disjoint
from histodiff.data_prep.index.patch_index import PatchIndex
from histodiff.errors import ConfigError
from histodiff.models.autoencoder import (
    create_network,
    import_autoencoder,
    published_scaling,
    save_autoencoder,
    taesd_files,
)
from histodiff.models.perceptual import Lpips, RandomFeatures, perceptual_distance
from histodiff.models.weights import num_parameters
from histodiff.runtime.threads import use_threads
from histodiff.storage import StoragePath, sha256_of, storage_path
from histodiff.workflows.autoencoder.config import (
    SOURCE,
    AutoencoderConfig,
    DecoderMode,
    ImportMode,
    Mode,
    TrainMode,
)
from histodiff.workflows.autoencoder.ranks import (
    AutoencoderResult,
    described,
    held_out_patches,
    patch_indexes,
    target_indexes,
    trained_autoencoder,
)

_FLOAT_BYTES = 4


def autoencoder(config: AutoencoderConfig, site: Site) -> Artifact:
    """Imports or trains the autoencoder that ``config`` describes.

    Raises:
        ConfigError: The source cannot be loaded, or patches or ranks do not suit.
        TrainingDiverged: The loss became non-finite.
        Preempted: The command was told to end, and has saved everything.
    """
    _require_fitting_ranks(config.mode, site)
    for network in _perceptual_networks(config):
        perceptual_distance(network, device="cpu")  # a missing file shows before anything is begun
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    draft = begin(root, config, inputs=inputs, inventory=_inventory(config.mode, site))
    if draft.finished is not None:
        return draft.finished
    if torchrun_rank():  # the process of rank 0 drives
        return _made(config, site, draft, inputs)
    with draft:
        return _made(config, site, draft, inputs)


def estimate(config: AutoencoderConfig, site: Site) -> dict[str, float | int | str]:
    """What would be done: steps, crops, size of the weights."""
    _require_fitting_ranks(config.mode, site)
    planned: dict[str, float | int | str] = {}
    inputs = {key: open_artifact(site.storage_root, ref) for key, ref in config.inputs().items()}
    for artifact in patch_indexes(inputs):
        index = PatchIndex.open(artifact.path)
        planned["patches"] = int(planned.get("patches", 0)) + index.patches.num_rows
    match config.mode:
        case ImportMode() as imported:
            planned["source"] = imported.source
            return planned
        case TrainMode() as training:
            with torch.device("meta"):
                network = create_network(training.architecture, device="meta")
            planned["bytes"] = num_parameters(network) * _FLOAT_BYTES
        case DecoderMode():
            parameters = int(inputs[SOURCE].manifest.contents["parameters"])
            planned["bytes"] = parameters * _FLOAT_BYTES
    train = config.mode.train
    ranks = fewest_ranks(site.ranks)
    planned |= {"steps": train.num_steps, "crops": train.num_steps * train.batch}
    return planned | {"ranks": ranks, "micro_batch": train.micro_batch_of(ranks)}


def _require_fitting_ranks(mode: Mode, site: Site) -> None:
    if isinstance(mode, ImportMode):
        if torchrun_rank() is not None:
            raise ConfigError("mode 'import' needs one process; start it without torchrun")
        return
    for number in possible_ranks(site.ranks):
        mode.train.micro_batch_of(number)


def _perceptual_networks(config: AutoencoderConfig) -> list[RandomFeatures | Lpips]:
    """Those that measure and that train."""
    term = None if isinstance(config.mode, ImportMode) else config.mode.loss.perceptual
    return [config.perceptual, *([term.network] if term is not None else [])]


def _inventory(mode: Mode, site: Site) -> dict[str, str]:
    """What decides the result beside the config: the bytes that are imported, the device."""
    if not isinstance(mode, ImportMode):
        return {"device_class": site.device}
    pair = taesd_files(mode.source, decoder=mode.decoder, subfolder=mode.subfolder)
    if pair is not None:
        digests = {key: sha256_of(storage_path(file)) for key, file in pair._asdict().items()}
        return {**digests, "device_class": site.device}
    folder = storage_path(Path(mode.source).expanduser()) / (mode.subfolder or "")
    if not folder.is_dir():
        return {"hub": mode.source, "device_class": site.device}
    files = [file for file in folder.iterdir() if file.name.endswith((".json", ".safetensors"))]
    digests = {file.name: sha256_of(file) for file in sorted(files, key=str)}
    return {**digests, "device_class": site.device}


def _made(
    config: AutoencoderConfig, site: Site, draft: Draft, inputs: Mapping[str, Artifact]
) -> Artifact:
    use_threads(config.threads)
    for path in [artifact.path for artifact in patch_indexes(inputs)]:
        assert_disjoint(PatchIndex.open(path).patches)
    if isinstance(config.mode, ImportMode):
        result = _imported(config, config.mode, inputs, draft.path, site.device)
    else:
        result = trained_autoencoder(config, config.mode, site, draft, inputs)
    return draft.finish(result.contents, failed=result.failed, measured=result.measured)


def _imported(
    config: AutoencoderConfig,
    mode: ImportMode,
    inputs: Mapping[str, Artifact],
    folder: StoragePath,
    device: str,
) -> AutoencoderResult:
    held_out = held_out_patches(
        [artifact.path for artifact in patch_indexes(inputs)],
        target_indexes(inputs),
        count=config.num_held_out,
        seed=config.seed,
    )
    network = import_autoencoder(
        mode.source,
        decoder=mode.decoder,
        revision=mode.revision,
        subfolder=mode.subfolder,
        device=device,
    )
    save_autoencoder(folder, network)
    result = described(network, held_out, folder, perceptual=config.perceptual)
    scaling = published_scaling(network.network)
    return replace(result, contents={**result.contents, "published_scaling": scaling})
