"""Each departure of the released code is what it is named after, and nothing else."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from icm_core.prediction import unit_rows
from icm_study.experiments.departures import (
    ALL,
    C_OF_PAPER,
    PAPER,
    WAYS,
    Bench,
    Rows,
    Way,
    benches,
    departures,
    fit_probe,
    scatters,
)
from icm_study.experiments.eigenvalue_orders import (
    BALANCE,
    LARGEST,
    RANDOM,
    SMALLEST,
    balance,
    eigenvalue_orders,
)
from icm_study.experiments.intervals import unpack
from icm_study.theory.released import ReleasedProjection

D, CLASSES, CHANGED = 6, 3, 4


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """One seed with few images, whose embeddings both experiments share."""
    cache = str(tmp_path_factory.mktemp("cache"))
    given = {"encoder": "animal-world", "seeds": [0], "n_images": 160, "cache": cache}
    return given | {"n_components": 16, "consistency_weights": [0.3, 1000.0]}


def rows(rng, n, change=0.0):
    """Draw images whose class is in the first directions, of other lengths than one."""
    label = np.arange(n) % CLASSES
    raw = np.eye(D)[label] * 2 + rng.normal(size=(n, D)) * [0.1, 0.1, 0.1, 0.3, 1, 0.3]
    raw[:, CHANGED] += change * rng.normal(size=n)
    length = np.linalg.norm(raw, axis=1) * 7
    return Rows(unit_rows(raw), length, label)


@pytest.fixture(scope="module")
def bench():
    rng = np.random.default_rng(0)
    train = rows(rng, 120)
    moved = train.unit.copy()
    moved[:, CHANGED] += rng.normal(size=120)
    copies = Rows(unit_rows(moved), rng.uniform(3, 9, size=120), train.label)
    tests = {"unseen": rows(rng, 50), "reversed": rows(rng, 60)}
    return Bench(train, copies, (train.unit, moved), rows(rng, 90), tests, np.eye(D)[:CLASSES], 1)


def test_the_other_end_is_that_of_the_released_order(bench):
    for raw in (False, True):
        way = Way(kept="smallest", raw_moments=raw)
        first, second = (one.raw if raw else one.unit for one in (bench.train, bench.copies))
        released = ReleasedProjection(3, consistency_weight=10.0).fit(first, second)
        overlap = bench._components(way, 10.0)[:3] @ released.components_.T
        np.testing.assert_allclose(np.linalg.svd(overlap)[1], 1)


def test_directions_at_random_know_no_pairs(bench):
    A = bench._components(Way(kept="random"), 1.0)
    np.testing.assert_allclose(A @ A.T, np.eye(D), atol=1e-12)
    assert (bench._components(Way(kept="random"), 1000.0) == A).all()


def test_a_dot_product_is_told_apart_from_a_cosine(bench):
    A = bench._components(Way(), 1.0)[:2]
    texts, images = bench.prototypes @ A.T, bench.tests["unseen"]
    dot = (images.unit @ A.T @ texts.T).argmax(axis=1) == images.label
    cosine = (images.unit @ A.T @ unit_rows(texts).T).argmax(axis=1) == images.label
    found = [
        bench._hits(Way(dot_product=one), "zero-shot", 1.0, 2, np.nan)["unseen"]
        for one in (True, False)
    ]
    np.testing.assert_array_equal(found, [dot, cosine])


def test_the_penalty_of_raw_embeddings_is_that_of_scikit_learn(bench):
    A = bench._components(Way(), 0.3)[:4]
    ours = fit_probe(bench.train, A, None)
    Z = bench.train.raw @ A.T
    theirs = LogisticRegression(C=C_OF_PAPER, max_iter=10_000, tol=1e-8).fit(Z, bench.train.label)
    found = [one.predict_proba(Z) for one in (ours, theirs)]
    np.testing.assert_allclose(*found, atol=2e-2)
    unit = fit_probe(bench.train, A, C_OF_PAPER).predict_proba(bench.train.unit @ A.T)
    assert np.abs(unit - found[1]).max() > 0.1


def test_a_fifth_and_the_rest_are_the_whole(bench):
    whole, fifth = (
        {row["condition"]: row for row in bench.measure(way) if row["predictor"] == "zero-shot"}
        for way in (WAYS[PAPER], WAYS["a fifth of the target"])
    )
    for condition, images in bench.tests.items():
        n = len(images.label)
        tested = fifth[condition]
        assert tested["n"] == n // 5 == len(unpack(tested))
        right = tested["value"] * tested["n"] + tested["rest"] * (n - tested["n"])
        assert right / n == pytest.approx(whole[condition]["value"])
        assert np.isnan(whole[condition]["rest"])


def test_who_peeks_does_best_on_what_is_tested(bench):
    for tested in (1.0, 0.2):
        honest, peeking = (bench.measure(Way(tested=tested, peeks=one)) for one in (False, True))
        for ours, theirs in zip(honest, peeking, strict=True):
            assert theirs["value"] >= ours["value"]


def test_what_is_kept_of_all_directions_is_everything(bench):
    (row, *_) = bench.measure(Way(consistency_weights=(0.0,), n_components=(D,)))
    assert (row["variance"], row["classes"]) == pytest.approx((100, 100))
    whole, between = scatters(bench.train)
    assert 0 < np.trace(between) < np.trace(whole)
    means = np.stack(
        [bench.train.unit[bench.train.label == y].mean(axis=0) for y in range(CLASSES)]
    )
    np.testing.assert_allclose(between, np.cov(means.T, bias=True), atol=1e-12)


def test_the_balance_is_where_the_objective_turns(bench):
    at = balance(bench)
    span = np.linalg.eigh(scatters(bench.train)[1])[1].T[::-1][: CLASSES - 1]
    moments = bench.moments(Way())
    worth = [np.trace(span @ (moments.C - w * at * moments.S) @ span.T) for w in (0.9, 1, 1.1)]
    assert worth[0] > 0 > worth[2]
    assert worth[1] == pytest.approx(0, abs=1e-12)


def test_lengths_are_those_of_the_model(given):
    ((where, bench), *_) = benches(given)
    assert where == {"target": "photo", "seed": 0}
    assert (bench.train.length > 100).all()
    assert len(np.unique(bench.copies.length)) > 50
    assert bench.train.length.shape == bench.train.label.shape
    np.testing.assert_allclose(np.linalg.norm(bench.train.raw, axis=1), bench.train.length, 1e-5)


def test_the_animal_world_is_audited(given):
    table = departures(given)
    assert table.groupby(["target", "predictor", "condition"]).size().nunique() == 1
    mean = table.groupby(["method", "predictor"])["value"].mean()
    assert mean["λ = 1000", "zero-shot"] < 30 < 60 < mean[PAPER, "zero-shot"]
    assert mean[ALL, "zero-shot"] > 60
    together = table[table["method"] == ALL]
    assert set(together["consistency_weight"]) == {1000.0}
    assert (together["tested"] == 0.2).all()


def test_both_ends_meet_what_they_keep(given):
    table = eigenvalue_orders(given)
    assert (table[table["quantity"] == BALANCE]["value"] > 0).all()
    table = table[table["quantity"] == "accuracy"]
    kept = table.groupby(["method", "consistency_weight"])["classes"].mean()
    assert kept[LARGEST, 0.3] > 90 > 10 > kept[LARGEST, 1000.0]
    assert kept[SMALLEST, 1000.0] > 50 > kept[SMALLEST, 0.3]
    assert kept[RANDOM, 0.3] == kept[RANDOM, 1000.0]
