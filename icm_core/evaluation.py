"""Leave-one-domain-out evaluation, selected without peeking, reported with intervals.

One domain is the target; the others are the sources. Probes and projections are fitted on sources only, and K
and λ are chosen on held-out source images only. The default choice looks at the held-out images *after an
intervention*: plain held-out source images still carry the shortcut, so they prefer a predictor that
uses it. The result is a tidy table, one row for each method and condition.

Three conditions are measured on images of other animals:

- ``in_distribution``: source domains, with the shortcut of the sources;
- ``unseen``: the target domain, without the shortcut;
- ``reversed``: the target domain, with the shortcut pointing to another class.

Every accuracy has a 95 % bootstrap interval over test images, and the paired difference to the plain
predictor of the same kind has one too. :func:`aggregate` pools targets and seeds, with an interval over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from icm_core.claims import t_interval
from icm_core.environments import PAIRS, Environments
from icm_core.interventions import IMAGE_INTERVENTIONS
from icm_core.moments import PairMoments, combine
from icm_core.prediction import LinearProbe, ZeroShotClassifier
from icm_core.projection import InvariantProjection, auto_n_components

INTERVENTIONS = ("image", "text", "image+text", "oracle")
VALIDATIONS = ("intervened", "plain", "target")
PREDICTORS = ("zero-shot", "linear probe")
CONDITIONS = ("in_distribution", "unseen", "reversed")
N_COMPONENTS = (8, 16, 32)
CONSISTENCY_WEIGHTS = (0.3, 1.0, 3.0, 10.0)
LABEL_FREE_WEIGHT = 1.0  # λ where no labels are used to choose it: reconstruction and consistency count alike
BASELINE = "plain"


@dataclass(frozen=True)
class Split:
    """What leave-one-domain-out sees for one target.

    Attributes
    ----------
    train, held_out : Dataset
        Rows of the source table whose domain is not the target.
    tests : dict of str to Dataset
        A test set for each condition.
    prompts : Dataset
    """

    train: xr.Dataset
    held_out: xr.Dataset
    tests: dict[str, xr.Dataset]
    prompts: xr.Dataset


def split(environments: Environments, target: int, *, held_out: float = 0.2, seed: int = 0) -> Split:
    """Set one domain aside and divide the sources.

    Source rows whose oracle re-rendering falls into the target domain are left out, so that no method sees
    an image of the target.

    Parameters
    ----------
    environments : Environments
    target : int
        The domain to set aside.
    held_out : float
        Share of the source rows kept for selection.
    seed : int

    Returns
    -------
    Split

    Raises
    ------
    ValueError
        If the target is not a domain, no source domain is left, a class is absent from a domain of the
        sources or the test, from the source rows that are left or from the prompts, a condition has
        no test image, or embeddings are not finite.
    """
    source, test = environments.source, environments.test
    domains = np.unique(test["domain"])
    if target not in domains:
        raise ValueError(f"target={target!r} is not among the domains {domains.tolist()}.")
    for name, table in {"source": source, "test": test}.items():
        _check_table(name, table)
    usable = source.isel(row=((source["domain"] != target) & (source["oracle_domain"] != target)).to_numpy())
    if usable.sizes["row"] == 0:
        raise ValueError(
            "No source domain is left beside the target; leave-one-domain-out needs two domains."
        )
    strata = usable["label"].to_numpy()
    _check_classes(test, usable, environments.prompts)
    train, rest = train_test_split(
        np.arange(len(strata)), test_size=held_out, stratify=strata, random_state=seed
    )
    is_target = test["domain"] == target
    rows = {
        "in_distribution": ~is_target & (test["shortcut"] == "aligned"),
        "unseen": is_target & (test["shortcut"] == "none"),
        "reversed": is_target & (test["shortcut"] == "reversed"),
    }
    for condition, mask in rows.items():
        if not mask.any():
            raise ValueError(
                f"The test table has no image for the condition {condition!r} of target {target}; expected images "
                "of every domain with each shortcut: 'aligned', 'none' and 'reversed'."
            )
    return Split(
        train=usable.isel(row=np.sort(train)),
        held_out=usable.isel(row=np.sort(rest)),
        tests={name: test.isel(row=mask.to_numpy()) for name, mask in rows.items()},
        prompts=environments.prompts,
    )


def _check_table(name: str, table: xr.Dataset) -> None:
    for variable in table.data_vars:
        if not np.isfinite(table[variable].to_numpy()).all():
            raise ValueError(
                f"The {name} table has NaN or infinite values in {variable!r}; expected finite embeddings. "
                "Embed the data again, and look for corrupt images."
            )
    present = pd.crosstab(table["domain"].to_numpy(), table["label"].to_numpy())
    for domain, counts in present.iterrows():
        absent = counts.index[counts == 0].tolist()
        if absent:
            raise ValueError(
                f"The {name} table has no image of class {absent} in domain {domain}; every class must be in every "
                "domain. Add images, or drop the class from all domains."
            )


def _check_classes(test: xr.Dataset, usable: xr.Dataset, prompts: xr.Dataset) -> None:
    classes = np.unique(test["label"])
    for name, table, least in (("sources", usable, 2), ("prompts", prompts, 1)):
        counts = (table["label"].to_numpy()[:, None] == classes).sum(axis=0)
        if (counts < least).any():
            raise ValueError(
                f"The {name} have fewer than {least} rows of class {classes[counts < least].tolist()}, which the test "
                "table has. (Source rows of the target domain do not count.) Add some, or drop the class."
            )


def pair_moments(table: xr.Dataset, intervention: str) -> PairMoments:
    """Moments of the pairs of one kind of intervention, or of several joined by ``+`` in equal parts.

    Parameters
    ----------
    table : Dataset
        A source table, see :mod:`icm_core.environments`.
    intervention : str
        ``"image"``, ``"text"``, ``"oracle"``, the name of a single image intervention that the table
        has, or for example ``"image+text"``.

    Returns
    -------
    PairMoments

    Raises
    ------
    ValueError
        If the intervention is unknown.
    """
    pairs = PAIRS | {name: ("original", name) for name in IMAGE_INTERVENTIONS if name in table}
    kinds = intervention.split("+")
    if any(kind not in pairs for kind in kinds):
        raise ValueError(f"Unknown intervention {intervention!r}; join any of {tuple(pairs)} with '+'.")
    each = []
    for kind in kinds:
        before, after = (table[name].to_numpy() for name in pairs[kind])
        each.append(PairMoments(before.shape[1]).update(before, after))
    return combine(each, [1.0] * len(each))


def validation_set(data: Split, validation: str, intervention: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and labels that hyperparameters are chosen on.

    ``"intervened"``: held-out source images after an intervention (the oracle's own for the oracle, the image
    interventions for all others); ``"plain"``: the same images untouched; ``"target"``: the unseen target
    itself, which is peeking, and serves only as a labelled upper bound.

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
        raise ValueError(f"validation={validation!r} is unknown; choose one of {VALIDATIONS}.")
    if validation == "target":
        return data.tests["unseen"]["original"].to_numpy(), data.tests["unseen"]["label"].to_numpy()
    variable = "original" if validation == "plain" else "oracle" if intervention == "oracle" else "image"
    return data.held_out[variable].to_numpy(), data.held_out["label"].to_numpy()


Predictor = Callable[[np.ndarray], np.ndarray]


def grid_accuracy(
    data: Split,
    intervention: str,
    *,
    n_components: Sequence[int | str] = N_COMPONENTS,
    consistency_weights: Sequence[float] = CONSISTENCY_WEIGHTS,
    objective: str = "trace",
    probe_C: float = 0.316,
    evaluate_on: Mapping[str, tuple[np.ndarray, np.ndarray]],
    n_pairs: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of CLIP-ICM at every K and λ, for both predictors.

    The moments are computed once, and one eigendecomposition for each λ serves every K.

    Parameters
    ----------
    data : Split
    intervention : str
    n_components : sequence of int or "auto"
        Values of K; those above the dimension of the embedding are left out. "auto" adds, for each λ, what
        :func:`~icm_core.projection.auto_n_components` says.
    consistency_weights : sequence of float
        Values of λ.
    objective : {"trace", "generalized", "released_code"}
    probe_C : float
    evaluate_on : mapping of str to (X, y)
        Named sets to measure accuracy on.
    n_pairs : int, optional
        Estimate the projection from that many training rows, drawn with `seed`; by default from all.
    seed : int

    Returns
    -------
    DataFrame
        Columns predictor, K, consistency_weight (NaN for the generalised objective), auto (K is the automatic one), and one for each named set. Rows go from the
        smallest change of the embedding to the largest: λ up, and K down.
    """
    pairs = data.train
    if n_pairs is not None:
        if not 1 <= n_pairs <= pairs.sizes["row"]:
            raise ValueError(f"n_pairs={n_pairs!r}; expected 1 to {pairs.sizes['row']}, the training rows.")
        pairs = pairs.isel(row=np.random.default_rng(seed).permutation(pairs.sizes["row"])[:n_pairs])
    moments = pair_moments(pairs, intervention)
    sizes = {k for k in n_components if k != "auto" and int(k) <= moments.n_features}
    if not (sizes or "auto" in n_components) or not len(consistency_weights):
        raise ValueError(
            f"Nothing to try: n_components={tuple(n_components)} for {moments.n_features} features, "
            f"consistency_weights={tuple(consistency_weights)}."
        )
    rows = []
    weights = [np.nan] if objective == "generalized" else sorted(consistency_weights)  # it has no λ
    for weight in weights:
        whole = _project(moments, moments.n_features, objective, weight)
        auto = auto_n_components(whole.eigenvalues_, objective) if "auto" in n_components else None
        for k in sorted({int(k) for k in sizes} | ({auto} if auto else set()), reverse=True):
            for name in PREDICTORS:
                predict = _predictor(data, whole.truncate(k), name, probe_C)
                accuracy = {key: float(np.mean(predict(X) == y)) for key, (X, y) in evaluate_on.items()}
                row = {"predictor": name, "K": k, "consistency_weight": weight, "auto": k == auto}
                rows.append(row | accuracy)
    return pd.DataFrame(rows)


def _project(moments: PairMoments, k: int | str, objective: str, weight: float) -> InvariantProjection:
    weight = 1.0 if np.isnan(weight) else weight  # ignored by the objective that has no λ
    return InvariantProjection(k, objective=objective, consistency_weight=weight).fit_moments(moments)


def _predictor(data: Split, projection: InvariantProjection | None, name: str, probe_C: float) -> Predictor:
    """Fit a zero-shot classifier or a linear probe behind a projection (or none)."""
    project: Callable[[np.ndarray], np.ndarray] = (
        (lambda X: X) if projection is None else projection.transform
    )
    if name == "zero-shot":
        fitted: Any = ZeroShotClassifier()
        fitted.fit(project(data.prompts["prompt"].to_numpy()), data.prompts["label"].to_numpy())
    else:
        fitted = LinearProbe(C=probe_C)
        fitted.fit(project(data.train["original"].to_numpy()), data.train["label"].to_numpy())
    return lambda X: fitted.predict(project(X))


def _augmented_probe(data: Split, variable: str, probe_C: float) -> Predictor:
    """Linear probe trained on the source images and their intervened copies."""
    X = np.concatenate([data.train["original"].to_numpy(), data.train[variable].to_numpy()])
    y = np.tile(data.train["label"].to_numpy(), 2)
    return LinearProbe(C=probe_C).fit(X, y).predict


@threadpool_limits.wrap(limits=1, user_api="blas")  # the matrices are too small to gain from threads
def leave_one_domain_out(
    environments: Environments,
    target: int,
    *,
    interventions: Iterable[str] = INTERVENTIONS,
    n_components: Sequence[int] = N_COMPONENTS,
    consistency_weights: Sequence[float] = CONSISTENCY_WEIGHTS,
    objective: str = "trace",
    validation: str = "intervened",
    probe_C: float = 0.316,
    seed: int = 0,
) -> pd.DataFrame:
    """Evaluate every method on one target domain.

    Methods: ``plain`` (zero-shot, linear probe), ``augmentation`` (the probe trained on the intervened images
    too), ``ICM`` with each intervention (zero-shot, linear probe) with K and λ chosen by `validation`, and
    ``ICM auto``, which uses no labels to choose: λ = 1 and K = "auto".

    Parameters
    ----------
    environments : Environments
    target : int
    interventions : iterable of str
    n_components, consistency_weights, objective, probe_C
        As for :func:`grid_accuracy`.
    validation : {"intervened", "plain", "target"}
        See :func:`validation_set`.
    seed : int
        Seed of the split. (The bootstrap has the same seed in every call.)

    Returns
    -------
    DataFrame
        Columns target, method, predictor, intervention, K, consistency_weight, validation, seed, metric,
        condition, value, low, high, n, difference, difference_low, difference_high. The difference is to the
        plain predictor of the same kind, in percentage points like the accuracies.
    """
    data = split(environments, target, seed=seed)
    plain = {name: _predictor(data, None, name, probe_C) for name in PREDICTORS}
    fitted: list[tuple[dict[str, Any], Predictor]] = [
        ({"method": BASELINE, "predictor": name, "intervention": "none"}, predict)
        for name, predict in plain.items()
    ]
    for variable in ("image", "oracle"):
        augmented = {"method": "augmentation", "predictor": "linear probe", "intervention": variable}
        fitted.append((augmented, _augmented_probe(data, variable, probe_C)))
    for intervention in interventions:
        grid = grid_accuracy(
            data, intervention, n_components=n_components, consistency_weights=consistency_weights,
            objective=objective, probe_C=probe_C,
            evaluate_on={"validation": validation_set(data, validation, intervention)},
        )  # fmt: skip
        moments = pair_moments(data.train, intervention)
        choices = []
        for name, block in grid.groupby("predictor", sort=False):
            best = block.iloc[block["validation"].argmax()]  # of equals, the first: the smallest change
            k, weight = int(best["K"]), float(best["consistency_weight"])
            choices.append(("ICM", str(name), validation, _project(moments, k, objective, weight)))
        automatic = _project(moments, "auto", objective, LABEL_FREE_WEIGHT)
        choices += [("ICM auto", name, "none", automatic) for name in PREDICTORS]
        for method, name, chosen_by, projection in choices:
            row: dict[str, Any] = {
                "method": method, "predictor": name, "intervention": intervention, "validation": chosen_by,
                "K": projection.n_components_,
                "consistency_weight": np.nan if objective == "generalized" else projection.consistency_weight,
            }  # fmt: skip
            fitted.append((row, _predictor(data, projection, name, probe_C)))
    return _measure(data, fitted, plain).assign(target=target, seed=seed, metric="accuracy")


def _measure(
    data: Split, fitted: list[tuple[dict[str, Any], Predictor]], plain: dict[str, Predictor]
) -> pd.DataFrame:
    """Accuracy of each predictor under each condition, with paired bootstrap intervals."""
    rows = []
    for condition, test in data.tests.items():
        X, y = test["original"].to_numpy(), test["label"].to_numpy()
        baseline = {name: (predict(X) == y).astype(float) for name, predict in plain.items()}
        for row, predict in fitted:
            correct = (predict(X) == y).astype(float)
            gain = correct - baseline[row["predictor"]]
            low, high = bootstrap_interval(correct)
            gain_low, gain_high = bootstrap_interval(gain)
            measured = {
                "condition": condition, "value": correct.mean(), "low": low, "high": high,
                "difference": gain.mean(), "difference_low": gain_low, "difference_high": gain_high,
            }  # fmt: skip
            percent = {k: v if isinstance(v, str) else 100 * float(v) for k, v in measured.items()}
            rows.append(row | percent | {"n": len(y)})
    return pd.DataFrame(rows)


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, n_resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean.

    Parameters
    ----------
    values : ndarray of shape (n,)
    level : float
        Coverage.
    n_resamples : int
    seed : int

    Returns
    -------
    low, high : float

    Raises
    ------
    ValueError
        If there are no values, one is not finite, or the level is not in (0, 1).
    """
    values = np.asarray(values, dtype=float)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(
            f"Got {values.size} values, finite: {np.isfinite(values).all()}; expected finite values."
        )
    if not 0 < level < 1:
        raise ValueError(f"level is {level!r}; expected a number between 0 and 1.")
    # how often a resample draws each distinct value is all that its mean depends on
    distinct, counts = np.unique(values, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=n_resamples)
    low, high = np.quantile(draws @ distinct / len(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def aggregate(table: pd.DataFrame, by: Sequence[str], *, value: str = "value") -> pd.DataFrame:
    """Pool targets and seeds: mean, with a 95 % interval from Student's t over seeds.

    Targets of one seed share training images, so they are averaged first; seeds are the independent
    repetitions. The interval is for this encoder and these animals.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`leave_one_domain_out` for several targets and seeds.
    by : sequence of str
        Columns to keep apart.
    value : str
        Column to average.

    Returns
    -------
    DataFrame
        The columns `by`, and value, low, high, n_runs. With a single seed there is no interval (NaN).

    Raises
    ------
    ValueError
        If a group has not one run for every target and seed.
    """
    rows = []
    for key, group in table.groupby(list(by), sort=False, dropna=False):
        expected = group["seed"].nunique() * group["target"].nunique()
        if len(group) != expected or group.duplicated(["seed", "target"]).any():
            raise ValueError(
                f"The group {key} has {len(group)} rows for {expected} pairs of seed and target; expected one each. "
                "Run the missing ones, or name more columns in `by`."
            )
        mean, low, high = t_interval(group.groupby("seed")[value].mean().to_numpy())
        interval = {"value": mean, "low": low, "high": high, "n_runs": len(group)}
        rows.append(dict(zip(by, key, strict=True)) | interval)
    return pd.DataFrame(rows)


def contrast(
    table: pd.DataFrame, method: tuple[str, str], against: tuple[str, str], by: Sequence[str]
) -> pd.DataFrame:
    """Paired difference in accuracy between two methods, run by run.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`leave_one_domain_out` for one predictor.
    method, against : (method, intervention)
        The two to compare, for example ``("ICM", "text")`` and ``("plain", "none")``.
    by : sequence of str
        Columns to keep apart.

    Returns
    -------
    DataFrame
        The columns `by`, value (the mean of ``method - against``), low, high, n_runs, and the names of the
        two as method and against.

    Raises
    ------
    ValueError
        If one of the two is not in the table, or they were not run on the same targets and seeds.
    """
    keys = [*by, "target", "seed"]
    first, second = (
        table[(table["method"] == name) & (table["intervention"] == kind)].set_index(keys)["value"]
        for name, kind in (method, against)
    )
    if first.empty or second.empty or set(first.index) != set(second.index):
        raise ValueError(
            f"{method} has {len(first)} runs and {against} has {len(second)}; expected both, on the same targets "
            "and seeds. Run the missing ones."
        )
    gains = (first - second).reset_index()
    return aggregate(gains, by).assign(method=" ".join(method), against=" ".join(against))
