"""Paired hierarchical bootstrap over label draws and test patients, and what follows from it."""

from histodiff.evaluation.bootstrap.effects import Effect, arm_effect, paired_effect
from histodiff.evaluation.bootstrap.holm import holm
from histodiff.evaluation.bootstrap.power import DrawsNeeded, draws_needed
from histodiff.evaluation.bootstrap.replicates import ArmReplicates, Predictions, replicated
from histodiff.evaluation.bootstrap.resampling import UnitWeights, unit_weights

__all__ = [
    "ArmReplicates",
    "DrawsNeeded",
    "Effect",
    "Predictions",
    "UnitWeights",
    "arm_effect",
    "draws_needed",
    "holm",
    "paired_effect",
    "replicated",
    "unit_weights",
]
