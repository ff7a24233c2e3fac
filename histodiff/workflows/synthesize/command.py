"""``synthesize``: sampling, guided or not -> images with full provenance per image.

Any autoencoder with the denoiser's encoder can decode. Shards of the SampleStore are written once
each and skipped when they are there, so that the same command continues an interrupted one.
"""

from histodiff.artifacts import Artifact, begin, open_artifact
from histodiff.cluster.site import Site
from histodiff.runtime.threads import use_threads
from histodiff.synthesis.plan import num_shards
from histodiff.workflows.labels import LABELS_SHA256
from histodiff.workflows.networks import ENCODER_SHA256
from histodiff.workflows.registry import Estimate
from histodiff.workflows.synthesize.checks import known_labels, opened_inputs
from histodiff.workflows.synthesize.config import SynthesizeConfig
from histodiff.workflows.synthesize.drawing import draw_missing
from histodiff.workflows.synthesize.measuring import measured_samples, opened_sources
from histodiff.workflows.synthesize.store import drawn_classes, finished_store, store_plan


def synthesize(config: SynthesizeConfig, site: Site) -> Artifact:
    """Draws the samples that ``config`` describes.

    Raises:
        ArtifactError: Denoiser and autoencoder have different encoders.
        ConfigError: The guide was trained for another denoiser, or the denoiser has no such
            snapshot.
    """
    inputs = opened_inputs(config, site)
    labels = known_labels(config, inputs)
    sources = opened_sources(config, inputs, labels, root=site.storage_root)
    inventory = {"device_class": site.device}
    draft = begin(site.storage_root, config, inputs=inputs, inventory=inventory)
    if draft.finished is not None:
        return draft.finished
    with draft:
        plan = store_plan(config, inputs, draft.path)
        draw_missing(plan, config, inputs, site)
        header = finished_store(plan, config, inputs)
        use_threads(config.threads)
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
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    samples = config.samples_in_all(drawn_classes(inputs))
    networks = 1 if config.autoguidance is None else 2
    calls = networks * config.schedule.steps * (2 if config.sampler.type.startswith("heun") else 1)
    return {
        "samples": samples,
        "shards": num_shards(samples, shard_size=config.shard_size),
        "denoiser_calls_per_sample": calls,
    }
