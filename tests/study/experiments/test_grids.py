"""Grids of K and λ on a test bed: cells against building blocks, and what is chosen of them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from linear_world import table
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier
from stand_ins import TableBed, change, linear_data

from icm_core.prediction import LinearProbe, ZeroShotClassifier
from icm_core.projection import InvariantProjection
from icm_core.selection import grid_accuracy
from icm_study.embedding.tables import EmbeddedData, pair_moments
from icm_study.experiments.grids import (
    GridOptions,
    choose,
    choose_penalty,
    grid_on_targets,
    grids_by_pairs,
    grids_over,
    mean_cells,
    paths,
    probes_by_penalty,
    rank_agreement,
    splits_of,
    to_conditions,
)
from icm_study.testbeds.base import CONDITIONS, PROTOCOLS
from icm_study.testbeds.splits import split
from icm_study.theory.objectives import objectives

SMALL = GridOptions(n_components=(2, 6), consistency_weights=(0.3, 30.0))
SETS = ["intervened", "held-out", "re-rendered", *CONDITIONS[:3]]


@pytest.fixture(scope="module")
def data():
    return linear_data()


@pytest.fixture(scope="module")
def grid(data):
    return grid_on_targets(TableBed(data), data, "image+text", SMALL, seed=1)


def test_a_grid_has_every_target_set_and_cell(grid, data):
    assert len(grid) == 3 * 2 * 2 * 2  # targets, predictors, K, λ
    assert list(grid["target"].unique()) == list(data.domains)
    assert set(grid["predictor"]) == {"zero-shot", "linear probe"}
    assert (grid[["intervention", "seed"]] == ["image+text", 1]).all(axis=None)
    assert set(grid.columns) == {
        "target", "intervention", "seed", "predictor", "K", "consistency_weight", "auto", *SETS,
    }  # fmt: skip
    assert ((grid[SETS] >= 0) & (grid[SETS] <= 100)).all(axis=None)
    assert grid[SETS].max(axis=None) > 80  # in percent


def test_every_value_of_a_grid_from_the_building_blocks(grid, data):
    one = split(data, 1, seed=1)
    moments = pair_moments(one.train, "image+text")
    held_out, y = one.held_out, one.held_out["label"].to_numpy()
    expected = {
        "intervened": (held_out["image"], y),
        "held-out": (held_out["original"], y),
        "re-rendered": (held_out["oracle"], y),
    } | {name: (test["original"], test["label"].to_numpy()) for name, test in one.tests.items()}
    for row in grid[grid["target"] == "b"].to_dict("records"):
        fitted = InvariantProjection(row["K"], consistency_weight=row["consistency_weight"])
        A = fitted.fit_moments(moments).components_
        if row["predictor"] == "zero-shot":
            prompts, labels = one.prompts["prompt"].to_numpy(), one.prompts["label"].to_numpy()
            predictor = ZeroShotClassifier().fit(prompts @ A.T, labels)
        else:
            X, labels = one.train["original"].to_numpy(), one.train["label"].to_numpy()
            predictor = LinearProbe(C=0.316).fit(X @ A.T, labels)
        for name, (X, labels) in expected.items():
            accuracy = 100 * np.mean(predictor.predict(X.to_numpy() @ A.T) == labels)
            assert row[name] == pytest.approx(accuracy), (name, row)


@pytest.mark.parametrize(
    ("intervention", "variable"),
    [("image", "image"), ("text", "image"), ("image+text", "image"), ("oracle", "oracle")],
)
def test_what_is_called_intervened_is_after_the_kind_of_the_fit(data, intervention, variable):
    """The oracle's own copies for the oracle, those of image interventions for all others."""
    found = grid_on_targets(TableBed(data), data, intervention, SMALL, seed=0)
    one = split(data, 0)
    sets = {"judged": (one.held_out[variable].to_numpy(), one.held_out["label"].to_numpy())}
    options = {"n_components": (2, 6), "consistency_weights": (0.3, 30.0)}
    direct = grid_accuracy(pair_moments(one.train, intervention), paths(one), sets, **options)
    np.testing.assert_array_equal(
        found.loc[found["target"] == "a", "intervened"], 100 * direct["judged"]
    )


def test_the_probe_of_least_squares(data):
    quick = grid_on_targets(
        TableBed(data), data, "oracle", replace(SMALL, probe="least squares"), 0
    )
    logistic = grid_on_targets(TableBed(data), data, "oracle", SMALL, 0)
    zero_shot = quick["predictor"] == "zero-shot"
    pd.testing.assert_frame_equal(quick[zero_shot], logistic[zero_shot])
    assert set(quick.loc[~zero_shot, "predictor"]) == {"least-squares probe"}
    one = split(data, 2)
    X, y = one.train["original"].to_numpy(), one.train["label"].to_numpy()
    held_out, unseen = one.held_out, one.tests["unseen"]
    sets = {
        "intervened": (held_out["oracle"].to_numpy(), held_out["label"].to_numpy()),
        "unseen": (unseen["original"].to_numpy(), unseen["label"].to_numpy()),
    }
    for row in quick[~zero_shot & (quick["target"] == "c")].to_dict("records"):
        projection = InvariantProjection(row["K"], consistency_weight=row["consistency_weight"])
        projection.fit_moments(pair_moments(one.train, "oracle"))
        ridge = RidgeClassifier(alpha=np.mean(X.astype(float) ** 2) / 0.316)
        ridge.fit(projection.transform(X), y)
        for name, (rows, labels) in sets.items():
            expected = 100 * ridge.score(projection.transform(rows), labels)
            assert row[name] == pytest.approx(expected, abs=0.1)


def test_the_penalty_is_chosen_after_k_and_lambda_by_what_chose_these(data):
    bed, penalties = TableBed(data), [100.0, 1e-4, 1e-2]
    splits = splits_of(bed, {0: data})
    known = objectives()
    chosen = []
    for name in ("trace", "generalized"):
        grid = grids_over(splits, ["image"], replace(SMALL, projection=known[name]))
        for choice in ("intervened", "held-out"):
            chosen.append(choose(grid, choice).assign(objective=name))
    chosen = pd.concat(chosen, ignore_index=True)
    found = choose_penalty(splits, chosen, penalties, known)
    probes = chosen[chosen["predictor"] == "linear probe"]
    assert len(found) == len(probes)
    assert found["C"].nunique() > 1
    for row, start in zip(found.to_dict("records"), probes.to_dict("records"), strict=True):
        assert all(row[k] == start[k] for k in ("target", "K", "choice", "objective", "seed"))
        one = splits[0][row["target"]]
        projection = clone(known[row["objective"]]).set_params(n_components=row["K"])
        if row["objective"] == "trace":
            projection.set_params(consistency_weight=row["consistency_weight"])
        A = projection.fit_moments(pair_moments(one.train, "image")).components_
        X, y = one.train["original"].to_numpy() @ A.T, one.train["label"].to_numpy()
        judged = one.held_out["image" if row["choice"] == "intervened" else "original"].to_numpy()
        fitted = {C: LinearProbe(C=C).fit(X, y) for C in sorted(penalties)}
        label = one.held_out["label"].to_numpy()
        accuracy = {C: probe.score(judged @ A.T, label) for C, probe in fitted.items()}
        assert row["C"] == max(accuracy, key=accuracy.__getitem__)
        test = one.tests["unseen"]
        unseen = fitted[row["C"]].score(test["original"].to_numpy() @ A.T, test["label"].to_numpy())
        assert row["unseen"] == pytest.approx(100 * unseen)


def test_the_penalty_reaches_both_probes(data):
    weak, strong = (
        [
            grid_on_targets(TableBed(data), data, "image", replace(SMALL, probe=p, probe_C=C), 0)
            for p in ("logistic", "least squares")
        ]
        for C in (0.316, 1e-4)
    )
    for one, other in zip(weak, strong, strict=True):
        probe = one["predictor"] != "zero-shot"
        pd.testing.assert_frame_equal(one[~probe], other[~probe])
        assert not one[probe].equals(other[probe])


def test_both_sides_of_the_probe_at_each_penalty_and_at_the_one_chosen(data):
    bed, penalties = TableBed(data), [3.0, 1e-4, 0.316]
    found = probes_by_penalty(splits_of(bed, {0: data}), ["image", "oracle"], penalties)
    assert set(found["penalty"]) == {"0.0001", "0.316", "3", "chosen"}
    assert len(found) == 2 * 2 * 4 * 3 * 3  # kinds, sides, penalties, targets, conditions
    for target, name in enumerate(data.domains):
        one = split(data, target, seed=0)
        X, y = one.train["original"].to_numpy(), one.train["label"].to_numpy()
        moments = pair_moments(one.train, "oracle")
        auto = InvariantProjection("auto", consistency_weight=1.0).fit_moments(moments)
        maps = {"plain": np.eye(X.shape[1]), "ICM": auto.components_}
        held_out, test = one.held_out, one.tests["unseen"]
        rows = found[(found["target"] == name) & (found["condition"] == "unseen")]
        rows = rows[rows["intervention"] == "oracle"].set_index(["side", "penalty"])["value"]
        for side, A in maps.items():
            judged, tested = {}, {}
            for C in sorted(penalties):
                probe = LinearProbe(C=C).fit(X @ A.T, y)
                judged[C] = probe.score(held_out["oracle"].to_numpy() @ A.T, held_out["label"])
                tested[C] = 100 * probe.score(test["original"].to_numpy() @ A.T, test["label"])
                # plain is a rotation there, whose probe may stop at another digit
                assert rows[side, f"{C:g}"] == pytest.approx(tested[C], abs=0.7)
            assert rows[side, "chosen"] == rows[side, f"{max(judged, key=judged.get):g}"]


def test_the_number_of_pairs(data):
    bed, one = TableBed(data), GridOptions(n_components=(2,), consistency_weights=(1.0,))
    n = min(split(data, target).train.sizes["row"] for target in range(3))
    full, few, again, other = (
        grid_on_targets(bed, data, "image", replace(one, n_pairs=k), seed)
        for k, seed in ((None, 0), (8, 0), (8, 0), (8, 1))
    )
    pd.testing.assert_frame_equal(few, again)
    assert not few.equals(full)
    assert not few[SETS].equals(other[SETS])
    for bad in (0, -1, 10_000):
        with pytest.raises(ValueError, match=rf"n_pairs={bad}; expected 1 to \d+, the rows of pai"):
            grid_on_targets(bed, data, "image", replace(one, n_pairs=bad), 0)
    with pytest.raises(ValueError, match=f"expected 1 to {n}"):
        grid_on_targets(bed, data, "image", replace(one, n_pairs=n + 1), 0)


def test_all_pairs_are_as_many_as_there_are(data):
    alike = change(data, "source", "domain", lambda v, t: np.arange(len(v)) % 2)
    alike = change(alike, "source", "oracle_domain", lambda v, t: t["domain"].to_numpy())
    alike = change(alike, "source", "label", lambda v, t: np.arange(len(v)) // 2 % 2)
    alike = change(alike, "test", "domain", lambda v, t: np.arange(len(v)) % 2)
    alike = replace(alike, domains=("a", "b"))
    n = split(alike, 0).train.sizes["row"]  # the same for both targets
    one = GridOptions(n_components=(2,), consistency_weights=(1.0,))
    full, everything = (
        grid_on_targets(TableBed(alike), alike, "image", replace(one, n_pairs=k), 0)
        for k in (None, n)
    )
    pd.testing.assert_frame_equal(full, everything)


def test_the_projection_is_estimated_from_the_pairs_that_a_split_names(data):
    one = GridOptions(n_components=(2,), consistency_weights=(1.0,))

    class WithOthers(TableBed):
        def split(self, data, target, seed):
            given = super().split(data, target, seed)
            n = given.train.sizes["row"]
            rows = np.random.default_rng(seed).permutation(n)[:8]
            others = given.train.isel(row=rows).drop_vars("label")  # no label is needed of them
            return replace(given, pairs=others)

    expected = grid_on_targets(TableBed(data), data, "image", replace(one, n_pairs=8), 0)
    bed = WithOthers(data)
    pd.testing.assert_frame_equal(grid_on_targets(bed, data, "image", one, 0), expected)
    with pytest.raises(ValueError, match="expected 1 to 8, the rows of pairs"):
        grid_on_targets(bed, data, "image", replace(one, n_pairs=9), 0)


@pytest.mark.parametrize("protocol", PROTOCOLS[1:])
def test_classes_that_no_probe_has_seen_are_for_zero_shot_alone(data, protocol):
    opened = grid_on_targets(TableBed(data, protocol), data, "image", SMALL, 0)
    assert set(opened["predictor"]) == {"zero-shot"}
    assert {"seen_classes", "new_classes"} < set(opened.columns)
    runs = 1 if protocol == "open class" else 3
    assert len(opened) == runs * 4
    assert len(choose(opened, "intervened")) == runs
    assert len(to_conditions(opened)) == 2 * len(opened)


def test_a_folder_has_no_re_rendered_images(data):
    kept = data.source.drop_vars(["oracle", "caption", "edit", "oracle_domain"])
    folder = EmbeddedData(kept, None, data.prompts, {}, data.domains, data.classes)
    found = grid_on_targets(TableBed(folder), folder, "image", SMALL, 0)
    assert "re-rendered" not in found
    measured = found[["intervened", "held-out", "in_distribution", "unseen"]]
    assert measured.notna().all(axis=None)
    assert "reversed" not in found


def test_the_same_seed_gives_the_same_grid(data):
    grids = [grid_on_targets(TableBed(data), data, "image", SMALL, seed) for seed in (1, 1, 2)]
    pd.testing.assert_frame_equal(grids[0], grids[1])
    assert not grids[0].drop(columns="seed").equals(grids[2].drop(columns="seed"))


# Choosing


@pytest.mark.parametrize("choice", ["intervened", "held-out", "re-rendered", "unseen"])
def test_the_best_row_of_each_run_is_chosen(data, grid, choice):
    runs = pd.concat([grid, grid_on_targets(TableBed(data), data, "image+text", SMALL, seed=2)])
    best = choose(runs, choice)  # of grids put together, whose row numbers occur twice
    told = ["target", "seed", "predictor"]
    assert len(best) == len(runs.drop_duplicates(told)) == 12
    assert (best["choice"] == choice).all()
    expected = runs.groupby(told)[choice].max()
    pd.testing.assert_series_equal(best.set_index(told)[choice].sort_index(), expected)


def test_runs_of_other_objectives_are_chosen_on_their_own(data):
    kinds = {name: InvariantProjection(objective=name) for name in ("trace", "generalized")}
    runs = pd.concat(
        grid_on_targets(
            TableBed(data), data, "image", replace(SMALL, projection=projection), 0
        ).assign(objective=name)
        for name, projection in kinds.items()
    )
    best = choose(runs, "intervened")
    assert best.groupby("objective").size().to_dict() == {"generalized": 6, "trace": 6}
    assert best.loc[best["objective"] == "generalized", "consistency_weight"].isna().all()


def test_of_equals_the_smallest_change_is_chosen(grid):
    equal = grid.assign(intervened=50.0)
    best = choose(equal, "intervened")
    assert set(best["K"]) == {6}
    assert set(best["consistency_weight"]) == {0.3}


def test_test_accuracies_become_rows(grid):
    tidy = to_conditions(grid)
    assert len(tidy) == 3 * len(grid)
    assert not set(SETS) & set(tidy.columns)
    for condition in CONDITIONS[:3]:
        values = tidy.loc[tidy["condition"] == condition, "value"]
        np.testing.assert_array_equal(values, grid[condition])


# Errors


@pytest.mark.parametrize(
    ("intervention", "message"),
    [
        ("jitter", "Unknown intervention 'jitter', or one that .* have image, text, image"),
        ("image+jitter", "Unknown intervention 'jitter'"),
        ("", "Unknown intervention ''"),
        ("edit", "Unknown intervention 'edit'"),  # a variable, but not one of images
        ("original", "Unknown intervention 'original'"),
    ],
)
def test_bad_interventions(data, intervention, message):
    with pytest.raises(ValueError, match=message):
        grid_on_targets(TableBed(data), data, intervention, SMALL, 0)


def test_an_intervention_that_the_data_have_no_pairs_of():
    rows = table({"label": [0, 1], "domain": [0, 1]}, original=np.eye(2), image=np.eye(2))
    with pytest.raises(ValueError, match=r"Unknown intervention 'text', .*; they have image\."):
        pair_moments(rows, "text")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": ()}, "Nothing to try"),
        ({"consistency_weights": ()}, "Nothing to try"),
        ({"probe": "ridge"}, "probe='ridge' is unknown; choose one of"),
        ({"probe_C": 0.0}, "C is 0.0; expected a positive number"),
    ],
)
def test_bad_options(data, options, message):
    with pytest.raises(ValueError, match=message):
        grid_on_targets(TableBed(data), data, "image", replace(SMALL, **options), 0)


def test_grids_over_kinds_and_seeds_are_the_single_ones(data):
    bed, embedded = TableBed(data), {1: data, 4: data}
    whole = grids_over(splits_of(bed, embedded), ["text", "image"], SMALL)
    single = [
        grid_on_targets(bed, data, kind, SMALL, seed)
        for kind in ("text", "image")
        for seed in (1, 4)
    ]
    pd.testing.assert_frame_equal(whole, pd.concat(single, ignore_index=True))


def test_grids_by_pairs_end_with_all_the_pairs_that_every_run_has(data):
    bed, options = TableBed(data), GridOptions((2,), (1.0,))
    every = min(bed.split(data, target, 0).train.sizes["row"] for target in bed.targets())
    found = grids_by_pairs(splits_of(bed, {0: data}), ["image"], options, [20, every, every + 1])
    assert list(found["n_pairs"].unique()) == [20, every]
    few = grid_on_targets(bed, data, "image", replace(options, n_pairs=20), 0)
    pd.testing.assert_frame_equal(
        found[found["n_pairs"] == 20].drop(columns="n_pairs").reset_index(drop=True), few
    )


def test_cells_are_means_over_targets_and_seeds(grid):
    cells = mean_cells(grid)
    assert len(cells) == 2 * 2 * 2 * 3  # predictors, K, λ, conditions
    cell = {"predictor": "zero-shot", "K": 2, "consistency_weight": 0.3}
    own = grid[(grid[list(cell)] == pd.Series(cell)).all(axis=1)]
    found = cells[(cells[list(cell)] == pd.Series(cell)).all(axis=1)].set_index("condition")
    for condition in CONDITIONS[:3]:
        assert found.loc[condition, "value"] == pytest.approx(own[condition].mean())


def test_rank_agreement_is_over_the_cells_that_both_have_under_the_shifts():
    cells = pd.DataFrame(
        {
            "intervention": "image", "consistency_weight": 1.0, "K": [1, 2, 3, 4, 1],
            "condition": ["unseen"] * 4 + ["in_distribution"], "value": [10.0, 20, 30, 40, 0],
        }
    )  # fmt: skip
    others = cells.assign(value=[1.0, 3, 2, 9, 100])[cells["K"] != 4]
    assert rank_agreement(cells, others) == (3, pytest.approx(0.5))
