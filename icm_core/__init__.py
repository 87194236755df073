"""Invariant causal mechanisms for vision-language models (CLIP-ICM, arXiv 2405.15289).

The five names below are what most users need. The other files, in the order of the method:

- ``interventions``: new values for the variant factors of images and captions;
- ``moments``: second moments of interventional pairs, streamed;
- ``spectrum``: directions ranked by what an intervention does to them;
- ``stiefel``: the paper's gradient descent under an orthonormal constraint;
- ``projection``: the subspace that interventions leave invariant;
- ``prediction``: zero-shot and linear probe;
- ``selection``: predictions at every K and λ, and their grid;
- ``deploy``: a projection as a torch module, folded into a CLIP, and with a probe in a file.
"""

from icm_core.moments import PairMoments, combine
from icm_core.prediction import LinearProbe, ZeroShotClassifier
from icm_core.projection import InvariantProjection

__version__ = "0.1.0"
__all__ = ["InvariantProjection", "LinearProbe", "PairMoments", "ZeroShotClassifier", "combine"]
