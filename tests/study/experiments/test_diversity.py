"""What texts span: against embeddings whose rank and spread are known."""

import numpy as np
import open_clip
import pytest
from conftest import REAL_CLIP

from icm_core.prediction import unit_rows
from icm_study.experiments.diversity import (
    benchmark_sizes,
    by_number_of_texts,
    diversity,
    narrow_towers,
    text_span,
)
from icm_study.photographs.real_clip import open_real_clip

RNG = np.random.default_rng(0)


def spread(values, n=400, d=16, mean=5.0):
    """Texts with these singular values about their mean, exactly."""
    left = np.linalg.qr(np.column_stack([np.ones(n), RNG.normal(size=(n, len(values)))]))[0][:, 1:]
    right = np.linalg.qr(RNG.normal(size=(d, d)))[0][: len(values)]
    return (left * values) @ right + mean


@pytest.mark.parametrize(("n", "rank"), [(2, 1), (5, 4), (16, 15), (17, 16), (60, 16)])
def test_n_texts_span_at_most_n_minus_one_directions(n, rank):
    seen = diversity(RNG.normal(size=(n, 16)))
    assert (seen.n_texts, seen.dimension, seen.rank) == (n, 16, rank)
    assert seen.is_enough == (rank == 16)
    assert ("holds" if rank == 16 else "fails") in seen.words


def test_as_many_directions_of_equal_variance_are_as_uneven():
    equal = diversity(spread(np.full(6, 3.0)))
    assert equal.rank == 6
    assert equal.effective_rank == pytest.approx(6)
    assert equal.condition_number == pytest.approx(1)
    uneven = diversity(spread(np.array([10.0, 1.0, 0.1])))
    shares = np.square([10, 1, 0.1]) / np.square([10, 1, 0.1]).sum()
    assert uneven.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert uneven.condition_number == pytest.approx(100)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rounding_is_no_direction(dtype):
    rows = spread(np.full(6, 30.0)).astype(dtype)
    assert diversity(rows).rank == 6
    assert text_span(rows).shape == (6, 16)
    rows[:, 0] *= 100  # a coordinate that holds nearly all of the length
    assert diversity(rows).rank in (6, 7)
    assert diversity(rows).largest_coordinate > 0.9


def test_a_layer_norm_takes_one_direction():
    states = RNG.normal(size=(300, 16))
    normed = (states - states.mean(axis=1, keepdims=True)) / states.std(axis=1, keepdims=True)
    gain, bias = RNG.uniform(0.5, 2, 16), RNG.normal(size=16)
    assert diversity((normed * gain + bias) @ RNG.normal(size=(16, 16))).rank == 15
    assert diversity((normed * gain + bias) @ RNG.normal(size=(16, 32))).rank == 15
    assert diversity(states @ RNG.normal(size=(16, 16))).rank == 16


def test_the_span_holds_every_difference():
    rows = spread(np.array([9.0, 3.0, 1.0]))
    basis = text_span(rows)
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-12)
    differences = rows[1:] - rows[0]
    np.testing.assert_allclose(differences @ basis.T @ basis, differences, atol=1e-9)


def test_random_choices_grow_to_all_texts():
    rows = RNG.normal(size=(40, 8))
    table = by_number_of_texts(rows, [3, 6, 40, 99], n_draws=4)
    assert table["n_texts"].tolist() == [3] * 4 + [6] * 4 + [40]
    assert table["rank"].tolist() == [2] * 4 + [5] * 4 + [8]
    assert table["effective_rank"].nunique() == 9  # other texts in each draw


@pytest.mark.parametrize("texts", [np.ones((1, 4)), np.ones(4), np.full((3, 4), np.nan)])
def test_what_is_no_table_of_texts_is_refused(texts):
    with pytest.raises(ValueError, match="two finite embeddings or more"):
        diversity(texts)


def test_equal_texts_are_refused():
    with pytest.raises(ValueError, match="All texts have the same embedding"):
        diversity(np.ones((5, 4), dtype=np.float16))


def test_towers_that_are_narrower_than_the_embedding_are_listed():
    narrow = narrow_towers().set_index("model")
    assert narrow.loc["RN50"].tolist() == [1024, 512]
    assert "ViT-B-32" not in narrow.index
    for model, row in narrow.iterrows():
        assert open_clip.get_model_config(model)["text_cfg"]["width"] < row["dimension"]


def test_a_benchmark_has_as_many_prompts_as_classes():
    sizes = benchmark_sizes()
    assert (sizes["PACS"], sizes["domain_net"], sizes["imagenet"]) == (7, 345, 1000)


@pytest.mark.skipif(not REAL_CLIP.exists(), reason="no real CLIP at hand")
def test_real_towers_lack_the_direction_of_their_layer_norm():
    towers = open_real_clip(REAL_CLIP).towers
    assert diversity(towers["ViT-B-32/openai"]).rank == 511
    assert diversity(towers["RN50/openai"]).rank == 511  # of 1,024: its tower is 512 wide
    at_unit_length = unit_rows(towers["RN50/openai"].astype(float)).astype(np.float16)
    assert diversity(at_unit_length).rank == 512
