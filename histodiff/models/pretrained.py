"""Networks that diffusers saved: where their files lie, and a UNet's weights as a starting point.

A source is a folder or a repository on the Hugging Face hub. No pickle is read: weights must be
safetensors.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Annotated, Any

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from huggingface_hub import snapshot_download
from torch import nn

from histodiff.config import Config, Location
from histodiff.errors import ConfigError

_log = logging.getLogger(__name__)

_FIXED = ("time_embedding_type", "flip_sin_to_cos", "freq_shift", "act_fn", "norm_eps")
"""Fields of diffusers' config that ours cannot express; other values shift what the network saw."""


class UNetSource(Config):
    """A ``UNet2DModel`` saved by diffusers, to start from."""

    source: Annotated[str, Location()]
    """A folder with config.json and safetensors weights, or a Hugging Face hub id."""
    revision: str | None = None
    """Commit of the hub repository; required for a hub id."""
    subfolder: str | None = None
    """Folder below the source, such as `unet`."""


def fetched_folder(source: str, revision: str | None, subfolder: str | None, *, field: str) -> Path:
    """The local folder with ``config.json`` and the weights of ``source``.

    Args:
        source: A folder, or a hub id.
        revision: Commit, tag or branch; required for a hub id, meaningless for a folder.
        subfolder: Folder below ``source``.
        field: The config's field, for messages.

    Raises:
        ConfigError: There is no such folder, or the hub does not give it.
    """
    local = Path(source).expanduser()
    if local.is_dir():
        return local / (subfolder or "")
    if revision is None:
        raise ConfigError(
            f"{field}.source '{source}': there is no such folder; for a repository on the Hugging"
            f" Face hub give {field}.revision too (a commit, so that the weights cannot change)"
        )
    below = f"{subfolder}/" if subfolder else ""
    wanted = [below + name for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME)]
    try:
        fetched = snapshot_download(source, revision=revision, allow_patterns=wanted)
    except (OSError, ValueError) as error:
        raise loading_failed(source, "a diffusers model", error, field=field) from error
    return Path(fetched) / (subfolder or "")


def class_name(folder: Path) -> str:
    """What ``config.json`` says the folder holds, in words if it says nothing."""
    try:
        config = json.loads((folder / CONFIG_NAME).read_bytes())
    except FileNotFoundError:
        return f"no {CONFIG_NAME}"
    except json.JSONDecodeError:
        return f"a {CONFIG_NAME} that is not JSON"
    return str(config.get("_class_name", "a model of unknown class"))


def loading_failed(source: str, wanted: str, error: Exception, *, field: str) -> ConfigError:
    """One line about ``error`` with the fix."""
    reason = " ".join(str(error).split())[:300]
    return ConfigError(
        f"{field}.source '{source}': cannot be loaded as {wanted} ({reason}); give a folder"
        f" with {CONFIG_NAME} and {SAFETENSORS_WEIGHTS_NAME}, or a hub id that this machine can"
        " reach"
    )


def absolute_source(start: UNetSource) -> UNetSource:
    """``start``, which processes with another working directory find too."""
    local = Path(start.source).expanduser()
    return start.model_copy(update={"source": str(local.resolve())}) if local.is_dir() else start


def source_sha256(start: UNetSource) -> str:
    """SHA-256 over config and weights file of ``start``.

    Raises:
        ConfigError: It is not there, or holds something else.
    """
    folder = _unet_folder(start)
    digest = hashlib.sha256()
    for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
        try:
            with (folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except FileNotFoundError as error:
            raise loading_failed(start.source, "a UNet2DModel", error, field="init") from error
    return digest.hexdigest()


def start_from(unet: nn.Module, start: UNetSource) -> None:
    """Fills ``unet`` with the weights of ``start``.

    Raises:
        ConfigError: It cannot be loaded, or another size, head count or normalisation makes it a
            different network; names the first difference.
    """
    try:
        saved = UNet2DModel.from_pretrained(
            str(_unet_folder(start)),
            use_safetensors=True,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise loading_failed(start.source, "a UNet2DModel", error, field="init") from error
    found, wanted = saved.state_dict(), unet.state_dict()
    difference = _first_difference(found, wanted) or _module_difference(saved, unet)
    if difference is not None:
        raise ConfigError(
            f"init.source '{start.source}': does not fit denoiser.network: {difference}; make"
            " denoiser.network (and the latents) like the saved network, or set init: null"
        )
    _warn_of_fixed_fields(saved, unet, start.source)
    unet.load_state_dict(found)


def _unet_folder(start: UNetSource) -> Path:
    folder = fetched_folder(start.source, start.revision, start.subfolder, field="init")
    found = class_name(folder)
    if found != "UNet2DModel":
        raise ConfigError(
            f"init.source '{start.source}': holds {found}, not a UNet2DModel;"
            " for a whole pipeline give init.subfolder: unet"
        )
    return folder


def _first_difference(
    found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]
) -> str | None:
    for name, tensor in wanted.items():
        if name not in found:
            return f"it has no {name}"
        if found[name].shape != tensor.shape:
            return f"{name} is {tuple(found[name].shape)} there and {tuple(tensor.shape)} here"
    extra = next((name for name in found if name not in wanted), None)
    return None if extra is None else f"it has {extra}, which is not here"


def _module_difference(saved: nn.Module, unet: nn.Module) -> str | None:
    """What equal shapes hide: the cut into heads, and the groups of normalisations."""
    ours = dict(unet.named_modules())
    for name, module in saved.named_modules():
        other: Any = ours[name]
        if isinstance(module, Attention) and module.heads != other.heads:
            return f"{name} has {module.heads} heads there and {other.heads} here"
        if isinstance(module, nn.GroupNorm) and module.num_groups != other.num_groups:
            return f"{name} has {module.num_groups} groups there and {other.num_groups} here"
    return None


def _warn_of_fixed_fields(saved: Any, unet: Any, source: str) -> None:
    for field in _FIXED:
        if saved.config[field] != unet.config[field]:
            _log.warning(
                "init.source '%s': was trained with %s=%s and runs here with %s",
                source, field, saved.config[field], unet.config[field],
            )  # fmt: skip
