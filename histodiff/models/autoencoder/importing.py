"""Published autoencoders: from a folder, or from the Hugging Face hub."""

import torch
from diffusers import AutoencoderKL

from histodiff.errors import ConfigError
from histodiff.models.autoencoder.adapter import Autoencoder
from histodiff.models.pretrained import class_name, fetched_folder, loading_failed


def import_autoencoder(
    source: str, *, revision: str | None = None, subfolder: str | None = None, device: str = "cpu"
) -> Autoencoder:
    """The ``AutoencoderKL`` in a local folder or of a repository on the Hugging Face hub.

    Args:
        source: A folder, or a hub id such as ``stabilityai/sd-vae-ft-mse``.
        revision: Commit, tag or branch; required for a hub id, meaningless for a folder.
        subfolder: Folder below ``source``, such as ``vae``.
        device: Where it will run.

    Raises:
        ConfigError: It cannot be loaded; says what to change.
    """
    folder = fetched_folder(source, revision, subfolder, field="mode")
    found = class_name(folder)
    if found != "AutoencoderKL":
        raise ConfigError(
            f"mode.source '{source}': holds {found}, not an AutoencoderKL;"
            " for a whole pipeline give mode.subfolder: vae"
        )
    try:
        network = AutoencoderKL.from_pretrained(
            str(folder), use_safetensors=True, torch_dtype=torch.float32, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise loading_failed(source, "an AutoencoderKL", error, field="mode") from error
    return Autoencoder(network, device=device)
