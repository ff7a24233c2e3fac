"""How good generated images are, in features: distances, neighbourhoods, copies, and the floor."""

from histodiff.evaluation.quality.comparison import FeatureSet, Measure, Quality, compare
from histodiff.evaluation.quality.memorisation import Memorisation, memorisation

__all__ = ["FeatureSet", "Measure", "Memorisation", "Quality", "compare", "memorisation"]
