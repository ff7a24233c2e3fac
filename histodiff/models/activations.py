"""What a denoiser sees in a latent: activations of its middle block, pooled over positions.

Legend: B batch, C channels, H height, W width of a latent, D channels of the middle block.
"""

import torch
from torch import Tensor, nn

from histodiff.errors import ConfigError
from histodiff.models.denoiser import Denoiser


@torch.no_grad()
def middle_features(denoiser: Denoiser, x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """Mean over positions (B, D), fp32, of the middle block's output for noisy whitened latents.

    Raises:
        ConfigError: The network has no middle block.
    """
    middle = getattr(denoiser.unet, "mid_block", None)
    if not isinstance(middle, nn.Module):
        raise ConfigError(
            "extractor.denoiser: its network has no middle block; choose another extractor"
        )
    seen: list[Tensor] = []
    hook = middle.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        denoiser(x_BCHW, sigma_B)
    finally:
        hook.remove()
    return seen[0].float().mean(dim=(2, 3))
