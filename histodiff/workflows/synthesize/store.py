"""What the SampleStore of a config holds, known from descriptions alone: no network is loaded."""

import json
from collections.abc import Mapping

from histodiff.artifacts import Artifact
from histodiff.latents import LatentStore
from histodiff.models.autoencoder import autoencoder_facts
from histodiff.models.denoiser import describe_denoiser
from histodiff.samples import StoreHeader, finish_store, finished_shards
from histodiff.storage import StoragePath
from histodiff.synthesis.unguided import NO_GUIDE, UNCONDITIONAL_CLASSES
from histodiff.synthesis.worker import StorePlan
from histodiff.workflows.networks import snapshot_path
from histodiff.workflows.synthesize.config import STAINS, VARIED, SynthesizeConfig


def drawn_classes(inputs: Mapping[str, Artifact]) -> tuple[str, ...]:
    """Classes of the samples, in their order: the guide's, or those of what is varied."""
    if "guide" in inputs:
        return tuple(inputs["guide"].manifest.contents["classes"])
    if VARIED in inputs:
        return LatentStore.open(inputs[VARIED].path).classes
    return UNCONDITIONAL_CLASSES


def store_plan(
    config: SynthesizeConfig, inputs: Mapping[str, Artifact], path: StoragePath
) -> StorePlan:
    """What is written below ``path``."""
    classes = drawn_classes(inputs)
    return StorePlan(
        path=path,
        classes=classes,
        num_samples=config.samples_in_all(classes),
        shard_size=config.shard_size,
        batch=config.batch,
        threads=config.threads,
        provenance={
            "seed": config.seed,
            "guide": inputs["guide"].manifest.content_sha256 if "guide" in inputs else NO_GUIDE,
            "guidance_scale": config.steering.scale,
            "sampler": json.dumps(_how(config, inputs), sort_keys=True),
            "denoiser": inputs["denoiser"].manifest.content_sha256,
            "decoder_sha256": autoencoder_facts(inputs["autoencoder"].path).decoder_sha256,
        },
    )


def finished_store(
    plan: StorePlan, config: SynthesizeConfig, inputs: Mapping[str, Artifact]
) -> StoreHeader:
    """Writes the header that makes the shards of ``plan`` a store."""
    denoiser = describe_denoiser(snapshot_path(inputs["denoiser"].path, config.snapshot))
    autoencoder = autoencoder_facts(inputs["autoencoder"].path)
    return finish_store(
        plan.path, finished_shards(plan.path).values(), classes=plan.classes,
        image_px=denoiser.latent_shape[1] * autoencoder.downsampling, mpp=denoiser.info.mpp,
        encoder_sha256=autoencoder.encoder_sha256, decoder_sha256=autoencoder.decoder_sha256,
    )  # fmt: skip


def _how(config: SynthesizeConfig, inputs: Mapping[str, Artifact]) -> dict[str, object]:
    """What a row says of how its sample was drawn, beside the columns that there are."""
    how: dict[str, object] = {
        "snapshot": config.snapshot,
        "sampler": config.sampler.model_dump(mode="json"),
        "schedule": config.schedule.model_dump(mode="json"),
        "sigma_interval": list(config.steering.sigma_interval),
    }
    if config.variation is not None:
        how["variation"] = inputs[VARIED].manifest.content_sha256
        if config.variation.stains is not None:
            said = config.variation.stains.model_dump(mode="json", exclude={"latents"})
            how["stains"] = {**said, "latents": inputs[STAINS].manifest.content_sha256}
    if config.autoguidance is not None:
        how["autoguidance"] = config.autoguidance.model_dump(mode="json")
    return how
