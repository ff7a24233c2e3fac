"""Published autoencoders: from a folder, from the Hugging Face hub, or TAESD's own two files.

Weights are safetensors. The one exception are the ``.pth`` files of the TAESD family, which are
read with ``weights_only`` (tensors, nothing that runs) and are safetensors from then on.
"""

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.utils import CONFIG_NAME

from histodiff.errors import ConfigError
from histodiff.models.autoencoder.adapter import Autoencoder
from histodiff.models.autoencoder.networks import (
    NETWORKS,
    AutoencoderNetwork,
    downsampling,
    posterior,
)
from histodiff.models.autoencoder.taesd import taesd_network
from histodiff.models.pretrained import class_name, fetched_folder, loading_failed

_ENCODER, _DECODER = "_encoder.pth", "_decoder.pth"


class TaesdFiles(NamedTuple):
    """State dicts of encoder and decoder, as TAESD's repository has them."""

    encoder: Path
    decoder: Path


def import_autoencoder(
    source: str,
    *,
    decoder: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    device: str = "cpu",
) -> Autoencoder:
    """The autoencoder at ``source``.

    Args:
        source: A folder or a hub id such as ``stabilityai/sd-vae-ft-mse`` that holds one of
            ``NETWORKS``; a folder with ``*_encoder.pth`` and ``*_decoder.pth`` of the TAESD family;
            or that ``.pth`` of its encoder.
        decoder: The ``.pth`` of its decoder; with a ``source`` that is one file, and only then.
        revision: Commit, tag or branch; required for a hub id, meaningless for a folder.
        subfolder: Folder below ``source``, such as ``vae``.
        device: Where it will run.

    Raises:
        ConfigError: It cannot be loaded; says what to change.
    """
    files = taesd_files(source, decoder=decoder, subfolder=subfolder)
    if files is not None:
        network: AutoencoderNetwork = _taesd(files)
    else:
        network = _from_diffusers(source, revision, subfolder)
    _require_pictures(network, source)
    return Autoencoder(network, device=device)


def taesd_files(
    source: str, *, decoder: str | None = None, subfolder: str | None = None
) -> TaesdFiles | None:
    """The two files of the TAESD family that ``source`` means; None where it means none.

    Raises:
        ConfigError: A file is missing, or a folder has several.
    """
    local = Path(source).expanduser()
    if local.is_file() or decoder is not None:
        if decoder is None:
            raise ConfigError(
                f"mode.source '{source}': is one file; give the .pth of the decoder as mode.decoder"
            )
        files = TaesdFiles(local, Path(decoder).expanduser())
        for key, path in zip(("source", "decoder"), files, strict=True):
            if not path.is_file():
                raise ConfigError(f"mode.{key} '{path}': there is no such file; give a .pth")
        return files
    folder = local / (subfolder or "")
    if not folder.is_dir() or (folder / CONFIG_NAME).exists():
        return None
    pairs = [
        TaesdFiles(path, other)
        for path in sorted(folder.glob(f"*{_ENCODER}"))
        if (other := path.with_name(path.name.removesuffix(_ENCODER) + _DECODER)).is_file()
    ]
    if len(pairs) > 1:
        names = ", ".join(pair.encoder.name for pair in pairs)
        raise ConfigError(
            f"mode.source '{source}': holds several autoencoders ({names}); give the .pth of one"
            " encoder as mode.source and that of its decoder as mode.decoder"
        )
    return pairs[0] if pairs else None


def _taesd(files: TaesdFiles) -> AutoencoderNetwork:
    states = [_state_dict(path) for path in files]
    try:
        return taesd_network(*states)
    except ValueError as error:
        reason = str(error)[:300]
        raise ConfigError(
            f"mode.source '{files.encoder}': is not an autoencoder of the TAESD family ({reason});"
            " give the encoder and the decoder of one network, as its repository has them"
        ) from error


def _state_dict(path: Path) -> dict[str, Any]:
    """Tensors by name; nothing that the file holds is run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        raise ConfigError(
            f"mode.source '{path}': cannot be read as a file of tensors alone, and nothing else is"
            f" unpickled ({' '.join(str(error).split())[:100]}); give a state dict of the TAESD"
            " family, or a folder with safetensors"
        ) from error
    if not isinstance(state, dict):
        raise ConfigError(f"mode.source '{path}': holds no state dict; give one of a TAESD network")
    return state


def _from_diffusers(source: str, revision: str | None, subfolder: str | None) -> AutoencoderNetwork:
    folder = fetched_folder(source, revision, subfolder, field="mode")
    found = class_name(folder)
    if found not in NETWORKS:
        raise ConfigError(
            f"mode.source '{source}': holds {found}, not one of {', '.join(NETWORKS)} (nor"
            f" *{_ENCODER} and *{_DECODER}); for a whole pipeline give mode.subfolder: vae"
        )
    kind: Any = NETWORKS[found]
    try:
        return kind.from_pretrained(
            str(folder), use_safetensors=True, torch_dtype=torch.float32, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise loading_failed(source, f"an {found}", error, field="mode") from error


@torch.no_grad()
def _require_pictures(network: AutoencoderNetwork, source: str) -> None:
    """Checks that RGB pictures come out as large as they go in."""
    side = 2 * downsampling(network)
    wanted = (1, 3, side, side)
    try:
        latents = posterior(network.eval(), torch.zeros(wanted)).mean
        found: object = tuple(network.decode(latents).sample.shape)
    except RuntimeError as error:
        found = " ".join(str(error).split())[:200]
    if found != wanted:
        raise ConfigError(
            f"mode.source '{source}': does not give RGB pictures of the size that it is given"
            f" ({wanted} becomes {found}); only such autoencoders can be imported"
        )
