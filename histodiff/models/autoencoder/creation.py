"""Untrained networks of an architecture."""

import torch
from diffusers import AutoencoderKL

from histodiff.kernels.attention import install_attention
from histodiff.models.autoencoder.architecture import (
    AutoencoderArchitecture,
    KlArchitecture,
    PatchArchitecture,
)
from histodiff.models.autoencoder.networks import AutoencoderNetwork
from histodiff.models.autoencoder.patch import PatchAutoencoder


def create_network(
    architecture: AutoencoderArchitecture, *, device: str = "cpu"
) -> AutoencoderNetwork:
    """An untrained network, channels last in memory (twice as fast on a CPU)."""
    match architecture:
        case KlArchitecture():
            network = _kl_network(architecture)
        case PatchArchitecture():
            network = PatchAutoencoder(**architecture.model_dump(exclude={"type"}))
    install_attention(network, "auto", device=torch.device(device))
    return network.to(device, memory_format=torch.channels_last)


def _kl_network(architecture: KlArchitecture) -> AutoencoderKL:
    levels = len(architecture.channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=architecture.channels,
        layers_per_block=architecture.blocks_per_level,
        latent_channels=architecture.latent_channels,
        norm_num_groups=architecture.norm_groups,
        mid_block_add_attention=architecture.mid_attention,
        scaling_factor=1.0,
    )
