"""What a denoiser sees in a latent: activations of its middle block, pooled over positions.

Legend: B batch, C channels, H height, W width of a latent, D channels of the middle block.
"""

import torch
from torch import Tensor

from histodiff.models.denoiser import Denoiser
from histodiff.models.dit import DiT

_IMAGE_DIMS = 4


@torch.no_grad()
def middle_features(denoiser: Denoiser, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """Mean over positions (B, D), fp32, of the middle block's output for noisy whitened latents."""
    network = denoiser.network
    # The middle block of a UNet; of a transformer the block in the middle, which gives tokens BND.
    middle = (
        network.blocks[len(network.blocks) // 2] if isinstance(network, DiT) else network.mid_block
    )
    seen: list[Tensor] = []
    hook = middle.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        denoiser(x_BCHW, sigma_B)
    finally:
        hook.remove()
    positions = (2, 3) if seen[0].dim() == _IMAGE_DIMS else (1,)
    return seen[0].float().mean(dim=positions)
