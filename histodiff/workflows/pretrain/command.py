"""The command ``pretrain``: latents -> an unconditional denoiser, on any number of ranks.

The rank function lies in ``pretraining``, the machinery that runs it N times in ``cluster.gang``.
How many ranks there are is a matter of the site and changes results by rounding only.
"""

from dataclasses import asdict
from functools import partial

from histodiff.artifacts import Artifact, Draft, begin, content_sha256, open_artifact
from histodiff.artifacts.artifact import published_digests
from histodiff.cluster.gang import run_gang, torchrun_rank
from histodiff.cluster.site import Site, fewest_ranks
from histodiff.models.pretrained import source_sha256
from histodiff.pretraining.monitor import TENSORBOARD
from histodiff.pretraining.previews import PREVIEWS
from histodiff.pretraining.rank import pretrain_rank
from histodiff.pretraining.spec import PretrainResult
from histodiff.pretraining.tables import TIMING
from histodiff.telemetry import progress
from histodiff.training import newest_step
from histodiff.training.state import CHECKPOINTS
from histodiff.workflows.gangs import rank_hub, reporter
from histodiff.workflows.pretrain.checks import (
    require_fitting_ranks,
    require_stores_of_one_kind,
    require_target,
    wanted_whitening,
)
from histodiff.workflows.pretrain.config import TARGET, PretrainConfig
from histodiff.workflows.pretrain.rank_spec import PretrainRun, pretrain_spec

_NO_CONTENT = (TIMING, f"{TENSORBOARD}/", f"{PREVIEWS}/")
"""Files that hold wall times, or depend on what is watched."""


def pretrain(config: PretrainConfig, site: Site) -> Artifact:
    """Trains the denoiser that ``config`` describes.

    Raises:
        ConfigError: The ranks do not fit the batch, the lanes or the last checkpoint.
        ArtifactError: A store is missing or damaged, or stores have different encoders.
        TrainingDiverged: The loss became non-finite.
    """
    root = site.storage_root
    inputs = {key: open_artifact(root, address) for key, address in config.inputs().items()}
    stores = {key: store for key, store in inputs.items() if key != TARGET}
    require_stores_of_one_kind(stores)
    require_target(config, inputs)
    require_fitting_ranks(config, site.ranks)
    published = wanted_whitening(config, stores, site)
    init_sha256 = None if config.init is None else source_sha256(config.init)
    inventory = {"device_class": site.device} | ({"init": init_sha256} if init_sha256 else {})
    draft = begin(root, config, inputs=inputs, inventory=inventory)
    if draft.finished is not None:
        return draft.finished
    run = PretrainRun(config, site, draft, stores, inputs.get(TARGET), published, init_sha256)
    if torchrun_rank():  # the process of rank 0 drives
        return _pretrained(run)
    with draft:
        return _pretrained(run)


def _pretrained(run: PretrainRun) -> Artifact:
    train, site = run.config.train, run.site
    images = train.num_steps * train.batch
    already = newest_step(run.draft.path / CHECKPOINTS) * train.batch
    with (
        rank_hub(site) as hub,
        progress("pretrain", total=images, unit="images", already=already) as bar,
    ):
        result = run_gang(
            pretrain_rank,
            partial(pretrain_spec, run, hub),
            ranks=site.ranks,
            ray_config=site.ray,
            device=site.device,
            report=reporter(bar, already=already),
        )
    return _finished(run.draft, result)


def estimate(config: PretrainConfig, site: Site) -> dict[str, float | int | str]:
    """Images, steps and their cut into ranks and micro-batches; rows of the stores."""
    stores = [
        open_artifact(site.storage_root, address)
        for key, address in config.inputs().items()
        if key != TARGET
    ]
    require_fitting_ranks(config, site.ranks)
    return {
        "images": config.train.num_steps * config.train.batch,
        "steps": config.train.num_steps,
        "ranks": fewest_ranks(site.ranks),
        "micro_batch": config.train.micro_batch_of(fewest_ranks(site.ranks)),
        "rows": sum(int(artifact.manifest.contents["rows"]) for artifact in stores),
    }


def _finished(draft: Draft, result: PretrainResult) -> Artifact:
    files = published_digests(draft.path)
    deterministic = {
        name: digest for name, digest in files.items() if not name.startswith(_NO_CONTENT)
    }
    return draft.finish(asdict(result), content=content_sha256(deterministic), files=files)
