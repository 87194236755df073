"""A projection as a file: the same to the bit, and anything else is refused in words."""

import json

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.exceptions import NotFittedError

from icm_core.moments import PairMoments
from icm_core.projection import InvariantProjection, read_arrays, write_arrays

KINDS = {
    "held out": {},
    "given": {"n_components": np.int64(3), "consistency_weight": np.float32(2)},
    "generalized": {"objective": "generalized"},
    "gradient": {"n_components": 2, "solver": "gradient", "random_state": 3},
    "generator": {"n_components": 2, "random_state": np.random.default_rng(0)},
}


def pairs(seed=0, n=400, d=6):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    X_do = X.copy()
    X_do[:, d // 2 :] = rng.normal(size=(n, d - d // 2))
    return X, X_do


@pytest.fixture(params=KINDS)
def fitted(request):
    return InvariantProjection(**KINDS[request.param]).fit(*pairs())


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "projection.safetensors"
    InvariantProjection().fit(*pairs()).save(path, made_from={"weights": "ab", "encoder": "e"})
    return path


@pytest.mark.parametrize("with_moments", [False, True])
def test_what_was_saved_comes_back_to_the_bit(fitted, tmp_path, with_moments):
    path = tmp_path / "p"
    fitted.save(path, with_moments=with_moments)
    loaded = InvariantProjection.load(path)
    names = ["components_", "eigenvalues_", "n_components_", "auto_n_components_"]
    names += ["consistency_weight_", "intervention_share_", "n_features_in_", "made_from_"]
    names += [name for name in ("n_iter_", "objective_path_") if hasattr(fitted, name)]
    for name in names:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(fitted, name))
    X = pairs(1)[0].astype(np.float32)
    assert np.array_equal(loaded.transform(X), fitted.transform(X))
    own = fitted.get_params()
    if isinstance(own["random_state"], np.random.Generator):
        own["random_state"] = None
    assert loaded.get_params() == own
    assert hasattr(loaded, "moments_") == with_moments
    if with_moments:
        np.testing.assert_array_equal(loaded.held_out_share_, fitted.held_out_share_)


def test_it_gives_the_same_bytes_again(fitted, tmp_path):
    told = {"encoder": "e", "weights": "ab", "data": {"b": 1, "a": [2.5, None]}}
    fitted.save(tmp_path / "first", made_from=told, with_moments=True)
    fitted.save(tmp_path / "second", made_from=dict(reversed(told.items())), with_moments=True)
    loaded = InvariantProjection.load(tmp_path / "first")
    assert loaded.made_from_ == told
    loaded.save(tmp_path / "third", with_moments=True)
    first, *others = (tmp_path / name for name in ("first", "second", "third"))
    assert all(path.read_bytes() == first.read_bytes() for path in others)
    assert len([*tmp_path.iterdir()]) == 3  # nothing is left beside


def test_the_order_in_memory_makes_no_difference(tmp_path):
    fitted = InvariantProjection(3).fit(*pairs())
    fitted.components_ = np.asfortranarray(fitted.components_)
    fitted.save(tmp_path / "p")
    np.testing.assert_array_equal(
        InvariantProjection.load(tmp_path / "p").components_, fitted.components_
    )
    with safe_open(tmp_path / "p", "numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("components"), fitted.components_)


def test_names_of_columns_are_kept(tmp_path):
    X, X_do = (pd.DataFrame(part).add_prefix("f") for part in pairs())
    InvariantProjection().fit(X, X_do).save(tmp_path / "p")
    loaded = InvariantProjection.load(tmp_path / "p")
    assert [*loaded.feature_names_in_] == [*X.columns]
    with pytest.raises(ValueError, match="feature names"):
        loaded.transform(X[X.columns[::-1]])


def test_pairs_are_added_to_saved_moments(tmp_path):
    whole = InvariantProjection().fit(*pairs()).partial_fit(*pairs(1))
    InvariantProjection().fit(*pairs()).save(tmp_path / "p", with_moments=True)
    loaded = InvariantProjection.load(tmp_path / "p").partial_fit(*pairs(1))
    np.testing.assert_array_equal(loaded.components_, whole.components_)


def test_without_moments_nothing_that_needs_them_is_made_up(saved):
    loaded = InvariantProjection.load(saved)
    with pytest.raises(ValueError, match=r"partial_fit needs the moments.*save the fitted one"):
        loaded.partial_fit(*pairs(1))
    with pytest.raises(ValueError, match="held_out_share_ needs the moments"):
        _ = loaded.held_out_share_
    with pytest.raises(ValueError, match="with_moments=True needs the moments"):
        loaded.save(saved, with_moments=True)
    cut = loaded.truncate(2)
    np.testing.assert_array_equal(cut.intervention_share_, loaded.intervention_share_[:2])
    again = loaded.fit(*pairs(1))
    assert again.made_from_ == {}  # other pairs
    np.testing.assert_array_equal(
        again.intervention_share_, InvariantProjection().fit(*pairs(1)).intervention_share_
    )


def test_what_is_not_fitted_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError):
        InvariantProjection().save(tmp_path / "p")
    for told in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(TypeError, match="something else than JSON values"):
            InvariantProjection().fit(*pairs()).save(tmp_path / "p", made_from=told)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.99])
def test_a_flipped_bit_is_found(saved, place):
    content = bytearray(saved.read_bytes())
    content[int(place * len(content))] ^= 4
    saved.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged|not a whole|was written by something else"):
        InvariantProjection.load(saved)


def test_other_files_are_refused(saved, tmp_path):
    content = saved.read_bytes()
    with pytest.raises(FileNotFoundError, match="does not exist; expected a saved invariant"):
        InvariantProjection.load(tmp_path / "none")
    for foreign in (b"", b"PK\3\4 no safetensors", content[:-8], content[:40]):
        saved.write_bytes(foreign)
        with pytest.raises(ValueError, match="is not a whole safetensors file"):
            InvariantProjection.load(saved)
    with pytest.raises(ValueError, match=r"is a folder .* Give its file"):
        InvariantProjection.load(tmp_path)
    save_file({"components": np.eye(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="was written by something else"):
        InvariantProjection.load(tmp_path / "model.safetensors")
    moments = PairMoments(6).update(*pairs())
    moments.save(tmp_path / "moments.npz")
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        InvariantProjection.load(tmp_path / "moments.npz")


def test_another_kind_or_version_is_refused(tmp_path):
    for kind, version in (("probe", 1), ("invariant projection", 99)):
        write_arrays(tmp_path / "p", {}, {"kind": kind, "format_version": version})
        assert read_arrays(tmp_path / "p", kind, version)[1]["kind"] == kind
        with pytest.raises(ValueError, match=f"is a saved {kind} of format version {version}"):
            InvariantProjection.load(tmp_path / "p")


def test_embeddings_of_another_encoder_are_refused(saved):
    with pytest.raises(ValueError, match=r"made from embeddings of 'e'.*Embed with the encoder"):
        InvariantProjection.load(saved, weights="cd")
    loaded = InvariantProjection.load(saved, weights="ab")
    own, other = (pd.DataFrame(pairs(1)[0]) for _ in range(2))
    own.attrs["weights"], other.attrs["weights"] = "ab", "cd"
    assert loaded.transform(own).shape == (400, loaded.n_components_)
    for refusing in (loaded, loaded.truncate(1)):
        with pytest.raises(ValueError, match="fingerprint cd"):
            refusing.transform(other)
    other.attrs["weights"] = {"e": "cd"}  # a record of encoders, not of these rows
    assert len(loaded.transform(other)) == 400


def test_the_metadata_says_what_it_was_made_from(saved):
    with safe_open(saved, "numpy") as file:
        told = json.loads(file.metadata()["clip_icm"])["told"]
    assert told["made_from"] == {"weights": "ab", "encoder": "e"}
    assert told["format_version"] == 1


def test_back_into_the_embedding(fitted):
    X, A = pairs(1)[0], fitted.components_
    there = fitted.transform(X)
    back = fitted.inverse_transform(there)
    if fitted.objective == "trace":
        np.testing.assert_allclose(back, X @ A.T @ A, atol=1e-9)
    np.testing.assert_allclose(fitted.transform(back), there, atol=1e-9)
    nearest = np.linalg.lstsq(A.T, X.T, rcond=None)[0]  # of all points in the subspace
    np.testing.assert_allclose(back, nearest.T @ A, atol=1e-6)
    assert fitted.inverse_transform(there.astype(np.float32)).dtype == np.float32
    with pytest.raises(ValueError, match=f"expected the {len(A)} that transform gives"):
        fitted.inverse_transform(np.ones((2, len(A) + 1)))
    with pytest.raises(ValueError, match="NaN"):
        fitted.inverse_transform(np.full((2, len(A)), np.nan))
