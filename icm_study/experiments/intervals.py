"""From runs to an interval: of a mean, of a difference between two methods, over seeds or over images.

Two things can vary from one run to the next, and an interval says for which of them it speaks. In the animal
world each seed draws new images, so runs with different seeds are independent, and the interval is Student's t
over the *seeds*. A folder of photographs is what it is: seeds only split it anew, every run is tested on the
same target images, and the interval is over the *images*, as if others of the same domains had been taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

OVER = ("seeds", "images")


def t_interval(values: NDArray[np.floating]) -> tuple[float, float, float]:
    """Mean and 95 % interval from Student's t.

    Parameters
    ----------
    values : ndarray of shape (n,)
        One value an independent run.

    Returns
    -------
    mean, low, high : float
        With a single run, low and high are NaN.

    Raises
    ------
    ValueError
        If there are no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("Got no values; expected at least one run.")
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return mean, mean - half, mean + half


def mean_interval(table: pd.DataFrame, by: Sequence[str], value: str, *, log: bool = False) -> pd.DataFrame:
    """Mean over runs with a 95 % interval from Student's t.

    Parameters
    ----------
    table : DataFrame
        One row a run.
    by : sequence of str
        Columns to keep apart.
    value : str
        Column to average.
    log : bool
        Average logarithms: the result is a geometric mean, which suits positive values over several
        orders of magnitude.

    Returns
    -------
    DataFrame
        The columns `by`, and mean, low, high, n. With a single run the interval is NaN.
    """
    rows = []
    for key, group in table.groupby(list(by), sort=False):
        values = group[value].to_numpy(dtype=float)
        summary = np.exp(t_interval(np.log(values))) if log else t_interval(values)
        rows.append(dict(zip([*by, "mean", "low", "high", "n"], [*key, *summary, len(values)], strict=True)))
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


def pack(correct: NDArray[np.bool_]) -> bytes:
    """Write one truth value an image into bits, to be kept in a table."""
    return np.packbits(correct).tobytes()


def unpack(row: pd.Series) -> NDArray[np.bool_]:
    """Read the truth values of a row with the columns correct (see :func:`pack`) and n."""
    return np.unpackbits(np.frombuffer(row["correct"], dtype=np.uint8), count=int(row["n"])).astype(bool)


def aggregate(
    table: pd.DataFrame, by: Sequence[str], *, value: str = "value", over: str = "seeds"
) -> pd.DataFrame:
    """Pool targets and seeds: mean, with a 95 % interval.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`~icm_study.experiments.evaluation.leave_one_domain_out` for several targets and seeds.
    by : sequence of str
        Columns to keep apart.
    value : str
        Column to average; over images it is not used.
    over : {"seeds", "images"}
        What the interval speaks for. ``"seeds"``: Student's t; targets of one seed share training images,
        so they are averaged first. With a single seed there is no interval (NaN). ``"images"``: the normal
        interval over the test images of each target, which are independent of each other; seeds tested on the same
        images count as one.

    Returns
    -------
    DataFrame
        The columns `by`, and value, low, high, n_runs.

    Raises
    ------
    ValueError
        If a group has not one run for every target and seed, or `over` is unknown.
    """
    _check_over(over)
    rows = []
    for key, group in table.groupby(list(by), sort=False, dropna=False):
        expected = group["seed"].nunique() * group["target"].nunique()
        if len(group) != expected or group.duplicated(["seed", "target"]).any():
            raise ValueError(
                f"The group {key} has {len(group)} rows for {expected} pairs of seed and target; expected one each. "
                "Run the missing ones, or name more columns in `by`."
            )
        if over == "seeds":
            mean, low, high = t_interval(group.groupby("seed")[value].mean().to_numpy())
        else:
            outcomes = [unpack(row).astype(float) for _, row in group.iterrows()]
            mean, low, high = _over_images(group["target"].to_numpy(), outcomes)
            low, high = max(low, 0.0), min(high, 100.0)
        interval = {"value": mean, "low": low, "high": high, "n_runs": len(group)}
        rows.append(dict(zip(by, key, strict=True)) | interval)
    return pd.DataFrame(rows)


def _over_images(
    targets: NDArray, outcomes: Sequence[NDArray[np.floating]], level: float = 0.95
) -> tuple[float, float, float]:
    """Mean in percent and interval; one outcome an image, one array of them a run.

    Runs on one target are taken as fully dependent (their standard errors are averaged), which errs on
    the wide side; targets as independent. Where all images agree, one is taken to differ.
    """
    runs = pd.DataFrame(
        {
            "target": targets,
            "mean": [np.mean(values) for values in outcomes],
            "error": [
                np.sqrt(max(np.var(values), (1 - 1 / len(values)) / len(values)) / len(values))
                for values in outcomes
            ],
        }
    )
    each = runs.groupby("target", sort=False).mean()
    mean = float(each["mean"].mean())
    half = float(stats.norm.ppf((1 + level) / 2) * np.sqrt((each["error"] ** 2).sum()) / len(each))
    return 100 * mean, 100 * (mean - half), 100 * (mean + half)


def contrast(
    table: pd.DataFrame,
    method: tuple[str, str],
    against: tuple[str, str],
    by: Sequence[str],
    *,
    over: str = "seeds",
    level: float = 0.95,
) -> pd.DataFrame:
    """Paired difference in accuracy between two methods, run by run or image by image.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`~icm_study.experiments.evaluation.leave_one_domain_out` for one predictor.
    method, against : (method, intervention)
        The two to compare, for example ``("ICM", "text")`` and ``("plain", "none")``.
    by : sequence of str
        Columns to keep apart.
    over : {"seeds", "images"}
        What the interval speaks for, see :func:`aggregate`.
    level : float
        Coverage of the interval over images.

    Returns
    -------
    DataFrame
        The columns `by`, value (the mean of ``method - against``), low, high, n_runs, and the names of the
        two as method and against (see :func:`method_name`).

    Raises
    ------
    ValueError
        If one of the two is not in the table, they were not run on the same targets and seeds or several times on one,
        or `over` is unknown.
    """
    _check_over(over)
    if over == "seeds" and level != 0.95:
        raise ValueError(
            f"level={level}: intervals over seeds are at 0.95 only; pass over='images', or leave it out."
        )
    keys = [*by, "target", "seed"]
    first, second = (
        table[(table["method"] == name) & (table["intervention"] == kind)].set_index(keys)
        for name, kind in (method, against)
    )
    if first.empty or len(first) != len(second) or set(first.index) != set(second.index):
        raise ValueError(
            f"{method} has {len(first)} runs and {against} has {len(second)}; expected both, on the same targets "
            "and seeds. Run the missing ones."
        )
    if not first.index.is_unique:
        raise ValueError(
            f"{method} has several rows for a target and seed; expected one. Give what they differ in to `by`, or take "
            "one world, encoder and predictor at a time."
        )
    second = second.loc[first.index]
    names = {"method": method_name(*method), "against": method_name(*against)}
    if over == "seeds":
        return aggregate((first["value"] - second["value"]).reset_index(), by).assign(**names)
    pairs = pd.DataFrame({"first": first.apply(unpack, axis=1), "second": second.apply(unpack, axis=1)})
    rows = []
    for key, group in pairs.reset_index().groupby(list(by), sort=False, dropna=False):
        gains = [a.astype(float) - b for a, b in zip(group["first"], group["second"], strict=True)]
        interval = _over_images(group["target"].to_numpy(), gains, level)
        summary = dict(zip(("value", "low", "high"), interval, strict=True)) | {"n_runs": len(group)}
        rows.append(dict(zip(by, key, strict=True)) | summary)
    return pd.DataFrame(rows).assign(**names)


def method_name(method: str, intervention: str) -> str:
    """Name a method as the figures and tables of the report do."""
    method = "augmented" if method == "augmentation" else method
    return method if intervention == "none" else f"{method}, {intervention.replace('+', ' + ')}"


def _check_over(over: str) -> None:
    if over not in OVER:
        raise ValueError(f"over={over!r} is unknown; choose one of {OVER}.")
