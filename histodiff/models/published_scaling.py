"""Mean and scale of latents as the authors of a published autoencoder give them in its config."""

import json
from typing import Any, NamedTuple

from diffusers.utils import CONFIG_NAME

from histodiff.storage import StoragePath, read_bytes

_SCALED_BY_ITSELF = "AutoencoderTiny"
"""Its latents are those of another autoencoder after scaling, so a factor of 1 says something."""


class PublishedLatents(NamedTuple):
    """Mean and scale of every channel of raw latents."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]


def published_latents(path: StoragePath) -> PublishedLatents | None:
    """What the autoencoder saved in ``path`` says of its latents; None if it says nothing.

    diffusers' pipelines show a denoiser ``(z - shift_factor) * scaling_factor``, or where the
    config has them ``(z - latents_mean) * scaling_factor / latents_std``.
    """
    try:
        config: dict[str, Any] = json.loads(read_bytes(path / CONFIG_NAME))
    except FileNotFoundError:
        return None
    factor, channels = config.get("scaling_factor"), config.get("latent_channels")
    mean, std, shift = (config.get(k) for k in ("latents_mean", "latents_std", "shift_factor"))
    if not factor or not channels:
        return None
    if mean is not None and std is not None:
        return PublishedLatents(tuple(mean), tuple(each / factor for each in std))
    if factor == 1.0 and not shift and config.get("_class_name") != _SCALED_BY_ITSELF:
        return None  # what diffusers says of one whose latents nobody measured
    return PublishedLatents((shift or 0.0,) * channels, (1.0 / factor,) * channels)
