"""What is said of pairs follows from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from linear_world import LinearWorld, numbers_only, table

from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import EmbeddedData
from icm_study.report.pair_advice import diagnose_interventions, diagnose_pairs


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


def folder(n: int = 900) -> tuple[EmbeddedData, np.ndarray]:
    """Embeddings linear in class and domain, and three interventions that re-draw one of them."""
    rng = np.random.default_rng(0)
    shown = {"label": rng.integers(4, size=n), "domain": rng.integers(3, size=n)}
    maps = {name: rng.normal(size=(values.max() + 1, 12)) for name, values in shown.items()}
    drawn = rng.choice(["of_the_class", "of_the_domain", "of_nothing"], size=n)

    def embedded(factors: dict[str, np.ndarray]) -> np.ndarray:
        clean = sum(maps[name][values] for name, values in factors.items())
        return clean + 0.05 * rng.normal(size=(n, 12))

    fresh = {name: rng.integers(values.max() + 1, size=n) for name, values in shown.items()}
    after = {
        "label": np.where(drawn == "of_the_class", fresh["label"], shown["label"]),
        "domain": np.where(drawn == "of_the_domain", fresh["domain"], shown["domain"]),
    }
    source = table(shown, original=embedded(shown), image=embedded(after))
    return EmbeddedData(source, None, xr.Dataset(), {}, ("a", "b", "c"), tuple("wxyz")), drawn


def test_leak_and_coverage_of_single_interventions_are_those_that_were_made() -> None:
    data, drawn = folder()
    found = diagnose_interventions(data, drawn)
    shares = found.summary.set_index("intervention")
    assert shares["images"].to_dict() == {
        name: (drawn == name).sum() for name in ("of_the_domain", "of_the_class", "of_nothing")
    }
    for name, coverage, leak in (
        ("of_the_domain", 1, 0),
        ("of_the_class", 0, 1),
        ("of_nothing", 0, 0),
    ):
        assert shares.loc[name, "coverage"] == pytest.approx(coverage, abs=0.1)
        assert shares.loc[name, "leak"] == pytest.approx(leak, abs=0.1)
    assert found.words.startswith("Of the domain, `of_the_domain` re-draws most (")
    assert "without: `of_the_class` (" in found.words
    assert "`of_the_domain` (" not in found.words.split("without")[1]


def test_interventions_that_few_images_got_and_factors_that_nothing_tells_are_not_asked() -> None:
    data, drawn = folder()
    rare = np.where(np.arange(len(drawn)) < 10, "rare", "of_the_domain")
    found = diagnose_interventions(data, rare).summary.set_index("intervention")
    assert found.loc["rare", ["coverage", "leak"]].isna().all()
    assert found.loc["of_the_domain"].notna().all()
    blind = data.source.copy()
    blind["original"] = blind["original"] * 0 + np.random.default_rng(1).normal(size=(900, 12))
    words = diagnose_interventions(replace(data, source=blind), drawn).words
    assert words == "Leak and coverage of single interventions cannot be told here."
