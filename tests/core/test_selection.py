"""Predictions at every K from one projection, against a fit for each K; grids of K and λ."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from icm_core import selection
from icm_core.moments import PairMoments
from icm_core.prediction import LinearProbe, ZeroShotClassifier
from icm_core.projection import InvariantProjection
from icm_core.selection import (
    default_n_components,
    grid_accuracy,
    least_squares_path,
    logistic_path,
    zero_shot_path,
)


def problem(seed, n_features, n_classes, dtype=np.float64, objective="trace"):
    """Rows to fit on, rows to label, and a projection with every component."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(n_classes), rng.integers(n_classes, size=80)])
    names = np.array([f"class {i}" for i in range(n_classes)])[y]
    centres = rng.normal(size=(n_classes, n_features)) + rng.normal()  # not centred
    X, rows = ((centres[y] + rng.normal(size=(len(y), n_features))).astype(dtype) for _ in range(2))
    moments = PairMoments(n_features).update(
        X, X + rng.normal(size=X.shape) * rng.random(n_features)
    )
    return (
        X,
        names,
        rows,
        InvariantProjection(n_features, objective=objective, consistency_weight=1.0).fit_moments(
            moments
        ),
    )


def labels(path, whole, rows, sizes):
    return dict(zip(sizes, path(whole, rows, sizes), strict=True))


def no_tie(scores):
    """Tell the rows in which the largest score stands apart from the next one."""
    return np.diff(np.sort(scores, axis=1)[:, -2:], axis=1)[:, 0] > 1e-8


problems = {
    "seed": st.integers(0, 1000), "n_features": st.integers(2, 12), "n_classes": st.integers(2, 5),
    "data": st.data(),
}  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(**problems)
def test_zero_shot_is_the_classifier_of_each_size(seed, n_features, n_classes, data):
    X, y, rows, whole = problem(seed, n_features, n_classes)
    sizes = sorted(data.draw(st.sets(st.integers(1, n_features), min_size=1)))
    found = labels(zero_shot_path(X, y), whole, rows, sizes)
    for k in sizes:
        part = whole.truncate(k)
        classifier = ZeroShotClassifier().fit(part.transform(X), y)
        projected = part.transform(rows)
        cosines = (
            projected @ classifier.prototypes_.T / np.linalg.norm(projected, axis=1, keepdims=True)
        )
        sure = no_tie(cosines)  # with one component, cosines are 1 or -1, and classes tie
        np.testing.assert_array_equal(found[k][sure], classifier.predict(projected)[sure])
        chosen = np.searchsorted(classifier.classes_, found[k])
        np.testing.assert_allclose(
            cosines[np.arange(len(rows)), chosen], cosines.max(axis=1), atol=1e-8
        )


@pytest.mark.parametrize("objective", ["trace", "generalized"])
@settings(deadline=None, max_examples=40)
@given(C=st.floats(1e-3, 1e3), **problems)
def test_least_squares_is_the_ridge_regression_of_each_size(
    objective, C, seed, n_features, n_classes, data
):
    X, y, rows, whole = problem(seed, n_features, n_classes, objective=objective)
    sizes = sorted(data.draw(st.sets(st.integers(1, n_features), min_size=1)))
    found = labels(least_squares_path(X, y, C), whole, rows, sizes)
    classes = np.unique(y)
    for k in sizes:
        part = whole.truncate(k)
        ridge = Ridge(alpha=np.mean(X**2) / C).fit(
            part.transform(X), (y[:, None] == classes).astype(float)
        )
        scores = ridge.predict(part.transform(rows))
        sure = no_tie(scores)
        np.testing.assert_array_equal(found[k][sure], classes[scores.argmax(axis=1)][sure])


@pytest.mark.parametrize("make", [zero_shot_path, lambda X, y: least_squares_path(X, y, 0.316)])
def test_labels_do_not_depend_on_how_many_rows_are_scored_at_a_time(make, monkeypatch):
    X, y, rows, whole = problem(2, 6, 3)
    at_once = make(X, y)(whole, rows, [2, 6])
    assert at_once.shape == (2, len(rows))
    for scores in (1, 50):
        monkeypatch.setattr(selection, "_SCORES", scores)
        np.testing.assert_array_equal(make(X, y)(whole, rows, [2, 6]), at_once)


def test_the_logistic_path_is_the_probe_of_each_size():
    X, y, rows, whole = problem(0, 6, 3)
    found = labels(logistic_path(X, y, 0.1), whole, rows, [1, 4, 6])
    for k, predicted in found.items():
        part = whole.truncate(k)
        expected = LinearProbe(C=0.1).fit(part.transform(X), y).predict(part.transform(rows))
        np.testing.assert_array_equal(predicted, expected)


@pytest.mark.parametrize("make", [zero_shot_path, lambda X, y: least_squares_path(X, y, 0.316)])
def test_single_precision_changes_hardly_a_label(make):
    X, y, rows, whole = problem(1, 40, 5)
    single = [values.astype(np.float32) for values in (X, rows)]
    double = labels(make(X, y), whole, rows, [5, 40])
    for k, predicted in labels(make(single[0], y), whole, single[1], [5, 40]).items():
        assert np.mean(predicted != double[k]) < 0.03


def test_prompts_that_a_projection_maps_to_zero_are_never_the_nearest():
    whole = InvariantProjection(3, consistency_weight=1.0).fit_moments(
        PairMoments(3).update(np.diag([3.0, 2.0, 1.0]), np.zeros((3, 3)))
    )
    prompts, rows = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), np.array([[1.0, 0.0, 0.1]])
    found = labels(
        zero_shot_path(prompts @ whole.components_, np.array(["zero", "first"])),
        whole,
        rows @ whole.components_,
        [1],
    )
    assert found[1].tolist() == ["first"]


# Grids


def grid_problem(seed=0, n=400, n_features=6):
    """Two classes in the first two features; pairs that re-draw all features but these."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    X = rng.normal(size=(n, n_features)) + np.outer(2 * y - 1, [1.0, 1.0, 0.5, 0, 0, 0])
    X_do = np.where(np.arange(n_features) < 2, X, rng.normal(size=X.shape))
    moments = PairMoments(n_features).update(X, X_do)
    prompts = np.outer([-1.0, 1.0], [1.0, 1.0, 0, 0, 0, 0])
    predictors = {
        "zero-shot": zero_shot_path(prompts, np.array([0, 1])),
        "linear probe": logistic_path(X[::2], y[::2], 0.316),
    }
    return moments, predictors, prompts, X, y


@pytest.mark.parametrize("objective", ["trace", "generalized"])
def test_every_cell_of_a_grid_is_a_fit_of_its_own(objective):
    moments, predictors, prompts, X, y = grid_problem()
    sets = {"odd": (X[1::2], y[1::2]), "all": (X, y)}
    grid = grid_accuracy(
        moments, predictors, sets, n_components=[1, 4], consistency_weights=[10.0, 0.3],
        projection=InvariantProjection(objective=objective),
    )  # fmt: skip
    weights = [0.3, 10.0] if objective == "trace" else [np.nan]
    order = [(w, name, k) for w in weights for name in predictors for k in (4, 1)]
    cells = grid[["consistency_weight", "predictor", "K"]]
    expected = pd.DataFrame(order, columns=cells.columns)
    pd.testing.assert_frame_equal(cells, expected)  # from the smallest change to the largest
    assert not grid["auto"].any()
    for row in grid.itertuples():
        weight = 1.0 if np.isnan(row.consistency_weight) else row.consistency_weight
        fitted = InvariantProjection(row.K, objective=objective, consistency_weight=weight)
        project = fitted.fit_moments(moments).transform
        if row.predictor == "zero-shot":
            classifier = ZeroShotClassifier().fit(project(prompts), [0, 1])
        else:
            classifier = LinearProbe(C=0.316).fit(project(X[::2]), y[::2])
        for name, (rows, labels) in sets.items():
            assert getattr(row, name) == np.mean(classifier.predict(project(rows)) == labels)


def test_at_full_dimension_the_grid_is_the_plain_probe():
    moments, predictors, _, X, y = grid_problem()
    grid = grid_accuracy(
        moments, predictors, {"odd": (X[1::2], y[1::2])},
        n_components=[6, 99], consistency_weights=[0.0, 5.0],
    )  # fmt: skip
    assert set(grid["K"]) == {6}  # 99 is more than there are
    plain = LinearProbe(C=0.316).fit(X[::2], y[::2]).score(X[1::2], y[1::2])
    probe = grid.loc[grid["predictor"] == "linear probe", "odd"]
    np.testing.assert_allclose(probe, plain, atol=0.01)


@pytest.mark.parametrize("objective", ["trace", "generalized"])
def test_the_automatic_dimension_joins_the_grid(objective):
    moments, predictors, _, X, y = grid_problem()
    unfitted = InvariantProjection(objective=objective, consistency_weight=10.0)

    def grid(n_components):
        return grid_accuracy(
            moments, predictors, {"all": (X, y)}, n_components=n_components,
            consistency_weights=[10.0], projection=unfitted,
        )  # fmt: skip

    both = grid(["auto", 6])
    expected = InvariantProjection(objective=objective, consistency_weight=10.0)
    automatic = expected.fit_moments(moments).n_components_
    assert set(both.loc[both["auto"], "K"]) == {automatic} == {2}  # the invariant factors
    assert both["K"].tolist() == [6, 2, 6, 2]
    pd.testing.assert_frame_equal(grid(["auto"]), both[both["auto"]].reset_index(drop=True))
    assert not hasattr(unfitted, "components_")


def test_the_values_that_are_tried_by_default():
    assert default_n_components(64) == (8, 16, 32)
    assert default_n_components(512) == (8, 16, 32, 64, 128, 256)
    assert default_n_components(6) == (3,)
    assert default_n_components(1) == (1,)
    moments, predictors, _, X, y = grid_problem()
    grid = grid_accuracy(moments, predictors, {"all": (X, y)})
    assert set(grid["K"]) == {3}
    assert sorted(set(grid["consistency_weight"])) == [0.3, 1.0, 3.0, 10.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": ()}, "Nothing to try"),
        ({"n_components": (7, 8)}, "Nothing to try: .* for 6 features"),
        ({"consistency_weights": ()}, "Nothing to try"),
        ({"n_components": (1.5, 2)}, "n_components: got 1.5; expected a sequence of whole numbers"),
        ({"n_components": (0,)}, "n_components: got 0"),
        ({"n_components": (True,)}, "n_components: got True"),
        ({"n_components": ("held-out",)}, "got 'held-out'; expected .* or 'auto'"),
        ({"n_components": "auto"}, "got 'a'; expected a sequence"),
        ({"consistency_weights": (-1.0,)}, "consistency_weights: got -1.0; expected"),
        ({"consistency_weights": (np.nan,)}, "consistency_weights: got nan"),
        ({"consistency_weights": ("held-out",)}, "got 'held-out'; expected a sequence of numbers"),
        ({"consistency_weights": (np.inf,)}, "consistency_weight"),
        ({"projection": InvariantProjection(objective="best")}, "objective"),
    ],
)
def test_bad_grids(options, message):
    moments, predictors, _, X, y = grid_problem()
    with pytest.raises(ValueError, match=message):
        grid_accuracy(moments, predictors, {"all": (X, y)}, **options)
