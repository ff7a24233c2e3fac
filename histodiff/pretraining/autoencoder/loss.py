"""The terms of the loss that need no network of their own, each for every crop by itself.

The loss is L1 on pixels, plus L1 on their gradients at several scales (edges count as much as flat
colour, which keeps nuclei sharp), plus a light KL term that holds the latents near unit variance.
Legend: B batch, C channels, H height, W width.
"""

from torch import Tensor
from torch.nn import functional


def pixel_error(decoded_BCHW: Tensor, clean_BCHW: Tensor) -> Tensor:
    """L1 error of each crop (B)."""
    return (decoded_BCHW - clean_BCHW).abs().mean(dim=(1, 2, 3))


def gradient_error(decoded_BCHW: Tensor, clean_BCHW: Tensor, *, scales: int) -> Tensor:
    """L1 error of the gradients of each crop (B), across plus down, averaged over scales."""
    error_BCHW = decoded_BCHW - clean_BCHW
    total_B = error_BCHW.new_zeros(len(error_BCHW))
    for scale in range(scales):
        if scale:
            error_BCHW = functional.avg_pool2d(error_BCHW, 2)
        # The gradient is linear: the error's gradient is the gradients' error.
        across_B = (error_BCHW[..., :, 1:] - error_BCHW[..., :, :-1]).abs().mean(dim=(1, 2, 3))
        down_B = (error_BCHW[..., 1:, :] - error_BCHW[..., :-1, :]).abs().mean(dim=(1, 2, 3))
        total_B = total_B + (across_B + down_B) / scales
    return total_B


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of N(mean, variance) to N(0, 1), mean over values (Kingma & Welling 2014, App. B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
