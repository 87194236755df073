"""Intervals over groups of images that belong together: coverage, and what a group is worth."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from icm_study.experiments.clusters import count_groups, effective_size, pack_groups
from icm_study.experiments.intervals import aggregate, contrast, pack, proportion_interval

N_DRAWS = 400
LEAST = 0.93 - 3 * np.sqrt(0.93 * 0.07 / N_DRAWS)  # of 0.93, with what simulation leaves open


def rows(correct, members, draw=0, target="a", method="plain", seed=0):
    return {
        "draw": draw, "target": target, "seed": seed, "method": method, "n": len(correct),
        "value": 100 * correct.mean(), "correct": pack(correct), "group": pack_groups(members),
    }  # fmt: skip


def sizes(n_groups, kind):
    """Images of each group; of "one", a single group has most of all images."""
    if kind == "equal":
        return np.full(n_groups, 8)
    if kind == "one":
        return np.r_[np.full(n_groups - 1, 1), 4 * n_groups]
    return 1 + np.random.default_rng(0).poisson(np.geomspace(0.1, 30, n_groups))


def chances(n_groups, share, alike, rng):
    """Draw the share of each group: all `share` where `alike` is 0, 0 or 1 where it is 1."""
    if alike in (0, 1):
        return np.full(n_groups, share) if alike == 0 else rng.random(n_groups) < share
    a = (1 - alike) / alike
    return rng.beta(share * a, (1 - share) * a, n_groups)


@pytest.mark.parametrize("alike", [0, 0.1, 0.4, 1])
@pytest.mark.parametrize("kind", ["equal", "unequal", "one"])
@pytest.mark.parametrize("n_groups", [1, 2, 5, 12, 40])
def test_coverage_where_images_of_a_group_are_alike(n_groups, kind, alike):
    rng = np.random.default_rng(n_groups)
    member = np.repeat(np.arange(n_groups), sizes(n_groups, kind))
    for share in (0.5, 0.9, 0.98):
        table = pd.DataFrame(
            rows(rng.random(len(member)) < chances(n_groups, share, alike, rng)[member], member, i)
            for i in range(N_DRAWS)
        )
        found = aggregate(table, ["draw"], over="groups")
        covered = (found["low"] <= 100 * share) & (100 * share <= found["high"])
        assert covered.mean() >= LEAST, share
        if alike == 1 and kind == "equal" and n_groups > 5:  # as if they were single images
            single = aggregate(table, ["draw"], over="images")
            assert not ((single["low"] <= 100 * share) & (100 * share <= single["high"])).all()


@pytest.mark.parametrize("shared", [False, True], ids=["own groups", "groups in all targets"])
@pytest.mark.parametrize("n_groups", [3, 15])
@pytest.mark.parametrize("alike", [0.3, 1])
def test_coverage_of_differences_and_of_means_over_targets(n_groups, alike, shared):
    """Of each group it is drawn once, for all targets where it is in all, what becomes of it."""
    rng = np.random.default_rng(n_groups)
    member = np.repeat(np.arange(n_groups), sizes(n_groups, "unequal"))
    gain, loss = 0.3, 0.1
    tables = []
    for i in range(N_DRAWS):
        for place, target in enumerate("ab"):
            if not (shared and place):
                of_group = rng.random(n_groups)
            fate = np.where(rng.random(len(member)) < alike, of_group[member],
                            rng.random(len(member)))  # fmt: skip
            theirs = fate >= 0.6
            ours = (theirs & (fate < 1 - loss)) | (fate < gain)
            numbers = member + (0 if shared else place * n_groups)
            tables += [rows(theirs, numbers, i, target), rows(ours, numbers, i, target, "ICM")]
    table = pd.DataFrame(tables)
    found = contrast(table, {"method": "ICM"}, {"method": "plain"}, ["draw"], over="groups")
    truth = 100 * (gain - loss)
    assert ((found["low"] <= truth) & (truth <= found["high"])).mean() >= LEAST
    means = aggregate(table[table["method"] == "plain"], ["draw"], over="groups")
    assert ((means["low"] <= 40) & (means["high"] >= 40)).mean() >= LEAST


def test_groups_of_one_image_are_images():
    correct = np.random.default_rng(0).random(60) < 0.8
    table = pd.DataFrame([rows(correct, np.arange(60)), rows(correct, np.arange(60), target="b")])
    table["group"] = [pack_groups(np.arange(60)), pack_groups(np.arange(60, 120))]
    columns = ["value", "low", "high"]
    single, grouped = (
        aggregate(table, ["draw"], over=over)[columns].to_numpy() for over in ("images", "groups")
    )
    assert grouped == pytest.approx(single)


def test_a_group_counts_as_one_image():
    member = np.repeat(np.arange(10), 30)
    table = pd.DataFrame([rows(member < 7, member)])
    row = aggregate(table, ["draw"], over="groups").iloc[0]
    assert row["value"] == 70
    assert (row["low"], row["high"]) == pytest.approx(
        tuple(100 * limit for limit in stats.binomtest(7, 10).proportion_ci())
    )
    assert count_groups(table["group"].iloc[0]) == 10


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([[0, 1, 2, 3]], [4]),
        ([[5, 5, 5, 5]], [1]),
        ([[0, 0, 0, 1]], [16 / 10]),  # Kish: n² over the sum of squares
        ([[0, 0, 1, 1], [2, 2, 3, 3]], [2, 2]),
        ([[0, 0, 1, 1], [0, 0, 1, 1]], [1, 1]),  # two groups in all, not four
        ([[0, 1], [0, 1, 2, 3]], [2 * 0.6, 4 * 0.6]),
    ],
)
def test_how_many_images_groups_are_worth(members, expected):
    runs = pd.DataFrame(
        {"seed": 0, "group": 0, "members": [pack_groups(np.array(each)) for each in members]}
    )
    assert effective_size(runs) == pytest.approx(expected)
    again = pd.concat([runs, runs.assign(seed=1), runs.assign(group=1)], ignore_index=True)
    assert effective_size(again) == pytest.approx(3 * expected)


def test_a_mean_over_targets_with_the_same_groups_is_no_surer_than_one_of_them():
    member = np.repeat(np.arange(8), 5)
    both = [rows(member < 6, member, target=target) for target in "ab"]
    mean, alone = (
        aggregate(pd.DataFrame(part), ["draw"], over="groups").iloc[0] for part in (both, both[:1])
    )
    assert (mean["low"], mean["high"]) == pytest.approx((alone["low"], alone["high"]), abs=1e-9)
    low, high = proportion_interval(6, 8)
    assert (alone["low"], alone["high"]) == pytest.approx((100 * low.item(), 100 * high.item()))


def test_a_table_without_groups_has_no_interval_over_groups():
    table = pd.DataFrame([rows(np.ones(4, bool), np.arange(4))]).drop(columns="group")
    with pytest.raises(ValueError, match="over='groups' needs the column group; the table has"):
        aggregate(table, ["draw"], over="groups")
