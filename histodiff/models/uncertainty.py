"""The learned uncertainty ``u(sigma)`` of a training loss (Karras et al. 2024, EDM2, Eq. 14 ff.).

It is linear in Fourier features of ln sigma, so ``exp(-u) L + u`` is convex in its weights, and it
starts at zero: training starts with the unweighted loss. Legend: B batch, K features.
"""

import math

import torch
from torch import Tensor, nn


class Uncertainty(nn.Module):
    """``u(sigma)``, in fp32 under any autocast."""

    frequencies_K: Tensor
    phases_K: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("frequencies_K", torch.randn(channels))
        self.register_buffer("phases_K", 2 * math.pi * torch.rand(channels))
        self.weights_K = nn.Parameter(torch.zeros(channels))

    def forward(self, sigma_B: Tensor) -> Tensor:
        """``u(sigma)``, of the shape of ``sigma_B``."""
        # ln(sigma) / 4 is c_noise of Karras et al. 2022, Table 1.
        position_B1 = sigma_B.float().log().reshape(-1, 1) / 4
        angle_BK = 2 * math.pi * position_B1 * self.frequencies_K.float() + self.phases_K.float()
        features_BK = math.sqrt(2) * angle_BK.cos()
        return (features_BK * self.weights_K.float()).sum(dim=1) / math.sqrt(len(self.weights_K))
