"""From runs to an interval: of a mean or of a paired difference, over seeds, images or groups.

Two things can vary from one run to the next, and an interval says for which of them it
speaks. In the animal world each seed draws new images, so runs with different seeds are
independent, and the interval is over the *seeds*: Student's t, and never narrower than
the images of the runs alone would make it. A folder of photographs is what it is: seeds
only split it anew, every run is tested on the same target images, and the interval is
over the *images*, as if others of the same domains had been taken. Images that belong together
(frames of a burst, pictures of one patient) are no such others: then it is over the
*groups*, each of which counts as one image. That is as wide as it takes if all images of
a group were always classified alike, and wider than it takes if they are not: how alike
they are cannot be known well enough from a few groups.

Over images the interval of one accuracy is Clopper and Pearson's, which covers the truth
at least as often as it says, down to a single image. A mean over domains combines the
distances to the limits as standard errors combine (Zou, Huang and Zhang 2009,
doi:10.1016/j.csda.2008.09.033), and a paired difference the limits of what is gained and
what is lost (Newcombe 1998, Statistics in Medicine 17, 2635-2650).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, stdtrit  # scipy.stats, with the same, is slow to import

from icm_study.experiments.clusters import effective_size

OVER = ("seeds", "images", "groups")
#: Mean, low and high.
Interval = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]


def t_interval(values: NDArray[np.floating], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and interval from Student's t.

    Parameters
    ----------
    values : ndarray of shape (n,)
        One value an independent run.
    level : float
        Coverage.

    Returns
    -------
    mean, low, high : float
        With a single run, or where all runs agree, there is no spread to go by: low and
        high are NaN.

    Raises
    ------
    ValueError
        If there are no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("Got no values; expected at least one run.")
    mean = float(np.mean(values))
    if np.ptp(values) == 0:
        return mean, float("nan"), float("nan")
    error = np.std(values, ddof=1) / np.sqrt(n)
    half = float(stdtrit(n - 1, (1 + level) / 2) * error)
    return mean, mean - half, mean + half


def mean_interval(
    table: pd.DataFrame, by: Sequence[str], value: str, *, log: bool = False
) -> pd.DataFrame:
    """Mean over runs with a 95 % interval from Student's t.

    Parameters
    ----------
    table : DataFrame
        One row a run.
    by : sequence of str
        Columns to keep apart.
    value : str
        Column to average: a measurement on a continuous scale. For accuracies, which are
        counted on images, see :func:`aggregate`.
    log : bool
        Average logarithms: the result is a geometric mean, which suits positive values
        over several orders of magnitude.

    Returns
    -------
    DataFrame
        The columns `by`, and mean, low, high, n. The interval is NaN where
        :func:`t_interval` has none.
    """
    rows = []
    for key, group in table.groupby(list(by), sort=False):
        values = group[value].to_numpy(dtype=float)
        summary = np.exp(t_interval(np.log(values))) if log else t_interval(values)
        rows.append(
            dict(zip([*by, "mean", "low", "high", "n"], [*key, *summary, len(values)], strict=True))
        )
    return pd.DataFrame(rows)


def proportion_interval(
    successes: ArrayLike, n: ArrayLike, level: float = 0.95
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Clopper and Pearson's interval of a proportion.

    As :meth:`scipy.stats._result_classes.BinomTestResult.proportion_ci`, for many
    proportions at once, and for counts that are averages.

    Parameters
    ----------
    successes, n : array_like
        Counts, of one shape or of shapes that broadcast; ``0 <= successes <= n``.
    level : float
        Coverage, at least.

    Returns
    -------
    low, high : ndarray

    Raises
    ------
    ValueError
        If there is nothing to count, a count is out of range, or the level is not in
        (0, 1).
    """
    successes, n = np.asarray(successes, dtype=float), np.asarray(n, dtype=float)
    if not (np.all(n > 0) and np.all(successes >= 0) and np.all(successes <= n)):
        raise ValueError(
            f"Got {successes} successes of {n}; expected 0 <= successes <= n, and one image or "
            "more."
        )
    if not 0 < level < 1:
        raise ValueError(f"level is {level!r}; expected a number between 0 and 1.")
    tail = (1 - level) / 2
    low = betaincinv(successes, n - successes + 1, tail)  # NaN where nothing succeeds
    high = betaincinv(successes + 1, n - successes, 1 - tail)  # NaN where everything does
    return np.where(successes == 0, 0.0, low), np.where(successes == n, 1.0, high)


def difference_interval(
    gains: ArrayLike, losses: ArrayLike, n: ArrayLike, level: float = 0.95
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Interval of a difference between two accuracies on the same images.

    Parameters
    ----------
    gains, losses : array_like of shape (m,)
        How many images the first classifies correctly and the second does not, and the
        other way round.
    n : array_like of shape (m,)
        Number of images.
    level : float
        Coverage.

    Returns
    -------
    low, high : ndarray of shape (m,)
        Limits of ``(gains - losses) / n``.

    Raises
    ------
    ValueError
        As :func:`proportion_interval`.
    """
    gains, losses, n = (np.atleast_1d(np.asarray(x, dtype=float)) for x in (gains, losses, n))
    _, low, high = _mean_difference(gains / n, losses / n, n, np.arange(len(n)), level)
    return low, high


def _mean_proportion(
    share: NDArray[np.floating], n: NDArray[np.floating], group: NDArray[np.intp], level: float
) -> Interval:
    """Mean of the independent proportions of each group, which count alike.

    Of few images in each of many domains the distances to the limits add up to too little,
    since such proportions are skewed. So the interval is also no narrower than that of one
    sample with as many images as make the same variance (Kish's effective sample size).
    """
    size = np.bincount(group)
    mean = np.bincount(group, share) / size
    low, high = proportion_interval(share * n, n, level)
    below = np.sqrt(np.bincount(group, (share - low) ** 2)) / size
    above = np.sqrt(np.bincount(group, (high - share) ** 2)) / size
    effective = size**2 / np.bincount(group, 1 / n)
    whole_low, whole_high = proportion_interval(mean * effective, effective, level)
    return mean, np.minimum(mean - below, whole_low), np.maximum(mean + above, whole_high)


def _mean_difference(
    gained: NDArray[np.floating],
    lost: NDArray[np.floating],
    n: NDArray[np.floating],
    group: NDArray[np.intp],
    level: float,
) -> Interval:
    """Mean of ``gained - lost`` in each group; both are proportions of the same images.

    No image is gained and lost, so the two are negatively correlated. The correlation is
    estimated with half an image added to each.
    """
    gain, gain_low, gain_high = _mean_proportion(gained, n, group, level)
    loss, loss_low, loss_high = _mean_proportion(lost, n, group, level)
    a, b = (gained * n + 0.5) / (n + 1), (lost * n + 0.5) / (n + 1)
    covariance, a_variance, b_variance = (
        np.bincount(group, product / n) for product in (-a * b, a * (1 - a), b * (1 - b))
    )
    r = covariance / np.sqrt(a_variance * b_variance)
    down, up = gain - gain_low, loss_high - loss
    below = np.sqrt(down**2 + up**2 - 2 * r * down * up)
    up, down = gain_high - gain, loss - loss_low
    above = np.sqrt(up**2 + down**2 - 2 * r * up * down)
    return gain - loss, gain - loss - below, gain - loss + above


def pack(correct: NDArray[np.bool_]) -> bytes:
    """Write one truth value an image into bits, to be kept in a table."""
    return np.packbits(correct).tobytes()


def unpack(row: pd.Series) -> NDArray[np.bool_]:
    """Read the truth values of a row with the columns correct (see :func:`pack`) and n."""
    bits = np.frombuffer(row["correct"], dtype=np.uint8)
    return np.unpackbits(bits, count=int(row["n"])).astype(bool)


def aggregate(table: pd.DataFrame, by: Sequence[str], *, over: str = "seeds") -> pd.DataFrame:
    """Pool targets and seeds: mean accuracy, with a 95 % interval.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`~icm_study.experiments.run.run`. Without the column correct, as of a
        grid, there is an interval over seeds only, from their spread alone.
    by : sequence of str
        Columns to keep apart.
    over : {"seeds", "images", "groups"}
        What the interval speaks for. ``"seeds"``: Student's t, and no narrower than the
        images of all runs make it; targets of one seed share training images, so they are
        averaged first. With a single seed there is no interval (NaN). ``"images"``: over
        the test images of each target, which are independent of each other; seeds tested
        on the same images count as one. ``"groups"``: the same, and images of one group
        count as one.

    Returns
    -------
    DataFrame
        The columns `by`, and value, low, high (percent), n_runs.

    Raises
    ------
    ValueError
        If a group has not one run for every target and seed, or `over` is unknown or
        needs a column that is not there.
    """
    runs = table[list(dict.fromkeys([*by, "target", "seed", "value"]))]
    if "correct" in table:
        hits = [int.from_bytes(row).bit_count() for row in table["correct"]]
        runs = runs.assign(n=table["n"], hit=hits / table["n"])
    if "group" in table:
        runs = runs.assign(members=table["group"])
    pooled = _pool(runs, by, over, 0.95)
    return pooled.assign(low=pooled["low"].clip(lower=0), high=pooled["high"].clip(upper=100))


def contrast(
    table: pd.DataFrame,
    side: Mapping[str, str],
    against: Mapping[str, str],
    by: Sequence[str],
    *,
    over: str = "seeds",
    level: float = 0.95,
) -> pd.DataFrame:
    """Paired difference in accuracy between two sides, run by run or image by image.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`~icm_study.experiments.run.run`.
    side, against : mapping of str to str
        The two to compare, each by values of columns, for example ``{"method": "ICM text",
        "predictor": "linear probe", "choice": "intervened"}``.
    by : sequence of str
        Columns to keep apart.
    over : {"seeds", "images", "groups"}
        What the interval speaks for, see :func:`aggregate`.
    level : float
        Coverage of the interval.

    Returns
    -------
    DataFrame
        The columns `by`, value (the mean of ``side - against``), low, high (percentage
        points), n_runs, and the names of the two as side and against.

    Raises
    ------
    ValueError
        If one of the two is not in the table, they were not run on the same targets,
        seeds and images or several times on one, or as :func:`aggregate`.
    """
    pairs = [(side, against)]
    return contrasts(table, pairs, by, over=over, level=level).drop(columns="pair")


def contrasts(
    table: pd.DataFrame,
    pairs: Sequence[tuple[Mapping[str, str], Mapping[str, str]]],
    by: Sequence[str],
    *,
    over: str = "seeds",
    level: float = 0.95,
) -> pd.DataFrame:
    """Many paired differences at once, which takes little more time than one.

    Parameters
    ----------
    table, by, over, level
        As for :func:`contrast`.
    pairs : sequence of (side, against)
        Each as for :func:`contrast`; where there are none, no rows come back.

    Returns
    -------
    DataFrame
        The rows of :func:`contrast`, pair after pair, with a column pair, its number.

    Raises
    ------
    ValueError
        As :func:`contrast`.
    """
    if not pairs:
        told = ["pair", *by, "value", "low", "high", "n_runs", "side", "against"]
        return pd.DataFrame(columns=told).astype({"pair": int, "value": float, "low": float})
    keys = list(dict.fromkeys([*by, "target", "seed"]))
    cell = table.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    columns = {name: table[name].to_numpy() for pair in pairs for one in pair for name in one}
    first, second = [], []
    for pair in pairs:
        rows = [
            np.flatnonzero(np.logical_and.reduce([columns[k] == v for k, v in one.items()]))
            for one in pair
        ]
        ours, theirs = _aligned(pair, *(cell[row] for row in rows))
        first.append(rows[0][ours])
        second.append(rows[1][theirs])
    number = np.repeat(np.arange(len(pairs)), [len(rows) for rows in first])
    here, there = (table.iloc[np.concatenate(rows)] for rows in (first, second))
    runs = here[keys].assign(value=here["value"].to_numpy() - there["value"].to_numpy())
    runs = runs.assign(pair=number).reset_index(drop=True)
    if "correct" in table:
        n = here["n"].to_numpy()
        for wrong in number[n != there["n"].to_numpy()][:1]:
            side, against = pairs[wrong]
            raise ValueError(
                f"{dict(side)} and {dict(against)} were tested on other numbers of images; "
                "expected the same images. Run both again on the same data."
            )
        hits = [[int.from_bytes(row) for row in rows["correct"]] for rows in (here, there)]
        gains = [(a & ~b).bit_count() for a, b in zip(*hits, strict=True)]
        losses = [(b & ~a).bit_count() for a, b in zip(*hits, strict=True)]
        runs = runs.assign(n=n, gained=gains / n, lost=losses / n)
    if "group" in table:
        runs = runs.assign(members=here["group"].to_numpy())
    pooled = _pool(runs, ["pair", *by], over, level)
    names = [[", ".join(one.values()) for one in pair] for pair in pairs]
    sides, others = (np.array(one, object)[pooled["pair"]] for one in zip(*names, strict=True))
    return pooled.assign(side=sides, against=others)


def _aligned(
    pair: tuple[Mapping[str, str], Mapping[str, str]],
    ours: NDArray[np.integer],
    theirs: NDArray[np.integer],
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Match the rows of two sides by the numbers of their cells, in the order of the first."""
    side, against = map(dict, pair)
    if not len(ours) or len(ours) != len(theirs) or set(ours) != set(theirs):
        raise ValueError(
            f"{side} has {len(ours)} runs and {against} has {len(theirs)}; expected "
            "both, on the same targets and seeds. Run the missing ones."
        )
    if len(np.unique(ours)) < len(ours):
        raise ValueError(
            f"{side} has several rows for a target and seed; expected one. Give what they "
            "differ in to `by`, or take one world, encoder and predictor at a time."
        )
    order = np.argsort(theirs)
    return np.arange(len(ours)), order[np.searchsorted(theirs, ours, sorter=order)]


def _pool(runs: pd.DataFrame, by: Sequence[str], over: str, level: float) -> pd.DataFrame:
    """Mean and interval for each group of `by`, in percent.

    Parameters
    ----------
    runs : DataFrame
        Columns `by`, target, seed and value (percent); where it is known which images were
        classified correctly, n, and hit or gained and lost (shares of the n images); where
        images come in groups, members (see
        :func:`~icm_study.experiments.clusters.pack_groups`).
    by, over, level
        As for :func:`contrast`.
    """
    if over not in OVER:
        raise ValueError(f"over={over!r} is unknown; choose one of {OVER}.")
    for kind, column, needed in (("images", "correct", "n"), ("groups", "group", "members")):
        if over == kind and needed not in runs:
            raise ValueError(f"over={over!r} needs the column {column}; the table has none.")
    runs = runs.assign(group=runs.groupby(list(by), sort=False, dropna=False).ngroup())
    _check_whole(runs, by)
    if over == "groups":
        runs = runs.assign(n=effective_size(runs))
    if over != "seeds":
        shares = [name for name in ("n", "hit", "gained", "lost") if name in runs]
        alike = runs.groupby(["group", "target"])[shares].mean()  # tested on the same images
        value, low, high = _over_images(alike.reset_index(), level)
    else:
        seeds = runs.groupby(["group", "seed"])["value"].mean().groupby("group")
        n, value = seeds.size().to_numpy(), seeds.mean().to_numpy()
        half = stdtrit(n - 1, (1 + level) / 2) * seeds.std().to_numpy() / np.sqrt(n)
        half = np.where(seeds.min() == seeds.max(), np.nan, half)  # as in t_interval
        low, high = value - half, value + half
        if "n" in runs:
            _, least, most = _over_images(runs, level)
            low = np.where(n > 1, np.fmin(low, least), np.nan)
            high = np.where(n > 1, np.fmax(high, most), np.nan)
    n_runs = runs.groupby("group").size().to_numpy()
    keys = runs.drop_duplicates("group").sort_values("group")[list(by)].reset_index(drop=True)
    return keys.assign(value=value, low=low, high=high, n_runs=n_runs)


def _over_images(runs: pd.DataFrame, level: float) -> Interval:
    """Mean in percent and interval of each group of runs on images of their own."""
    group, n = runs["group"].to_numpy(), runs["n"].to_numpy(dtype=float)
    if "hit" in runs:
        limits = _mean_proportion(runs["hit"].to_numpy(), n, group, level)
    else:
        gained, lost = runs["gained"].to_numpy(), runs["lost"].to_numpy()
        limits = _mean_difference(gained, lost, n, group, level)
    value, low, high = (100 * limit for limit in limits)
    return value, low, high


def _check_whole(runs: pd.DataFrame, by: Sequence[str]) -> None:
    """Refuse a group that has not one run for every target and seed."""
    groups = runs.groupby("group")
    size, expected = groups.size(), groups["seed"].nunique() * groups["target"].nunique()
    different = runs.drop_duplicates(["group", "target", "seed"]).groupby("group").size()
    for group in size.index[(size != expected) | (different != expected)][:1]:
        told = [name for name in by if name != "pair"]
        key = next(runs.loc[runs["group"] == group, told].itertuples(index=False, name=None))
        raise ValueError(
            f"The group {key} has {size[group]} rows for {expected[group]} pairs of seed and "
            "target; expected one each. Run the missing ones, or name more columns in `by`."
        )
