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
    PatchArchitecture,
    autoencoder_preset,
)
from histodiff.models.autoencoder.creation import create_network
from histodiff.models.autoencoder.files import (
    AutoencoderFacts,
    autoencoder_facts,
    load_autoencoder,
    save_autoencoder,
)
from histodiff.models.autoencoder.importing import TaesdFiles, import_autoencoder, taesd_files
from histodiff.models.autoencoder.networks import (
    AutoencoderNetwork,
    Posterior,
    PosteriorType,
    channel_symmetries,
    downsampling,
    last_convolution,
    latent_channels,
    posterior,
    posterior_type,
    published_scaling,
    require_trainable,
)
from histodiff.models.autoencoder.patch import PatchAutoencoder, start_from_linear
from histodiff.models.autoencoder.principal_components import LinearMap, principal_components
from histodiff.models.autoencoder.turning import turned, turned_each

__all__ = [
    "Autoencoder",
    "AutoencoderArchitecture",
    "AutoencoderFacts",
    "AutoencoderNetwork",
    "AutoencoderPreset",
    "KlArchitecture",
    "LatentMoments",
    "LinearMap",
    "PatchArchitecture",
    "PatchAutoencoder",
    "Posterior",
    "PosteriorType",
    "TaesdFiles",
    "autoencoder_facts",
    "autoencoder_preset",
    "channel_symmetries",
    "create_network",
    "downsampling",
    "import_autoencoder",
    "last_convolution",
    "latent_channels",
    "load_autoencoder",
    "posterior",
    "posterior_type",
    "principal_components",
    "published_scaling",
    "require_trainable",
    "save_autoencoder",
    "signed_pixels",
    "start_from_linear",
    "taesd_files",
    "turned",
    "turned_each",
    "unsigned_pixels",
    "weights_sha256",
]
