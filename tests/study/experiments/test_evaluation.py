"""Leave-one-domain-out: no peeking, honest intervals, and the right answer where theory gives it."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from icm_study.experiments.evaluation import (
    VALIDATIONS,
    grid_accuracy,
    leave_one_domain_out,
    validation_set,
)
from sklearn.linear_model import RidgeClassifier

from icm_core.moments import PairMoments
from icm_core.prediction import LinearProbe, ZeroShotClassifier
from icm_core.projection import InvariantProjection
from icm_study.embedding.tables import INTERVENTIONS, Environments, pair_moments
from icm_study.experiments.intervals import bootstrap_interval
from icm_study.testbeds.splits import CONDITIONS as ALL_CONDITIONS
from icm_study.testbeds.splits import split
from icm_study.theory.linear import LinearGaussianSCM

CONDITIONS = ALL_CONDITIONS[:3]  # of leaving one domain out in a world with a shortcut

TARGET, DOMAINS = 2, 3
STRENGTH = {"aligned": 0.9, "none": 0.0, "reversed": -0.9}
SMALL = {"n_components": (2, 6), "consistency_weights": (0.3, 30.0)}


def linear_environments(seed=0, n=600, n_test=900):
    """Environments of a linear SCM: z_var follows the label in the sources, and the oracle re-draws it.

    The image intervention re-draws one half of z_var only, and moves z_inv a little: it
    covers less than the oracle, and leaks. The domains are copies of each other, told
    apart by name."""
    scm = LinearGaussianSCM(
        2, 4, condition_number=3, environments=STRENGTH, label_noise=0.1, seed=seed
    )
    rng = np.random.default_rng(seed)

    def table(coordinates, **variables):
        rows = {name: (("row", "feature"), values) for name, values in variables.items()}
        return xr.Dataset(rows, {name: ("row", values) for name, values in coordinates.items()})

    def embed(z):
        return z @ scm.mixing_.T

    X, y, z = scm.sample("aligned", n, rng)
    fresh = rng.normal(size=z.shape)
    half = np.where(np.arange(6) < 2, z + 0.1 * fresh, np.where(np.arange(6) < 4, fresh, z))
    full = np.where(np.arange(6) < 2, z, fresh)
    coordinates = {
        "label": y, "domain": rng.integers(DOMAINS, size=n), "oracle_domain": rng.integers(DOMAINS, size=n)
    }  # fmt: skip
    source = table(
        coordinates, original=X, image=embed(half), oracle=embed(full), caption=X, edit=embed(full)
    )
    tests = []
    for shortcut in STRENGTH:
        X, y, _ = scm.sample(shortcut, n_test, rng)
        domain = rng.integers(DOMAINS, size=n_test)
        tests.append(
            table(
                {"label": y, "domain": domain, "shortcut": [shortcut] * n_test},
                original=X,
                caption=X,
            )
        )
    prompt = np.outer(
        [-1, 1], scm.invariant_subspace_ @ scm.invariant_subspace_.T @ (X.T @ (y - y.mean()))
    )
    prompts = table({"label": [0, 1]}, prompt=prompt)
    return Environments(source, xr.concat(tests, "row"), prompts, {})


@pytest.fixture(scope="module")
def environments():
    return linear_environments()


def change(environments, table, variable, function):
    """Copy environments with one variable or coordinate of one table changed."""
    copy = getattr(environments, table).copy(deep=True)
    copy[variable] = (copy[variable].dims, function(copy[variable].to_numpy(), copy))
    return dataclasses.replace(environments, **{table: copy})


def shuffled(where, seed=0):
    """Permute the values of the rows that `where` selects."""

    def function(values, table):
        values, rows = values.copy(), np.flatnonzero(where(table))
        values[rows] = values[np.random.default_rng(seed).permutation(rows)]
        return values

    return function


# Splitting


@pytest.mark.parametrize("target", range(DOMAINS))
def test_split_keeps_the_target_out_and_the_parts_disjoint(environments, target):
    numbered = change(environments, "source", "label", lambda values, table: values)
    numbered.source["number"] = ("row", np.arange(numbered.source.sizes["row"]))
    data = split(numbered, target, seed=4)
    train, held_out = data.train["number"].to_numpy(), data.held_out["number"].to_numpy()
    source = environments.source
    usable = (source["domain"] != target) & (source["oracle_domain"] != target)
    assert not set(train) & set(held_out)
    np.testing.assert_array_equal(np.sort(np.r_[train, held_out]), np.flatnonzero(usable))
    assert len(held_out) / usable.sum() == pytest.approx(0.2, abs=0.01)
    for part in (data.train, data.held_out):
        assert part["label"].to_numpy().mean() == pytest.approx(
            source["label"].to_numpy()[usable].mean(), abs=0.02
        )


def test_conditions_are_what_they_are_called(environments):
    data = split(environments, TARGET)
    assert tuple(data.tests) == CONDITIONS
    for condition, shortcut in zip(CONDITIONS, ("aligned", "none", "reversed"), strict=True):
        test = data.tests[condition]
        assert set(test["shortcut"].to_numpy()) == {shortcut}
        domains = set(test["domain"].to_numpy())
        assert domains == ({0, 1} if condition == "in_distribution" else {TARGET})
    assert sum(test.sizes["row"] for test in data.tests.values()) < environments.test.sizes["row"]


def test_the_seed_decides_the_split(environments):
    one, again, other = (split(environments, TARGET, seed=s).train for s in (1, 1, 2))
    xr.testing.assert_identical(one, again)
    assert not one.identical(other)


# No peeking


def choices(table):
    return table[["method", "predictor", "intervention", "K", "consistency_weight"]]


@pytest.mark.parametrize("validation", VALIDATIONS)
def test_only_validation_on_the_target_looks_at_its_labels(environments, validation):
    """Choices and predictions stay as they are when the target's test labels are permuted."""

    def target_rows(test):
        return (test["domain"] == TARGET).to_numpy()

    permuted = change(environments, "test", "label", shuffled(target_rows))
    options = {"validations": (validation,), "interventions": ["image", "oracle"]}
    grid = {"n_components": (1, 2, 3, 4, 5, 6), "consistency_weights": (0.1, 1.0, 10.0, 100.0)}
    before, after = (
        leave_one_domain_out(e, TARGET, **options, **grid) for e in (environments, permuted)
    )
    in_distribution = before["condition"] == "in_distribution"
    same = before[in_distribution].equals(after[in_distribution]) and choices(before).equals(
        choices(after)
    )
    assert same == (validation != "target")


@pytest.mark.parametrize("validation", ["intervened", "plain"])
def test_source_rows_of_the_target_are_never_used(environments, validation):
    """Rows that show the target, before or after the oracle intervention, may hold anything."""

    def shows_target(source):
        return ((source["domain"] == TARGET) | (source["oracle_domain"] == TARGET)).to_numpy()[
            :, None
        ]

    altered = environments
    for variable in ("original", "image", "oracle", "caption", "edit"):
        altered = change(
            altered,
            "source",
            variable,
            lambda v, s: np.where(shows_target(s), v[::-1] * 100 + 7, v),
        )
    altered = change(altered, "source", "label", shuffled(lambda s: shows_target(s)[:, 0]))
    before, after = (
        leave_one_domain_out(e, TARGET, validations=(validation,), **SMALL)
        for e in (environments, altered)
    )
    pd.testing.assert_frame_equal(before, after)


@pytest.mark.parametrize(
    ("validation", "intervention", "variable"),
    [
        ("intervened", "image", "image"),
        ("intervened", "text", "image"),
        ("intervened", "image+text", "image"),
        ("intervened", "oracle", "oracle"),
        ("plain", "image", "original"),
        ("plain", "oracle", "original"),
    ],
)
def test_validation_on_held_out_source_images(environments, validation, intervention, variable):
    data = split(environments, TARGET)
    X, y = validation_set(data, validation, intervention)
    np.testing.assert_array_equal(X, data.held_out[variable])
    np.testing.assert_array_equal(y, data.held_out["label"])


def test_test_images_are_never_fitted_on(environments):
    """Other test images change the accuracies, and neither a choice nor the accuracy of another condition."""

    def unseen(test):
        return ((test["domain"] == TARGET) & (test["shortcut"] == "none")).to_numpy()[:, None]

    altered = change(environments, "test", "original", lambda v, t: np.where(unseen(t), -v, v))
    before, after = (leave_one_domain_out(e, TARGET, **SMALL) for e in (environments, altered))
    pd.testing.assert_frame_equal(choices(before), choices(after))
    others = before["condition"] != "unseen"
    pd.testing.assert_frame_equal(before[others], after[others])
    assert not before[~others].equals(after[~others])


# The method


def test_icm_repairs_a_reversed_shortcut_where_theory_holds():
    """Clean and complete interventions on a linear SCM: the probe behind ICM keeps its accuracy, the plain one falls."""
    tables = [leave_one_domain_out(linear_environments(seed), TARGET, **SMALL) for seed in range(4)]
    value = pd.concat(tables).pivot_table(
        "value", ["method", "intervention"], ["predictor", "condition"]
    )
    probe = value["linear probe"]
    plain, oracle = probe.loc[("plain", "none")], probe.loc[("ICM", "oracle")]
    assert plain["in_distribution"] > oracle["in_distribution"]  # the shortcut pays where it holds
    assert oracle["reversed"] > plain["reversed"] + 10
    assert oracle["unseen"] > plain["unseen"] + 5
    assert abs(oracle["reversed"] - oracle["in_distribution"]) < 5  # invariant: the same everywhere
    assert (
        oracle["reversed"] > probe.loc[("ICM", "image"), "reversed"] - 3
    )  # which covers and leaks


def test_oracle_differences_are_significant_where_theory_holds(environments):
    table = leave_one_domain_out(environments, TARGET, interventions=["oracle"], **SMALL)
    rows = table[(table["method"] == "ICM") & (table["predictor"] == "linear probe")].set_index(
        "condition"
    )
    assert rows.loc["reversed", "difference_low"] > 0


def test_the_table_against_a_second_computation(environments):
    """Every value of one ICM row from the building blocks."""
    table = leave_one_domain_out(environments, TARGET, interventions=["image+text"], **SMALL)
    data = split(environments, TARGET)
    moments = pair_moments(data.train, "image+text")
    row = table[(table["method"] == "ICM") & (table["condition"] == "reversed")].set_index(
        "predictor"
    )
    for name in ("zero-shot", "linear probe"):
        weight, K = row.loc[name, "consistency_weight"], int(row.loc[name, "K"])
        A = InvariantProjection(K, consistency_weight=weight).fit_moments(moments).components_
        if name == "zero-shot":
            X, y = data.prompts["prompt"].to_numpy(), data.prompts["label"].to_numpy()
        else:
            X, y = data.train["original"].to_numpy(), data.train["label"].to_numpy()
        fit = (ZeroShotClassifier() if name == "zero-shot" else LinearProbe()).fit
        test = data.tests["reversed"]
        correct = (
            fit(X @ A.T, y).predict(test["original"].to_numpy() @ A.T) == test["label"].to_numpy()
        )
        plain = fit(X, y).predict(test["original"].to_numpy()) == test["label"].to_numpy()
        assert row.loc[name, "value"] == pytest.approx(100 * correct.mean())
        assert row.loc[name, "difference"] == pytest.approx(100 * (correct.mean() - plain.mean()))
        assert row.loc[name, "n"] == len(correct)
        low, high = bootstrap_interval(correct - plain.astype(float))
        assert row.loc[name, "difference_low"] == pytest.approx(100 * low)
        assert row.loc[name, "difference_high"] == pytest.approx(100 * high)


def test_the_best_of_the_grid_is_chosen(environments):
    table = leave_one_domain_out(environments, TARGET, interventions=["oracle"], **SMALL)
    data = split(environments, TARGET)
    grid = grid_accuracy(
        data,
        "oracle",
        **SMALL,
        evaluate_on={"validation": validation_set(data, "intervened", "oracle")},
    )
    assert len(grid) == 2 * 2 * 2
    for predictor, rows in grid.groupby("predictor"):
        best = rows[rows["validation"] == rows["validation"].max()]
        smallest_change = best.sort_values(
            ["consistency_weight", "K"], ascending=[True, False]
        ).iloc[0]
        chosen = table[(table["method"] == "ICM") & (table["predictor"] == predictor)]
        assert set(chosen["K"]) == {smallest_change["K"]}
        assert set(chosen["consistency_weight"]) == {smallest_change["consistency_weight"]}


def test_at_full_dimension_the_grid_is_the_plain_probe(environments):
    data = split(environments, TARGET)
    test = data.tests["unseen"]["original"].to_numpy(), data.tests["unseen"]["label"].to_numpy()
    grid = grid_accuracy(
        data,
        "text",
        n_components=[6, 99],
        consistency_weights=[0.0, 5.0],
        evaluate_on={"test": test},
    )
    assert set(grid["K"]) == {6}  # 99 is more than there are
    plain = LinearProbe().fit(data.train["original"].to_numpy(), data.train["label"].to_numpy())
    probe = grid.loc[grid["predictor"] == "linear probe", "test"]
    np.testing.assert_allclose(probe, np.mean(plain.predict(test[0]) == test[1]), atol=0.01)


@pytest.mark.parametrize("objective", ["trace", "generalized"])
def test_the_automatic_dimension_joins_the_grid(environments, objective):
    data = split(environments, TARGET)
    test = data.tests["unseen"]["original"].to_numpy(), data.tests["unseen"]["label"].to_numpy()
    options = {"consistency_weights": [10.0], "objective": objective, "evaluate_on": {"test": test}}
    grid = grid_accuracy(data, "oracle", n_components=["auto", 6], **options)
    expected = InvariantProjection(
        "auto", objective=objective, consistency_weight=10.0
    ).fit_moments(pair_moments(data.train, "oracle"))
    assert (
        set(grid.loc[grid["auto"], "K"]) == {expected.n_components_} == {2}
    )  # the invariant factors
    assert grid["K"].tolist() == [6, 2, 6, 2]
    alone = grid_accuracy(data, "oracle", n_components=["auto"], **options)
    pd.testing.assert_frame_equal(alone, grid[grid["auto"]].reset_index(drop=True))


def test_a_grid_with_the_least_squares_probe(environments):
    data = split(environments, TARGET)
    sets = {name: validation_set(data, name, "oracle") for name in ("intervened", "target")}
    logistic, quick = (
        grid_accuracy(data, "oracle", evaluate_on=sets, probe=name, **SMALL)
        for name in ("logistic", "least squares")
    )
    zero_shot = quick["predictor"] == "zero-shot"
    pd.testing.assert_frame_equal(quick[zero_shot], logistic[zero_shot])
    assert set(quick.loc[~zero_shot, "predictor"]) == {"least-squares probe"}
    X, y = data.train["original"].to_numpy(), data.train["label"].to_numpy()
    for row in quick[~zero_shot].itertuples():
        projection = InvariantProjection(row.K, consistency_weight=row.consistency_weight)
        projection.fit_moments(pair_moments(data.train, "oracle"))
        ridge = RidgeClassifier(alpha=np.mean(X.astype(float) ** 2) / 0.316).fit(
            projection.transform(X), y
        )
        for name, (rows, labels) in sets.items():
            expected = ridge.score(projection.transform(rows), labels)
            assert getattr(row, name) == pytest.approx(expected, abs=1e-3)
    with pytest.raises(ValueError, match="probe='ridge' is unknown; choose one of"):
        grid_accuracy(data, "oracle", evaluate_on=sets, probe="ridge")


def test_the_number_of_pairs(environments):
    data = split(environments, TARGET)
    test = {
        "test": (
            data.tests["unseen"]["original"].to_numpy(),
            data.tests["unseen"]["label"].to_numpy(),
        )
    }
    n = data.train.sizes["row"]
    full, everything, few, again = (
        grid_accuracy(data, "image", n_components=[2], evaluate_on=test, n_pairs=k)
        for k in (None, n, 8, 8)
    )
    pd.testing.assert_frame_equal(full, everything)
    pd.testing.assert_frame_equal(few, again)
    assert not few.equals(full)
    for bad in (0, n + 1):
        with pytest.raises(ValueError, match=rf"n_pairs={bad}; expected 1 to {n}"):
            grid_accuracy(data, "image", evaluate_on=test, n_pairs=bad)


def test_the_projection_is_estimated_from_the_pairs_that_a_split_names(environments):
    data = split(environments, TARGET)
    test = {
        "test": (
            data.tests["unseen"]["original"].to_numpy(),
            data.tests["unseen"]["label"].to_numpy(),
        )
    }
    options = {"n_components": [2], "evaluate_on": test}
    rows = np.random.default_rng(0).permutation(data.train.sizes["row"])[:8]
    others = data.train.isel(row=rows)
    named = dataclasses.replace(
        data, pairs=others.drop_vars("label")
    )  # no label of theirs is needed
    expected = grid_accuracy(data, "image", n_pairs=8, **options)
    pd.testing.assert_frame_equal(grid_accuracy(named, "image", **options), expected)
    with pytest.raises(ValueError, match="expected 1 to 8, the rows of pairs"):
        grid_accuracy(named, "image", n_pairs=9, **options)


def test_methods_and_columns(environments):
    table = leave_one_domain_out(environments, TARGET, seed=5, **SMALL)
    expected = (
        "target method predictor intervention K consistency_weight validation seed metric "
        "condition value low high n "
        "difference difference_low difference_high correct protocol"
    )
    assert set(table.columns) == set(expected.split())
    rows = table.groupby(["method", "predictor", "intervention"]).size()
    assert len(rows) == 2 + 2 + 2 * 2 * len(INTERVENTIONS)
    assert (rows == len(CONDITIONS)).all()
    assert (table["target"] == TARGET).all()
    assert (table["seed"] == 5).all()
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    plain = table[table["method"] == "plain"]
    assert (plain[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)
    projected = table["method"].isin(["ICM", "ICM auto"])
    assert table.loc[~projected, ["K", "consistency_weight"]].isna().all(axis=None)
    assert table.loc[projected, ["K", "consistency_weight"]].notna().all(axis=None)


def test_the_same_seed_gives_the_same_table(environments):
    tables = [leave_one_domain_out(environments, TARGET, seed=s, **SMALL) for s in (1, 1, 2)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].drop(columns="seed").equals(tables[2].drop(columns="seed"))


def test_moments_of_joined_interventions_count_equally(environments):
    data = split(environments, TARGET).train
    image, text, both = (pair_moments(data, kind) for kind in ("image", "text", "image+text"))
    direct = PairMoments(6).update(data["original"].to_numpy(), data["image"].to_numpy())
    np.testing.assert_allclose(image.S, direct.S)
    np.testing.assert_allclose(both.S, (image.S + text.S) / 2)
    np.testing.assert_allclose(both.C, (image.C + text.C) / 2)


# Errors


@pytest.mark.parametrize("target", [3, -1, "photo"])
def test_bad_target(environments, target):
    with pytest.raises(ValueError, match=r"is not among the domains \[0, 1, 2\]"):
        leave_one_domain_out(environments, target)


@pytest.mark.parametrize(
    ("table", "variable"), [("source", "original"), ("source", "edit"), ("test", "original")]
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite(environments, table, variable, bad):
    def break_one(values, _):
        values = values.copy()
        values[5, 1] = bad
        return values

    with pytest.raises(
        ValueError, match=rf"The {table} table has NaN or infinite values in '{variable}'"
    ):
        leave_one_domain_out(change(environments, table, variable, break_one), TARGET)


@pytest.mark.parametrize("table", ["source", "test"])
def test_a_class_absent_from_a_domain(environments, table):
    lacking = change(
        environments, table, "label", lambda v, t: np.where((t["domain"] == 1) & (v == 1), 0, v)
    )
    with pytest.raises(
        ValueError, match=rf"The {table} table has no image of class \[1\] in domain 1"
    ):
        leave_one_domain_out(lacking, TARGET)


def test_a_class_of_the_test_that_the_sources_or_prompts_lack(environments):
    more = change(
        environments, "test", "label", lambda v, t: np.where(np.arange(len(v)) % 3 == 0, 2, v)
    )
    with pytest.raises(ValueError, match=r"The sources have fewer than 2 rows of class \[2\]"):
        leave_one_domain_out(more, TARGET)
    unnamed = change(environments, "prompts", "label", lambda v, t: np.array([0, 5]))
    with pytest.raises(ValueError, match=r"The prompts have fewer than 1 rows of class \[1\]"):
        leave_one_domain_out(unnamed, TARGET)


def test_a_condition_without_images(environments):
    absent = dataclasses.replace(
        environments,
        test=environments.test.isel(row=(environments.test["shortcut"] != "reversed").to_numpy()),
    )
    with pytest.raises(ValueError, match="no image for the condition 'reversed' of target 2"):
        leave_one_domain_out(absent, TARGET)


def test_no_source_left(environments):
    alone = change(environments, "source", "domain", lambda v, t: np.full_like(v, TARGET))
    with pytest.raises(ValueError, match="No source domain is left"):
        leave_one_domain_out(alone, TARGET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interventions": ["jitter"]}, "Unknown intervention 'jitter'; join any of"),
        ({"interventions": ["image+jitter"]}, r"Unknown intervention 'image\+jitter'"),
        ({"n_components": ()}, "Nothing to try"),
        ({"n_components": (7, 8)}, "Nothing to try: .* for 6 features"),
        ({"consistency_weights": ()}, "Nothing to try"),
        ({"consistency_weights": (-1.0,)}, "consistency_weight"),
        ({"validations": ("test",)}, "validation='test' is unknown"),
        ({"objective": "best"}, "objective"),
        ({"probe_C": 0.0}, "'C' parameter"),
    ],
)
def test_bad_options(environments, options, message):
    with pytest.raises(ValueError, match=message):
        leave_one_domain_out(environments, TARGET, **SMALL | options)
