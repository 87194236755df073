"""What is said of pairs follows from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from linear_world import LinearWorld, numbers_only

from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import EmbeddedData
from icm_study.report.pair_advice import diagnose_pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedData:
    """Numbers of a linear model."""
    return LinearWorld().embed(numbers_only(EmbeddingStore(tmp_path_factory.mktemp("store"))), 0)


def test_many_clean_pairs_are_enough(data: EmbeddedData) -> None:
    found = diagnose_pairs(data)
    assert list(found.summary["intervention"]) == ["image", "text"]
    assert "**text pairs**: two halves' subspaces overlap by" in found.words
    text = found.summary.set_index("intervention").loc["text"]
    assert text["overlap"] > 0.95
    assert "so 600 are enough" in found.words
    assert text["low"] < text["bits"] < text["high"]
    assert "linear will do" in found.words


def test_few_pairs_are_not_and_fewer_are_not_asked(data: EmbeddedData) -> None:
    few = data.source.isel(row=slice(24)).copy()
    few["edit"][6:] = few["caption"][6:]  # an edit that found nothing to change
    noise = np.random.default_rng(0).normal(size=few["image"].shape)
    few["image"] = few["original"] + noise
    words = diagnose_pairs(replace(data, source=few)).words
    assert "so 24 are too few" in words
    assert "**text pairs**: 6 that change anything, too few to ask" in words
