"""The linear probe beside other programs for the same objective: processor time, and how low.

Run it as ``python benchmarks/probe.py [--rows N]``. Embeddings are made up by a seed, as
many classes and features as in DomainNet. In turn, each on the same scaled rows in single
precision: `LinearProbe`, scikit-learn's solvers that keep no matrix of all weights by all
weights (newton-cg and lbfgs, with its default tolerance), and torch's L-BFGS. Beside the
seconds of the processors stands the penalised loss, over the least of all. The
probe's may be 1e-3 above it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from icm_core import LinearProbe

C = 0.316
MOST_ABOVE = 1e-3
Fitted = tuple[NDArray, NDArray]  # weights (n_classes, n_features), intercepts (n_classes,)


def embeddings(n: int, n_classes: int, n_features: int) -> tuple[NDArray, NDArray]:
    """Draw rows around the directions of their classes, with styles; unit second moment."""
    rng = np.random.default_rng(0)

    def drawn(k: int) -> NDArray:
        return rng.standard_normal((k, n_features), dtype=np.float32)

    label = np.arange(n) % n_classes
    styles = rng.standard_normal((n, 64), dtype=np.float32) @ drawn(64) / 8
    X = drawn(n_classes)[label] + 1.5 * styles + 2.5 * drawn(n)
    return X / np.sqrt(np.mean(X**2)), label


def ours(X: NDArray, label: NDArray, device: str | None = None) -> Fitted:
    """Fit this project's probe, by numpy or by torch on a device."""
    fitted = LinearProbe(C=C, device=device).fit(X, label)
    return fitted.coef_ * fitted.scale_, fitted.intercept_


def scikit_learn(solver: str) -> Callable[[NDArray, NDArray], Fitted]:
    """Give the fit by a solver of scikit-learn."""

    def fit(X: NDArray, label: NDArray) -> Fitted:
        fitted = LogisticRegression(C=C, solver=solver, max_iter=1000).fit(X, label)
        return fitted.coef_, fitted.intercept_

    return fit


def torch_lbfgs(X: NDArray, label: NDArray) -> Fitted:
    """Fit by torch's L-BFGS on all rows at once."""
    rows, labels = torch.from_numpy(X), torch.from_numpy(label)
    layer = torch.nn.Linear(X.shape[1], int(label.max()) + 1)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    steps = torch.optim.LBFGS(
        layer.parameters(), max_iter=1000, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        steps.zero_grad()
        total = torch.nn.functional.cross_entropy(layer(rows), labels)
        total = total + layer.weight.square().sum() / (2 * C * len(X))
        total.backward()
        return total

    steps.step(closure)
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


def loss(fitted: Fitted, X: NDArray, label: NDArray) -> float:
    """Give the penalised loss, in double precision."""
    weights, intercepts = (part.astype(float) for part in fitted)
    logits = X @ weights.T + intercepts
    own = logits[np.arange(len(label)), label]
    return C * float((logsumexp(logits, axis=1) - own).sum()) + float((weights**2).sum()) / 2


def main() -> int:
    """Fit by each; return 1 if the probe's loss is too high."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=38_000)
    parser.add_argument("--classes", type=int, default=345)
    parser.add_argument("--features", type=int, default=512)
    given = parser.parse_args()
    X, label = embeddings(given.rows, given.classes, given.features)
    ways = {"this project": ours, "torch, L-BFGS": torch_lbfgs}
    ways |= {f"scikit-learn, {name}": scikit_learn(name) for name in ("newton-cg", "lbfgs")}
    seconds, losses = {}, {}
    for name, fit in ways.items():
        fit(X[: 2 * given.classes], label[: 2 * given.classes])  # what it loads is loaded
        before = os.times()
        fitted = fit(X, label)
        seconds[name] = sum(os.times()[:2]) - sum(before[:2])
        losses[name] = loss(fitted, X, label)
        print(f"{name}: {seconds[name]:.1f} s of the processors, loss {losses[name]:.4f}",
              flush=True)  # fmt: skip
    least = min(losses.values())
    for name in ways:
        print(
            f"{name:24} {seconds[name] / seconds['this project']:6.2f} times this project's "
            f"seconds, loss {losses[name] / least - 1:.1e} above the least"
        )
    return int(losses["this project"] > (1 + MOST_ABOVE) * least)


if __name__ == "__main__":
    sys.exit(main())
