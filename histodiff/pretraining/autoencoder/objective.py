"""What the engine trains: the autoencoder, or its decoder alone, behind a loss.

One module and one optimizer, also with a discriminator or a classifier, so that partitions,
averages and checkpoints are those of pre-training. Decoder and discriminator are updated in one
step, each by the gradient of its own loss. Every term is a mean over crops, so a batch may be cut
into ranks and micro-batches anyhow. Legend: B batch, C channels, H height, W width.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from histodiff.models.autoencoder import (
    AutoencoderNetwork,
    channel_symmetries,
    last_convolution,
    posterior,
    turned_each,
)
from histodiff.models.patch_network import PatchNetwork, create_patch_network
from histodiff.models.perceptual import PerceptualDistance, perceptual_distance
from histodiff.pretraining.autoencoder.config import (
    AdversarialTerm,
    AutoencoderTraining,
    ClassificationTerm,
    DecoderTraining,
    DecoderTuningLoss,
    ReconstructionLoss,
)
from histodiff.pretraining.autoencoder.loss import (
    adaptive_weight,
    adversarial,
    gradient_error,
    kl_divergence,
    pixel_error,
    with_gradient,
)
from histodiff.pretraining.autoencoder.patches import NO_LABEL
from histodiff.runtime import derived_seed

_AUTOENCODER = "autoencoder."

Terms = dict[str, Tensor]


class Losses(NamedTuple):
    """Of one micro-batch."""

    total: Tensor
    """What is differentiated."""
    terms: Terms
    """The terms by name, unweighted, without gradients."""


class Objective(nn.Module):
    """The trained part of ``network`` and the loss of a micro-batch.

    Args:
        network: The autoencoder, on its device. For ``DecoderTraining`` its encoder is frozen.
        training: What is trained, with which loss.
        num_classes: Labels, for the auxiliary classifier.
        seed: Decides the first weights of discriminator and classifier.
    """

    def __init__(
        self,
        network: AutoencoderNetwork,
        training: AutoencoderTraining | DecoderTraining,
        *,
        num_classes: int,
        seed: int,
    ) -> None:
        super().__init__()
        self._loss: ReconstructionLoss | DecoderTuningLoss = training.loss
        # In tuples they are not registered: the engine owns what is trained and nothing else.
        self._network = (network.requires_grad_(requires_grad=False),)
        self._perceptual = _perceptual(self._loss, str(network.device))
        names = ["decoder", "post_quant_conv"]
        if isinstance(training, AutoencoderTraining):
            names += ["encoder", "quant_conv"]
        parts = {name: getattr(network, name, None) for name in names}
        self.autoencoder = nn.ModuleDict({n: part for n, part in parts.items() if part is not None})
        self.autoencoder.train().requires_grad_(requires_grad=True)
        self._encoder_trained = "encoder" in self.autoencoder
        self._last_input = torch.empty(0)
        if self._loss.adversarial is not None:
            last_convolution(network).register_forward_pre_hook(self._keep_last_input)
        tuned = self._loss if isinstance(self._loss, DecoderTuningLoss) else None
        classification = tuned.classification if tuned is not None else None
        device = network.device
        self.discriminator = _beside(
            self._loss.adversarial, outputs=1, seed=derived_seed(seed, "discriminator"), on=device
        )
        self.classifier = _beside(
            classification, outputs=num_classes, seed=derived_seed(seed, "classifier"), on=device
        )

    def forward(
        self,
        clean_BCHW: Tensor,
        noise_BCHW: Tensor,
        label_B: Tensor,
        turn_B: Tensor,
        *,
        images_seen: int,
    ) -> Losses:
        """The loss of a micro-batch.

        Args:
            clean_BCHW: Crops in -1..1.
            noise_BCHW: The noise of their posterior draws.
            label_B: Numbers of their classes; ``NO_LABEL`` where there is none.
            turn_B: Numbers of symmetries; latents and crops are turned by them if the loss says so.
            images_seen: The clock before the step; decides whether the discriminator takes part.
        """
        [network] = self._network
        terms: Terms = {}
        with nullcontext() if self._encoder_trained else torch.no_grad():
            found = posterior(network, clean_BCHW)
        latents_BCHW = found.mean + found.std * noise_BCHW
        if isinstance(self._loss, ReconstructionLoss) and self._loss.turned_latents:
            channels = channel_symmetries(network)
            latents_BCHW = turned_each(latents_BCHW, turn_B, channels=channels)
            clean_BCHW = turned_each(clean_BCHW, turn_B)
        decoded_BCHW = network.decode(latents_BCHW).sample.float()
        term, discriminator = self._loss.adversarial, self.discriminator
        if term is None or discriminator is None:
            total = self._pixel_terms(decoded_BCHW, clean_BCHW, terms).mean()
        elif images_seen < term.start_images:
            total = self._pixel_terms(decoded_BCHW, clean_BCHW, terms).mean()
            # Gradients of zero: the optimizer's state is complete, and nothing moves.
            total = total + 0.0 * sum(weight.sum() for weight in discriminator.parameters())
        else:
            total = self._adversarial_total(decoded_BCHW, clean_BCHW, terms, term, discriminator)
        if isinstance(self._loss, ReconstructionLoss):
            terms["kl"] = kl_divergence(found.mean.float(), found.log_variance.float())
            total = total + self._loss.kl * terms["kl"]
        elif self._loss.classification is not None and self.classifier is not None:
            terms["classification"] = _cross_entropy(self.classifier(decoded_BCHW), label_B)
            total = total + self._loss.classification.weight * terms["classification"]
        return Losses(total, {name: value.detach() for name, value in terms.items()})

    def _pixel_terms(self, decoded_BCHW: Tensor, clean_BCHW: Tensor, terms: Terms) -> Tensor:
        """Weighted sum (B) of the terms that compare pixels; their means are put into ``terms``."""
        loss = self._loss
        pixels_B = pixel_error(decoded_BCHW, clean_BCHW)
        gradient_B = gradient_error(decoded_BCHW, clean_BCHW, scales=loss.gradient_scales)
        terms |= {"pixels": pixels_B.mean(), "gradient": gradient_B.mean()}
        total_B = pixels_B + loss.gradient * gradient_B
        for distance in self._perceptual:
            assert loss.perceptual is not None
            perceptual_B = distance(decoded_BCHW, clean_BCHW)
            terms["perceptual"] = perceptual_B.mean()
            total_B = total_B + loss.perceptual.weight * perceptual_B
        return total_B

    def _adversarial_total(
        self,
        decoded_BCHW: Tensor,
        clean_BCHW: Tensor,
        terms: Terms,
        term: AdversarialTerm,
        discriminator: nn.Module,
    ) -> Tensor:
        """Pixel terms, the generator's and the discriminator's, with the gradient of each."""
        compared_BCHW = decoded_BCHW.detach().requires_grad_()
        error_B = self._pixel_terms(compared_BCHW, clean_BCHW, terms)
        [wanted_BCHW] = torch.autograd.grad(error_B.sum(), compared_BCHW)
        found = adversarial(discriminator, decoded_BCHW, clean_BCHW)
        [network] = self._network
        weight_B = term.weight * adaptive_weight(
            wanted_BCHW,
            found.gradient_BCHW,
            last_input_BCHW=self._last_input,
            convolution=last_convolution(network),
        )
        gradient_BCHW = wanted_BCHW + weight_B.reshape(-1, 1, 1, 1) * found.gradient_BCHW
        terms["generator"] = found.generator_B.mean()
        terms["generator_weight"] = weight_B.mean()
        terms["discriminator"] = found.discriminator
        value = (error_B + weight_B * found.generator_B).mean()
        carried = with_gradient(value, decoded_BCHW, gradient_BCHW / len(decoded_BCHW))
        return carried + found.discriminator

    def _keep_last_input(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        del module
        self._last_input = arguments[0].detach().float()


def take_weights(network: AutoencoderNetwork, state: Mapping[str, Tensor]) -> None:
    """Puts the trained weights of an ``Objective``'s state into a network of the same shape."""
    trained = {
        name.removeprefix(_AUTOENCODER): tensor
        for name, tensor in state.items()
        if name.startswith(_AUTOENCODER)
    }
    with torch.no_grad():
        network.load_state_dict({**network.state_dict(), **trained})


def _perceptual(
    loss: ReconstructionLoss | DecoderTuningLoss, device: str
) -> tuple[PerceptualDistance, ...]:
    if loss.perceptual is None:
        return ()
    return (perceptual_distance(loss.perceptual.network, device=device),)


def _beside(
    term: AdversarialTerm | ClassificationTerm | None, *, outputs: int, seed: int, on: torch.device
) -> PatchNetwork | None:
    """The network that a term trains beside the autoencoder."""
    if term is None:
        return None
    network = create_patch_network(width=term.width, layers=term.layers, outputs=outputs, seed=seed)
    return network.to(on)


def _cross_entropy(logits_BKHW: Tensor, label_B: Tensor) -> Tensor:
    """Mean over all crops, of which those without a label count 0."""
    logits_BK = logits_BKHW.mean(dim=(2, 3))
    return functional.cross_entropy(
        logits_BK, label_B, ignore_index=NO_LABEL, reduction="none"
    ).mean()
