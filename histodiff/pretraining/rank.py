"""Pre-training as a function of one rank: what ``cluster.gang`` runs N times."""

from collections.abc import Callable

from histodiff.pretraining.spec import PretrainResult, PretrainSpec, TrainingProgress
from histodiff.pretraining.trainer import DenoiserTrainer
from histodiff.runtime import Notice
from histodiff.runtime.threads import use_threads
from histodiff.telemetry import announce
from histodiff.training import RolledBack


def pretrain_rank(
    spec: PretrainSpec,
    rank: int,
    world_size: int,
    report: Callable[[TrainingProgress], None],
    notice: Callable[[], Notice],
) -> PretrainResult:
    """Trains on this rank and writes the artifact's files (rank 0) and checkpoints (every rank).

    A process group of ``world_size`` ranks exists. The same call again resumes, with any number of
    ranks.

    Raises:
        TrainingDiverged: The loss leapt, or it or the gradient became non-finite.
        Preempted: Notice was given to leave.
        ConfigError: The world size does not divide batch or lanes.
    """
    use_threads(spec.threads)
    announce(spec.hub, {"stage": "pretrain", "role": "rank", "rank": str(rank)})
    result = None
    while result is None:
        trainer = DenoiserTrainer(
            spec, rank=rank, world_size=world_size, report=report, notice=notice
        )
        try:
            result = _attempt(trainer)
        finally:
            trainer.close()
    return result


def _attempt(trainer: DenoiserTrainer) -> PretrainResult | None:
    """Trains to the end; None when the training went back and has to be taken up again."""
    try:
        trainer.resume()
        trainer.run()
    except RolledBack:
        return None
    trainer.finish()
    state = trainer.state
    last = [row.loss for row in state.records.validation if row.step == state.step]
    return PretrainResult(
        images_seen=state.images_seen,
        final_loss=state.records.metrics[-1].loss,
        validation_loss=sum(last) / len(last) if last else None,
        num_parameters=trainer.num_parameters,
        encoder_sha256=trainer.data.stores[0].encoder_sha256,
        init_sha256=trainer.spec.init_sha256,
        forward_flops_per_image=trainer.flops.forward,
        training_flops_per_image=trainer.flops.training,
        attention=trainer.attention.to_json(),
    )
