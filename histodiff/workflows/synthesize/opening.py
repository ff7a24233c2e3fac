"""The networks and latents that ``synthesize`` draws with, opened on one device."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from histodiff.artifacts import Artifact
from histodiff.diffusion import Guide, noise_levels
from histodiff.errors import ConfigError
from histodiff.guidance.kinds import load_guide
from histodiff.latents import LatentStore, Whitening
from histodiff.models.autoencoder import Autoencoder
from histodiff.models.denoiser import Denoiser, LoadedDenoiser
from histodiff.synthesis.sampling import Drawing, Networks
from histodiff.synthesis.unguided import Unguided
from histodiff.workflows.networks import open_autoencoder, open_denoiser
from histodiff.workflows.synthesize.config import VARIED, SynthesizeConfig, weak_input
from histodiff.workflows.synthesize.varying import variation


@dataclass(frozen=True)
class Opened:
    """What a config draws with."""

    config: SynthesizeConfig
    inputs: Mapping[str, Artifact]
    device: str

    @cached_property
    def guide(self) -> Guide:
        """What steers; where nothing does, it says the classes."""
        if "guide" in self.inputs:

            def denoiser(snapshot: str) -> Denoiser:
                return self._denoiser_at(snapshot).denoiser

            return load_guide(self.inputs["guide"].path, denoiser, self.device)
        if VARIED in self.inputs:
            return Unguided(LatentStore.open(self.inputs[VARIED].path).classes)
        return Unguided()

    @cached_property
    def denoiser(self) -> LoadedDenoiser:
        """The denoiser."""
        return self._denoiser_at(self.config.snapshot)

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """What decodes."""
        return open_autoencoder(self.inputs["autoencoder"], device=self.device)

    def drawing(self) -> Drawing:
        """How samples are drawn."""
        config = self.config
        return Drawing(
            noise_levels(config.schedule, self.denoiser.denoiser.preconditioning),
            config.sampler, config.steering, config.autoguidance,
            variation(config, self.inputs, self.denoiser), config.seed,
        )  # fmt: skip

    def networks(self) -> Networks:
        """What samples are drawn with.

        Raises:
            ConfigError: The weaker denoiser of autoguidance has other latents.
        """
        whitening, autoencoder = self._whitening, self.autoencoder
        weak = self._weak_denoiser()
        return Networks(
            denoise=self.denoiser.denoiser,
            weak=None if weak is None else weak.denoiser,
            guide=self.guide,
            decode=lambda latents: autoencoder.decode(whitening.invert(latents)),
            latent_shape=self.denoiser.latent_shape,
            device=self.device,
        )

    @property
    def _whitening(self) -> Whitening:
        return Whitening(self.denoiser.whitening_mean, self.denoiser.whitening_scale)

    def _denoiser_at(self, snapshot: str) -> LoadedDenoiser:
        return open_denoiser(self.inputs["denoiser"], device=self.device, snapshot=snapshot)

    def _weak_denoiser(self) -> LoadedDenoiser | None:
        if self.config.autoguidance is None:
            return None
        artifact, snapshot = weak_input(self.inputs), self.config.autoguidance.snapshot
        weak = open_denoiser(artifact, device=self.device, snapshot=snapshot)
        if not _same_latents(weak, self.denoiser):
            raise ConfigError(
                f"autoguidance: {artifact.reference} whitens latents otherwise than"
                f" {self.inputs['denoiser'].reference}; take one that was trained on the same"
                " stores with the same scaling"
            )
        return weak


def _same_latents(one: LoadedDenoiser, other: LoadedDenoiser) -> bool:
    pairs = (
        (one.whitening_mean, other.whitening_mean), (one.whitening_scale, other.whitening_scale)
    )  # fmt: skip
    return one.latent_shape == other.latent_shape and all(
        torch.equal(torch.as_tensor(mine), torch.as_tensor(its)) for mine, its in pairs
    )
