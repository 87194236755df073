"""Moments: streaming equals one pass, shards add up, bad input is refused, no pickles."""

import doctest

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from icm_core import InvariantProjection
from icm_core import moments as moments_module
from icm_core.moments import PairMoments, combine

STATISTICS = ("C", "S", "mean", "mean_do")
D = 3


def pairs(n, d=D, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) + 1.0, rng.normal(size=(n, d))


def assert_same(left, right, rtol=1e-10):
    assert left.n_pairs == right.n_pairs
    for name in STATISTICS:
        np.testing.assert_allclose(getattr(left, name), getattr(right, name), rtol=rtol, atol=1e-12)


values = arrays(
    np.float64,
    st.tuples(st.integers(1, 12), st.just(2 * D)),
    elements=st.floats(-1e3, 1e3, allow_subnormal=False),
)


@settings(deadline=None)
@given(values)
def test_moments_are_the_expectations_of_their_definition(both):
    X, X_do = both[:, :D], both[:, D:]
    moments = PairMoments(D).update(X, X_do)
    outer = np.mean([np.outer(f, f) for f in X], axis=0)
    difference = np.mean([np.outer(a - b, a - b) for a, b in zip(X, X_do, strict=True)], axis=0)
    np.testing.assert_allclose(moments.C, outer, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.S, difference, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.mean, np.mean(list(X), axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(moments.mean_do, np.mean(list(X_do), axis=0), rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(values, st.lists(st.integers(0, 12), max_size=4), st.randoms(use_true_random=False))
def test_shards_merged_in_any_order_equal_one_pass(both, cuts, random):
    whole = PairMoments(D).update(both[:, :D], both[:, D:])
    shards = [
        PairMoments(D).update(part[:, :D], part[:, D:])
        for part in np.split(both, sorted(cuts))
        if len(part)
    ]
    random.shuffle(shards)
    merged = PairMoments(D)  # empty moments are neutral
    for shard in shards:
        merged = merged.merge(shard)
    assert merged.n_pairs == whole.n_pairs
    for name in STATISTICS:
        np.testing.assert_allclose(
            getattr(merged, name), getattr(whole, name), rtol=1e-9, atol=1e-6
        )


def test_streaming_batches_equal_one_pass_beyond_the_block_size():
    X, X_do = pairs(10_000)
    streamed = PairMoments(D)
    for start in range(0, len(X), 777):
        assert streamed.update(X[start : start + 777], X_do[start : start + 777]) is streamed
    whole = PairMoments(D).update(X, X_do)
    assert_same(streamed, whole)
    np.testing.assert_allclose(whole.C, X.T @ X / len(X), rtol=1e-12)
    assert repr(streamed) == "PairMoments(n_features=3, n_pairs=10000)"


def fold_of_each(X, X_do):
    """Which fold each pair is in, found by the moments of that pair alone."""
    single = (PairMoments(D).update(x, y) for x, y in zip(X[:, None], X_do[:, None], strict=True))
    return np.array([int(np.flatnonzero(moments._sum_pairs)[0]) for moments in single])


def test_folds_are_the_moments_of_the_other_rows_and_of_their_own():
    X, X_do = pairs(5000)
    fold = fold_of_each(X, X_do)
    assert np.bincount(fold).min() > 800
    folds = PairMoments(D).update(X, X_do).folds()
    assert len(folds) == PairMoments(D).update(X, X_do).n_folds == 5
    for number, (C, S, C_out, S_out, share) in enumerate(folds):
        rest, own = (
            PairMoments(D).update(X[rows], X_do[rows]) for rows in (fold != number, fold == number)
        )
        np.testing.assert_allclose(C, rest.C, rtol=1e-9)
        np.testing.assert_allclose(S, rest.S, rtol=1e-9)
        np.testing.assert_allclose(C_out, own.C * own.n_pairs / 5000, rtol=1e-9)
        np.testing.assert_allclose(S_out, own.S * own.n_pairs / 5000, rtol=1e-9)
        assert share == own.n_pairs / 5000


def test_pairs_of_one_original_are_in_one_fold_whatever_their_precision_and_layout():
    X, _ = pairs(100)
    X = X.astype(np.float32).astype(np.float64)
    for same in (X.astype(np.float32), np.asfortranarray(X), X.tolist()):
        again = PairMoments(D).update(same, X + 1)
        np.testing.assert_array_equal(again._sum_pairs, PairMoments(D).update(X, X)._sum_pairs)
    np.testing.assert_array_equal(fold_of_each(X, X), fold_of_each(X, X + 1))
    with pytest.raises(ValueError, match=r"All pairs are in one fold \(n_samples=7\)"):
        PairMoments(D).update(np.ones((7, D)), X[:7]).folds()
    assert PairMoments(D).update(np.ones((7, D)), X[:7]).n_folds == 1
    with pytest.raises(ValueError, match=r"one fold \(n_samples=0\)"):
        PairMoments(D).folds()


@pytest.mark.parametrize("name", [int, str, np.float64])
def test_pairs_of_one_group_are_in_one_fold_in_any_order_and_batches(name):
    X, X_do = pairs(200)
    groups = np.array([name(number) for number in np.arange(200) // 5])
    whole = PairMoments(D).update(X, X_do, groups)
    assert set(whole._sum_pairs % 5) == {0}
    assert whole.n_folds == 5
    parts = PairMoments(D)
    for rows in np.split(np.random.default_rng(0).permutation(200), [7, 90]):
        parts.update(X[rows], X_do[rows], groups[rows].tolist())
    np.testing.assert_array_equal(parts._sum_pairs, whole._sum_pairs)
    assert_same(parts, PairMoments(D).update(X, X_do))
    with pytest.raises(
        ValueError, match=r"in one fold .* of several groups where there are groups"
    ):
        PairMoments(D).update(X, X_do, np.zeros(200)).folds()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a"], r"groups has shape \(1,\); expected \(2,\)"),
        ([["a", "b"]], r"groups has shape \(1, 2\); expected \(2,\)"),
        ("ab", r"groups has shape \(\); expected \(2,\)"),
        (["a", None], r"groups lacks 1 of 2 pairs .* a group of its own"),
        ([np.nan, np.nan], r"groups lacks 2 of 2 pairs"),
        (pd.array(["a", None], dtype="string"), r"groups lacks 1 of 2 pairs"),
        (pd.to_datetime(["2020-01-01", None]), r"groups lacks 1 of 2 pairs"),
    ],
)
def test_groups_are_one_for_each_pair(groups, message):
    moments = PairMoments(D)
    with pytest.raises(ValueError, match=message):
        moments.update(*pairs(2), groups)
    assert moments.n_pairs == 0


def test_folds_of_mixed_kinds_are_mixed():
    image, text = PairMoments(D).update(*pairs(500)), PairMoments(D).update(*pairs(90, seed=1))
    mixed = combine([image, text], [1, 3])
    for fold, of_image, of_text in zip(
        *(item.folds() for item in (mixed, image, text)), strict=True
    ):
        np.testing.assert_allclose(fold.C_out, of_image.C_out / 4 + 3 * of_text.C_out / 4)
        np.testing.assert_allclose(fold.S_out, of_image.S_out / 4 + 3 * of_text.S_out / 4)
        left = np.trace(mixed.C - fold.C_out) / np.trace(fold.C)  # what the other pairs weigh
        shares = [
            np.trace(item.C - part.C_out) / np.trace(part.C)
            for item, part in ((image, of_image), (text, of_text))
        ]
        assert left == pytest.approx(shares[0] / 4 + 3 * shares[1] / 4)


@pytest.mark.filterwarnings("ignore:X has feature names")  # of scikit-learn
def test_columns_in_another_order_are_refused_in_later_batches_and_other_moments(tmp_path):
    X, X_do = (pd.DataFrame(part, columns=list("abc")) for part in pairs(20))
    other = X[list("cab")], X_do[list("cab")]
    moments = PairMoments(D).update(X.to_numpy(), X_do.to_numpy()).update(X, X_do)
    moments.save(tmp_path / "moments.npz")
    for kept in (moments, PairMoments.load(tmp_path / "moments.npz"), moments.merge(moments)):
        assert kept.columns == list("abc")
        with pytest.raises(ValueError, match="fitted on in another order: c, a, b; expected a, b"):
            kept.update(*other)
        assert kept.n_pairs in (40, 80)
        with pytest.raises(ValueError, match=r"another order: a, b, c, and c, a, b\. Put the"):
            kept.merge(PairMoments(D).update(*other))
        with pytest.raises(ValueError, match="same columns in another order"):
            combine([PairMoments(D).update(*other), kept], [1, 1])
        projection = InvariantProjection(2, consistency_weight=1.0).fit_moments(kept)
        with pytest.raises(ValueError, match="another order"):
            projection.transform(other[0])
    for unnamed in (X.to_numpy(), X.set_axis(range(D), axis=1)):
        assert moments.update(unnamed, unnamed).columns == list("abc")
    numbered = PairMoments(D).update(X.to_numpy(), X_do.to_numpy())
    with pytest.raises(ValueError, match="another order: 2, 1, 0; expected 0, 1, 2"):
        numbered.update(*(part.set_axis([2, 1, 0], axis=1) for part in (X, X_do)))


def test_merge_leaves_its_operands_unchanged():
    a, b = PairMoments(D).update(*pairs(5)), PairMoments(D).update(*pairs(7, seed=1))
    before = a.C.copy()
    merged = a.merge(b)
    merged.update(*pairs(3, seed=2))
    np.testing.assert_array_equal(a.C, before)
    assert (a.n_pairs, b.n_pairs, merged.n_pairs) == (5, 7, 15)


def test_float32_is_accumulated_in_float64():
    X = np.full((100_000, 1), 0.1, dtype=np.float32)
    moments = PairMoments(1).update(X, X)
    np.testing.assert_allclose(moments.C, float(np.float32(0.1)) ** 2, rtol=1e-12)
    assert moments.C.dtype == np.float64
    np.testing.assert_array_equal(moments.S, 0.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rounding_is_about_that_of_the_precision(dtype):
    exact = [part.astype(np.longdouble) for part in pairs(2000)]
    rounded = [part.astype(dtype) for part in exact]
    finer = [np.random.default_rng(0).uniform(1, 2, part.shape) for part in exact]
    errors = [(a * b).astype(dtype) - a * b for a, b in zip(exact, finer, strict=True)]
    told = (
        PairMoments(D)
        .update(*[(a * b).astype(dtype) for a, b in zip(exact, finer, strict=True)])
        .rounding
    )
    measured = float(np.mean(np.square(errors)))
    assert measured <= told <= 4 * measured
    assert PairMoments(D).update(*rounded).rounding > 0
    assert PairMoments(D).update(np.eye(D, dtype=int), np.eye(D, dtype=bool)).rounding == 0


def test_rounding_adds_up():
    half = [part.astype(np.float16) for part in pairs(50)]
    a, b = PairMoments(D).update(*half), PairMoments(D).update(*pairs(150, seed=1))
    assert a.merge(b).rounding == pytest.approx((a.rounding + 3 * b.rounding) / 4)
    assert combine([a, b], [1, 1]).rounding == pytest.approx((a.rounding + b.rounding) / 2)


def test_input_is_neither_kept_nor_changed():
    X, X_do = pairs(4)
    copies = X.copy(), X_do.copy()
    moments = PairMoments(D).update(X, X_do)
    np.testing.assert_array_equal(X, copies[0])
    np.testing.assert_array_equal(X_do, copies[1])
    before = moments.C.copy()
    X[:] = 0
    np.testing.assert_array_equal(moments.C, before)


@pytest.mark.parametrize(
    ("X", "X_do", "message"),
    [
        (np.ones((4, 3)), np.ones((5, 3)), r"X has shape \(4, 3\) but X_do has shape \(5, 3\)"),
        (np.ones((4, 2)), np.ones((4, 3)), r"X has shape \(4, 2\); expected \(n_pairs, 3\)"),
        (np.ones((4, 3)), np.ones(4), r"X_do has shape \(4,\); expected \(n_pairs, 3\)"),
        (np.ones((0, 3)), np.ones((0, 3)), "X has no rows; expected at least one pair"),
        (
            np.array([[1, np.nan, 0], [0, 0, 0]]),
            np.ones((2, 3)),
            "X contains NaN or infinity in 1 of 2 rows",
        ),
        (np.ones((2, 3)), np.full((2, 3), np.inf), "X_do contains NaN or infinity in 2 of 2 rows"),
        (
            np.ones((2, 3), dtype=complex),
            np.ones((2, 3)),
            "X has dtype complex128; expected real numbers",
        ),
        (np.array([["a", "b", "c"]]), np.ones((1, 3)), "X has dtype <U1; expected real numbers"),
    ],
)
def test_bad_pairs_are_refused_and_change_nothing(X, X_do, message):
    moments = PairMoments(D).update(*pairs(2))
    before = moments.C.copy()
    with pytest.raises(ValueError, match=message):
        moments.update(X, X_do)
    assert moments.n_pairs == 2
    np.testing.assert_array_equal(moments.C, before)


@pytest.mark.parametrize("n_features", [0, -1, 2.0, "3", True, None])
def test_bad_dimension_is_refused(n_features):
    with pytest.raises(ValueError, match=r"n_features is .*; expected a positive integer"):
        PairMoments(n_features)


@pytest.mark.parametrize("name", STATISTICS)
def test_moments_of_zero_pairs_are_undefined(name):
    with pytest.raises(ValueError, match="zero pairs"):
        getattr(PairMoments(D), name)


def test_merge_refuses_other_spaces_and_other_types():
    with pytest.raises(ValueError, match=r"dimensions \[3, 4\]; expected one"):
        PairMoments(3).merge(PairMoments(4))
    with pytest.raises(TypeError, match="Got ndarray; expected PairMoments"):
        PairMoments(3).merge(np.eye(3))


@settings(deadline=None)
@given(weight=st.floats(0.01, 100), scale=st.floats(0.01, 100))
def test_combine_mixes_normalised_moments_whatever_the_counts(weight, scale):
    image, text = PairMoments(D).update(*pairs(50)), PairMoments(D).update(*pairs(3, seed=1))
    mixed = combine([image, text], [scale, scale * weight])
    share = 1 / (1 + weight)
    for name in STATISTICS:
        expected = share * getattr(image, name) + (1 - share) * getattr(text, name)
        np.testing.assert_allclose(getattr(mixed, name), expected, rtol=1e-9, atol=1e-12)
    assert mixed.n_pairs == 53


def test_the_covariance_is_about_the_mean_of_each_kind():
    image, text = pairs(50), pairs(30, seed=1)
    text = tuple(part + 5 for part in text)
    first, second = PairMoments(D).update(*image), PairMoments(D).update(*text)
    own = [np.cov(part[0].T, bias=True) for part in (image, text)]
    np.testing.assert_allclose(first.covariance, own[0], atol=1e-9)
    pooled = np.cov(np.concatenate([image[0], text[0]]).T, bias=True)
    np.testing.assert_allclose(first.merge(second).covariance, pooled, atol=1e-9)
    mixed = combine([first, second], [3, 1])
    expected = 0.75 * own[0] + 0.25 * own[1]
    np.testing.assert_allclose(mixed.covariance, expected, atol=1e-9)
    np.testing.assert_allclose(
        combine([mixed, first], [1, 1]).covariance, (expected + own[0]) / 2, atol=1e-9
    )


def test_the_covariance_within_kinds_is_saved(tmp_path):
    text = tuple(part + 5 for part in pairs(30, seed=1))
    mixed = combine([PairMoments(D).update(*pairs(50)), PairMoments(D).update(*text)], [1, 1])
    mixed.save(tmp_path / "moments.npz")
    np.testing.assert_array_equal(
        PairMoments.load(tmp_path / "moments.npz").covariance, mixed.covariance
    )


def test_combine_with_weights_equal_to_the_counts_is_merge():
    a, b = PairMoments(D).update(*pairs(50)), PairMoments(D).update(*pairs(3, seed=1))
    assert_same(combine([a, b], [50, 3]), a.merge(b))


def test_combine_ignores_kinds_of_weight_zero():
    image, empty = PairMoments(D).update(*pairs(5)), PairMoments(D)
    assert_same(combine([image, empty], [2.0, 0.0]), image)


@pytest.mark.parametrize(
    ("n_moments", "weights", "message"),
    [
        (0, [], "Got 0 moments and 0 weights"),
        (2, [1.0], "Got 2 moments and 1 weights"),
        (2, [1.0, -1.0], "weights are .*; expected finite, non-negative"),
        (2, [1.0, np.nan], "weights are .*; expected finite, non-negative"),
        (2, [0.0, 0.0], "at least one of them positive"),
    ],
)
def test_combine_refuses_bad_weights(n_moments, weights, message):
    moments = [PairMoments(D).update(*pairs(2)) for _ in range(n_moments)]
    with pytest.raises(ValueError, match=message):
        combine(moments, weights)


def test_combine_refuses_empty_moments_and_other_types():
    with pytest.raises(ValueError, match="zero pairs"):
        combine([PairMoments(D)], [1.0])
    with pytest.raises(TypeError, match="expected PairMoments"):
        combine([np.eye(D)], [1.0])


@settings(max_examples=20, deadline=None)
@given(values)
def test_saved_moments_are_loaded_bit_for_bit(tmp_path_factory, both):
    path = tmp_path_factory.mktemp("moments") / "pairs.npz"
    moments = PairMoments(D).update(both[:, :D], both[:, D:])
    moments.save(path)
    loaded = PairMoments.load(path)
    assert loaded.n_pairs == moments.n_pairs
    for name in STATISTICS:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(moments, name))
    np.testing.assert_array_equal(loaded._sum_pairs, moments._sum_pairs)
    assert loaded.merge(moments).n_pairs == 2 * moments.n_pairs


def test_save_writes_the_given_name_and_overwrites(tmp_path, monkeypatch):
    path = tmp_path / "moments.bin"
    PairMoments(D).save(path)
    PairMoments(D).update(*pairs(2)).save(path)
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", lambda file, **_: file.write(b"half") / 0)
        with pytest.raises(ZeroDivisionError):
            PairMoments(D).save(path)  # stopped half way, it leaves what was there
    assert PairMoments.load(path).n_pairs == 2
    assert [item.name for item in tmp_path.iterdir()] == ["moments.bin"]


def rewrite(path, **changes):
    with np.load(path) as archive:
        arrays_ = dict(archive)
    arrays_.update(changes)
    np.savez(path, **{name: value for name, value in arrays_.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": np.array(99)}, "has format version 99"),
        ({"sum_outer": None}, r"\['sum_outer'\] missing"),
        ({"sum_original": np.zeros(7)}, r"damaged: sum_original has shape \(7,\)"),
        ({"sum_outer": np.array(1.0)}, "damaged: sum_outer"),
        ({"sum_outer": np.full((D, D), np.nan)}, "damaged: sum_outer"),
        ({"n_pairs": np.array(-1)}, "n_pairs=-1"),
        ({"sum_outer": np.array([{"an": "object"}])}, "not a readable .npz file"),
    ],
)
def test_damaged_files_are_refused(tmp_path, changes, message):
    path = tmp_path / "moments.npz"
    PairMoments(D).update(*pairs(2)).save(path)
    rewrite(path, **changes)
    with pytest.raises(ValueError, match=message):
        PairMoments.load(path)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 truncated"])
def test_files_of_another_kind_are_refused(tmp_path, content):
    path = tmp_path / "moments.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"not a readable .npz file"):
        PairMoments.load(path)


def test_missing_file_is_reported_as_such(tmp_path):
    with pytest.raises(FileNotFoundError):
        PairMoments.load(tmp_path / "absent.npz")


def test_examples_in_the_documentation():
    result = doctest.testmod(moments_module)
    assert result.attempted > 0
    assert result.failed == 0
