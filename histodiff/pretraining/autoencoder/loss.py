"""The terms of the loss, each for every crop by itself.

The loss is L1 on pixels, plus L1 on their gradients at several scales (edges count as much as flat
colour, which keeps nuclei sharp), plus a light KL term that holds the latents near unit variance.
It may have a discriminator, whose part is weighted crop by crop. Legend: B batch, C channels, H
height, W width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv2d_weight

_TINY = 1e-6
_LARGEST_WEIGHT = 1e4


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


class Adversarial(NamedTuple):
    """What a discriminator says of decoded crops."""

    generator_B: Tensor
    """Hinge loss of the decoder (Lim & Ye 2017), a value without a gradient."""
    gradient_BCHW: Tensor
    """Its gradient at the decoded pixels."""
    discriminator: Tensor
    """Hinge loss of the discriminator; differentiates to its weights alone."""


def adversarial(discriminator: nn.Module, decoded_BCHW: Tensor, clean_BCHW: Tensor) -> Adversarial:
    """Losses of decoder and discriminator, from one pass over each picture."""
    judged_BCHW = decoded_BCHW.detach().requires_grad_()
    fake, real = discriminator(judged_BCHW), discriminator(clean_BCHW)
    generator_B = -fake.mean(dim=(1, 2, 3))
    [gradient_BCHW] = torch.autograd.grad(generator_B.sum(), judged_BCHW, retain_graph=True)
    hinge = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
    return Adversarial(generator_B.detach(), gradient_BCHW, 0.5 * hinge)


def adaptive_weight(
    wanted_BCHW: Tensor,
    adversarial_BCHW: Tensor,
    *,
    last_input_BCHW: Tensor,
    convolution: nn.Conv2d,
) -> Tensor:
    """The weight (B) that makes an adversarial gradient as long as that of the other terms.

    Esser et al. 2021 (VQGAN), Eq. 7, capped as in their code: the ratio of the lengths of the
    gradients of the decoder's last weights. There they are of a batch; here of each crop by itself,
    so that a batch may be cut anyhow.

    Args:
        wanted_BCHW: Gradient of the other terms at the decoded pixels.
        adversarial_BCHW: Gradient of the generator's loss there.
        last_input_BCHW: What the last convolution was given.
        convolution: It keeps the resolution; its output is the picture, or is shuffled into it.
    """
    shape = tuple(convolution.weight.shape)
    shuffled = wanted_BCHW.shape[-1] // last_input_BCHW.shape[-1]

    def length(place: int, gradient_BCHW: Tensor) -> Tensor:
        one = slice(place, place + 1)
        of_weights: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
            last_input_BCHW[one],
            shape,
            functional.pixel_unshuffle(gradient_BCHW[one], shuffled),
            padding=convolution.padding,
        )
        norm: Tensor = torch.linalg.vector_norm(of_weights)
        return norm

    ratios = [
        length(place, wanted_BCHW) / (length(place, adversarial_BCHW) + _TINY)
        for place in range(len(wanted_BCHW))
    ]
    return torch.stack(ratios).clamp(0, _LARGEST_WEIGHT)


def with_gradient(value: Tensor, decoded_BCHW: Tensor, gradient_BCHW: Tensor) -> Tensor:
    """``value``, with a gradient that is known already where the pixels were decoded."""
    pulled = (decoded_BCHW * gradient_BCHW).sum()
    return value.detach() + pulled - pulled.detach()
