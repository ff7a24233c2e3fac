"""What every command that trains on ranks does around its gang: metrics and a progress bar."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from histodiff.cluster.gang import torchrun_rank
from histodiff.cluster.site import Site
from histodiff.pretraining.spec import TrainingProgress
from histodiff.storage import StoragePath, read_bytes, write_private
from histodiff.telemetry import HubAddress, Progress, metrics_hub

_HUB = "scratch/hub.json"
_log = logging.getLogger(__name__)


@contextmanager
def rank_hub(site: Site) -> Iterator[HubAddress | None]:
    """The hub of the run, in the process that drives; none in other ranks of torchrun."""
    if torchrun_rank():
        yield None
        return
    with metrics_hub(site.metrics_port, host=site.metrics_host) as hub:
        yield hub


def hub_of_ranks(artifact: StoragePath, hub: HubAddress | None) -> HubAddress | None:
    """The hub of the run on every rank; under torchrun the others find it in the artifact.

    Its token goes that way and not through the rendezvous, which anybody may ask.

    Args:
        artifact: Folder that is written; rank 0 of torchrun comes here first.
        hub: That of this process.
    """
    rank, place = torchrun_rank(), artifact / _HUB
    if rank is None:
        return hub
    try:
        if rank == 0:
            write_private(place, json.dumps(hub and asdict(hub)).encode())
            return hub
        told = json.loads(read_bytes(place))
        return told and HubAddress(**told)
    except (OSError, ValueError, TypeError) as error:  # no training ends for its metrics
        _log.warning("metrics of this run are not announced: %s: %s", place, error)
        return hub


def reporter(bar: Progress, *, already: int) -> Callable[[TrainingProgress], None]:
    """Moves the bar to where the training is; a restarted gang never moves it back."""
    shown = already

    def report(training: TrainingProgress) -> None:
        nonlocal shown
        if training.images_seen > shown:
            bar.advance(training.images_seen - shown, **training.fields)
            shown = training.images_seen

    return report
