"""The released order is the other end of the same spectrum."""

import numpy as np
import pytest
from sklearn.base import clone

from icm_core.moments import PairMoments
from icm_core.projection import InvariantProjection
from icm_study.theory.linear import LinearGaussianSCM
from icm_study.theory.released import ReleasedProjection


@pytest.fixture(scope="module")
def pairs():
    return LinearGaussianSCM(seed=1).sample_pairs("source", 300, np.random.default_rng(1))


@pytest.mark.parametrize("weight", [1.0, 10.0, "auto"])
def test_released_code_is_the_other_end_of_the_spectrum(pairs, weight):
    d = pairs[0].shape[1]
    top, released = (
        kind(d, consistency_weight=weight).fit(*pairs)
        for kind in (InvariantProjection, ReleasedProjection)
    )
    np.testing.assert_array_equal(released.eigenvalues_, top.eigenvalues_[::-1])
    np.testing.assert_array_equal(released.components_, top.components_[::-1])
    auto = ReleasedProjection("auto", consistency_weight=weight).fit(*pairs)
    assert auto.n_components_ == top.auto_n_components_ < d
    np.testing.assert_array_equal(
        auto.components_, released.truncate(auto.n_components_).components_
    )


def test_it_is_an_estimator_with_the_same_parameters_and_ways_to_fit(pairs):
    released = ReleasedProjection(3, consistency_weight=2.0)
    assert clone(released).get_params() == released.get_params()
    whole = clone(released).fit(*pairs)
    moments = PairMoments(pairs[0].shape[1]).update(*pairs)
    np.testing.assert_array_equal(
        clone(released).fit_moments(moments).components_, whole.components_
    )


@pytest.mark.parametrize("parameters", [{"objective": "generalized"}, {"solver": "gradient"}])
def test_it_has_one_objective_and_one_solver(pairs, parameters):
    with pytest.raises(ValueError, match="for objective='trace' and solver='closed_form' only"):
        ReleasedProjection(**parameters).fit(*pairs)
