"""The theory's experiments: each finds what is known to be true, and would see if it were not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_core.projection import InvariantProjection
from icm_study.theory.contrastive import contrastive_optimum, identifiability
from icm_study.theory.discrete import (
    DiscreteSCM,
    change_between_environments,
    information_threshold,
    invariance,
    observed_world,
    ood_risk,
    random_ood_risk,
    random_world,
)
from icm_study.theory.linear import (
    consistency,
    largest_angle,
    recovery,
    size_recovery,
    solver_agreement,
)
from icm_study.theory.objectives import objectives

METHODS = objectives(consistency_weight=100)


def test_largest_angle_of_known_planes():
    basis = np.eye(3)[:, :1]
    assert largest_angle(np.eye(3)[:1], basis) == pytest.approx(0)
    assert largest_angle(np.array([[1.0, 1.0, 0.0]]), basis) == pytest.approx(45)
    assert largest_angle(np.eye(3)[1:2], basis) == pytest.approx(90)


def test_recovery_runs_every_combination_and_finds_the_subspace():
    table = recovery(
        METHODS, seeds=range(2), n_pairs=(500, 1000), leaks=(0.0, 0.3), condition_numbers=(1, 10)
    )
    assert len(table) == 3 * 2 * 2 * 2 * 2
    angles = table[table["leak"] == 0].groupby("method")["angle"]
    assert angles.max()["trace"] < 2
    assert angles.max()["generalized"] < 1
    assert angles.min()["released"] > 80
    assert (table.query("leak == 0 and method != 'released'")["auto_k"] == 4).mean() > 0.8
    leaking = table[(table["leak"] == 0.3) & (table["method"] == "trace")]
    assert (leaking["angle"] > 1).mean() > 0.4


def test_a_leak_lets_empty_directions_in():
    methods = {str(weight): InvariantProjection(consistency_weight=weight) for weight in (5, 20)}
    table = recovery(methods, seeds=range(3), leaks=(0.3,), n_features=16).groupby("method")[
        "angle"
    ]
    assert table.max()["5"] < 5  # λδ² = 0.45
    assert table.min()["20"] > 80  # λδ² = 1.8


def test_recovery_is_reproducible():
    first, second = (recovery(METHODS, seeds=[3], n_pairs=(200,)) for _ in range(2))
    assert first.equals(second)


def test_solvers_agree():
    table = solver_agreement(
        seeds=range(2), n_pairs=1000, consistency_weights=(1, 10), condition_numbers=(1, 10)
    )
    assert len(table) == 8
    assert table["distance"].max() < 1e-3
    assert (table["steps"] > 0).all()


def test_consistency_tells_the_true_subspace_from_a_random_one():
    table = consistency(METHODS, seeds=range(2), n_pairs=1000).groupby("method").mean()
    assert table.loc["true subspace", "residual"] < 1e-20
    assert table.loc["trace", "residual"] < 1e-3
    assert table.loc["random subspace", "residual"] > 0.1
    assert table.loc["true subspace", "r2"] == pytest.approx(1)
    assert table.loc["released", "r2"] < 0.1


def test_identifiability_grows_with_the_texts_up_to_one_more_than_the_factors():
    table = identifiability((2, 3, 5), seeds=[0], n_factors=4, n_images=500)
    table = table.set_index(["setting", "n_texts"])
    diverse, plane = table.loc["diverse texts"], table.loc["texts in a plane"]
    assert diverse.loc[2, "r2"] == pytest.approx(1 / 4, abs=0.08)
    assert diverse.loc[5, "r2"] > 0.99
    assert diverse.loc[5, "r2_image"] < 0.9
    assert np.isfinite(diverse.loc[5, "condition_number"])
    assert np.isinf(diverse.loc[3, "condition_number"])
    assert plane.loc[5, "r2"] == pytest.approx(2 / 4, abs=0.08)
    assert np.isinf(plane.loc[5, "condition_number"])
    assert table.loc[("diverse texts, one caption each", 5), "r2"] < diverse.loc[5, "r2"]


def test_contrastive_optimum_reproduces_the_log_odds():
    rng = np.random.default_rng(0)
    X, directions = rng.normal(size=(400, 2)), rng.normal(size=(4, 2))
    logits = X @ directions.T
    targets = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    f = contrastive_optimum(X, targets, n_dimensions=2)(X)
    assert f.shape == (400, 2)
    centred = logits - logits.mean(axis=1, keepdims=True)
    design = np.column_stack([f, np.ones(400)])
    residual = centred - design @ np.linalg.lstsq(design, centred, rcond=None)[0]
    assert np.abs(residual).max() < 1e-2


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_what_each_world_keeps(seed):
    rng = np.random.default_rng(seed)
    shortcut, cause, concept = (
        random_world(name, rng) for name in ("shortcut", "cause", "concept shift")
    )
    both = ["z_inv", "z_var"]
    assert change_between_environments(shortcut, ["z_inv"], intervene=True) == pytest.approx(
        0, abs=1e-12
    )
    assert change_between_environments(shortcut, both, intervene=True) == pytest.approx(
        0, abs=1e-12
    )
    assert change_between_environments(cause, both, intervene=False) == pytest.approx(0, abs=1e-12)
    assert change_between_environments(shortcut, both, intervene=False) > 1e-6
    assert change_between_environments(cause, ["z_inv"], intervene=True) > 1e-9
    assert change_between_environments(concept, ["z_inv"], intervene=True) > 1e-9


def test_change_is_the_largest_total_variation():
    scm = DiscreteSCM({"e": ((), [0.5, 0.5]), "y": (("e",), [[0.2, 0.8], [0.5, 0.5]])})
    assert change_between_environments(scm, [], intervene=False) == pytest.approx(0.3)


def test_invariance_is_tidy():
    table = invariance(n_models=3, seed=0)
    assert len(table) == 3 * 3 * 4
    assert table["change"].between(0, 1).all()


def test_unknown_world_is_refused():
    with pytest.raises(
        ValueError, match="world is 'flat'; expected one of 'shortcut', 'cause', 'concept shift'"
    ):
        random_world("flat", np.random.default_rng(0))


@pytest.mark.parametrize("kept", [0.0, 0.3, 1.0])
def test_observed_world_has_the_stated_strengths(kept):
    scm = observed_world(kept, reliability=0.9, source=0.8, target=-0.4)
    for e, rho in enumerate((0.8, -0.4)):
        joint = scm.probability("y", "z_var", given={"e": e})
        assert np.trace(joint) == pytest.approx((1 + rho) / 2)
    information = scm.mutual_information("z_inv", "code")
    assert (information == pytest.approx(0, abs=1e-12)) == (kept == 0)
    assert (information == pytest.approx(2)) == (kept == 1)


def test_risks_and_threshold_of_a_reversed_shortcut():
    risks = ood_risk((-0.9, 0.5, 0.9), source=0.9, reliability=0.9, n_steps=11)
    by_target = {target: rows for target, rows in risks.groupby("target")}
    full = by_target[-0.9].iloc[-1]
    assert full["invariant"] == pytest.approx(0.1)
    assert full["standard"] == pytest.approx(
        0.95
    )  # follows the shortcut, which is right 5 times in 100
    assert information_threshold(by_target[-0.9]) == 0
    assert 0 < information_threshold(by_target[0.5]) < 2
    assert information_threshold(by_target[0.9]) == np.inf
    np.testing.assert_allclose(by_target[0.5]["standard"], 0.25)


def test_random_risks_are_reproducible_and_possible():
    table = random_ood_risk(n_models=30, seed=1)
    assert table.equals(random_ood_risk(n_models=30, seed=1))
    assert table["invariant"].between(0, 1).all()
    assert table["information"].between(0, np.log2(3) + 1e-9).all()
    assert (table["invariant"] < table["standard"]).any()


def test_size_recovery_compares_each_rule_with_the_truth_of_its_own_model():
    rules = {
        "auto": InvariantProjection("auto", consistency_weight="auto"),
        "fixed": InvariantProjection(3, consistency_weight=1.0),
    }
    runs = size_recovery(
        rules, seeds=range(4), n_features=(8, 20), leaks=(0.0, 0.1), condition_numbers=(1.0,)
    )
    assert len(runs) == 2 * 4 * 2 * 2
    assert (runs.loc[runs["rule"] == "fixed", "chosen"] == 3).all()
    truth = runs[["n_features", "leak", "seed", "n_invariant"]].drop_duplicates()
    assert len(truth) == 4 * 2 * 2  # one model for each, whatever the rule
    assert (
        truth.groupby(["n_features", "seed"])["n_invariant"].nunique().max() == 2
    )  # and not the same for each leak
    assert truth["n_invariant"].between(1, truth["n_features"] - 1).all()
    assert truth["n_invariant"].nunique() > 3
    auto = runs[runs["rule"] == "auto"]
    assert (auto["chosen"] == auto["n_invariant"]).mean() >= 0.9
