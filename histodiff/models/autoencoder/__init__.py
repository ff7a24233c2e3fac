"""Autoencoders: pixels to raw latents and back, whatever the network is."""

from histodiff.models.autoencoder.adapter import (
    Autoencoder,
    LatentMoments,
    signed_pixels,
    unsigned_pixels,
    weights_sha256,
)
from histodiff.models.autoencoder.architecture import (
    AutoencoderArchitecture,
    AutoencoderPreset,
    KlArchitecture,
    autoencoder_preset,
)
from histodiff.models.autoencoder.creation import create_network
from histodiff.models.autoencoder.files import load_autoencoder, save_autoencoder
from histodiff.models.autoencoder.importing import TaesdFiles, import_autoencoder, taesd_files
from histodiff.models.autoencoder.networks import (
    AutoencoderNetwork,
    Posterior,
    PosteriorType,
    downsampling,
    last_convolution,
    latent_channels,
    posterior,
    posterior_type,
    published_scaling,
    require_trainable,
)

__all__ = [
    "Autoencoder",
    "AutoencoderArchitecture",
    "AutoencoderNetwork",
    "AutoencoderPreset",
    "KlArchitecture",
    "LatentMoments",
    "Posterior",
    "PosteriorType",
    "TaesdFiles",
    "autoencoder_preset",
    "create_network",
    "downsampling",
    "import_autoencoder",
    "last_convolution",
    "latent_channels",
    "load_autoencoder",
    "posterior",
    "posterior_type",
    "published_scaling",
    "require_trainable",
    "save_autoencoder",
    "signed_pixels",
    "taesd_files",
    "unsigned_pixels",
    "weights_sha256",
]
