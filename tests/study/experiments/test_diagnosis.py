"""Diagnosis: what the embedding holds, and what an intervention changes in it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from linear_world import table
from stand_ins import linear_data

from icm_core.projection import InvariantProjection
from icm_study.embedding.tables import EmbeddedData, pair_moments
from icm_study.experiments.diagnosis import (
    FACTORS,
    WEIGHTS,
    diagnose,
    live_rank,
    redrawn_share,
    rounded_spectra,
    spectra,
)


def synthetic(redraws, n=4000, noise=0.05):
    """Embeddings linear in the factors; each kind of pair re-draws those it is given."""
    rng = np.random.default_rng(0)
    values = {"label": 5, "domain": 4, "coat": 6, "scene": 3, "light": 3, "blur": 2}
    maps = {factor: rng.normal(size=(k, 40)) for factor, k in values.items()}

    def draw():
        return {factor: rng.integers(k, size=n) for factor, k in values.items()}

    def embedding(factors):
        return sum(maps[f][v] for f, v in factors.items()) + noise * rng.normal(size=(n, 40))

    def intervened(factors, kind):
        fresh = draw()
        return embedding({f: fresh[f] if f in redraws[kind] else v for f, v in factors.items()})

    shown = draw()
    source = table(
        shown,
        original=embedding(shown),
        caption=embedding(shown),
        image=intervened(shown, "image"),
        oracle=intervened(shown, "oracle"),
        edit=intervened(shown, "text"),
    )
    factors = draw()
    factors["domain"] = np.arange(n) % 4  # rows in an order, as the animal world has them
    where = factors | {"shortcut": ["none"] * n}
    test = table(where, original=embedding(factors), caption=embedding(factors))
    return EmbeddedData(source, test, xr.Dataset(), {}, (), ())


REDRAWS = {
    "image": {"coat", "light"},
    "text": {"scene", "domain"},
    "oracle": set(FACTORS) - {"label"},
}


def test_redrawn_share_is_one_for_what_is_redrawn_and_zero_for_the_rest():
    table = redrawn_share(synthetic(REDRAWS))
    assert len(table) == 3 * len(FACTORS)
    for row in table.itertuples():
        expected = 1.0 if row.factor in REDRAWS[row.intervention] else 0.0
        assert row.share == pytest.approx(expected, abs=0.1), (row.intervention, row.factor)
        assert row.r2 > 0.85, row.factor


def test_what_the_embedding_does_not_hold_cannot_be_read():
    data = synthetic(REDRAWS)
    n = data.test.sizes["row"]
    blind = data.test.assign_coords(blur=("row", np.random.default_rng(1).integers(2, size=n)))
    table = redrawn_share(replace(data, test=blind)).set_index(["intervention", "factor"])
    assert abs(table.loc[("image", "blur"), "r2"]) < 0.05
    assert table.loc[("image", "coat"), "r2"] > 0.85


def test_what_does_not_vary_among_the_pairs_has_no_share():
    data = synthetic(REDRAWS)
    of_photos = data.source.assign_coords(domain=("row", np.zeros(data.source.sizes["row"], int)))
    for source in (of_photos, of_photos.drop_vars("domain")):
        table = redrawn_share(replace(data, source=source)).set_index("factor")
        assert table.loc["domain", "share"].isna().all()
        assert table.loc["domain", "r2"].min() > 0.85
        assert table.drop("domain")["share"].notna().all()


@pytest.mark.parametrize("truth", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("n", "signal"), [(600, 0.4), (900, 0.35), (600, 0.8)], ids=["n<D", "n~D", "clear"]
)
def test_a_share_is_that_of_what_is_read_and_not_of_the_noise_beside_it(n, signal, truth):
    """All but 20 of 800 directions are noise and re-drawn; the domain lies in the 20."""
    rng = np.random.default_rng(0)
    domain, other = rng.integers(3, size=(2, n))
    f, f_do = rng.normal(size=(2, n, 800)).astype(np.float32)
    means = signal * rng.normal(size=(3, 20))
    if truth < 1:  # the mean square change of the spread of one half is 1, of two halves 2
        f_do[:, :20] = (1 - truth) * f[:, :20] + np.sqrt(truth * (2 - truth)) * f_do[:, :20]
    f[:, :20] += means[domain]
    f_do[:, :20] += (1 - truth) * means[domain] + np.sqrt(truth * (2 - truth)) * means[other]
    row = np.arange(n)
    source = table({"label": row % 4, "domain": domain}, original=f, image=f_do)
    data = EmbeddedData(source, None, xr.Dataset(), {}, (), ())
    seen = redrawn_share(data).set_index("factor").loc["domain"]
    assert seen["r2"] > 0.1
    assert seen["share"] == pytest.approx(truth, abs=0.2)
    shifted = redrawn_share(replace(data, source=source + 3)).set_index("factor").loc["domain"]
    assert shifted["share"] == pytest.approx(seen["share"], abs=0.01)


def test_the_halves_that_read_a_factor_share_no_group():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 10)
    # what is read is who it is: the factor itself is noise
    f = rng.normal(size=(40, 60))[group] + 0.1 * rng.normal(size=(400, 60))
    where = {"label": rng.integers(2, size=40)[group], "domain": np.zeros(400, int)}
    source = table(where, original=f, image=f[::-1].copy())
    apart = source.assign_coords(group=("row", group))
    r2 = [
        redrawn_share(EmbeddedData(one, None, xr.Dataset(), {}, (), ()))["r2"].item()
        for one in (source, apart)
    ]
    assert r2[0] > 0.9
    assert r2[1] < 0.1


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_live_rank_counts_the_directions_that_vary(rank):
    rng = np.random.default_rng(rank)
    basis = np.linalg.qr(rng.normal(size=(10, 10)))[0][:rank]
    X = rng.normal(size=(500, rank)) @ basis + 5 + 1e-4 * rng.normal(size=(500, 10))
    assert live_rank(X) == rank
    assert live_rank(100 * X) == rank


def test_live_rank_respects_its_threshold():
    X = np.random.default_rng(0).normal(size=(20_000, 3)) * np.sqrt([1, 0.05, 0.001])
    assert [live_rank(X, t) for t in (0.5, 0.01, 0.0001)] == [1, 2, 3]
    assert live_rank(np.ones((5, 3))) == 0
    assert live_rank(np.arange(4.0)[:, None]) == 1


@pytest.mark.parametrize("X", [np.ones((1, 3)), np.array([[1.0, np.nan], [0.0, 1.0]])])
def test_live_rank_of_bad_embeddings(X):
    with pytest.raises(ValueError, match="expected at least two finite ones"):
        live_rank(X)


def folder():
    """A folder of images, whose class and domain alone are known."""
    data = linear_data(n=300)
    source = data.source.drop_vars(["oracle", "caption", "edit", "oracle_domain"])
    return replace(data, source=source, test=None)


def test_diagnosis_of_a_folder_knows_class_and_domain():
    found = diagnose([folder()])
    assert set(found.loc[found["quantity"] == "share", "of"]) == {"class", "domain"}
    assert set(found["intervention"]) == {"image", "none"}
    counts = found[found["quantity"] == "positive eigenvalues"].set_index("of")["value"]
    assert len(counts) == len(WEIGHTS)
    for weight, eigenvalues in spectra(folder())["image"].items():
        assert counts[f"{weight:g}"] == (eigenvalues > 0).sum()
    assert found.loc[found["quantity"] == "dimension", "value"].tolist() == [6]
    rank = live_rank(folder().source["original"].to_numpy())
    assert found.loc[found["quantity"] == "live rank", "value"].tolist() == [rank]


def test_a_single_domain_can_be_diagnosed():
    data = folder()
    alone = replace(data, source=data.source.isel(row=(data.source["domain"] == 0).to_numpy()))
    assert set(diagnose([alone]).query("quantity == 'share'")["of"]) == {"class"}


def test_spectra_are_those_of_the_projections():
    data = linear_data(n=300)
    found = spectra(data)
    assert set(found) == {"image", "text", "image+text", "oracle"}
    for kind, by_weight in found.items():
        for weight, eigenvalues in by_weight.items():
            fitted = InvariantProjection(consistency_weight=weight)
            fitted.fit_moments(pair_moments(data.source, kind))
            np.testing.assert_allclose(eigenvalues, fitted.eigenvalues_)
            rounded = rounded_spectra(data)[kind][f"{weight:g}"]
            np.testing.assert_allclose(rounded, eigenvalues, rtol=5.1e-3)


def test_worlds_are_diagnosed_one_after_the_other():
    worlds = [linear_data(seed, n=300) for seed in (0, 1)]
    both = diagnose(worlds)
    each = [diagnose([world]) for world in worlds]
    pd.testing.assert_frame_equal(both, pd.concat(each, ignore_index=True))
