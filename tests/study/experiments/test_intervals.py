"""Intervals: of means and of paired differences, over seeds and over images, by bootstrap and by Student."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from icm_study.experiments.intervals import (
    aggregate,
    bootstrap_interval,
    contrast,
    mean_interval,
    method_name,
    pack,
    unpack,
)
from icm_study.report.tables import interval_table, with_interval

values = st.lists(st.floats(0.01, 100), min_size=2, max_size=10)


@settings(deadline=None)
@given(values)
def test_interval_is_students(runs):
    table = pd.DataFrame({"group": "a", "value": runs})
    row = mean_interval(table, ["group"], "value").iloc[0]
    assert (row["group"], row["n"]) == ("a", len(runs))
    assert row["mean"] == pytest.approx(np.mean(runs))
    if np.std(runs) > 1e-6:
        expected = stats.ttest_1samp(runs, 0).confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx(tuple(expected))


@settings(deadline=None)
@given(values)
def test_log_interval_is_that_of_the_logarithms(runs):
    table = pd.DataFrame({"group": "a", "value": runs, "log": np.log(runs)})
    geometric = mean_interval(table, ["group"], "value", log=True).iloc[0]
    plain = mean_interval(table, ["group"], "log").iloc[0]
    for name in ("mean", "low", "high"):
        assert np.log(geometric[name]) == pytest.approx(plain[name], abs=1e-9)


def test_interval_keeps_groups_apart_and_needs_two_runs():
    table = pd.DataFrame({"a": ["x", "x", "y"], "b": [1, 1, 2], "value": [1.0, 3.0, 5.0]})
    result = mean_interval(table, ["a", "b"], "value")
    assert list(result["mean"]) == [2.0, 5.0]
    assert list(result["n"]) == [2, 1]
    assert np.isnan(result["low"].iloc[1])


def test_interval_as_text():
    assert with_interval(pd.Series({"mean": 0.12345, "low": 0.1, "high": 12.0})) == "0.123 (0.1 to 12)"
    assert with_interval(pd.Series({"mean": 2.0, "low": np.nan, "high": np.nan})) == "2"


def test_interval_table_lays_out_means_and_intervals():
    means = pd.DataFrame(
        {"name": ["a", "a", "b", "b"], "where": ["x", "y", "x", "y"], "value": [1.0, 2, -3, 4],
         "low": [0.5, np.nan, -4, 3], "high": [1.5, np.nan, -2, 5]}
    )  # fmt: skip
    table = interval_table(means, ["name"], ["where"])
    assert table.loc["a"].tolist() == ["1.0 (0.5 to 1.5)", "2.0"]
    assert (
        interval_table(means.assign(low=-5, high=105), ["name"], ["where"]).loc["a", "x"]
        == "1.0 (0.0 to 100.0)"
    )
    signed = interval_table(means, ["name"], ["where"], signed=True)
    assert signed.loc["b"].tolist() == ["-3.0 (-4.0 to -2.0)", "+4.0 (+3.0 to +5.0)"]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(20, 300), st.floats(0.5, 0.99))
def test_interval_agrees_with_scipy(seed, n, level):
    rng = np.random.default_rng(seed)
    values = (rng.random(n) < 0.7).astype(float) - (rng.random(n) < 0.4)
    n_resamples = 4000
    ours = bootstrap_interval(values, level=level, n_resamples=n_resamples)
    theirs = scipy.stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=level,
        n_resamples=n_resamples,
        method="percentile",
        rng=rng,
        batch=500,
    )
    # the Monte Carlo error of a quantile at p is √(p (1 - p) / R) / density, here of a normal distribution
    spread, tail = values.std() / np.sqrt(n), (1 - level) / 2
    density = scipy.stats.norm.pdf(scipy.stats.norm.ppf(tail)) / max(spread, 1e-12)
    error = np.sqrt(2 * tail * (1 - tail) / n_resamples) / density
    step = 1 / n  # the means lie on a grid
    np.testing.assert_allclose(ours, theirs.confidence_interval, atol=6 * error + 2 * step)


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_interval_covers_the_truth_as_often_as_it_says(p):
    """1,000 seeded draws of 200 images: the coverage's own standard error is 0.7 %; 2 % more for the discrete mean."""
    rng = np.random.default_rng(11)
    draws = (rng.random((1000, 200)) < p).astype(float)
    intervals = np.array([bootstrap_interval(d, n_resamples=500, seed=i) for i, d in enumerate(draws)])
    covered = ((intervals[:, 0] <= p) & (p <= intervals[:, 1])).mean()
    assert covered == pytest.approx(0.95, abs=0.035)


def test_paired_differences_have_narrower_intervals():
    rng = np.random.default_rng(0)
    one = (rng.random(500) < 0.7).astype(float)
    flipped = rng.random(500) < 0.05
    other = np.where(flipped, 1 - one, one)
    low, high = bootstrap_interval(one - other)
    widths = [np.diff(bootstrap_interval(v, seed=s))[0] for s, v in enumerate((one, other))]
    assert high - low < 0.7 * np.hypot(*widths)
    assert low <= (one - other).mean() <= high


def test_interval_of_constant_values_and_its_seed():
    assert bootstrap_interval(np.full(30, 0.5)) == (0.5, 0.5)
    values = np.random.default_rng(0).normal(size=40)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "Got 0 values"),
        ([1.0, np.nan], {}, "expected finite values"),
        ([1.0, 2.0], {"level": 95}, "level is 95; expected a number between 0 and 1"),
        ([1.0, 2.0], {"level": 0}, "level is 0"),
    ],
)
def test_bad_intervals(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(np.array(values), **options)


# Pooling


def runs(seeds=3, targets=4):
    """Give runs whose seeds differ by more than their targets do at random."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "method": method, "intervention": kind, "K": k, "target": t, "seed": s,
            "value": 60 + 5 * t + 3 * s + rng.normal(), "difference": rng.normal(),
        }
        for method, kind, k in (("plain", "none", np.nan), ("ICM", "text", 8.0), ("ICM", "image", 16.0))
        for t in range(targets)
        for s in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def by_hand(values, table):
    """Mean and t interval over seeds, from scipy."""
    means = [
        np.mean([v for v, s in zip(values, table["seed"], strict=True) if s == seed]) for seed in range(3)
    ]
    interval = scipy.stats.t.interval(0.95, 2, loc=np.mean(means), scale=scipy.stats.sem(means))
    return np.mean(values), *interval


@pytest.mark.parametrize("value", ["value", "difference"])
def test_aggregate_is_a_t_interval_over_seeds(value):
    table = runs()
    pooled = aggregate(table, ["method", "intervention", "K"], value=value).set_index(
        ["method", "intervention"]
    )
    assert len(pooled) == 3
    for key, mine in table.groupby(["method", "intervention"]):
        row = pooled.loc[key]
        assert row["n_runs"] == 12
        assert tuple(row[["value", "low", "high"]]) == pytest.approx(by_hand(mine[value], mine))


def test_targets_of_one_seed_are_no_independent_runs():
    """The interval is that of 3 seeds, wider than that of 12 runs about their targets' means."""
    table = runs()
    row = aggregate(table, ["intervention"]).set_index("intervention").loc["text"]
    mine = table[table["intervention"] == "text"]
    centred = mine["value"] - mine.groupby("target")["value"].transform("mean")
    assert row["high"] - row["low"] > 2 * 2 * 1.96 * centred.std() / np.sqrt(12)


def test_aggregate_of_a_single_seed_has_no_interval():
    pooled = aggregate(runs(seeds=1), ["method", "intervention"])
    assert pooled[["low", "high"]].isna().all(axis=None)
    assert np.isfinite(pooled["value"]).all()


def test_contrast_keeps_the_order_of_its_table_whatever_the_order_of_the_runs():
    table = pd.concat([runs().assign(condition=name) for name in ("unseen", "in_distribution", "reversed")])
    keys = ["value", "low", "high", "n_runs"]
    gain = contrast(table, ("ICM", "text"), ("plain", "none"), ["condition"])
    assert gain["condition"].tolist() == ["unseen", "in_distribution", "reversed"]
    shuffled = table.sample(frac=1, random_state=0)
    again = contrast(shuffled, ("ICM", "text"), ("plain", "none"), ["condition"])
    pd.testing.assert_frame_equal(
        gain.set_index("condition")[keys].sort_index(), again.set_index("condition")[keys].sort_index()
    )


def test_contrast_refuses_several_rows_for_a_run():
    both = pd.concat([runs().assign(world=world) for world in ("coat", "scene")])
    with pytest.raises(ValueError, match="several rows for a target and seed; expected one"):
        contrast(both.assign(condition="unseen"), ("ICM", "text"), ("plain", "none"), ["condition"])


def test_methods_are_named_for_readers_and_apart():
    names = {("plain", "none"): "plain", ("augmentation", "image"): "augmented, image"}
    names |= {("ICM", "text"): "ICM, text", ("ICM auto", "image+text"): "ICM auto, image + text"}
    for pair, name in names.items():
        assert method_name(*pair) == name


def test_contrast_is_paired_run_by_run():
    table = runs()
    gain = contrast(table.assign(world="coat"), ("ICM", "text"), ("plain", "none"), ["world"])
    first, second = (
        table[table["intervention"] == kind].set_index(["target", "seed"])["value"]
        for kind in ("text", "none")
    )
    difference = (first - second).reset_index()
    assert tuple(gain[["value", "low", "high"]].iloc[0]) == pytest.approx(
        by_hand(difference["value"], difference)
    )
    assert gain[["world", "n_runs", "method", "against"]].iloc[0].tolist() == [
        "coat",
        12,
        "ICM, text",
        "plain",
    ]
    # what all methods share by seed and target cancels
    unpaired = (
        aggregate(table.assign(world="coat"), ["world", "intervention"]).set_index("intervention").loc["text"]
    )
    assert (gain["high"] - gain["low"]).item() < (unpaired["high"] - unpaired["low"]) / 2


def test_pooling_needs_one_run_for_every_target_and_seed():
    table = runs()
    lacking = table[~((table["intervention"] == "text") & (table["target"] == 2) & (table["seed"] == 1))]
    with pytest.raises(
        ValueError, match=r"The group \('ICM', 8\.0\) has 11 rows for 12 pairs of seed and target"
    ):
        aggregate(lacking, ["method", "K"])
    with pytest.raises(ValueError, match=r"has 24 rows for 12 pairs.*name more columns"):
        aggregate(table, ["method"])
    with pytest.raises(ValueError, match=r"has 11 runs and .* has 12; expected both, on the same"):
        contrast(lacking.assign(world=0), ("ICM", "text"), ("plain", "none"), ["world"])
    with pytest.raises(ValueError, match=r"has 0 runs"):
        contrast(table.assign(world=0), ("ICM", "oracle"), ("plain", "none"), ["world"])


# Over images


def outcomes(correct, method="plain", intervention="none"):
    """Rows of runs from truth values: (target, seed) -> one value an image."""
    return pd.DataFrame(
        {
            "target": target, "seed": seed, "condition": "unseen", "method": method, "intervention": intervention,
            "value": 100 * values.mean(), "n": len(values), "correct": pack(values),
        }
        for (target, seed), values in correct.items()
    )  # fmt: skip


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_truth_values_survive_packing(truths):
    row = pd.Series({"correct": pack(np.array(truths)), "n": len(truths)})
    assert unpack(row).tolist() == truths


def test_interval_over_images_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, hits = [0.9, 0.6, 0.3], []
    for _ in range(400):
        table = outcomes({(i, 0): rng.random(150) < p for i, p in enumerate(truth)})
        row = aggregate(table, ["condition"], over="images").iloc[0]
        hits.append(row["low"] <= 100 * np.mean(truth) <= row["high"])
    assert np.mean(hits) == pytest.approx(0.95, abs=0.03)


def test_seeds_on_the_same_images_count_once():
    images = np.random.default_rng(0).random(200) < 0.7
    once, thrice = (
        aggregate(outcomes({("a", s): images for s in range(n)}), ["condition"], over="images").iloc[0]
        for n in (1, 3)
    )
    assert tuple(once[["value", "low", "high"]]) == pytest.approx(tuple(thrice[["value", "low", "high"]]))


@pytest.mark.parametrize("right", [True, False])
def test_where_all_images_agree_there_is_still_an_interval(right):
    row = aggregate(outcomes({("a", 0): np.full(100, right)}), ["condition"], over="images").iloc[0]
    assert row["value"] == 100 * right
    assert 1 < row["high"] - row["low"] < 3
    assert (row["low"], row["high"])[right] == 100 * right  # never beyond 0 and 100


def test_differences_are_paired_image_by_image():
    rng = np.random.default_rng(0)
    plain = {(target, 0): rng.random(300) < 0.5 for target in "ab"}
    better = {
        key: values | (rng.random(300) < 0.1) for key, values in plain.items()
    }  # never worse on an image
    table = pd.concat([outcomes(plain), outcomes(better, "ICM", "text")])
    row = contrast(table, ("ICM", "text"), ("plain", "none"), ["condition"], over="images").iloc[0]
    gains = [better[key].astype(float) - plain[key] for key in plain]
    error = np.sqrt(sum(gain.var() / 300 for gain in gains)) / 2
    assert row["value"] == pytest.approx(100 * np.mean(gains))
    assert row["high"] - row["value"] == pytest.approx(100 * 1.959964 * error)
    wider = contrast(
        table, ("ICM", "text"), ("plain", "none"), ["condition"], over="images", level=0.99
    ).iloc[0]
    assert (wider["high"] - wider["low"]) / (row["high"] - row["low"]) == pytest.approx(2.575829 / 1.959964)


def test_bad_ways_to_pool():
    table = pd.concat([outcomes({("a", 0): np.ones(4, bool)}, method) for method in ("plain", "ICM")])
    with pytest.raises(ValueError, match="over='rows' is unknown"):
        aggregate(table, ["method"], over="rows")
    with pytest.raises(ValueError, match=r"level=0.9: intervals over seeds are at 0.95 only"):
        contrast(table, ("ICM", "none"), ("plain", "none"), ["condition"], level=0.9)
