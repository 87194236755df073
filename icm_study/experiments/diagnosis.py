"""Why does a projection help, or not? What the embedding holds, and what interventions change.

- *Live rank*: how many directions of the embedding carry anything.
- *Re-drawn share*: for each factor, how much of what can be read from the embedding
  about it an intervention changes. For a variant factor this is the *coverage* of the
  intervention (1 is full: the factor was drawn anew; 0 is none: ICM cannot remove what
  no pair changes). For the class it is how much the *readout* of the class changes: a
  leak where the intervention moves z_inv, and otherwise a sign that the encoder mixes
  the class with what was changed. The oracle, which never moves z_inv, gives the floor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from icm_core.projection import InvariantProjection
from icm_study.embedding.tables import PAIRS, EmbeddedData, available, pair_moments

FACTORS = ("label", "domain", "coat", "scene", "light", "blur")

_SAID = {"label": "class"}  # names of factors that differ from those of the coordinates

READABLE = 0.1  # R² from which on a factor counts as read
PENALTIES = np.logspace(-4, 3, 15)  # of the ridge, in units of the mean square of a feature
WEIGHTS = (0.3, 1.0, 3.0, 10.0)  # values of λ to show the spectrum at


def live_rank(X: NDArray[np.floating], threshold: float = 0.01) -> int:
    """Count the directions whose variance is more than `threshold` of the largest.

    Parameters
    ----------
    X : ndarray of shape (n, D)
        Embeddings.
    threshold : float

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If there are fewer than two embeddings, or one is not finite.
    """
    if len(X) < 2 or not np.isfinite(X).all():
        raise ValueError(
            f"Got {len(X)} embeddings, finite: {np.isfinite(X).all()}; expected at least two "
            f"finite ones."
        )
    variances = np.linalg.svd(X - X.mean(axis=0), compute_uv=False) ** 2
    return int((variances > threshold * variances.max()).sum())


def redrawn_share(data: EmbeddedData, drawn: NDArray[np.str_] | None = None) -> pd.DataFrame:
    """How much of each factor each kind of intervention re-draws, as read from the embedding.

    For each factor a ridge regression reads its values (one-hot) from the embedding, with a
    penalty by cross-validation, on the tested images (those without a shortcut), on images
    for image pairs and on captions for text pairs. Of a folder, only the class and the
    domain are known. Weights that read a factor well would do for the share
    ``E‖W(f - f_do)‖² / 2E‖W(f - E f)‖²``: 0 for no change, 1 for an independent draw from the
    same distribution. But those fitted on few images hold noise, in directions that an
    intervention changes. So each third of the images has a regression of its own, and with
    V and W, the weights of two, on rows of the last third, the share is
    ``E⟨V(f - f_do), W(f - f_do)⟩ / 2E⟨V(f - E f), W(f - E f)⟩``: the noise of one, which
    neither the other nor the rows know, cancels.

    Parameters
    ----------
    data : EmbeddedData
    drawn : ndarray of str, optional
        The image intervention that each source image got; each of them then has rows of its own
        in the place of those of all image pairs.

    Returns
    -------
    DataFrame
        Columns intervention, factor, share, and r2: how well the factor can be read on a
        half of the images from the other. Where that is below :data:`READABLE`, the
        readings of thirds have nothing in common, or the images of the pairs are all of one
        value (photographs, of one domain), so that nothing says how large a draw is, the share
        is NaN: it cannot be told.
    """
    plain = data.tested
    if "shortcut" in plain.coords:
        plain = plain.isel(row=(plain["shortcut"] == "none").to_numpy())
    rows = []
    for intervention, (before, after) in PAIRS.items():
        if not (before in data.source and after in data.source):
            continue
        read = plain if before in plain else data.source
        pairs = data.source[before].to_numpy(), data.source[after].to_numpy()
        is_source = data.tested is data.source or read is data.source
        half, thirds = _parts(read, 2), _parts(read, 3)
        for factor in FACTORS:
            if factor not in read.coords or not np.ptp(read[factor].to_numpy()):
                continue
            X, values = read[before].to_numpy(), read[factor].to_numpy()
            _, r2 = read_factor(X, values, half == 0)
            weights = []
            varies = factor in data.source.coords and np.ptp(data.source[factor].to_numpy())
            if r2 >= READABLE and varies:
                onehot = _onehot(values)
                weights = [_reader(X, onehot, thirds == part).coef_.T for part in range(3)]
            of = {intervention: np.ones(len(pairs[0]), dtype=bool)}
            if intervention == "image" and drawn is not None:
                of = {str(name): drawn == name for name in np.unique(drawn)}
            for name, kept in of.items():
                some = pairs[0][kept], pairs[1][kept]
                share = np.nan
                if weights:
                    share = _share(some, weights, thirds[kept] if is_source else None)
                rows.append({"intervention": name, "factor": factor, "share": share, "r2": r2})
    return pd.DataFrame(rows)


def spectra(data: EmbeddedData) -> dict[str, dict[float, NDArray[np.floating]]]:
    """Eigenvalues of C − λS of the source pairs, from the largest, for each kind and λ.

    Parameters
    ----------
    data : EmbeddedData

    Returns
    -------
    dict of str to dict of float to ndarray of shape (D,)
    """
    moments = {kind: pair_moments(data.source, kind) for kind in available(data.source)}
    return {
        kind: {
            weight: InvariantProjection(1, consistency_weight=weight)
            .fit_moments(pairs)
            .eigenvalues_
            for weight in WEIGHTS
        }
        for kind, pairs in moments.items()
    }


def rounded_spectra(data: EmbeddedData) -> dict[str, dict[str, list[float]]]:
    """Give what :func:`spectra` gives as JSON values, to the three digits that a figure shows."""
    return {
        kind: {
            f"{weight:g}": [float(f"{value:.3g}") for value in eigenvalues]
            for weight, eigenvalues in by_weight.items()
        }
        for kind, by_weight in spectra(data).items()
    }


def diagnose(worlds: Sequence[EmbeddedData]) -> pd.DataFrame:
    """Everything that can be said before any accuracy, as one tidy table.

    Parameters
    ----------
    worlds : sequence of EmbeddedData

    Returns
    -------
    DataFrame
        Columns quantity, intervention, of and value. Quantities: ``share`` and ``r2`` of a
        factor, see :func:`redrawn_share`; ``positive eigenvalues`` of C − λS at a λ; ``live
        rank`` and ``dimension`` of the image embeddings.
    """
    rows: list[tuple[str, str, str, float]] = []
    for data in worlds:
        for row in redrawn_share(data).to_dict("records"):
            factor = _SAID.get(row["factor"], row["factor"])
            rows += [(name, row["intervention"], factor, row[name]) for name in ("share", "r2")]
        for kind, by_weight in spectra(data).items():
            for weight, eigenvalues in by_weight.items():
                rows.append(
                    ("positive eigenvalues", kind, f"{weight:g}", int((eigenvalues > 0).sum()))
                )
        original = data.source["original"].to_numpy()
        rows += [
            ("live rank", "none", "", live_rank(original)),
            ("dimension", "none", "", original.shape[1]),
        ]
    table = pd.DataFrame(rows, columns=["quantity", "intervention", "of", "value"])
    return table.astype({"value": float})


def _parts(table: xr.Dataset, n: int) -> NDArray[np.integer]:
    """Deal the rows, which may be in an order, out to n parts; a group goes to one part."""
    rows = np.arange(table.sizes["row"])
    group = table["group"].to_numpy() if "group" in table.coords else rows
    names, number = np.unique(group, return_inverse=True)
    return np.random.default_rng(0).permutation(len(names))[number] % n


def _onehot(values: NDArray[np.integer]) -> NDArray[np.floating]:
    return np.eye(values.max() + 1)[values]


def _reader(X: NDArray[np.floating], Y: NDArray[np.floating], rows: NDArray[np.bool_]) -> RidgeCV:
    """Fit a ridge regression that reads Y from X on some rows."""
    return RidgeCV(alphas=np.square(X).sum() / X.shape[1] * PENALTIES).fit(X[rows], Y[rows])


def _share(
    pairs: tuple[NDArray[np.floating], NDArray[np.floating]],
    weights: Sequence[NDArray[np.floating]],
    thirds: NDArray[np.integer] | None,
) -> float:
    """Share of what weights of three thirds read that an intervention changes.

    Two of the weights at a time, on the rows of the last third; on all where no row of the
    pairs was fitted on.
    """
    f, f_do = pairs
    change, spread = f - f_do, f - f.mean(axis=0)
    of_change = of_spread = 0.0
    for part in range(3):
        one, other = (reads for third, reads in enumerate(weights) if third != part)
        rows = slice(None) if thirds is None else thirds == part
        of_change += np.sum((change[rows] @ one) * (change[rows] @ other))
        of_spread += np.sum((spread[rows] @ one) * (spread[rows] @ other))
    return max(of_change / (2 * of_spread), 0.0) if of_spread > 0 else np.nan


def read_factor(
    X: NDArray[np.floating], values: NDArray[np.integer], half: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], float]:
    """Weights (D, n_values) that read a factor, fitted on one half, and R² on the other."""
    onehot = _onehot(values)
    reader = _reader(X, onehot, half)
    return reader.coef_.T, float(reader.score(X[~half], onehot[~half]))
