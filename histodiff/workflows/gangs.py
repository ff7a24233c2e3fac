"""What every command that trains on ranks does around its gang: metrics and a progress bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from histodiff.cluster.gang import torchrun_host, torchrun_rank
from histodiff.cluster.site import Site
from histodiff.pretraining.spec import TrainingProgress
from histodiff.telemetry import HubAddress, Progress, metrics_hub


@contextmanager
def rank_hub(site: Site) -> Iterator[HubAddress | None]:
    """The hub of the run; under torchrun that of rank 0."""
    if torchrun_rank():
        port = site.metrics_port
        yield HubAddress(torchrun_host(), port, pid=0) if port else None
        return
    with metrics_hub(site.metrics_port) as hub:
        yield hub


def reporter(bar: Progress, *, already: int) -> Callable[[TrainingProgress], None]:
    """Moves the bar to where the training is; a restarted gang never moves it back."""
    shown = already

    def report(training: TrainingProgress) -> None:
        nonlocal shown
        if training.images_seen > shown:
            bar.advance(training.images_seen - shown, **training.fields)
            shown = training.images_seen

    return report
