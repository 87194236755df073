"""What contrastive training identifies: an experiment with an exact optimum.

Factors make images by a nonlinear map, and texts with log-odds linear in the factors.
The optimum of the contrastive loss is known in form: inner products of image and text
embeddings equal the log-odds, up to terms in the image or in the text alone. It is
found here by convex optimisation instead of training a network, so what it identifies
is a matter of the texts only. Source: C5.2 and P5.3 of CLIP-ICM, arXiv 2405.15289.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

Encoder = Callable[[NDArray[np.float64]], NDArray[np.float64]]

SETTINGS = ("diverse texts", "diverse texts, one caption each", "texts in a plane")

_RIDGE = 1e-6

_NEGLIGIBLE = (
    1e-3  # a dimension of the embedding counts if its logits are above this fraction of the largest
)


def identifiability(
    n_texts: Sequence[int], *, seeds: Iterable[int], n_factors: int = 6, n_images: int = 2000
) -> pd.DataFrame:
    """Test C5.2 and P5.3: the image embedding is linear in the factors given D + 1 diverse texts.

    There are ``z ~ N(0, I_D)``, an image that is an invertible quadratic map of z, and
    a text out of ``n_texts`` with ``P(t | z) ∝ exp(u_t · z)``. The embedding at the
    contrastive optimum is compared with z on new images. D + 1 texts have D differences
    ``u_t - u_0``, which span all directions if the texts are diverse.

    Parameters
    ----------
    n_texts : sequence of int
        Sizes of the vocabulary of texts, at least 2.
    seeds : iterable of int
        One world for each.
    n_factors : int
        D, an even number.
    n_images : int
        Number of images to train on, and of new images to measure on.

    Returns
    -------
    DataFrame
        Columns n_texts; setting, one of :data:`SETTINGS`; seed; r2 (of z from the
        embedding by a linear map); r2_image (of z from the image by a linear map) and
        condition_number (of the fitted A in ``f = A z + b``; infinite if the embedding
        has fewer than D dimensions).
    """
    rows = []
    for seed, setting, m in itertools.product(seeds, SETTINGS, n_texts):
        rng = np.random.default_rng(seed)
        rotation = np.linalg.qr(rng.normal(size=(n_factors, n_factors)))[0]
        directions = rng.normal(size=(max(n_texts), n_factors))[:m]
        if setting == "texts in a plane":
            directions[:, 2:] = 0
        z, z_new = rng.normal(size=(2, n_images, n_factors))
        X, X_new = _curved_image(z @ rotation), _curved_image(z_new @ rotation)
        captions = softmax(z @ directions.T, axis=1)
        if setting == "diverse texts, one caption each":
            captions = np.array([rng.multinomial(1, row) for row in captions], dtype=float)
        encoder = contrastive_optimum(X, captions, n_dimensions=n_factors)
        f, f_new = encoder(X), encoder(X_new)
        rows.append(
            {
                "n_texts": m,
                "setting": setting,
                "seed": seed,
                "r2": LinearRegression().fit(f, z).score(f_new, z_new),
                "r2_image": LinearRegression().fit(X, z).score(X_new, z_new),
                "condition_number": _condition_number(z, f),
            }
        )
    return pd.DataFrame(rows)


def contrastive_optimum(
    X: NDArray[np.float64], targets: NDArray[np.float64], *, n_dimensions: int
) -> Encoder:
    """Image encoder at the optimum of the contrastive loss over a vocabulary of texts.

    The cross-entropy between the texts of an image and the softmax of its logits is
    minimised over logits that are linear in quadratic features of the image. The
    logits, centred over the texts, factorise into image and text embeddings.

    Parameters
    ----------
    X : ndarray of shape (n_images, n_inputs)
        Images.
    targets : ndarray of shape (n_images, n_texts)
        Probability of each text for each image.
    n_dimensions : int
        Dimension of the embedding; it is lower if the texts distinguish fewer directions.

    Returns
    -------
    callable
        Maps images (n, n_inputs) to embeddings (n, at most n_dimensions).
    """
    features = make_pipeline(PolynomialFeatures(2, include_bias=False), StandardScaler()).fit(X)
    inputs = np.hstack([features.transform(X), np.ones((len(X), 1))])
    n_texts = targets.shape[1]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = flat.reshape(n_texts, -1)
        scores = log_softmax(inputs @ weights.T, axis=1)
        gradient = (np.exp(scores) - targets).T @ inputs / len(X) + _RIDGE * weights
        return float(
            -np.sum(targets * scores) / len(X) + 0.5 * _RIDGE * flat @ flat
        ), gradient.ravel()

    start = np.zeros(n_texts * inputs.shape[1])
    weights = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000}).x
    weights = weights.reshape(n_texts, -1)[:, :-1]
    _, scales, directions = np.linalg.svd(weights - weights.mean(axis=0), full_matrices=False)
    factor = directions[:n_dimensions][scales[:n_dimensions] > _NEGLIGIBLE * scales[0]]
    return lambda images: features.transform(images) @ factor.T


def _curved_image(v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bend half of the coordinates by the squares of the others, so the inverse is not linear."""
    straight, bent = np.hsplit(v, 2)
    return np.hstack([straight, bent + straight**2])


def _condition_number(z: NDArray[np.float64], f: NDArray[np.float64]) -> float:
    A = LinearRegression().fit(z, f).coef_
    return float(np.linalg.cond(A)) if len(A) == z.shape[1] else np.inf
