"""Autoencoder training as a function of one rank."""

from collections.abc import Callable

from histodiff.pretraining.autoencoder.spec import AutoencoderSpec, TrainedOutcome
from histodiff.pretraining.autoencoder.trainer import AutoencoderTrainer
from histodiff.pretraining.spec import TrainingProgress
from histodiff.runtime import Notice
from histodiff.runtime.threads import use_threads
from histodiff.telemetry import announce


def train_rank(
    spec: AutoencoderSpec,
    rank: int,
    world_size: int,
    report: Callable[[TrainingProgress], None],
    notice: Callable[[], Notice],
) -> TrainedOutcome:
    """Trains on this rank; writes autoencoder and losses (rank 0) and checkpoints (every rank).

    A process group of ``world_size`` ranks exists. The same call again resumes, with any number of
    ranks.

    Raises:
        TrainingDiverged: The loss or the gradient became non-finite.
        Preempted: Notice was given to leave.
        ConfigError: The world size does not divide the batch, or the patches do not suit.
    """
    use_threads(spec.threads)
    announce(spec.hub, {"stage": "autoencoder", "role": "rank", "rank": str(rank)})
    trainer = AutoencoderTrainer(
        spec, rank=rank, world_size=world_size, report=report, notice=notice
    )
    try:
        trainer.resume()
        trainer.run()
        trainer.finish()
    finally:
        trainer.close()
    return TrainedOutcome(trainer.state.images_seen, trainer.failed)
