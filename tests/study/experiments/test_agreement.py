"""Linear maps between embeddings: those that there are, those that there are not, and controls."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from icm_study.experiments.agreement import (
    EXACT,
    OWN,
    PENALTIES,
    SHUFFLED,
    RidgeMap,
    agreement,
    explained,
    found,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 12))
MIXING = RNG.normal(size=(12, 20))


@pytest.mark.parametrize("noise", [0.1, 3.0])
def test_the_map_is_a_ridge_regression(noise):
    Y = X @ MIXING + noise * RNG.normal(size=(200, 20))
    fitted = RidgeMap(X, Y)
    assert fitted.penalty_ in PENALTIES
    alpha = fitted.penalty_ * np.square(X - X.mean(axis=0)).sum() / 12
    new = RNG.normal(size=(7, 12))
    np.testing.assert_allclose(fitted.predict(new), Ridge(alpha).fit(X, Y).predict(new))


def test_more_noise_takes_a_larger_penalty():
    noise = RNG.normal(size=(200, 20))
    penalties = [RidgeMap(X, X @ MIXING + size * noise).penalty_ for size in (0.01, 30.0)]
    assert penalties[0] < penalties[1]


def test_a_map_of_a_rank_is_the_best_of_that_rank():
    Y = X @ MIXING + 0.1 * RNG.normal(size=(200, 20))
    fitted = RidgeMap(X, Y)
    whole, mean = fitted.predict(X), Y.mean(axis=0)
    left, size, right = np.linalg.svd(whole - mean, full_matrices=False)
    for rank in (1, 5, 12):
        best = (left[:, :rank] * size[:rank]) @ right[:rank] + mean
        np.testing.assert_allclose(fitted.predict(X, rank), best, atol=1e-8)


def test_scores_are_those_of_their_definitions():
    Y = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    mean = Y.mean(axis=0)
    assert explained(Y, Y, mean) == 1
    assert explained(Y, np.tile(mean, (3, 1)), mean) == 0
    assert found(Y, 5 * Y, mean) == 1  # a direction, not a length
    assert found(Y, Y[[1, 0, 2]], mean) == pytest.approx(1 / 3)


def test_a_linear_map_is_found_from_enough_rows_and_from_no_fewer():
    table = agreement(X, X @ MIXING, n_rows=[11, 100], ranks=[2])
    mean = table.groupby(["n_rows", "rank"])["r2"].mean()
    assert mean[160, 0] > 0.9999
    assert mean[100, 0] > 0.9999
    assert mean[11, 0] < 0.95
    assert 0 < mean[160, 2] < 0.8
    assert set(table["fold"]) == set(range(5))
    assert (table.loc[table["n_rows"] == 160, "recall"] > 0.99).sum() >= 5


def test_controls_come_out_as_they_are_built():
    Y = np.tanh(3 * X) @ MIXING
    scores = {
        control: agreement(X, Y, control=control)["r2"].mean() for control in (OWN, SHUFFLED, EXACT)
    }
    assert scores[SHUFFLED] < 0.05 < scores[OWN] < 0.95 < scores[EXACT]
    assert agreement(X, Y, control=SHUFFLED)["recall"].mean() < 0.15


def test_rows_that_do_not_belong_together_are_refused():
    for one, other in ((X, X[:-1]), (X[:9], X[:9]), (X[0], X[0])):
        with pytest.raises(ValueError, match="ten or more"):
            agreement(one, other)
    with pytest.raises(ValueError, match="NaN or infinite"):
        agreement(X, np.where(X > 2, np.nan, X))
