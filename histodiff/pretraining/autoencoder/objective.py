"""What the engine trains: the autoencoder, or its decoder alone, behind a loss.

One module and one optimizer, so that partitions, averages and checkpoints are those of
pre-training. Every term is a mean over crops, so a batch may be cut into ranks and micro-batches
anyhow. Legend: B batch, C channels, H height, W width.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from histodiff.models.autoencoder import AutoencoderNetwork
from histodiff.pretraining.autoencoder.config import (
    AutoencoderTraining,
    DecoderLoss,
    DecoderTraining,
    ReconstructionLoss,
)
from histodiff.pretraining.autoencoder.loss import gradient_error, kl_divergence, pixel_error

_AUTOENCODER = "autoencoder."


class Losses(NamedTuple):
    """Of one micro-batch."""

    total: Tensor
    """What is differentiated."""
    terms: dict[str, Tensor]
    """The terms by name, unweighted, without gradients."""


class Objective(nn.Module):
    """The trained part of ``network`` and the loss of a micro-batch.

    Args:
        network: The autoencoder, on its device. For ``DecoderTraining`` its encoder is frozen.
        training: What is trained, with which loss.
    """

    def __init__(
        self, network: AutoencoderNetwork, training: AutoencoderTraining | DecoderTraining
    ) -> None:
        super().__init__()
        self._loss: DecoderLoss = training.loss
        # In a tuple it is not registered: the engine owns what is trained and nothing else.
        self._network = (network.requires_grad_(requires_grad=False),)
        names = ["decoder", "post_quant_conv"]
        if isinstance(training, AutoencoderTraining):
            names += ["encoder", "quant_conv"]
        parts = {name: getattr(network, name) for name in names}
        self.autoencoder = nn.ModuleDict({n: part for n, part in parts.items() if part is not None})
        self.autoencoder.train().requires_grad_(requires_grad=True)

    def forward(self, clean_BCHW: Tensor, noise_BCHW: Tensor) -> Losses:
        """The loss of crops in -1..1, given the noise of their posterior draws."""
        [network] = self._network
        posterior = network.encode(clean_BCHW).latent_dist
        decoded_BCHW = network.decode(posterior.mean + posterior.std * noise_BCHW).sample.float()
        terms = {
            "pixels": pixel_error(decoded_BCHW, clean_BCHW).mean(),
            "gradient": gradient_error(
                decoded_BCHW, clean_BCHW, scales=self._loss.gradient_scales
            ).mean(),
        }
        total = terms["pixels"] + self._loss.gradient * terms["gradient"]
        if isinstance(self._loss, ReconstructionLoss):
            terms["kl"] = kl_divergence(posterior.mean.float(), posterior.logvar.float())
            total = total + self._loss.kl * terms["kl"]
        return Losses(total, {name: term.detach() for name, term in terms.items()})


def take_weights(network: AutoencoderNetwork, state: Mapping[str, Tensor]) -> None:
    """Puts the trained weights of an ``Objective``'s state into a network of the same shape."""
    trained = {
        name.removeprefix(_AUTOENCODER): tensor
        for name, tensor in state.items()
        if name.startswith(_AUTOENCODER)
    }
    with torch.no_grad():
        network.load_state_dict({**network.state_dict(), **trained})
