"""The order of eigenvalues in the code released with the paper, for the audit of it.

The objective of CLIP-ICM (arXiv 2405.15289) keeps the eigenvectors of C − λS with the largest
eigenvalues. The code that its authors released sorts them in ascending order and keeps the
first, which are the smallest.
"""

from __future__ import annotations

from numpy.typing import NDArray

from icm_core.projection import InvariantProjection


class ReleasedProjection(InvariantProjection):
    """Keep the smallest eigenvalues of C − λS; all else is as in the base class.

    ``n_components="auto"`` takes as many as the base class does, from the other end.
    Raises ValueError where the objective is not "trace" or the solver not "closed_form".
    """

    def _spectrum(self, C: NDArray, S: NDArray, weight: float) -> tuple[NDArray, NDArray]:
        eigenvalues, directions = super()._spectrum(C, S, weight)
        return eigenvalues[::-1], directions[::-1]

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if (self.objective, self.solver) != ("trace", "closed_form"):
            raise ValueError(
                f"objective={self.objective!r} and solver={self.solver!r}; the released code has "
                "an order of its own for objective='trace' and solver='closed_form' only."
            )
