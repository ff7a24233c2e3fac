"""Training batches of one rank, made ready by a thread while the step before is computed."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from histodiff.latents import LatentMixture, View, Whitening
from histodiff.latents.symmetries import Symmetries
from histodiff.pretraining.posterior import CleanAndNoise, posterior_draws

_AHEAD = 2
_PURPOSE = "train"


class BatchLoader:
    """Batches of consecutive steps.

    Args:
        mixture: Where latents come from.
        whitening: Applied to them.
        view: What is seen of the posteriors.
        symmetries: Group of which every sample gets a random member.
        seed: Seed of the draws.
        rank: This rank.
        world_size: Number of ranks.
        step: First step.
        batch_of: Number of the batch that a step takes.
    """

    def __init__(
        self,
        mixture: LatentMixture,
        *,
        whitening: Whitening,
        view: View,
        symmetries: Symmetries,
        seed: int,
        rank: int,
        world_size: int,
        step: int,
        batch_of: Callable[[int], int],
    ) -> None:
        self._mixture, self._whitening, self._seed = mixture, whitening, seed
        self._view, self._symmetries = view, symmetries
        self._rank, self._world_size = rank, world_size
        self._step, self._batch_of = step, batch_of
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="training-feed")
        self._ready: deque[Future[CleanAndNoise]] = deque()
        self.waited_seconds = 0.0
        """Time spent waiting for batches so far."""

    def next(self) -> CleanAndNoise:
        """This rank's share of the next batch."""
        while len(self._ready) <= _AHEAD:
            self._ready.append(self._threads.submit(self._made, self._step))
            self._step += 1
        started = time.perf_counter()
        batch = self._ready.popleft().result()
        self.waited_seconds += time.perf_counter() - started
        return batch

    def close(self) -> None:
        """Ends the threads, those of the mixture as well."""
        self._threads.shutdown(cancel_futures=True)
        self._mixture.close()

    def _made(self, step: int) -> CleanAndNoise:
        number = self._batch_of(step)
        batch = self._mixture.batch_at(number, rank=self._rank, world_size=self._world_size)
        return posterior_draws(
            batch.moments_BMHW,
            batch.sample_index_B,
            whitening=self._whitening,
            seed=self._seed,
            purpose=_PURPOSE,
            view=self._view,
            symmetries=self._symmetries,
        )
