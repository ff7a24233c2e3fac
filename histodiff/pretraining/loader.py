"""Training batches of one rank, made ready by a thread while the step before is computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from histodiff.latents import LatentMixture, View, Whitening
from histodiff.pretraining.posterior import CleanAndNoise, posterior_draws
from histodiff.runtime import Prefetched
from histodiff.runtime.symmetries import ChannelSymmetries, Symmetries

_AHEAD = 2
_PURPOSE = "train"


@contextmanager
def training_batches(
    mixture: LatentMixture,
    *,
    whitening: Whitening,
    view: View,
    symmetries: Symmetries,
    channels: ChannelSymmetries | None,
    self_conditioning: float = 0.0,
    seed: int,
    rank: int,
    world_size: int,
    steps: range,
    batch_of: Callable[[int], int],
) -> Iterator[Iterator[CleanAndNoise]]:
    """This rank's share of the batches of ``steps``; at the end its threads end.

    Args:
        mixture: Where latents come from; closed at the end.
        whitening: Applied to them.
        view: What is seen of the posteriors.
        symmetries: Group of which every sample gets a random member.
        channels: What its members do to channels.
        self_conditioning: Share of the samples of which the network is shown an estimate.
        seed: Seed of the draws.
        rank: This rank.
        world_size: Number of ranks.
        steps: The steps.
        batch_of: Number of the batch that a step takes.
    """

    def batch_at(step: int) -> CleanAndNoise:
        batch = mixture.batch_at(batch_of(step), rank=rank, world_size=world_size)
        return posterior_draws(
            batch.moments_BMHW,
            batch.sample_index_B,
            whitening=whitening,
            seed=seed,
            purpose=_PURPOSE,
            view=view,
            symmetries=symmetries,
            channels=channels,
            self_conditioning=self_conditioning,
        )

    try:
        with Prefetched(map(batch_at, steps), ahead=_AHEAD) as batches:
            yield batches
    finally:
        mixture.close()
