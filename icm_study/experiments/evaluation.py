"""Evaluation of every method on one split, selected without peeking, reported with intervals.

Probes and projections are fitted on sources only (a projection on other images where a
split names them), and K and λ are chosen on held-out source images only. The default
choice looks at the held-out images *after an intervention*: plain held-out source
images still carry the shortcut, so they prefer a predictor that uses it. What is held
out and what is tested is said in :mod:`icm_study.testbeds.splits`.

The result is a tidy table, one row for each method and condition. Every accuracy has a
95 % bootstrap interval over test images, and the paired difference to the plain
predictor of the same kind has one too.
:mod:`icm_study.experiments.intervals` pools targets and seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_array
from threadpoolctl import threadpool_limits

from icm_core.moments import PairMoments
from icm_core.prediction import LinearProbe, ZeroShotClassifier
from icm_core.projection import InvariantProjection, auto_n_components
from icm_core.selection import (
    CONSISTENCY_WEIGHTS,
    Path,
    default_n_components,
    least_squares_path,
    logistic_path,
    zero_shot_path,
)
from icm_study.embedding.tables import Environments, available, pair_moments
from icm_study.experiments.intervals import bootstrap_interval, pack
from icm_study.testbeds.splits import Split, split

#: What K and λ are chosen on -> name of the method. "ICM auto" needs no labels to choose.
VALIDATIONS = {
    "intervened": "ICM",
    "plain": "ICM, plain validation",
    "target": "ICM, tuned on the target",
}

PREDICTORS = ("zero-shot", "linear probe")

#: Linear probe of a grid -> its name in the table, and how it is fitted for every K.
PROBES = {
    "logistic": ("linear probe", logistic_path),
    "least squares": ("least-squares probe", least_squares_path),
}

LABEL_FREE_WEIGHT = (
    1.0  # λ where no labels are used to choose it: reconstruction and consistency count alike
)

BASELINE = "plain"


def validation_set(
    data: Split, validation: str, intervention: str
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and labels that hyperparameters are chosen on.

    ``"intervened"``: held-out source images after an intervention (the oracle's own for
    the oracle, the image interventions for all others); ``"plain"``: the same images
    untouched; ``"target"``: the unseen target itself (or its new classes), which is
    peeking, and serves only as a labelled upper bound.

    Parameters
    ----------
    data : Split
    validation : {"intervened", "plain", "target"}
    intervention : str
        The intervention that the method is fitted on.

    Returns
    -------
    X : ndarray of shape (n, n_features)
    y : ndarray of shape (n,)
    """
    if validation not in VALIDATIONS:
        raise ValueError(
            f"validation={validation!r} is unknown; choose one of {tuple(VALIDATIONS)}."
        )
    if validation == "target":
        if data.target not in data.tests:
            raise ValueError(
                "validation='target': this split has no single target that could be looked at."
            )
        target = data.tests[data.target]
        return target["original"].to_numpy(), target["label"].to_numpy()
    variable = (
        "original" if validation == "plain" else "oracle" if intervention == "oracle" else "image"
    )
    return data.held_out[variable].to_numpy(), data.held_out["label"].to_numpy()


Predictor = Callable[
    ..., np.ndarray
]  # (X, among=None) -> labels; among: the labels to choose among


def predictors_of(data: Split) -> tuple[str, ...]:
    """Both predictors; zero-shot alone where the tests have classes that no probe has seen."""
    tested = np.unique(np.concatenate([test["label"].to_numpy() for test in data.tests.values()]))
    return PREDICTORS if np.isin(tested, data.train["label"]).all() else PREDICTORS[:1]


def grid_accuracy(
    data: Split,
    intervention: str,
    *,
    n_components: Sequence[int | str] | None = None,
    consistency_weights: Sequence[float] = CONSISTENCY_WEIGHTS,
    objective: str = "trace",
    probe: str = "logistic",
    probe_C: float = 0.316,
    evaluate_on: Mapping[str, tuple[np.ndarray, np.ndarray]],
    n_pairs: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of CLIP-ICM at every K and λ, for both predictors.

    The moments are computed once, and one eigendecomposition for each λ serves every K.
    The logistic probe is fitted for every K and λ; the least-squares probe once for
    each λ (see :mod:`icm_core.selection`), which makes a fine grid cheap.

    Parameters
    ----------
    data : Split
    intervention : str
    n_components : sequence of int or "auto", optional
        Values of K; those above the dimension of the embedding are left out. "auto"
        adds, for each λ, what
        :func:`~icm_core.projection.auto_n_components` says. By default :func:`default_n_components`.
    consistency_weights : sequence of float
        Values of λ.
    objective : {"trace", "generalized", "released_code"}
    probe : {"logistic", "least squares"}
        The linear probe; everything else in the study has the logistic one.
    probe_C : float
        Of either probe, see :class:`~icm_core.prediction.LinearProbe`.
    evaluate_on : mapping of str to (X, y)
        Named sets to measure accuracy on.
    n_pairs : int, optional
        Estimate the projection from that many rows of pairs, drawn with `seed`; by
        default from all.
    seed : int

    Returns
    -------
    DataFrame
        Columns predictor ("zero-shot", and "linear probe" or "least-squares probe"), K,
        consistency_weight (NaN for the generalised objective), auto (K is the automatic
        one), and one for each named set. For each predictor rows go from the smallest
        change of the embedding to the largest: λ up, and K down.

    Raises
    ------
    ValueError
        If there is nothing to try, the probe is unknown, or there are not that many pairs.
    """
    pairs = data.paired
    if n_pairs is not None:
        if not 1 <= n_pairs <= pairs.sizes["row"]:
            raise ValueError(
                f"n_pairs={n_pairs!r}; expected 1 to {pairs.sizes['row']}, the rows of pairs."
            )
        pairs = pairs.isel(
            row=np.random.default_rng(seed).permutation(pairs.sizes["row"])[:n_pairs]
        )
    nested = _nested(pair_moments(pairs, intervention), objective)
    paths = _paths(data, probe, probe_C)
    return _grid(nested, n_components, consistency_weights, objective, paths, evaluate_on)


def _paths(data: Split, probe: str, probe_C: float) -> dict[str, Path]:
    """Give the predictors of a grid, by the names that its rows have."""
    if probe not in PROBES:
        raise ValueError(f"probe={probe!r} is unknown; choose one of {tuple(PROBES)}.")
    paths = {"zero-shot": zero_shot_path(*_given(data, "zero-shot"))}
    if "linear probe" in predictors_of(data):
        name, path = PROBES[probe]
        paths[name] = path(*_given(data, "linear probe"), probe_C)
    return paths


def _grid(
    nested: Callable[[float], InvariantProjection],
    n_components: Sequence[int | str] | None,
    consistency_weights: Sequence[float],
    objective: str,
    paths: Mapping[str, Path],
    evaluate_on: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> pd.DataFrame:
    """Run the grid of :func:`grid_accuracy` on projections that `nested` gives for each λ."""
    X = check_array(
        np.concatenate([rows for rows, _ in evaluate_on.values()]), dtype=[np.float64, np.float32]
    )
    y = np.concatenate([labels for _, labels in evaluate_on.values()])
    ends = np.cumsum([len(labels) for _, labels in evaluate_on.values()])[:-1]
    n_components = default_n_components(X.shape[1]) if n_components is None else n_components
    given = {int(k) for k in n_components if k != "auto" and int(k) <= X.shape[1]}
    if not (given or "auto" in n_components) or not len(consistency_weights):
        raise ValueError(
            f"Nothing to try: n_components={tuple(n_components)} for {X.shape[1]} features, "
            f"consistency_weights={tuple(consistency_weights)}."
        )
    rows: list[dict[str, Any]] = []
    weights = [np.nan] if objective == "generalized" else sorted(consistency_weights)  # it has no λ
    for weight in weights:
        whole = nested(weight)
        auto = auto_n_components(whole.eigenvalues_, objective) if "auto" in n_components else None
        sizes = sorted(given | ({auto} if auto else set()))
        for name, path in paths.items():
            block = []
            for k, labels in zip(sizes, path(whole, X, sizes), strict=True):
                hits = np.split(labels == y, ends)
                accuracy = {
                    key: float(part.mean()) for key, part in zip(evaluate_on, hits, strict=True)
                }
                row = {"predictor": name, "K": k, "consistency_weight": weight, "auto": k == auto}
                block.append(row | accuracy)
            rows += reversed(block)
    return pd.DataFrame(rows)


def _nested(moments: PairMoments, objective: str) -> Callable[[float], InvariantProjection]:
    """From λ to the projection with every component; the one of fewer is its `truncate`. Each λ is solved once."""

    @cache
    def solve(weight: float) -> InvariantProjection:
        weight = 1.0 if np.isnan(weight) else weight  # ignored by the objective that has no λ
        whole = InvariantProjection(
            moments.n_features, objective=objective, consistency_weight=weight
        )
        return whole.fit_moments(moments)

    return solve


def _given(data: Split, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Give what a predictor is fitted on: prompts, or labelled images."""
    table, variable = (data.prompts, "prompt") if name == "zero-shot" else (data.train, "original")
    return table[variable].to_numpy(), table["label"].to_numpy()


def _predictor(
    data: Split, projection: InvariantProjection | None, name: str, probe_C: float
) -> Predictor:
    """Fit a zero-shot classifier or a linear probe behind a projection (or none)."""
    project: Callable[[np.ndarray], np.ndarray] = (
        (lambda X: X) if projection is None else projection.transform
    )
    X, y = _given(data, name)
    unfitted = ZeroShotClassifier() if name == "zero-shot" else LinearProbe(C=probe_C)
    return _predict_with(unfitted.fit(project(X), y), project)


def _predict_with(fitted: Any, project: Callable[[np.ndarray], np.ndarray]) -> Predictor:
    def predict(X: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
        if among is None:
            return fitted.predict(project(X))
        allowed = np.isin(fitted.classes_, among)
        return fitted.classes_[allowed][fitted.predict_proba(project(X))[:, allowed].argmax(axis=1)]

    return predict


def _augmented_probe(data: Split, variable: str, probe_C: float) -> Predictor:
    """Linear probe trained on the source images and their intervened copies."""
    X = np.concatenate([data.train["original"].to_numpy(), data.train[variable].to_numpy()])
    y = np.tile(data.train["label"].to_numpy(), 2)
    fitted = LinearProbe(C=probe_C).fit(X, y)
    return _predict_with(fitted, lambda X: X)


def leave_one_domain_out(
    environments: Environments,
    target: int | None,
    *,
    protocol: str = "leave-one-domain-out",
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Evaluate every method on one target domain.

    Parameters
    ----------
    environments : Environments
    target, protocol, seed
        As for :func:`~icm_study.testbeds.splits.split`. (The bootstrap has the same
        seed in every call.)
    **options
        As for :func:`evaluate`.

    Returns
    -------
    DataFrame
        The rows of :func:`evaluate`, with target, protocol and seed.
    """
    table = evaluate(split(environments, target, protocol=protocol, seed=seed), **options)
    return table.assign(target=target, protocol=protocol, seed=seed)


def evaluate(
    data: Split,
    *,
    interventions: Iterable[str] | None = None,
    n_components: Sequence[int] | None = None,
    consistency_weights: Sequence[float] = CONSISTENCY_WEIGHTS,
    objective: str = "trace",
    validations: Sequence[str] = ("intervened",),
    probe_C: float = 0.316,
) -> pd.DataFrame:
    """Fit every method on a split, and measure it under every condition.

    Methods: ``plain`` (zero-shot, linear probe), ``augmentation`` (the probe trained on
    the intervened images too), ``ICM`` with each intervention (zero-shot, linear probe)
    with K and λ chosen on intervened source images, and ``ICM auto``, which uses no
    labels to choose: λ = 1 and K = "auto". Where the tests have classes that training
    has not, there is zero-shot only.

    Parameters
    ----------
    data : Split
    interventions : iterable of str, optional
        By default all that the data has pairs of, see :func:`available`.
    n_components, consistency_weights, objective, probe_C
        As for :func:`grid_accuracy`.
    validations : sequence of {"intervened", "plain", "target"}
        What K and λ are chosen on, see :func:`validation_set`; each is a method of its own (see
        :data:`VALIDATIONS`).

    Returns
    -------
    DataFrame
        Columns method, predictor, intervention, K, consistency_weight, validation,
        metric, condition, value, low, high, n, difference, difference_low,
        difference_high, correct. The difference is to the plain predictor of the same
        kind, in percentage points like the accuracies; correct has one bit an image,
        see
        :func:`~icm_study.experiments.intervals.unpack`.
    """
    small = data.train["original"].size < 2e7  # such matrices gain nothing from threads
    with threadpool_limits(limits=1 if small else None, user_api="blas"):
        names = predictors_of(data)
        paths = _paths(data, "logistic", probe_C)
        plain = {name: _predictor(data, None, name, probe_C) for name in names}
        fitted: list[tuple[dict[str, Any], Predictor]] = [
            ({"method": BASELINE, "predictor": name, "intervention": "none"}, predict)
            for name, predict in plain.items()
        ]
        for variable in ("image", "oracle"):
            if "linear probe" in names and variable in data.train:
                augmented = {
                    "method": "augmentation",
                    "predictor": "linear probe",
                    "intervention": variable,
                }
                fitted.append((augmented, _augmented_probe(data, variable, probe_C)))
        for intervention in available(data.paired) if interventions is None else interventions:
            nested = _nested(pair_moments(data.paired, intervention), objective)
            sets = {name: validation_set(data, name, intervention) for name in validations}
            grid = _grid(nested, n_components, consistency_weights, objective, paths, sets)
            choices = []
            for name, block in grid.groupby("predictor", sort=False):
                for validation in validations:
                    best = block.iloc[
                        block[validation].argmax()
                    ]  # of equals, the first: the smallest change
                    k, weight = int(best["K"]), float(best["consistency_weight"])
                    projection = nested(weight).truncate(k)
                    choices.append((VALIDATIONS[validation], str(name), validation, projection))
            automatic = nested(LABEL_FREE_WEIGHT)
            automatic = automatic.truncate(auto_n_components(automatic.eigenvalues_, objective))
            choices += [("ICM auto", name, "none", automatic) for name in names]
            for method, name, chosen_by, projection in choices:
                row: dict[str, Any] = {
                    "method": method, "predictor": name, "intervention": intervention, "validation": chosen_by,
                    "K": projection.n_components_,
                    "consistency_weight": projection.consistency_weight_,
                }  # fmt: skip
                fitted.append((row, _predictor(data, projection, name, probe_C)))
        return _measure(data, fitted, plain).assign(metric="accuracy")


def _measure(
    data: Split, fitted: list[tuple[dict[str, Any], Predictor]], plain: dict[str, Predictor]
) -> pd.DataFrame:
    """Accuracy of each predictor under each condition, with paired bootstrap intervals."""
    rows = []
    for condition, test in data.tests.items():
        X, y, among = (
            test["original"].to_numpy(),
            test["label"].to_numpy(),
            data.candidates.get(condition),
        )
        baseline = {name: predict(X, among) == y for name, predict in plain.items()}
        for row, predict in fitted:
            correct = predict(X, among) == y
            gain = correct.astype(float) - baseline[row["predictor"]]
            low, high = bootstrap_interval(correct)
            gain_low, gain_high = bootstrap_interval(gain)
            measured = {
                "value": correct.mean(), "low": low, "high": high,
                "difference": gain.mean(), "difference_low": gain_low, "difference_high": gain_high,
            }  # fmt: skip
            percent = {name: 100 * float(number) for name, number in measured.items()}
            rows.append(
                row | {"condition": condition, "n": len(y), "correct": pack(correct)} | percent
            )
    return pd.DataFrame(rows)
