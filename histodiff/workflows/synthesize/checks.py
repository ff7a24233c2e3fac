"""Whether the inputs of ``synthesize`` fit each other; told before anything is planned."""

import math
from collections.abc import Mapping

from histodiff.artifacts import Artifact, open_artifact
from histodiff.cluster.site import Site
from histodiff.diffusion import GuidanceConfig
from histodiff.errors import ConfigError
from histodiff.workflows.guide import SIGMAS
from histodiff.workflows.labels import (
    labels_of,
    labels_of_store,
    one_set_of_labels,
    opened_store,
)
from histodiff.workflows.networks import known_noise, require_same_encoder, require_snapshot
from histodiff.workflows.synthesize.config import STAINS, VARIED, SynthesizeConfig, weak_input
from histodiff.workflows.synthesize.varying import stain_rows


def opened_inputs(config: SynthesizeConfig, site: Site) -> dict[str, Artifact]:
    """The artifacts that ``config`` names, by its keys; they fit each other.

    Raises:
        ArtifactError: One is missing, or they have different encoders.
        ConfigError: The guide was trained for another denoiser or other noise levels, or a denoiser
            has no such snapshot.
    """
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    require_same_encoder(inputs["denoiser"], inputs["autoencoder"])
    if "guide" in inputs:
        _require_guide_of(inputs["guide"], inputs["denoiser"])
    require_snapshot(inputs["denoiser"], config.snapshot)
    if "guide" in inputs:
        known = known_noise(inputs["denoiser"], snapshot=config.snapshot)
        _require_known_noise(inputs["guide"], config.steering, known)
    if config.autoguidance is not None:
        require_snapshot(weak_input(inputs), config.autoguidance.snapshot)
        require_same_encoder(inputs["denoiser"], weak_input(inputs))
    return inputs


def known_labels(config: SynthesizeConfig, inputs: Mapping[str, Artifact]) -> str | None:
    """Digest of the labels that the samples know; None where they know none.

    Raises:
        ArtifactError: What is varied, or gives its stain, has another encoder.
        ConfigError: Guide, decoder and what is varied saw different labels, or a class is missing;
            no slide gives its stain.
    """
    known = {
        f"{key} {artifact.reference}": labels_of(artifact)
        for key, artifact in inputs.items()
        if key in ("guide", "autoencoder")
    }
    if config.variation is not None:
        require_same_encoder(inputs["denoiser"], inputs[VARIED])
        _require_donors(config, inputs)
        store = opened_store(inputs[VARIED], dev_split=config.variation.dev_split, seed=config.seed)
        labels = labels_of_store(store, budget=config.variation.budget, seed=config.seed)
        known[f"variation of {inputs[VARIED].reference}"] = labels.sha256
    return one_set_of_labels(known)


def _require_donors(config: SynthesizeConfig, inputs: Mapping[str, Artifact]) -> None:
    if config.variation is not None and (stains := config.variation.stains) is not None:
        require_same_encoder(inputs["denoiser"], inputs[STAINS])
        stain_rows(stains, inputs[STAINS], seed=config.seed)


def _require_guide_of(guide: Artifact, denoiser: Artifact) -> None:
    known = guide.manifest.inputs.get(str(denoiser.reference))
    if known != denoiser.manifest.fingerprint:
        raise ConfigError(
            f"guide {guide.reference} was not trained for {denoiser.reference}, whose whitening and"
            " noise levels it needs; train a guide for that denoiser"
        )


def _require_known_noise(
    guide: Artifact, guidance: GuidanceConfig, known: tuple[float, float]
) -> None:
    """Checks that the guide steers only where it was trained.

    Beyond the noise levels that the denoiser knows nothing is drawn, so an interval may reach
    there.
    """
    low, high = guidance.sigma_interval
    least, most = guide.manifest.contents.get(SIGMAS, (0.0, math.inf))  # guides of before say none
    if guidance.scale > 0 and (max(low, known[0]) < least or min(high, known[1]) > most):
        raise ConfigError(
            f"guidance.sigma_interval [{low:g}, {high:g}]: guide {guide.reference} was trained on"
            f" noise levels from {least:g} to {most:g}; stay inside, or train it on more"
        )
