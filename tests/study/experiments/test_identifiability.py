"""The experiments on identifiability and data, where what must come out is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from linear_world import LinearWorld, numbers_only

from icm_core.projection import InvariantProjection
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import EmbeddedData, pairs_in
from icm_study.experiments.coverage import shares_by_intervention, swap_backgrounds
from icm_study.experiments.information import invariant_information
from icm_study.experiments.leakage import exchanged
from icm_study.experiments.linearity import ALL, PAIRS, SHUFFLED, linearity
from icm_study.experiments.pair_numbers import GAP, HELD_OUT, PLAIN, RULES, by_number_of_pairs
from icm_study.experiments.questions import accuracies, projected
from icm_study.experiments.small_encoders import narrowed
from icm_study.theory.few_pairs import KNOWN, few_pairs
from icm_study.theory.gaussian import GaussianShortcut


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedData:
    """Numbers of a linear model: two invariant dimensions, four that follow the shortcut."""
    store = EmbeddingStore(tmp_path_factory.mktemp("store"))
    return LinearWorld(n=900).embed(numbers_only(store), 0)


class TestLinearity:
    rng = np.random.default_rng(0)
    one, other = rng.integers(3, size=800), rng.integers(4, size=800)

    def explained(self, X: np.ndarray) -> dict[tuple[str, str], float]:
        table = linearity(X, {"one": self.one, "other": self.other})
        return {(row.factor, row.reading): row.r2 for row in table.itertuples()
                if row.way == "embedding from factors"}  # fmt: skip

    def test_main_effects_explain_their_share_of_the_variance(self) -> None:
        signal = np.eye(3)[self.one] @ self.rng.normal(size=(3, 5))
        signal = signal + np.eye(4)[self.other] @ self.rng.normal(size=(4, 5))
        noise = self.rng.normal(size=signal.shape)
        share = signal.var(axis=0).sum() / (signal + noise).var(axis=0).sum()
        r2 = self.explained(signal + noise)
        assert r2[ALL, "linear"] == pytest.approx(share, abs=0.05)
        assert r2["one", "linear"] + r2["other", "linear"] == pytest.approx(share, abs=0.05)
        assert abs(r2[SHUFFLED, "linear"]) < 0.05

    def test_an_interaction_needs_pairs(self) -> None:
        one, other = (self.one == 1) - 1 / 3, (self.other > 1) - 1 / 2
        parity = 4 * one * other
        r2 = self.explained(parity[:, None] + 0.01 * self.rng.normal(size=(800, 2)))
        assert r2[ALL, "linear"] < 0.05
        assert r2[PAIRS, "linear"] > 0.98

    def test_a_factor_on_a_circle_is_read_nonlinearly_only(self) -> None:
        angle = self.rng.uniform(0, 2 * np.pi, 800)
        radius = np.where(self.one == 0, 1.0, 2.0)
        X = radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
        table = linearity(X, {"is_inner": self.one == 0})
        back = table[table["way"] == "factor from embedding"].set_index("reading")["r2"]
        assert back["linear"] < 0.05
        assert back["nonlinear"] > 0.9

    @pytest.mark.parametrize("values", [np.zeros(800), np.arange(7)])
    def test_what_is_no_factor_is_refused(self, values: np.ndarray) -> None:
        with pytest.raises(ValueError, match=r"'bad'.*expected one value for each"):
            linearity(np.eye(800), {"bad": values})


def test_a_leak_moves_its_share_of_the_pairs_and_stays_within_classes() -> None:
    label, rng = np.repeat([0, 1], 100), np.random.default_rng(0)
    for within in (True, False):
        order = exchanged(label, 0.3, rng, within=within)
        assert sorted(order) == list(range(200))
        assert (order != np.arange(200)).sum() == 60
        assert (label[order] == label).all() == within
    with pytest.raises(ValueError, match="share is 2"):
        exchanged(label, 2, rng, within=True)


def test_backgrounds_are_those_of_another_image() -> None:
    values = torch.tensor([10, 200], dtype=torch.uint8)
    images = values[:, None, None, None].expand(2, 3, 8, 8).clone()
    images[:, :, :4] = 90  # the object
    masks = torch.zeros(2, 1, 8, 8)
    masks[:, :, :4] = 1
    swapped = swap_backgrounds(images, masks)
    assert (swapped[:, :, :4] == 90).all()
    assert swapped[:, 0, 6, 0].tolist() == [200, 10]
    with pytest.raises(ValueError, match="n at least 2"):
        swap_backgrounds(images[:1], masks[:1])


def test_the_oracle_covers_more_and_leaks_less(data: EmbeddedData) -> None:
    shares = shares_by_intervention(data, ["image", "oracle"])
    label = shares[shares["factor"] == "label"].set_index("intervention")["share"]
    assert set(shares["intervention"]) == {"image", "oracle"}
    assert label.notna().all()


def test_a_projection_saves_what_the_shortcut_costs(data: EmbeddedData) -> None:
    plain, oracle = accuracies(data), accuracies(data, projected("oracle"))
    assert oracle["K"] == 2
    assert oracle["reversed"] > plain["reversed"] + 20


def test_as_wide_as_it_was_an_encoder_only_turns(data: EmbeddedData) -> None:
    same = narrowed(data, 6)
    X, turned = (one.source["original"].to_numpy() for one in (data, same))
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(unit @ unit.T, turned @ turned.T, atol=1e-5)
    assert narrowed(data, 2).tested["original"].shape == (data.tested.sizes["row"], 2)
    with pytest.raises(ValueError, match="width is 7; expected 1 to 6"):
        narrowed(data, 7)


class TestNumberOfPairs:
    def test_what_is_lost_is_lost_to_the_pairs(self) -> None:
        runs = few_pairs(RULES, {"dimensions": [16], "n_worlds": 1}, sizes=(10, 3000))
        enough = runs.set_index(["rule", "n_pairs"])
        lost = enough["reversed"]
        possible = 100 * (1 - np.arctan(0.1) / np.pi)
        assert lost[KNOWN, 0] == pytest.approx(possible, abs=1)
        assert lost[GAP, 3000] == pytest.approx(possible, abs=1)
        # λ = 1 at last: the objective follows what the shortcut ties to the invariant factors
        assert enough["consistency_weight"][HELD_OUT, 3000] == 1
        assert lost[HELD_OUT, 3000] < possible - 10
        assert lost[PLAIN, 0] < 80
        assert enough["K"][GAP, 3000] == enough["K"][HELD_OUT, 3000] == 4
        assert enough["angle"][GAP, 3000] < 1 < enough["angle"][GAP, 10]

    def test_with_enough_of_them_two_draws_agree(self) -> None:
        model = GaussianShortcut(2, 6)
        X, X_do = model.pairs(0.05, 4000, np.random.default_rng(0))
        table = by_number_of_pairs(X, X_do, (10, 2000, 3000), n_draws=1).set_index("n_pairs")
        assert list(table.index) == [10, 2000]
        assert table["overlap"][2000] > 0.95 > table["overlap"][10]
        with pytest.raises(ValueError, match="at least 20, twice the smallest size"):
            by_number_of_pairs(X[:15], X_do[:15], (10,))


class TestInformation:
    @pytest.mark.parametrize("bits", [1.0, 4.0])
    def test_it_is_what_the_model_says(self, bits: float) -> None:
        model = GaussianShortcut(4, 12)
        X, X_do = model.pairs(model.noise(bits), 8000, np.random.default_rng(0))
        found = invariant_information(X, X_do)
        assert found.bits == pytest.approx(bits, rel=0.07)
        assert found.low < found.bits < found.high
        turned = np.random.default_rng(1).normal(size=(16, 16))
        assert invariant_information(X @ turned, X_do @ turned).bits == pytest.approx(
            found.bits, abs=0.05
        )
        assert abs(invariant_information(X, np.roll(X_do, 1, axis=0)).bits) < 0.2

    def test_a_leak_takes_bits_away(self, data: EmbeddedData) -> None:
        X, X_do = pairs_in(data.source, "oracle")
        order = exchanged(np.zeros(len(X), int), 0.3, np.random.default_rng(0), within=False)
        assert invariant_information(X, X_do[order]).bits < invariant_information(X, X_do).bits

    def test_what_cannot_be_told_is_refused(self) -> None:
        with pytest.raises(ValueError, match="20 pairs or more"):
            invariant_information(np.eye(5), np.eye(5))
        with pytest.raises(ValueError, match="NaN or infinite"):
            invariant_information(np.full((30, 2), np.nan), np.zeros((30, 2)))


def test_a_rule_of_ones_own_is_taken() -> None:
    model = GaussianShortcut(2, 6)
    X, X_do = model.pairs(0.05, 200, np.random.default_rng(0))
    table = by_number_of_pairs(X, X_do, (100,), rule=InvariantProjection(3, consistency_weight=1))
    assert set(table["K"]) == {3}
    again = by_number_of_pairs(X, X_do, (100,), rule=InvariantProjection(3, consistency_weight=1))
    assert table.equals(again)
