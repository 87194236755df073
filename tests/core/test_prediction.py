"""Zero-shot and linear probe against brute force, and what must not change their answers."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from icm_core import prediction
from icm_core.prediction import LinearProbe, ZeroShotClassifier, class_prompts, principal_axes
from icm_core.projection import InvariantProjection

seeds = st.integers(0, 2**32 - 1)
some = settings(max_examples=25, deadline=None)


@parametrize_with_checks([ZeroShotClassifier(), LinearProbe(), LinearProbe(device="cpu")])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def prompts_and_images(seed, classes=4, templates=3, d=6, n=30):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), templates)
    return rng.normal(size=(len(y), d)), y, rng.normal(size=(n, d))


def labelled(seed, n=90, d=5, classes=3):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return (
        2 * rng.normal(size=(classes, d))[y] + rng.normal(size=(n, d)),
        y,
        rng.normal(size=(20, d)),
    )


def cosine(a, b):
    return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))


@some
@given(seeds, st.integers(2, 6), st.integers(1, 4))
def test_zero_shot_is_the_largest_cosine_with_the_mean_unit_prompt(seed, classes, templates):
    X, y, images = prompts_and_images(seed, classes, templates)
    names = np.array([f"class {i}" for i in range(classes)])
    model = ZeroShotClassifier(temperature=0.3).fit(X, names[y])
    means = [np.mean([x / np.linalg.norm(x) for x in X[y == c]], axis=0) for c in range(classes)]
    expected = np.array([[cosine(image, mean) for mean in means] for image in images])
    np.testing.assert_array_equal(model.predict(images), names[expected.argmax(1)])
    odds = np.exp(expected / 0.3)
    np.testing.assert_allclose(
        model.predict_proba(images), odds / odds.sum(1, keepdims=True), rtol=1e-9
    )
    decision = model.decision_function(images)
    np.testing.assert_allclose(
        decision, expected if classes > 2 else expected[:, 1] - expected[:, 0], atol=1e-12
    )


@some
@given(seeds, st.sampled_from([2, 3, 7]), st.sampled_from([0.01, 0.7, 30.0]))
def test_the_probe_is_logistic_regression_on_scaled_embeddings(seed, classes, C):
    X, y, images = labelled(seed, classes=classes)
    probe = LinearProbe(C=C).fit(X, y)
    scale = 1 / np.sqrt(np.mean(X**2))
    direct = LogisticRegression(C=C, max_iter=50_000, tol=1e-10).fit(X * scale, y)
    assert probe.scale_ == pytest.approx(scale)
    np.testing.assert_allclose(
        probe.predict_proba(images), direct.predict_proba(images * scale), atol=1e-2
    )
    np.testing.assert_allclose(
        probe.decision_function(images), direct.decision_function(images * scale), atol=0.1
    )
    assert probe.coef_.shape == direct.coef_.shape
    assert probe.intercept_.shape == direct.intercept_.shape


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("C", [0.01, 0.316, 10.0, 1000.0])
def test_the_loss_is_that_of_scikit_learn_on_embeddings_of_uneven_scale(C, dtype):
    """Principal axes whose variances span six orders, far from the origin."""
    rng = np.random.default_rng(0)
    y = np.arange(600) % 6
    Z = rng.normal(size=(600, 24)) + rng.normal(size=(6, 24))[y]
    mixed = (Z * np.logspace(0, -3, 24)) @ np.linalg.qr(rng.normal(size=(24, 24)))[0] + 0.3
    X = mixed.astype(dtype)
    probe = LinearProbe(C=C).fit(X, y)
    scaled = X.astype(float) * probe.scale_
    best = LogisticRegression(C=C, solver="newton-cg", max_iter=10_000, tol=1e-8).fit(scaled, y)

    def loss(model):
        logits = scaled @ model.coef_.T.astype(float) + model.intercept_
        return C * (logsumexp(logits, axis=1) - logits[np.arange(600), y]).sum() + (
            np.square(model.coef_, dtype=float).sum() / 2
        )

    assert loss(probe) == pytest.approx(loss(best), rel=1e-4)
    assert probe.coef_.dtype == dtype


#: Where torch fits a probe here; the processor too, with the same code.
DEVICES = ["cpu", *["cuda"] * torch.cuda.is_available()]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("classes", [2, 7])
def test_torch_takes_the_same_steps_on_a_device(device, dtype, classes):
    X, y, images = labelled(5, classes=classes)
    X, images = X.astype(dtype), images.astype(dtype)
    by_numpy, by_torch = LinearProbe().fit(X, y), LinearProbe(device=device).fit(X, y)
    assert by_torch.n_iter_ == by_numpy.n_iter_
    assert isinstance(by_torch.coef_, np.ndarray)
    assert by_torch.coef_.dtype == dtype
    near = {"rtol": 0, "atol": 1e-12 if dtype == np.float64 else 1e-4}
    np.testing.assert_allclose(by_torch.coef_, by_numpy.coef_, **near)
    np.testing.assert_allclose(by_torch.intercept_, by_numpy.intercept_, **near)
    np.testing.assert_array_equal(by_torch.predict(images), by_numpy.predict(images))


@pytest.mark.parametrize("device", [None, *DEVICES])
def test_a_probe_in_many_blocks_is_the_same(device, monkeypatch):
    X, y, _ = labelled(6)
    whole = LinearProbe(device=device).fit(X, y)
    monkeypatch.setattr(prediction, "_BLOCK", 50)  # 16 rows of 3 classes, the last fewer
    parts = LinearProbe(device=device).fit(X, y)
    np.testing.assert_allclose(parts.coef_, whole.coef_, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "device",
    ["nowhere", pytest.param("cuda", marks=pytest.mark.skipif(len(DEVICES) > 1, reason="it is"))],
)
def test_a_device_that_is_not_there_is_named(device):
    X, y, _ = labelled(0)
    with pytest.raises(ValueError, match=rf"device is '{device}'.*double precision, such as"):
        LinearProbe(device=device).fit(X, y)


def test_a_loose_tolerance_takes_fewer_steps_and_leaves_no_more_than_it_says():
    X, y, _ = labelled(3)
    X = X * np.logspace(0, -3, X.shape[1])
    exact, loose = (LinearProbe(C=100, tol=tol).fit(X, y) for tol in (1e-8, 1e-2))

    def loss(probe):
        own = probe.predict_proba(X)[np.arange(len(y)), y]
        return -100 * np.log(own).sum() + np.square(probe.coef_).sum() / 2

    assert loose.n_iter_ < exact.n_iter_
    assert 1 < loss(loose) / loss(exact) <= 1.01


@pytest.mark.parametrize("tol", [0.0, -1e-3, 1.0, np.nan, "1e-3"])
def test_a_tolerance_that_is_none_is_refused(tol):
    X, y, _ = labelled(0)
    with pytest.raises(ValueError, match=r"tol is .*expected a number between 0 and 1"):
        LinearProbe(tol=tol).fit(X, y)


def test_a_probe_that_is_stopped_early_says_so():
    X, y, _ = labelled(0)
    with pytest.warns(ConvergenceWarning, match="after 1 Newton steps; give more as max_iter"):
        LinearProbe(C=100, max_iter=1).fit(X, y)


def test_the_probe_minimises_the_penalised_loss():
    """At the minimum the gradient of ``C · log-loss + ‖W‖² / 2`` is zero."""
    X, y, _ = labelled(1)
    probe = LinearProbe().fit(X, y)
    residual = probe.predict_proba(X) - np.eye(3)[y]
    gradient = 0.316 * residual.T @ (X * probe.scale_) + probe.coef_
    assert np.abs(gradient).max() < 0.02
    assert np.abs(0.316 * residual.sum(0)).max() < 0.02  # the intercept has no penalty


def models(seed):
    X, y, images = labelled(seed)
    return [(ZeroShotClassifier(), X, y, images), (LinearProbe(), X, y, images)]


@some
@given(seeds)
def test_probabilities_are_probabilities(seed):
    for model, X, y, images in models(seed):
        probability = model.fit(X, y).predict_proba(images)
        assert probability.shape == (20, 3)
        assert (probability >= 0).all()
        np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-9)
        np.testing.assert_array_equal(model.classes_[probability.argmax(1)], model.predict(images))
        np.testing.assert_array_equal(
            model.classes_[model.decision_function(images).argmax(1)], model.predict(images)
        )


@some
@given(seeds, st.floats(1e-3, 1e3))
def test_temperature_never_changes_the_label(seed, temperature):
    X, y, images = prompts_and_images(seed)
    plain, other = (ZeroShotClassifier(t).fit(X, y) for t in (0.01, temperature))
    np.testing.assert_array_equal(plain.predict(images), other.predict(images))


def test_a_low_temperature_is_sure_and_a_high_one_is_not():
    X, y, images = prompts_and_images(0)
    assert ZeroShotClassifier(1e-4).fit(X, y).predict_proba(images).max(1).mean() > 0.99
    np.testing.assert_allclose(
        ZeroShotClassifier(1e4).fit(X, y).predict_proba(images), 0.25, atol=1e-3
    )


@some
@given(seeds, st.floats(1e-3, 1e3))
def test_the_scale_of_the_embedding_is_irrelevant(seed, factor):
    for model, X, y, images in models(seed):
        before = model.fit(X, y).predict_proba(images)
        after = clone(model).fit(factor * X, y).predict_proba(factor * images)
        np.testing.assert_allclose(after, before, atol=1e-3)


@some
@given(seeds)
def test_the_length_of_an_embedding_is_irrelevant_to_zero_shot(seed):
    X, y, images = prompts_and_images(seed)
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(0.1, 10, (len(X), 1)), rng.uniform(0.1, 10, (len(images), 1))
    before = ZeroShotClassifier().fit(X, y).predict_proba(images)
    after = ZeroShotClassifier().fit(lengths[0] * X, y).predict_proba(lengths[1] * images)
    np.testing.assert_allclose(after, before, rtol=1e-8)


def pairs(X, variant):
    """Pairs in which the columns `variant` are drawn anew."""
    X_do = X.copy()
    X_do[:, variant] = np.random.default_rng(9).normal(size=(len(X), len(variant)))
    return X, X_do


@some
@given(seeds)
def test_a_projection_on_the_whole_space_changes_nothing(seed):
    """With K = D the projection is a rotation, and both predictors are blind to rotations."""
    for model, X, y, images in models(seed):
        whole = InvariantProjection(X.shape[1], consistency_weight=1.0).fit(*pairs(X, [3, 4]))
        behind = make_pipeline(FrozenEstimator(whole), clone(model)).fit(X, y)
        np.testing.assert_allclose(
            behind.predict_proba(images), model.fit(X, y).predict_proba(images), atol=1e-2
        )


def test_behind_a_projection_only_the_subspace_counts():
    for model, X, y, images in models(4):
        projection = InvariantProjection(3, consistency_weight=100).fit(*pairs(X, [3, 4]))
        pipeline = make_pipeline(FrozenEstimator(projection), model).fit(X, y)
        by_hand = (
            clone(model).fit(projection.transform(X), y).predict_proba(projection.transform(images))
        )
        np.testing.assert_array_equal(pipeline.predict_proba(images), by_hand)
        A = projection.components_
        off = np.random.default_rng(0).normal(size=images.shape)
        off -= off @ A.T @ A
        np.testing.assert_allclose(pipeline.predict_proba(images + off), by_hand, atol=1e-6)


def test_zero_shot_survives_an_embedding_of_zero():
    X, y, _ = prompts_and_images(0)
    np.testing.assert_allclose(ZeroShotClassifier().fit(X, y).predict_proba(np.zeros((2, 6))), 0.25)


def test_the_probe_on_nothing_but_zeros_predicts_the_frequencies():
    y = np.array([0, 0, 0, 1])
    probability = LinearProbe().fit(np.zeros((4, 2)), y).predict_proba(np.zeros((1, 2)))
    np.testing.assert_allclose(probability, [[0.75, 0.25]], atol=1e-3)


def test_a_probe_on_a_constant_and_its_rounding_predicts_the_frequencies():
    """What single precision leaves of rows that are all the same is rounded to nothing."""
    X = np.full((40, 6), 0.3) + 1e-9 * np.random.default_rng(0).normal(size=(40, 6))
    probe = LinearProbe().fit(X.astype(np.float32), np.arange(40) % 4 // 3)
    np.testing.assert_allclose(
        probe.predict_proba(X[:1].astype(np.float32)), [[0.75, 0.25]], atol=1e-2
    )


@pytest.mark.parametrize("C", [0.01, 10.0])
def test_axes_that_are_given_change_no_bit(C):
    X, y, _ = labelled(3)
    alone, given = LinearProbe(C).fit(X, y), LinearProbe(C).fit(X, y, principal_axes(X))
    assert np.array_equal(alone.coef_, given.coef_)
    assert np.array_equal(alone.intercept_, given.intercept_)
    variances = np.var(X @ principal_axes(X), axis=0)  # the axes are those of the covariance
    np.testing.assert_allclose(variances, np.linalg.eigvalsh(np.cov(X.T, bias=True)), rtol=1e-9)


@pytest.mark.parametrize("change", [lambda A: A[:-1], lambda A: 2 * A, lambda A: A + 1e-3])
def test_axes_that_are_not_those_of_the_features_are_refused(change):
    X, y, _ = labelled(3)
    with pytest.raises(ValueError, match="expected orthonormal columns of shape"):
        LinearProbe().fit(X, y, change(principal_axes(X)))


def test_single_precision_is_enough():
    for model, X, y, images in models(2):
        double = model.fit(X, y).predict_proba(images)
        single = clone(model).fit(X.astype(np.float32), y).predict_proba(images.astype(np.float32))
        np.testing.assert_allclose(single, double, atol=1e-2)


@pytest.mark.parametrize("model", [ZeroShotClassifier(), LinearProbe()])
def test_bad_input(model):
    X, y, images = labelled(0)
    with pytest.raises(NotFittedError):
        clone(model).predict(images)
    broken = X.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        clone(model).fit(broken, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clone(model).fit(X, y[:-1])
    with pytest.raises(ValueError, match=r"(?i)class"):
        clone(model).fit(X, np.zeros(len(X), dtype=int))
    with pytest.raises(ValueError, match="features"):
        clone(model).fit(X, y).predict(images[:, :3])


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature):
    X, y, _ = prompts_and_images(0)
    with pytest.raises(ValueError, match=r"temperature is .* expected a positive number"):
        ZeroShotClassifier(temperature).fit(X, y)


@pytest.mark.parametrize("C", [0, -1.0, np.nan, np.inf, "0.3"])
def test_the_penalty_must_be_positive(C):
    X, y, _ = labelled(0)
    with pytest.raises(ValueError, match="expected a positive number"):
        LinearProbe(C=C).fit(X, y)


def test_class_prompts():
    prompts, names = class_prompts(["cat", "polar bear"], ["a {}", "the {} and the {}"])
    assert prompts == [
        "a cat",
        "the cat and the cat",
        "a polar bear",
        "the polar bear and the polar bear",
    ]
    assert names == ["cat", "cat", "polar bear", "polar bear"]


@pytest.mark.parametrize(
    ("classes", "templates", "message"),
    [
        ([], ["a {}"], "0 classes and 1 templates"),
        (["cat"], [], "1 classes and 0 templates"),
        (["cat"], ["a {}", "a photo"], "'a photo' has no '{}'"),
        ("cat", ["a {}"], "classes is 'cat'"),
        (["cat"], "a {}", "templates is 'a {}'"),
    ],
)
def test_bad_prompts(classes, templates, message):
    with pytest.raises((ValueError, TypeError), match=message):
        class_prompts(classes, templates)


@pytest.mark.parametrize("model", [ZeroShotClassifier(), LinearProbe()])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, r"y lacks 1 of \d+ labels \(None or NaN\)"),
        (np.nan, r"y lacks 1 of \d+ labels"),
        (pd.NA, r"y lacks 1 of \d+ labels"),
        (3, "labels that are texts and labels that are not"),
    ],
)
def test_labels_that_are_no_classes_are_refused(model, wrong, message):
    X, y, _ = labelled(0)
    texts = np.array([f"class {label}" for label in y], dtype=object)
    fitted = clone(model).fit(X, pd.Series(texts, dtype="category"))
    assert fitted.score(X, pd.Series(texts, dtype="string")) == fitted.score(X, texts)
    texts[1] = wrong
    for labels in (texts, pd.Series(texts), texts.tolist()):
        for method in (clone(model).fit, fitted.score):
            with pytest.raises(ValueError, match=message):
                method(X, labels)


@pytest.mark.parametrize("model", [ZeroShotClassifier(), LinearProbe()])
def test_columns_in_another_order_are_refused(model):
    X, y, new = labelled(0)
    model = clone(model).fit(pd.DataFrame(X, columns=list("abcde")), y)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(pd.DataFrame(new, columns=list("edcba")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("model", [ZeroShotClassifier(), LinearProbe()])
def test_tensors_as_clip_gives_them(model, dtype):
    X, y, new = labelled(0)
    X, new = (torch.tensor(part, dtype=dtype, requires_grad=True) for part in (X, new))
    given = clone(model).fit(X, torch.tensor(y))
    expected = clone(model).fit(X.detach().float().numpy(), y)
    for method in ("predict", "predict_proba", "decision_function"):
        np.testing.assert_allclose(
            getattr(given, method)(new),
            getattr(expected, method)(new.detach().float().numpy()),
            rtol=1e-3,
        )
