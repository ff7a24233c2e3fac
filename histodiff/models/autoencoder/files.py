"""How an autoencoder lies in storage: diffusers' own folder, plus ``autoencoder.json``.

``from_pretrained`` of the class that ``config.json`` names reads it; ``autoencoder.json`` holds the
digests of encoder and decoder. No pickle.
"""

import json
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import safetensors.torch
from diffusers.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from torch import nn

from histodiff.errors import ArtifactCorrupt, ArtifactNotFound
from histodiff.models.autoencoder.adapter import Autoencoder
from histodiff.models.autoencoder.networks import NETWORKS
from histodiff.storage import StoragePath, local_copy, read_bytes, upload_tree, write_bytes

_DIGESTS = "autoencoder.json"
_FORMAT = 1
_METADATA = {"format": "pt"}
_UNNAMED = "AutoencoderKL"


def save_autoencoder(path: StoragePath, autoencoder: Autoencoder) -> None:
    """Writes the autoencoder into the folder ``path``, readable by diffusers too."""
    weights = {
        name: tensor.detach().float().cpu().contiguous()
        for name, tensor in autoencoder.network.state_dict().items()
    }
    with tempfile.TemporaryDirectory(prefix="histodiff-") as scratch:
        autoencoder.network.save_config(scratch)
        upload_tree(Path(scratch), path)
    write_bytes(path / SAFETENSORS_WEIGHTS_NAME, safetensors.torch.save(weights, _METADATA))
    record = {
        "format": _FORMAT,
        "encoder_sha256": autoencoder.encoder_sha256,
        "decoder_sha256": autoencoder.decoder_sha256,
        "downsampling": autoencoder.downsampling,
        "latent_channels": autoencoder.latent_channels,
    }
    write_bytes(path / _DIGESTS, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())


@dataclass(frozen=True)
class AutoencoderFacts:
    """What a saved autoencoder says of itself."""

    encoder_sha256: str
    decoder_sha256: str
    downsampling: int
    """Pixels along one side of a latent's cell."""
    latent_channels: int


def autoencoder_facts(path: StoragePath) -> AutoencoderFacts:
    """What the autoencoder saved in ``path`` says of itself; its weights are not read.

    Raises:
        ArtifactNotFound: There is none.
        ArtifactCorrupt: Its record is damaged.
    """
    try:
        record = json.loads(read_bytes(path / _DIGESTS))
        return AutoencoderFacts(
            **{each.name: record[each.name] for each in fields(AutoencoderFacts)}
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactNotFound(f"{path}: holds no saved autoencoder") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactCorrupt(f"{path / _DIGESTS}: is damaged ({error}); write it anew") from error


def load_autoencoder(path: StoragePath, *, device: str) -> Autoencoder:
    """The autoencoder saved in ``path``, its digests checked.

    Raises:
        ArtifactNotFound: There is none.
        ArtifactCorrupt: Weights and digests disagree, or it is of a class that is not known.
    """
    facts = autoencoder_facts(path)
    with local_copy(path) as folder:
        made: Any = _class_of(folder, path)
        try:
            network = made.from_pretrained(
                str(folder), use_safetensors=True, low_cpu_mem_usage=False
            )
        except (OSError, ValueError) as error:
            raise ArtifactCorrupt(f"{path}: {' '.join(str(error).split())[:300]}") from error
        autoencoder = Autoencoder(network, device=device)
    found = (autoencoder.encoder_sha256, autoencoder.decoder_sha256)
    if found != (facts.encoder_sha256, facts.decoder_sha256):
        raise ArtifactCorrupt(f"{path}: the weights do not match {_DIGESTS}; write it anew")
    return autoencoder


def _class_of(folder: Path, path: StoragePath) -> type[nn.Module]:
    """The class that ``config.json`` names; without a name it is an ``AutoencoderKL``."""
    try:
        name = json.loads((folder / CONFIG_NAME).read_bytes()).get("_class_name", _UNNAMED)
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(f"{path}: {CONFIG_NAME} cannot be read ({error})") from error
    if name not in NETWORKS:
        raise ArtifactCorrupt(
            f"{path}: {CONFIG_NAME} names the class {name}, which this version does not know;"
            f" it knows {', '.join(NETWORKS)}"
        )
    return NETWORKS[name]
