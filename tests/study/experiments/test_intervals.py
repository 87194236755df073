"""Intervals: of means and of paired differences, and how often they cover the truth."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from icm_study.experiments.intervals import (
    aggregate,
    contrast,
    contrasts,
    difference_interval,
    mean_interval,
    pack,
    proportion_interval,
    t_interval,
    unpack,
)

values = st.lists(st.floats(0.01, 100), min_size=2, max_size=10)


@settings(deadline=None, max_examples=50)
@given(values)
def test_interval_is_students(runs):
    table = pd.DataFrame({"group": "a", "value": runs})
    row = mean_interval(table, ["group"], "value").iloc[0]
    assert (row["group"], row["n"]) == ("a", len(runs))
    assert row["mean"] == pytest.approx(np.mean(runs))
    if np.std(runs) > 1e-6:
        expected = stats.ttest_1samp(runs, 0).confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx(tuple(expected))


@settings(deadline=None, max_examples=50)
@given(values)
def test_log_interval_is_that_of_the_logarithms(runs):
    table = pd.DataFrame({"group": "a", "value": runs, "log": np.log(runs)})
    geometric = mean_interval(table, ["group"], "value", log=True).iloc[0]
    plain = mean_interval(table, ["group"], "log").iloc[0]
    for name in ("mean", "low", "high"):
        assert np.log(geometric[name]) == pytest.approx(plain[name], abs=1e-9, nan_ok=True)


def test_interval_keeps_groups_apart_and_needs_two_runs():
    table = pd.DataFrame({"a": ["x", "x", "y"], "b": [1, 1, 2], "value": [1.0, 3.0, 5.0]})
    result = mean_interval(table, ["a", "b"], "value")
    assert list(result["mean"]) == [2.0, 5.0]
    assert list(result["n"]) == [2, 1]
    assert np.isnan(result["low"].iloc[1])


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.floats(0, 1), st.floats(0.5, 0.999))
def test_interval_of_one_proportion_is_that_of_scipy(n, share, level):
    successes = round(share * n)
    ours = proportion_interval(successes, n, level)
    theirs = stats.binomtest(successes, n).proportion_ci(level, method="exact")
    assert ours == pytest.approx(tuple(theirs), abs=1e-9)


@pytest.mark.parametrize(
    ("successes", "n", "level", "message"),
    [
        (0, 0, 0.95, "Got 0.0 successes of 0.0; expected"),
        (3, 2, 0.95, "Got 3.0 successes of 2.0"),
        (np.nan, 2, 0.95, "Got nan successes"),
        (1, 2, 95, "level is 95; expected a number between 0 and 1"),
        (1, 2, 0, "level is 0"),
    ],
)
def test_proportions_that_are_none(successes, n, level, message):
    with pytest.raises(ValueError, match=message):
        proportion_interval(successes, n, level)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 60).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))
    )
)
def test_the_interval_of_a_difference_turns_with_its_sign(counts):
    n, gains = counts[0], min(counts[:2])
    losses = min(counts[2], n - gains)
    (low,), (high,) = difference_interval([gains], [losses], [n])
    assert -1 <= low <= (gains - losses) / n <= high <= 1
    assert low < high
    (other_low,), (other_high,) = difference_interval([losses], [gains], [n])
    assert (-other_high, -other_low) == pytest.approx((low, high))


def test_without_ties_a_difference_is_one_proportion():
    """Where every image is gained or lost, the difference is twice the share of gains, less one."""
    gains, n = np.arange(20, 81), 100
    low, high = difference_interval(gains, n - gains, np.full(len(gains), n))
    expected = [2 * limit - 1 for limit in proportion_interval(gains, n)]
    np.testing.assert_allclose([low, high], expected, atol=2e-3)


def test_agreeing_runs_have_no_spread_to_go_by():
    assert t_interval(np.array([0.5, 0.5]))[0] == 0.5
    assert np.isnan(t_interval(np.array([0.5, 0.5]))[1:]).all()


# Pooling

TEXT = {"method": "ICM", "intervention": "text"}
PLAIN = {"method": "plain", "intervention": "none"}


def runs(seeds=3, targets=4):
    """Give runs whose seeds differ by more than their targets do at random."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "method": method, "intervention": kind, "K": k, "target": t, "seed": s,
            "value": 60 + 5 * t + 3 * s + rng.normal(),
        }
        for method, kind, k in (
            ("plain", "none", np.nan), ("ICM", "text", 8.0), ("ICM", "image", 16.0),
        )
        for t in range(targets)
        for s in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def by_hand(values, table):
    """Mean and t interval over seeds, from scipy."""
    means = [
        np.mean([v for v, s in zip(values, table["seed"], strict=True) if s == seed])
        for seed in range(3)
    ]
    interval = scipy.stats.t.interval(0.95, 2, loc=np.mean(means), scale=scipy.stats.sem(means))
    return np.mean(values), *interval


def test_aggregate_is_a_t_interval_over_seeds():
    table = runs()
    pooled = aggregate(table, ["method", "intervention", "K"]).set_index(["method", "intervention"])
    assert len(pooled) == 3
    for key, mine in table.groupby(["method", "intervention"]):
        row = pooled.loc[key]
        assert row["n_runs"] == 12
        assert tuple(row[["value", "low", "high"]]) == pytest.approx(by_hand(mine["value"], mine))


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


def test_many_contrasts_are_each_as_it_is_alone():
    table = pd.concat([runs().assign(condition=name) for name in ("unseen", "reversed")])
    pairs = [(TEXT, PLAIN), (PLAIN, TEXT), ({"method": "plain"}, TEXT)]
    found = contrasts(table, pairs, ["condition"])
    for number, pair in enumerate(pairs):
        own = found[found["pair"] == number].drop(columns="pair").reset_index(drop=True)
        alone = contrast(table, *pair, ["condition"])
        pd.testing.assert_frame_equal(own, alone, check_exact=True)
    none = contrasts(table, [], ["condition"])
    assert (list(none), len(none)) == (list(found), 0)


def test_contrast_keeps_the_order_of_its_table_whatever_the_order_of_the_runs():
    table = pd.concat(
        [runs().assign(condition=name) for name in ("unseen", "in_distribution", "reversed")]
    )
    keys = ["value", "low", "high", "n_runs"]
    gain = contrast(table, TEXT, PLAIN, ["condition"])
    assert gain["condition"].tolist() == ["unseen", "in_distribution", "reversed"]
    shuffled = table.sample(frac=1, random_state=0)
    again = contrast(shuffled, TEXT, PLAIN, ["condition"])
    pd.testing.assert_frame_equal(
        gain.set_index("condition")[keys].sort_index(),
        again.set_index("condition")[keys].sort_index(),
    )


def test_contrast_refuses_several_rows_for_a_run():
    both = pd.concat([runs().assign(world=world) for world in ("coat", "scene")])
    with pytest.raises(ValueError, match="several rows for a target and seed; expected one"):
        contrast(both.assign(condition="unseen"), TEXT, PLAIN, ["condition"])


def test_contrast_is_paired_run_by_run():
    table = runs()
    gain = contrast(table.assign(world="coat"), TEXT, PLAIN, ["world"])
    first, second = (
        table[table["intervention"] == kind].set_index(["target", "seed"])["value"]
        for kind in ("text", "none")
    )
    difference = (first - second).reset_index()
    assert tuple(gain[["value", "low", "high"]].iloc[0]) == pytest.approx(
        by_hand(difference["value"], difference)
    )
    names = gain[["world", "n_runs", "side", "against"]].iloc[0].tolist()
    assert names == ["coat", 12, "ICM, text", "plain, none"]
    # what all methods share by seed and target cancels
    unpaired = (
        aggregate(table.assign(world="coat"), ["world", "intervention"])
        .set_index("intervention")
        .loc["text"]
    )
    assert (gain["high"] - gain["low"]).item() < (unpaired["high"] - unpaired["low"]) / 2


def test_pooling_needs_one_run_for_every_target_and_seed():
    table = runs()
    lacking = table[
        ~((table["intervention"] == "text") & (table["target"] == 2) & (table["seed"] == 1))
    ]
    with pytest.raises(
        ValueError, match=r"The group \('ICM', 8\.0\) has 11 rows for 12 pairs of seed and target"
    ):
        aggregate(lacking, ["method", "K"])
    with pytest.raises(ValueError, match=r"has 24 rows for 12 pairs.*name more columns"):
        aggregate(table, ["method"])
    with pytest.raises(ValueError, match=r"has 11 runs and .* has 12; expected both, on the same"):
        contrast(lacking.assign(world=0), TEXT, PLAIN, ["world"])
    with pytest.raises(ValueError, match=r"has 0 runs"):
        contrast(table.assign(world=0), TEXT | {"intervention": "oracle"}, PLAIN, ["world"])


# Over images


def outcomes(correct, method="plain", intervention="none"):
    """Rows of runs from truth values: (target, seed) -> one value an image."""
    return pd.DataFrame(
        {
            "target": target, "seed": seed, "condition": "unseen",
            "method": method, "intervention": intervention,
            "value": 100 * values.mean(), "n": len(values), "correct": pack(values),
        }
        for (target, seed), values in correct.items()
    )  # fmt: skip


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_truth_values_survive_packing(truths):
    row = pd.Series({"correct": pack(np.array(truths)), "n": len(truths)})
    assert unpack(row).tolist() == truths


def test_seeds_on_the_same_images_count_once():
    images = np.random.default_rng(0).random(200) < 0.7
    once, thrice = (
        aggregate(
            outcomes({("a", s): images for s in range(n)}), ["condition"], over="images"
        ).iloc[0]
        for n in (1, 3)
    )
    assert tuple(once[["value", "low", "high"]]) == pytest.approx(
        tuple(thrice[["value", "low", "high"]])
    )


@pytest.mark.parametrize("right", [True, False])
def test_where_all_images_agree_there_is_still_an_interval(right):
    row = aggregate(outcomes({("a", 0): np.full(100, right)}), ["condition"], over="images").iloc[0]
    assert row["value"] == 100 * right
    assert row["high"] - row["low"] == pytest.approx(100 * (1 - 0.025**0.01))
    assert (row["low"], row["high"])[right] == 100 * right  # never beyond 0 and 100


def test_differences_are_paired_image_by_image():
    rng = np.random.default_rng(0)
    plain = {(target, 0): rng.random(1000) < 0.5 for target in "ab"}
    better = {key: right | (rng.random(1000) < 0.1) for key, right in plain.items()}  # never worse
    table = pd.concat([outcomes(plain), outcomes(better, "ICM", "text")])
    compared = TEXT, PLAIN, ["condition"]
    row = contrast(table, *compared, over="images").iloc[0]
    gains = [better[key].astype(float) - plain[key] for key in plain]
    error = 100 * np.sqrt(sum(gain.var() / 1000 for gain in gains)) / 2
    assert row["value"] == pytest.approx(100 * np.mean(gains))
    # of many images the interval is nearly the normal one
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * error, rel=0.15)
    wider = contrast(table, *compared, over="images", level=0.99).iloc[0]
    assert wider["high"] - wider["low"] == pytest.approx(2 * 2.576 * error, rel=0.15)


def test_where_seeds_agree_the_images_still_differ():
    """Two seeds that get 29 of 30 images right: as wide as the interval of 58 of 60."""
    table = outcomes({("a", seed): np.arange(30) > 0 for seed in (0, 1)})
    row = aggregate(table, ["condition"]).iloc[0]
    low, high = proportion_interval(58, 60)
    assert row["low"] / 100 <= low + 1e-12
    assert high - 1e-12 <= row["high"] / 100
    assert (row["high"] - row["low"]) / 100 == pytest.approx(high - low, abs=0.03)
    both = pd.concat([table, table.assign(method="ICM")])
    row = contrast(both, {"method": "ICM"}, {"method": "plain"}, ["condition"]).iloc[0]
    assert row["low"] < 0 == row["value"] < row["high"]


def test_where_seeds_differ_by_more_than_their_images_students_t_decides():
    right = {("a", seed): np.arange(1000) < hits for seed, hits in enumerate((500, 700, 900))}
    row = aggregate(outcomes(right), ["condition"]).iloc[0]
    expected = stats.t.interval(0.95, 2, loc=70, scale=20 / np.sqrt(3))
    assert (row["low"], row["high"]) == pytest.approx((expected[0], 100))  # never beyond 100


def test_seeds_without_images_and_spread_have_no_interval():
    row = aggregate(runs().assign(value=70.0), ["intervention"]).iloc[0]
    assert row["value"] == 70
    assert np.isnan(row["low"])


def test_bad_ways_to_pool():
    table = pd.concat(
        [outcomes({("a", 0): np.ones(4, bool)}, method) for method in ("plain", "ICM")]
    )
    with pytest.raises(ValueError, match="over='rows' is unknown"):
        aggregate(table, ["method"], over="rows")
    with pytest.raises(ValueError, match="needs the column correct"):
        aggregate(table.drop(columns="correct"), ["method"], over="images")
    other = table.assign(n=np.where(table["method"] == "ICM", 3, 4))
    with pytest.raises(ValueError, match="other numbers of images; expected the same images"):
        contrast(other, {"method": "ICM"}, {"method": "plain"}, ["condition"], over="images")


# Coverage: how often the interval holds the truth, at a nominal 95 %

SHARES = (0.5, 0.7, 0.9, 0.95, 0.99, 0.995)


@cache
def bits(*blocks):
    """Packed truth values, from (how many, right or wrong) blocks."""
    return pack(np.repeat([right for _, right in blocks], [n for n, _ in blocks]))


def draws(shape, **columns):
    """One row for each (draw, target, seed); `columns` broadcast to that shape."""
    index = dict(zip(("draw", "target", "seed"), np.indices(shape).reshape(3, -1), strict=True))
    given = {name: np.broadcast_to(of, shape).ravel() for name, of in columns.items()}
    return pd.DataFrame(index | given)


def of_accuracies(hits, n):
    """Rows with this many hits, shape (draws, targets, seeds), of n images."""
    table = draws(hits.shape, hits=hits, n=n)
    packed = [bits((k, True), (n - k, False)) for k, n in table[["hits", "n"]].to_numpy()]
    return table.assign(value=100 * table["hits"] / table["n"], correct=packed)


def of_differences(gains, losses, n):
    """Rows of two methods that differ on so many images."""
    table = draws(gains.shape, gains=gains, losses=losses, n=n).assign(intervention="none")
    counts = table[["gains", "losses", "n"]].to_numpy()
    first, second = (
        table.assign(
            method=name,
            correct=[bits((a, right), (b, not right), (n - a - b, True)) for a, b, n in counts],
            value=100 * (table["n"] - table[worse]) / table["n"],
        )
        for name, right, worse in (("ICM", True, "losses"), ("plain", False, "gains"))
    )
    return pd.concat([first, second])


def accuracy_covers(hits, n, truth, over):
    """For each draw, whether the interval of its mean accuracy holds the truth."""
    found = aggregate(of_accuracies(hits, n), ["draw"], over=over)
    return (found["low"] <= 100 * truth + 1e-9) & (100 * truth - 1e-9 <= found["high"])


def difference_covers(gains, losses, n, truth, over):
    """For each draw, whether the interval of its mean difference holds the truth."""
    table = of_differences(gains, losses, n)
    found = contrast(table, {"method": "ICM"}, {"method": "plain"}, ["draw"], over=over)
    return (found["low"] <= 100 * truth + 1e-9) & (100 * truth - 1e-9 <= found["high"])


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 30, 100, 487, 2000])
def test_exact_coverage_of_one_accuracy(n):
    hits = np.arange(n + 1)
    for share in SHARES:
        covers = accuracy_covers(hits[:, None, None], n, share, "images")
        assert stats.binom.pmf(hits, n, share) @ covers >= 0.95 - 1e-9


RATES = [
    (gain, loss)
    for gain in (0, 0.005, 0.02, 0.1, 0.3, 0.5, 0.9)
    for loss in (0, 0.005, 0.02, 0.1, 0.3, 0.5)
    if gain + loss <= 1
]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 10, 30])
def test_exact_coverage_of_one_difference(n):
    gains, losses = np.nonzero(np.add.outer(np.arange(n + 1), np.arange(n + 1)) <= n)
    counts = np.stack([gains, losses, n - gains - losses], axis=1)
    table = of_differences(gains[:, None, None], losses[:, None, None], n)
    found = contrast(table, {"method": "ICM"}, {"method": "plain"}, ["draw"], over="images")
    for gain, loss in RATES:
        chance = stats.multinomial.pmf(counts, n, [gain, loss, max(0, 1 - gain - loss)])
        truth = 100 * (gain - loss)
        covers = (found["low"] <= truth + 1e-9) & (truth - 1e-9 <= found["high"])
        assert chance @ covers >= 0.95 - 1e-9, (gain, loss)


@pytest.mark.parametrize("n", [100, 2000])
def test_coverage_of_one_difference_of_many_images(n):
    rng = np.random.default_rng(n)
    for gain, loss in [(0.005, 0), (0.02, 0), (0.1, 0.02), (0.3, 0.3), (0.5, 0.4), (0.02, 0.9)]:
        gains, losses, _ = rng.multinomial(
            n, [gain, loss, 1 - gain - loss], (1000, 1, 1)
        ).transpose(3, 0, 1, 2)
        assert difference_covers(gains, losses, n, gain - loss, "images").mean() >= 0.93


@pytest.mark.parametrize(
    "sizes",
    [[1] * 2, [1] * 6, [3] * 2, [3] * 6, [30] * 4, [487] * 4, [1, 30, 30], [1, 487, 487]],
    ids=str,
)
def test_coverage_of_means_over_targets(sizes):
    rng = np.random.default_rng(sizes)
    n = np.array(sizes)[:, None]
    for first, last in [(0.5, 0.5), (0.99, 0.99), (0.5, 0.95)]:
        shares = np.linspace(first, last, len(n))[:, None]
        hits = rng.binomial(n, shares, (800, *n.shape))
        assert accuracy_covers(hits, n, shares.mean(), "images").mean() >= 0.93
    for gain, loss in [(0.02, 0), (0.5, 0.4)]:
        gains = rng.binomial(n, gain, (800, *n.shape))
        losses = rng.binomial(n - gains, loss / (1 - gain))
        assert difference_covers(gains, losses, n, gain - loss, "images").mean() >= 0.93


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("share", "spread"), [(0.95, 0), (0.995, 0), (0.9, 0.03), (0.7, 0.1)])
def test_coverage_of_means_over_seeds(seeds, share, spread):
    """Seeds that do not differ at all, by about as much as their images, or by far more."""
    rng = np.random.default_rng([seeds, round(1000 * share)])
    for n in (30, 300):
        each = np.clip(share + spread * rng.standard_normal((600, 1, seeds)), 0, 1)
        hits = rng.binomial(n, np.broadcast_to(each, (600, 2, seeds)))
        assert accuracy_covers(hits, n, share, "seeds").mean() >= 0.93
        gain = (1 - share) / 2 + spread / 4 * rng.standard_normal((600, 1, seeds))
        gains = rng.binomial(n, np.broadcast_to(np.clip(gain, 0, 1), (600, 2, seeds)))
        losses = rng.binomial(n - gains, 0.01)
        truth = (1 - share) / 2 * 1.01 - 0.01
        assert difference_covers(gains, losses, n, truth, "seeds").mean() >= 0.93
