"""Draws the shards that are missing, in this process or spread over Ray actors.

A shard is a unit. Which samples it holds, and in which batches they are drawn, is the config's
business; the site says how many workers share the shards. Each opens the networks for itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from histodiff.artifacts import Artifact
from histodiff.cluster.capacity import ActorResources, Actors, require_capacity
from histodiff.cluster.pool import run_pool
from histodiff.cluster.session import ray_session
from histodiff.cluster.site import ClusterRay, LocalRay, Site
from histodiff.runtime import Finished, run_in_process
from histodiff.runtime.memory import keep_freed_memory
from histodiff.runtime.threads import use_threads
from histodiff.samples import ShardRecord, finished_shards
from histodiff.synthesis.plan import num_shards
from histodiff.synthesis.worker import StorePlan, Synthesizer
from histodiff.telemetry import HubAddress, announced, metrics_hub, progress
from histodiff.telemetry.metrics import SYNTHESIZE_IMAGES
from histodiff.workflows.synthesize.config import SynthesizeConfig
from histodiff.workflows.synthesize.opening import Opened

_UNITS_EACH = 2
"""One is drawn; the last batches of the other are decoded and written."""


def draw_missing(
    plan: StorePlan, config: SynthesizeConfig, inputs: Mapping[str, Artifact], site: Site
) -> None:
    """Draws and writes every shard that is not in the ledger."""
    done = finished_shards(plan.path)
    shards = num_shards(plan.num_samples, shard_size=plan.shard_size)
    missing = [shard for shard in range(shards) if shard not in done]
    already = sum(len(plan.samples_of(shard)) for shard in done)
    with (
        metrics_hub(site.metrics_port, host=site.metrics_host) as hub,
        progress("synthesize", total=plan.num_samples, unit="samples", already=already) as bar,
    ):
        make = partial(open_worker, plan, config, inputs, site.device)
        if not _uses_actors(site, len(missing)):
            for finished in run_in_process(partial(make, advance=bar.advance), missing):
                SYNTHESIZE_IMAGES.inc(finished.record.num_rows)
            return
        for finished in _by_actors(make, missing, config=config, site=site, hub=hub):
            SYNTHESIZE_IMAGES.inc(finished.record.num_rows)
            bar.advance(finished.record.num_rows)


def open_worker(
    plan: StorePlan,
    config: SynthesizeConfig,
    inputs: Mapping[str, Artifact],
    device: str,
    advance: Callable[[int], None] | None = None,
) -> Synthesizer:
    """A worker with its networks, opened in the process that calls.

    Raises:
        ConfigError: The weaker denoiser of autoguidance has other latents.
    """
    if device == "cpu":
        keep_freed_memory()
    use_threads(plan.threads)
    opened = Opened(config, inputs, device)
    return Synthesizer(plan, networks=opened.networks(), drawing=opened.drawing(), advance=advance)


def _uses_actors(site: Site, num_units: int) -> bool:
    """Whether actors are worth their start; a cluster is where the driver may have no GPU."""
    if isinstance(site.ray, ClusterRay):
        return num_units > 0
    return isinstance(site.ray, LocalRay) and min(site.sample_workers, num_units) > 1


def _by_actors(
    make: Callable[[], Synthesizer],
    units: Sequence[int],
    *,
    config: SynthesizeConfig,
    site: Site,
    hub: HubAddress | None,
) -> Iterator[Finished[int, ShardRecord]]:
    gpu = site.device == "cuda"
    cpus = 0
    if isinstance(site.ray, ClusterRay):
        cpus = 1 if gpu else config.threads
    each = ActorResources(num_cpus=cpus, num_gpus=1 if gpu else 0)
    workers = Actors(min(site.sample_workers, len(units)), each)
    with ray_session(site.ray):
        require_capacity(site.ray, {"sample_workers": workers})
        yield from run_pool(
            partial(announced, make, hub=hub, labels={"stage": "synthesize", "role": "sampler"}),
            units,
            num_workers=workers.count,
            units_each=_UNITS_EACH,
            resources=workers.each,
        )
