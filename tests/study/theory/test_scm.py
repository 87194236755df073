"""The causal models: what they sample is what they say, and the estimators recover their truth."""

import doctest
import itertools
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from icm_core.projection import InvariantProjection
from icm_study.theory import linear as scm_module
from icm_study.theory.discrete import DiscreteSCM
from icm_study.theory.linear import LinearGaussianSCM
from icm_study.theory.released import ReleasedProjection

seeds = st.integers(0, 2**32 - 1)


def largest_angle(components, basis):
    return np.degrees(subspace_angles(components.T, basis).max())


# --- the linear model


@settings(max_examples=50, deadline=None)
@given(
    seed=seeds,
    n_invariant=st.integers(1, 5),
    n_variant=st.integers(1, 5),
    spare=st.integers(0, 3),
    condition_number=st.floats(1, 100),
)
def test_mixing_and_invariant_subspace(seed, n_invariant, n_variant, spare, condition_number):
    n = n_invariant + n_variant
    scm = LinearGaussianSCM(
        n_invariant, n_variant, n_features=n + spare, condition_number=condition_number, seed=seed
    )
    A, basis = scm.mixing_, scm.invariant_subspace_
    assert A.shape == (n + spare, n)
    assert np.linalg.cond(A) == pytest.approx(condition_number)
    assert basis.shape == (n + spare, n_invariant)
    np.testing.assert_allclose(basis.T @ basis, np.eye(n_invariant), atol=1e-10)
    np.testing.assert_allclose(
        basis.T @ A[:, n_invariant:], 0, atol=1e-9
    )  # no variant factor enters
    np.testing.assert_allclose(
        A @ np.linalg.pinv(A) @ basis, basis, atol=1e-8
    )  # nothing outside the data
    assert (
        np.linalg.matrix_rank(basis.T @ A[:, :n_invariant]) == n_invariant
    )  # every invariant one does


@pytest.mark.parametrize("strength", [-0.9, 0.0, 0.5, 1.0])
def test_environments_shift_the_variant_factors_only(strength):
    scm = LinearGaussianSCM(2, 3, environments={"e": strength}, seed=1)
    sample = scm.sample("e", 50_000, np.random.default_rng(0))
    assert set(np.unique(sample.y)) == {0, 1}
    sign = 2 * sample.y - 1
    assert np.mean(sign * sample.z[:, 2]) == pytest.approx(strength, abs=0.02)
    np.testing.assert_allclose(sample.z.std(axis=0), 1, atol=0.02)
    np.testing.assert_allclose(sign @ sample.z[:, 3:] / len(sign), 0, atol=0.02)
    twin = LinearGaussianSCM(2, 3, environments={"e": 0.0}, seed=1).sample(
        "e", 50_000, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(twin.z[:, :2], sample.z[:, :2])
    np.testing.assert_array_equal(twin.y, sample.y)


@pytest.mark.parametrize("leak", [0.0, 0.3])
def test_pairs_keep_the_invariant_factors_up_to_the_leak(leak):
    scm = LinearGaussianSCM(2, 3, seed=1)
    X, X_do = scm.sample_pairs("source", 20_000, np.random.default_rng(0), leak=leak)
    inverse = np.linalg.inv(scm.mixing_)
    change = (X_do - X) @ inverse.T
    np.testing.assert_allclose(change[:, :2].std(axis=0), leak, atol=0.01)
    z_do = X_do @ inverse.T
    np.testing.assert_allclose(np.cov(z_do.T)[2:, :2], 0, atol=0.03)
    np.testing.assert_allclose(z_do[:, 2:].std(axis=0), 1, atol=0.03)


@given(seed=seeds)
@settings(deadline=None, max_examples=20)
def test_samples_depend_on_their_seed_only(seed):
    first, second = (
        LinearGaussianSCM(2, 2, seed=seed).sample("target", 20, np.random.default_rng(seed))
        for _ in range(2)
    )
    for left, right in zip(first, second, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_invariant": 0}, "Got n_invariant=0"),
        ({"n_variant": 0}, "Got n_invariant=4, n_variant=0"),
        ({"n_features": 5}, "n_features=5; expected .* at least as many features as factors"),
        (
            {"condition_number": 0.5},
            r"condition_number is 0\.5; expected a finite number, at least 1",
        ),
        ({"condition_number": np.inf}, "condition_number is inf"),
        ({"environments": {}}, "environments are {}; expected at least one"),
        (
            {"environments": {"a": 1.5}},
            "expected at least one name with a shortcut strength from -1 to 1",
        ),
        ({"environments": {"a": np.nan}}, "shortcut strength from -1 to 1"),
        ({"label_noise": -1.0}, r"label_noise is -1\.0"),
    ],
)
def test_bad_models_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        LinearGaussianSCM(**parameters)


def test_bad_requests_are_refused():
    scm, rng = LinearGaussianSCM(), np.random.default_rng(0)
    with pytest.raises(
        ValueError, match="environment is 'mars'; expected one of 'source', 'target', 'reversed'"
    ):
        scm.sample("mars", 5, rng)
    with pytest.raises(ValueError, match="n is 0; expected at least one"):
        scm.sample_pairs("source", 0, rng)
    with pytest.raises(ValueError, match=r"leak is -0\.1; expected a finite number, at least 0"):
        scm.sample_pairs("source", 5, rng, leak=-0.1)


# --- what the estimators must recover


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_features", [12, 20])
def test_the_invariant_subspace_is_found_without_leak(seed, n_features):
    scm = LinearGaussianSCM(n_features=n_features, seed=seed)
    pairs = scm.sample_pairs("source", 3_000, np.random.default_rng(seed))
    for projection in (
        InvariantProjection(4, consistency_weight=100),
        InvariantProjection(4, objective="generalized"),
        InvariantProjection(4, consistency_weight=100, solver="gradient", random_state=seed),
    ):
        assert largest_angle(projection.fit(*pairs).components_, scm.invariant_subspace_) < 1
    released = ReleasedProjection(4, consistency_weight=100).fit(*pairs)
    assert largest_angle(released.components_, scm.invariant_subspace_) > 80


@pytest.mark.parametrize("objective", ["trace", "generalized"])
def test_auto_finds_the_number_of_invariant_factors(objective):
    for seed in range(5):
        scm = LinearGaussianSCM(n_features=16, seed=seed)
        pairs = scm.sample_pairs("source", 3_000, np.random.default_rng(seed))
        projection = InvariantProjection("auto", objective=objective, consistency_weight=100).fit(
            *pairs
        )
        assert projection.n_components_ == 4


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("condition_number", [1, 10, 100])
def test_gradient_and_closed_form_agree_on_the_model(seed, condition_number):
    scm = LinearGaussianSCM(condition_number=condition_number, seed=seed)
    pairs = scm.sample_pairs("source", 3_000, np.random.default_rng(seed))
    exact = InvariantProjection(4, consistency_weight=10).fit(*pairs)
    descent = InvariantProjection(
        4, consistency_weight=10, solver="gradient", random_state=seed
    ).fit(*pairs)
    assert np.sin(subspace_angles(exact.components_.T, descent.components_.T).max()) < 1e-3


# --- the discrete model


def random_model(seed):
    """E -> V, U -> L, (E, L) -> V, (U, V) -> W with random tables and numbers of states."""
    rng = np.random.default_rng(seed)

    def table(*shape):
        return rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])

    return DiscreteSCM(
        {
            "e": ((), table(2)),
            "u": ((), table(3)),
            "label": (("u",), table(3, 2)),
            "v": (("e", "label"), table(2, 2, 3)),
            "w": (("v", "u"), table(3, 3, 2)),
        }
    )


def brute_force(scm, variables, given, do):
    """Sum the truncated factorisation state by state."""
    result = np.zeros([scm.n_states(name) for name in variables])
    for states in itertools.product(*(range(scm.n_states(name)) for name in scm.tables)):
        state = dict(zip(scm.tables, states, strict=True))
        if any(state[name] != value for name, value in (given | do).items()):
            continue
        mass = 1.0
        for name, (parents, table) in scm.tables.items():
            if name not in do:
                mass *= table[tuple(state[variable] for variable in (*parents, name))]
        result[tuple(state[name] for name in variables)] += mass
    return result / result.sum()


QUERIES = [
    (("label",), {}, {}),
    (("label",), {"v": 1}, {}),
    (("label", "v"), {"e": 0}, {}),
    (("label",), {}, {"v": 1}),
    (("w",), {"e": 1}, {"v": 2}),
    (("w", "label"), {"v": 0}, {"u": 1}),
    (("label",), {"e": 0, "v": 2}, {"u": 2}),
    (("v", "e"), {"w": 1}, {"label": 0}),
]


@settings(deadline=None)
@given(seed=seeds, query=st.sampled_from(QUERIES))
def test_enumeration_equals_brute_force(seed, query):
    scm = random_model(seed)
    variables, observed, do = query
    np.testing.assert_allclose(
        scm.probability(*variables, given=observed, do=do),
        brute_force(scm, variables, observed, do),
        atol=1e-12,
    )


@pytest.mark.parametrize("query", QUERIES)
def test_enumeration_equals_pgmpy(query):
    pytest.importorskip("pgmpy")
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.inference import VariableElimination
    from pgmpy.models import DiscreteBayesianNetwork

    logging.getLogger("pgmpy").setLevel(logging.ERROR)
    scm = random_model(7)
    variables, observed, do = query
    network = DiscreteBayesianNetwork(
        [(p, name) for name, (parents, _) in scm.tables.items() for p in parents]
    )
    for name, (parents, table) in scm.tables.items():
        sizes = [scm.n_states(parent) for parent in parents]
        values = table.reshape(-1, table.shape[-1]).T
        network.add_cpds(
            TabularCPD(name, table.shape[-1], values, list(parents) or None, sizes or None)
        )
    assert network.check_model()
    mutilated = network.do(
        list(do)
    )  # pgmpy's do-operator: the edges into the intervened variables are cut
    evidence = {**observed, **do}
    factor = VariableElimination(mutilated).query(
        list(variables), evidence=evidence, show_progress=False
    )
    order = [factor.variables.index(name) for name in variables]
    np.testing.assert_allclose(
        scm.probability(*variables, given=observed, do=do),
        factor.values.transpose(order),
        atol=1e-10,
    )


@settings(deadline=None)
@given(seed=seeds)
def test_an_intervention_does_not_reach_causes(seed):
    scm = random_model(seed)
    for state in range(3):
        np.testing.assert_allclose(
            scm.probability("label", "u", do={"v": state}),
            scm.probability("label", "u"),
            atol=1e-12,
        )


@settings(deadline=None)
@given(seed=seeds)
def test_mutual_information_is_symmetric_and_bounded_by_the_entropies(seed):
    scm = random_model(seed)

    def entropy(name):
        p = scm.probability(name, given={"e": 0})
        return -np.sum(p * np.log2(p, where=p > 0, out=np.zeros_like(p)))

    information = scm.mutual_information("label", "v", given={"e": 0})
    assert information == pytest.approx(
        scm.mutual_information("v", "label", given={"e": 0}), abs=1e-10
    )
    assert -1e-10 <= information <= min(entropy("label"), entropy("v")) + 1e-10
    assert scm.mutual_information("e", "u") == pytest.approx(0, abs=1e-10)


def test_mutual_information_of_a_copy_is_the_entropy():
    scm = DiscreteSCM({"a": ((), [0.25] * 4), "b": (("a",), np.eye(4))})
    assert scm.mutual_information("a", "b") == pytest.approx(2.0)


@settings(deadline=None)
@given(seed=seeds, features=st.sampled_from([("v",), ("u", "v"), ("w", "v"), ()]))
def test_no_predictor_beats_the_bayes_risk_in_its_own_environment(seed, features):
    scm = random_model(seed)
    cells = scm.probability(*features, "label", given={"e": 0}).reshape(-1, 2)
    rules = itertools.product(range(2), repeat=len(cells))  # every predictor there is
    best = 1 - max(
        sum(cell[choice] for cell, choice in zip(cells, rule, strict=True)) for rule in rules
    )
    own = scm.bayes_risk("label", features, source={"e": 0}, target={"e": 0})
    assert own == pytest.approx(best, abs=1e-12)
    assert scm.bayes_risk("label", features, source={"e": 1}, target={"e": 0}) >= own - 1e-12


def test_bayes_risk_of_features_that_the_source_never_shows():
    scm = DiscreteSCM(
        {
            "e": ((), [0.5, 0.5]),
            "y": ((), [0.3, 0.7]),
            "x": (("e", "y"), [[[1, 0], [1, 0]], [[0, 1], [0, 1]]]),  # the target shows another x
        }
    )
    assert scm.bayes_risk("y", ["x"], source={"e": 0}, target={"e": 1}) == pytest.approx(0.3)


def test_probability_of_the_impossible_is_undefined():
    scm = DiscreteSCM({"a": ((), [1.0, 0.0]), "b": (("a",), [[0.5, 0.5], [0.5, 0.5]])})
    assert np.isnan(scm.probability("b", given={"a": 1})).all()
    np.testing.assert_allclose(scm.probability("b", do={"a": 1}), [0.5, 0.5])


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"b": (("a",), [[1, 0]])}, r"'b' has parents \['a'\], which are not earlier variables"),
        ({"a": ((), [[1.0], [0.0]])}, r"The table of 'a' has shape \(2, 1\); expected"),
        ({"a": ((), [1, 0]), "b": (("a",), [[1, 0]] * 3)}, r"The table of 'b' has shape \(3, 2\)"),
        ({"a": ((), [0.5, 0.6])}, "The table of 'a' is no probability"),
        ({"a": ((), [1.5, -0.5])}, "The table of 'a' is no probability"),
        ({"a": ((), [np.nan, 1.0])}, "The table of 'a' is no probability"),
    ],
)
def test_bad_tables_are_refused(tables, message):
    with pytest.raises(ValueError, match=message):
        DiscreteSCM(tables)


def test_bad_queries_are_refused():
    scm = random_model(0)
    with pytest.raises(ValueError, match=r"Unknown variables \['z'\]; expected e, u, label, v, w"):
        scm.probability("z")
    with pytest.raises(ValueError, match="State 3 of 'v' is out of range; expected 0 to 2"):
        scm.probability("label", do={"v": 3})
    with pytest.raises(ValueError, match="expected each at most once"):
        scm.probability("label", given={"label": 0})
    with pytest.raises(ValueError, match="expected each at most once"):
        scm.probability("label", "label")


def test_examples_in_the_documentation():
    result = doctest.testmod(scm_module)
    assert result.attempted > 0
    assert result.failed == 0
