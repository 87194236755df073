"""Invariant causal mechanisms for vision-language models (CLIP-ICM, arXiv 2405.15289).

The names below are what most users need; every module's docstring tells what else is in it.
"""

from icm_core.moments import PairMoments, combine
from icm_core.prediction import LinearProbe, ZeroShotClassifier
from icm_core.projection import InvariantProjection

__version__ = "0.1.0"
__all__ = ["InvariantProjection", "LinearProbe", "PairMoments", "ZeroShotClassifier", "combine"]
