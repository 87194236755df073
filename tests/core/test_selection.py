"""Predictions at every K from one projection, against a fit for each K."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from icm_core import selection as nested
from icm_core.moments import PairMoments
from icm_core.prediction import LinearProbe, ZeroShotClassifier
from icm_core.projection import InvariantProjection
from icm_core.selection import least_squares_path, logistic_path, zero_shot_path


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
        monkeypatch.setattr(nested, "_SCORES", scores)
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
