"""``synthesize``: sampling, guided or not -> images with full provenance per image.

Any autoencoder with the denoiser's encoder can decode. Shards of the SampleStore are written once
each and skipped when they are there, so that the same command continues an interrupted one.
"""

import json
from collections.abc import Mapping

from histodiff.artifacts import Artifact, Draft, begin, open_artifact
from histodiff.cluster.site import Site
from histodiff.latents import LatentStore
from histodiff.runtime import run_in_process
from histodiff.runtime.threads import use_threads
from histodiff.samples import finish_store, finished_shards
from histodiff.synthesis.plan import num_shards, shard_samples
from histodiff.synthesis.unguided import NO_GUIDE, UNCONDITIONAL_CLASSES
from histodiff.synthesis.worker import StorePlan, Synthesizer
from histodiff.telemetry import progress
from histodiff.workflows.labels import LABELS_SHA256
from histodiff.workflows.networks import ENCODER_SHA256
from histodiff.workflows.registry import Estimate
from histodiff.workflows.synthesize.checks import known_labels, opened_inputs
from histodiff.workflows.synthesize.config import VARIED, SynthesizeConfig
from histodiff.workflows.synthesize.measuring import measured_samples, opened_sources
from histodiff.workflows.synthesize.opening import Opened


def synthesize(config: SynthesizeConfig, site: Site) -> Artifact:
    """Draws the samples that ``config`` describes.

    Raises:
        ArtifactError: Denoiser and autoencoder have different encoders.
        ConfigError: The guide was trained for another denoiser, or the denoiser has no such
            snapshot.
    """
    inputs = opened_inputs(config, site)
    labels = known_labels(config, inputs)
    sources = opened_sources(config, inputs)
    inventory = {"device_class": site.device}
    draft = begin(site.storage_root, config, inputs=inputs, inventory=inventory)
    if draft.finished is not None:
        return draft.finished
    with draft:
        use_threads(config.threads)
        opened = Opened(config, inputs, site.device)
        plan = _store_plan(opened, draft)
        _draw_missing(plan, opened)
        header = finish_store(
            draft.path, finished_shards(draft.path).values(), classes=plan.classes,
            image_px=opened.image_px, mpp=opened.denoiser.mpp,
            encoder_sha256=opened.autoencoder.encoder_sha256,
            decoder_sha256=opened.autoencoder.decoder_sha256,
        )  # fmt: skip
        measured = measured_samples(config, draft.path, inputs, sources, device=site.device)
        return draft.finish(
            {
                "samples": plan.num_samples,
                "per_class": config.per_class,
                "classes": list(plan.classes),
                "image_px": header.image_px,
                ENCODER_SHA256: header.encoder_sha256,
                "decoder_sha256": header.decoder_sha256,
                LABELS_SHA256: labels,
                **measured.contents,
            },
            failed=measured.failed,
        )


def estimate(config: SynthesizeConfig, site: Site) -> Estimate:
    """Samples, shards and calls of the denoiser."""
    addresses = config.inputs()
    classes: tuple[str, ...] = UNCONDITIONAL_CLASSES
    if "guide" in addresses:
        guide = open_artifact(site.storage_root, addresses["guide"])
        classes = tuple(guide.manifest.contents["classes"])
    elif VARIED in addresses:
        varied = open_artifact(site.storage_root, addresses[VARIED])
        classes = LatentStore.open(varied.path).classes
    samples = config.samples_in_all(classes)
    networks = 1 if config.autoguidance is None else 2
    calls = networks * config.schedule.steps * (2 if config.sampler.type.startswith("heun") else 1)
    return {
        "samples": samples,
        "shards": num_shards(samples, shard_size=config.shard_size),
        "denoiser_calls_per_sample": calls,
    }


def _store_plan(opened: Opened, draft: Draft) -> StorePlan:
    config, inputs, classes = opened.config, opened.inputs, opened.guide.classes
    return StorePlan(
        path=draft.path,
        classes=classes,
        num_samples=config.samples_in_all(classes),
        shard_size=config.shard_size,
        batch=config.batch,
        provenance={
            "seed": config.seed,
            "guide": inputs["guide"].manifest.content_sha256 if "guide" in inputs else NO_GUIDE,
            "guidance_scale": config.steering.scale,
            "sampler": json.dumps(_how(config, inputs), sort_keys=True),
            "denoiser": inputs["denoiser"].manifest.content_sha256,
            "decoder_sha256": opened.autoencoder.decoder_sha256,
        },
    )


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
    if config.autoguidance is not None:
        how["autoguidance"] = config.autoguidance.model_dump(mode="json")
    return how


def _draw_missing(plan: StorePlan, opened: Opened) -> None:
    done = finished_shards(plan.path)
    shards = range(num_shards(plan.num_samples, shard_size=plan.shard_size))
    sizes = {
        shard: len(shard_samples(shard, num_samples=plan.num_samples, shard_size=plan.shard_size))
        for shard in shards
    }
    already = sum(sizes[shard] for shard in done)
    with progress("synthesize", total=plan.num_samples, unit="samples", already=already) as bar:
        worker = Synthesizer(plan, networks=opened.networks(), drawing=opened.drawing(), bar=bar)
        waiting = [shard for shard in shards if shard not in done]
        for _ in run_in_process(lambda: worker, waiting):
            pass
