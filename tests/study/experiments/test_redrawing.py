"""Pairs that re-draw a domain, the maps from them, and the choice of settings on the sources."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge

from icm_study.animals.rendering import write_folder
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.experiments import left_out_domains as left_out
from icm_study.experiments import redrawn_domains
from icm_study.experiments.intervals import unpack
from icm_study.experiments.redrawing import (
    ANY_PAIRS,
    CLASS_PAIRS,
    EMBEDDED,
    SEVEN,
    Labelled,
    class_means,
    discriminant_directions,
    partners_across_domains,
    with_statistics_of_another,
)
from icm_study.experiments.redrawn_domains import redrawn_shares
from icm_study.methods.ridge import IndicatorRidge

N_CLASSES, N_DOMAINS, D = 3, 4, 12


@pytest.fixture(scope="module")
def world():
    """Class, domain and noise in directions of their own; the domains are far apart."""
    rng = np.random.default_rng(0)
    n = 480
    label, domain = np.arange(n) % N_CLASSES, np.arange(n) // N_CLASSES % N_DOMAINS
    X = np.zeros((n, D))
    X[:, :3] = 2 * np.eye(3)[label]
    X[:, 3:7] = 4 * np.eye(4)[domain]
    X += 0.5 * rng.normal(size=X.shape)
    return Labelled(X, label, domain, {SEVEN: (X + 0.01 * rng.normal(size=X.shape), domain)})


def test_a_partner_is_of_the_own_class_and_of_another_domain(world):
    code = np.column_stack([world.label, world.domain, np.arange(len(world.label))]).astype(float)
    before, after = partners_across_domains(code, world.domain, world.label)
    assert (before[:, 0] == after[:, 0]).all()
    assert (before[:, 1] != after[:, 1]).all()
    assert sorted(before[:, 2]) == sorted(code[:, 2])  # everyone once
    assert len({*after[:, 2]}) > 200
    alone = np.where(world.label == 0, 0, world.domain)
    before, _ = partners_across_domains(code, alone, world.label)
    assert 0 not in before[:, 0]  # a class of one domain has no partners
    with pytest.raises(ValueError, match="No class is in two of the 1 domains"):
        partners_across_domains(code, np.zeros(len(code)), world.label)


def test_an_embedding_gets_the_mean_and_covariance_of_another_domain():
    rng = np.random.default_rng(1)
    domain = np.repeat([3, 8], 4000)
    scale = np.where(domain == 3, 1.0, 3.0)[:, None] * [1, 2, 0.5]
    X = rng.normal(size=(8000, 3)) * scale + np.where(domain == 3, 5.0, -1.0)[:, None]
    before, after = with_statistics_of_another(X, domain, shrinkage=1e-9)
    assert (before == X).all()
    for one, other in ((3, 8), (8, 3)):
        moved, wanted = after[domain == one], X[domain == other]
        np.testing.assert_allclose(moved.mean(axis=0), wanted.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(np.cov(moved.T), np.cov(wanted.T), atol=1e-4)
    with pytest.raises(ValueError, match="one domain"):
        with_statistics_of_another(X, np.zeros(8000))


def test_the_discriminant_form_is_lda_where_the_pairs_are_the_scatter_within_classes(world):
    within = world.X - class_means(world.X, world.label)
    S = within.T @ within / len(within)
    ours = discriminant_directions(world.X, world.label, S, 1e-9)
    theirs = LinearDiscriminantAnalysis(solver="eigen").fit(world.X, world.label).scalings_[:, :2]
    for basis in (ours.T, theirs):
        assert np.linalg.matrix_rank(np.column_stack([ours.T, basis]), tol=1e-4) == 2
    np.testing.assert_allclose(ours @ S @ ours.T, np.eye(2), atol=1e-6)


def test_the_probe_is_ridge_regression_on_indicators(world):
    rng = np.random.default_rng(2)
    A = np.linalg.qr(rng.normal(size=(D, 5)))[0].T
    Z, new = world.X @ A.T, rng.normal(size=(50, D))
    for C, labels in zip(
        (10.0, 0.1), IndicatorRidge(world.X, world.label).predict(A, (10.0, 0.1), new), strict=True
    ):
        ridge = Ridge(alpha=np.square(Z).mean() / C).fit(Z, np.eye(3)[world.label])
        assert labels.tolist() == ridge.predict(new @ A.T).argmax(axis=1).tolist()


def test_shares_tell_what_pairs_redraw(world):
    shares = redrawn_shares(world, [SEVEN, CLASS_PAIRS, ANY_PAIRS, EMBEDDED])
    mean = shares.groupby(["kind", "factor"])["share"].mean()
    assert mean[SEVEN].max() < 0.02
    # a domain that always differs, of four, is 1 / (1 - 1/4) of an independent draw
    assert mean[CLASS_PAIRS, "domain"] == pytest.approx(4 / 3, abs=0.05)
    assert mean[CLASS_PAIRS, "class"] < 0.3 < 0.9 < mean[ANY_PAIRS, "class"]
    assert mean[EMBEDDED, "class"] < 0.3


def test_no_setting_is_chosen_by_the_target(world):
    some = {name: left_out.METHODS[name] for name in (left_out.PLAIN, "ICM, class pairs")}
    whole = left_out.across_domains(world, some)
    assert set(whole["choice"]) == {left_out.HONEST, left_out.PEEKING}
    assert (whole["value"] > 90).all()
    assert len(whole) == 2 * 2 * N_DOMAINS
    assert unpack(whole.iloc[0]).mean() == whole["value"].iloc[0] / 100
    # other labels of the target change what is measured and what peeking takes, nothing else
    label = np.where(world.domain == 2, (world.label + 1) % N_CLASSES, world.label)
    other = left_out.across_domains(Labelled(world.X, label, world.domain, world.made), some)
    rows = (whole["target"] == 2) & (whole["choice"] == left_out.HONEST)
    settings = ["method", "K", "strength", "C"]
    assert whole.loc[rows, settings].equals(other.loc[rows, settings])
    assert (other.loc[rows, "value"] < 10).all()


def test_what_has_the_statistics_of_the_target_is_left_out_with_it(world):
    of = np.where(world.domain == 0, 2, -1)
    made = Labelled(world.X, world.label, world.domain, {"colours": (world.X + 1, of)})
    assert len(made.pairs("colours")[0]) == (world.domain == 0).sum()
    assert len(made.without(2).pairs("colours")[0]) == 0
    assert len(made.without(1).pairs("colours")[0]) == (world.domain == 0).sum()


def test_a_folder_is_asked_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(redrawn_domains, "ENCODER", "animal-world")
    some = {name: left_out.METHODS[name] for name in (left_out.PLAIN, "ICM, colour statistics")}
    monkeypatch.setattr(redrawn_domains, "METHODS", some)
    folder = write_folder(tmp_path / "example", load_silhouettes(), per_class=4)
    given = {"photographs": str(folder), "cache": str(tmp_path / "cache"), "n_coloured": 8}
    table = redrawn_domains.photographs(given)
    accuracy = table[table["quantity"] == "accuracy"]
    assert set(accuracy["method"]) == set(some)
    assert set(accuracy["target"]) == {"photo", "cartoon", "sketch", "painting"}
    shares = table[table["quantity"] == "share"].groupby(["kind", "factor"])["share"].mean()
    assert shares[ANY_PAIRS, "class"] > shares[CLASS_PAIRS, "class"]
    assert set(table.attrs["data"]) == {"example"}
