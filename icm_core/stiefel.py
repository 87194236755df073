"""Gradient descent on the Stiefel manifold, the set of matrices with orthonormal rows.

The CLIP-ICM paper (arXiv 2405.15289) fits its projection by gradient descent under the
constraint that the rows of A are orthonormal. This is a descent of that kind, so that
it can be compared with the closed form of :mod:`icm_core.projection`. Each step
projects the gradient onto the tangent space of the manifold, moves against it by a
Barzilai-Borwein step, which is halved until the objective is sufficiently below the
highest of its last values, and returns to the manifold by a QR decomposition. The
number of steps grows as the gap between the eigenvalues that are kept and those that
are not narrows. torch is imported on the first call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

_SUFFICIENT_DECREASE = 1e-4
_MEMORY = 10  # number of last values of the objective that a step is compared with
_SHORTEST_STEP = 1e-12  # relative to the first step tried


class Descent(NamedTuple):
    """Result of :func:`minimize_on_stiefel`.

    Attributes
    ----------
    point : ndarray of shape (K, D)
        The last iterate; its rows are orthonormal.
    objective_path : ndarray of shape (n_steps + 1,)
        The objective at the start and after each step; it falls, though not at every
        single step.
    converged : bool
        Whether the norm of the Riemannian gradient fell to the tolerance.
    """

    point: NDArray[np.float64]
    objective_path: NDArray[np.float64]
    converged: bool


def minimize_on_stiefel(
    objective: Callable[[Tensor], Tensor],
    start: NDArray[np.float64],
    *,
    gradient_tolerance: float,
    max_steps: int,
) -> Descent:
    """Minimise a differentiable function of a matrix with orthonormal rows.

    Parameters
    ----------
    objective : callable
        Maps a float64 tensor of shape (K, D) to a scalar tensor.
    start : ndarray of shape (K, D)
        Where to start, K ≤ D; the rows are orthonormalised.
    gradient_tolerance : float
        Stop when the Frobenius norm of the Riemannian gradient is at most this.
    max_steps : int
        Stop after this number of steps.

    Returns
    -------
    Descent
    """
    import torch

    def evaluate(point: Tensor) -> tuple[float, Tensor]:
        point = point.detach().requires_grad_(True)
        value = objective(point)
        (gradient,) = torch.autograd.grad(value, point)
        outer = gradient @ point.detach().T
        return float(value.detach()), gradient - 0.5 * (outer + outer.T) @ point.detach()

    def retract(matrix: Tensor) -> Tensor:
        q, r = torch.linalg.qr(matrix.T)
        return (q * torch.where(torch.diagonal(r) < 0, -1.0, 1.0)).T

    point = retract(torch.tensor(start, dtype=torch.float64))
    value, gradient = evaluate(point)
    path = [value]
    squared = float((gradient**2).sum())
    step = first_step = 1.0 / max(squared**0.5, np.finfo(float).tiny)
    while squared**0.5 > gradient_tolerance and len(path) <= max_steps:
        while True:
            candidate = retract(point - step * gradient)
            new_value, new_gradient = evaluate(candidate)
            if new_value <= max(path[-_MEMORY:]) - _SUFFICIENT_DECREASE * step * squared:
                break
            step /= 2
            if step < _SHORTEST_STEP * first_step:  # rounding hides any further decrease
                return Descent(point.numpy(), np.array(path), False)
        moved, change = candidate - point, new_gradient - gradient
        curvature = float((moved * change).sum())
        point, value, gradient = candidate, new_value, new_gradient
        squared = float((gradient**2).sum())
        path.append(value)
        if curvature > 0:
            step = float((moved**2).sum()) / curvature
    return Descent(point.numpy(), np.array(path), squared**0.5 <= gradient_tolerance)
