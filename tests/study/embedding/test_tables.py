"""Embedded environments: aligned, computed once, keyed by all that matters; their diagnosis; the experiments."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from icm_core.interventions import IMAGE_INTERVENTIONS, intervene_captions, intervene_images
from icm_core.prediction import class_prompts
from icm_study.animals.latents import LEXICON, STYLES, captions, redraw_variant, sample_latents
from icm_study.animals.rendering import render
from icm_study.animals.silhouettes import CLASSES, load_silhouettes
from icm_study.embedding import tables as module
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Environments
from icm_study.encoders.loading import load_encoder
from icm_study.experiments import domain_generalization as experiments
from icm_study.experiments.diagnosis import FACTORS, live_rank, redrawn_share
from icm_study.experiments.domain_generalization import (
    ablation_grid,
    embed_world,
    run_domain_generalization,
    select,
    to_conditions,
)
from icm_study.experiments.evaluation import grid_accuracy, validation_set
from icm_study.fingerprint import fingerprint
from icm_study.testbeds import animal_world as world_module
from icm_study.testbeds.animal_world import TEMPLATES, animal_world, with_single_interventions
from icm_study.testbeds.splits import CONDITIONS as ALL_CONDITIONS
from icm_study.testbeds.splits import split

CONDITIONS = ALL_CONDITIONS[:3]  # of leaving one domain out in a world with a shortcut

D = 24


class StandInEncoder:
    """Embeds by fixed random maps of thumbnails and of letters, so that equal inputs have equal embeddings."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.name, self.fingerprint, self.embedding_dim = "stand-in", f"weights {seed}", D
        self._pixels = rng.normal(size=(3 * 8 * 8, D))
        self._letters = rng.normal(size=(128, D))
        self.seen = 0

    def text_key(self, *texts):
        return {"weights": self.fingerprint, "tokens": fingerprint(*texts)}

    def encode_images(self, images):
        self.seen += len(images)
        small = torch.nn.functional.avg_pool2d(images.float(), 8).flatten(1).double().numpy()
        return self._unit((1 + small) @ self._pixels)  # 1: an image may be black all over

    def encode_text(self, texts):
        counts = np.array([np.bincount(list(text.encode()), minlength=128) for text in texts])
        return self._unit(counts @ self._letters)

    @staticmethod
    def _unit(X):
        return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def silhouettes():
    return load_silhouettes()


@pytest.fixture
def encoder():
    return StandInEncoder()


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "store")


N, SEED, STRENGTHS = 24, 3, {"coat_strength": 0.9, "scene_strength": 0.5}


def embed(encoder, silhouettes, store, **changes):
    return animal_world(
        encoder, silhouettes, store, **{"seed": SEED, "n": N, **STRENGTHS} | changes
    )


@pytest.fixture(scope="module")
def embedded(silhouettes, tmp_path_factory):
    """Give environments with the encoder and the store that they come from."""
    encoder, store = StandInEncoder(), EmbeddingStore(tmp_path_factory.mktemp("store"))
    return SimpleNamespace(
        encoder=encoder, store=store, environments=embed(encoder, silhouettes, store)
    )


def test_source_rows_are_aligned(embedded, silhouettes):
    """Every variable against the embedding of what it should show, made here step by step."""
    source, encoder = embedded.environments.source, embedded.encoder
    latents = sample_latents(silhouettes, "source", seed=SEED, n=N, **STRENGTHS)
    redrawn = redraw_variant(latents, seed=SEED)
    words = captions(latents, left_out=0.0, seed=SEED)
    expected = {
        "original": encoder.encode_images(render(latents, silhouettes)),
        "image": encoder.encode_images(intervene_images(render(latents, silhouettes), seed=SEED)),
        "oracle": encoder.encode_images(render(redrawn, silhouettes)),
        "caption": encoder.encode_text(words),
        "edit": encoder.encode_text(intervene_captions(words, LEXICON, seed=SEED, keep=CLASSES)),
    }
    assert set(source.data_vars) == set(expected)
    for name, rows in expected.items():
        assert source[name].dims == ("row", "feature")
        np.testing.assert_array_equal(source[name], rows)
    np.testing.assert_array_equal(source["domain"], latents["style"])
    np.testing.assert_array_equal(source["oracle_domain"], redrawn["style"])
    for name in ("silhouette", "label", "coat", "scene", "light", "blur"):
        np.testing.assert_array_equal(source[name], latents[name])


def test_test_rows_come_under_three_conditions(embedded, silhouettes):
    test, encoder = embedded.environments.test, embedded.encoder
    assert test.sizes == {"row": 3 * N, "feature": D}
    for shortcut in ("aligned", "none", "reversed"):
        rows = test.isel(row=(test["shortcut"] == shortcut).to_numpy())
        latents = sample_latents(
            silhouettes, "test", shortcut=shortcut, seed=SEED, n=N, **STRENGTHS
        )
        np.testing.assert_array_equal(
            rows["original"], encoder.encode_images(render(latents, silhouettes))
        )
        np.testing.assert_array_equal(
            rows["caption"], encoder.encode_text(captions(latents, left_out=0.0))
        )
        for name in ("silhouette", "label", "coat", "scene"):
            np.testing.assert_array_equal(rows[name], latents[name])
    trained_on = embedded.environments.source["silhouette"].to_numpy()
    assert not set(test["silhouette"].to_numpy()) & set(trained_on)


def test_prompts_name_the_classes(embedded):
    prompts, encoder = embedded.environments.prompts, embedded.encoder
    texts, names = class_prompts(CLASSES, TEMPLATES)
    np.testing.assert_array_equal(prompts["prompt"], encoder.encode_text(texts))
    assert [CLASSES[i] for i in prompts["label"].to_numpy()] == names


def test_batches_do_not_show(embedded, encoder, silhouettes, store, monkeypatch):
    whole = embedded.environments
    for one in (module, world_module):
        monkeypatch.setattr(one, "_BATCH", 7)
    pieces = embed(encoder, silhouettes, store)
    for name in ("original", "image", "oracle"):
        np.testing.assert_allclose(pieces.source[name], whole.source[name], atol=1e-6)
    np.testing.assert_allclose(pieces.test["original"], whole.test["original"], atol=1e-6)


def test_nothing_is_embedded_twice(encoder, silhouettes, store, monkeypatch):
    for one in (module, world_module):
        monkeypatch.setattr(one, "_BATCH", 1)  # so that no batch is filled up
    first = embed(encoder, silhouettes, store)
    seen = encoder.seen
    assert seen <= 6 * N  # original, image, oracle; three conditions
    again = embed(encoder, silhouettes, store)
    assert encoder.seen == seen
    for name in ("source", "test", "prompts"):
        xr.testing.assert_identical(getattr(again, name), getattr(first, name))
    assert again.provenance == first.provenance

    # another strength: only images that look different are new, and the oracle's are all the same
    before = sample_latents(silhouettes, "source", seed=SEED, n=N, **STRENGTHS)
    after = sample_latents(
        silhouettes, "source", seed=SEED, n=N, **STRENGTHS | {"coat_strength": 0.8}
    )
    changed = int((before != after).any(axis=1).sum())
    embed(encoder, silhouettes, store, coat_strength=0.8)
    assert changed < N
    assert (
        encoder.seen - seen <= 2 * changed + 2 * N
    )  # source with its intervention; two test conditions


def test_an_embedding_has_the_same_bits_whatever_is_embedded_with_it(silhouettes, tmp_path):
    small = load_encoder("animal-world")
    embed(small, silhouettes, EmbeddingStore(tmp_path / "a"), coat_strength=0.2)
    after_another = embed(small, silhouettes, EmbeddingStore(tmp_path / "b"))
    alone = embed(load_encoder("animal-world"), silhouettes, EmbeddingStore(tmp_path / "c"))
    xr.testing.assert_identical(after_another.source.drop_attrs(), alone.source.drop_attrs())
    xr.testing.assert_identical(after_another.test.drop_attrs(), alone.test.drop_attrs())


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"n": 25},
        {"encoder": StandInEncoder(1)},
        {"scene_strength": 0.6},
        {"animals": True},
    ],
)
def test_whatever_changes_the_embeddings_changes_the_key(embedded, silhouettes, change):
    before, store = embedded.environments, embedded.store
    other = change.get("encoder", embedded.encoder)
    animals = silhouettes
    if "animals" in change:
        images = silhouettes.images.copy()
        images[-1, 0, 0] ^= 1
        animals = dataclasses.replace(silhouettes, images=images)
    options = {k: v for k, v in change.items() if k not in ("encoder", "animals")}
    files = len(list(store.root.iterdir()))
    after = embed(other, animals, store, **options)
    assert len(list(store.root.iterdir())) > files
    assert after.provenance != before.provenance


@pytest.mark.parametrize("what", ["images", "captions"])
def test_a_change_of_the_world_itself_changes_the_key(embedded, silhouettes, monkeypatch, what):
    before = embedded.environments.provenance["pixels"]
    if what == "images":
        monkeypatch.setattr(
            world_module, "render", lambda latents, animals: render(latents, animals) // 2
        )
    else:
        monkeypatch.setattr(
            world_module,
            "captions",
            lambda *a, **k: [f"{text} at last" for text in captions(*a, **k)],
        )
    assert world_module.pixel_fingerprint(silhouettes) != before


def test_bad_strengths(encoder, silhouettes, store):
    with pytest.raises(ValueError, match=r"coat_strength=1\.2 is not a probability"):
        embed(encoder, silhouettes, store, coat_strength=1.2)
    with pytest.raises(ValueError, match=r"scene_strength=-1"):
        embed(encoder, silhouettes, store, scene_strength=-1)


def test_embeddings_that_are_not_finite_are_not_kept(encoder, silhouettes, store):
    healthy = encoder.encode_images

    def broken(images):
        rows = healthy(images)
        rows[0, 0] = np.nan
        return rows

    encoder.encode_images = broken
    with pytest.raises(ValueError, match="NaN or infinite"):
        embed(encoder, silhouettes, store)
    assert list(store.root.iterdir()) == []


def test_a_store_that_cannot_be_written(encoder, silhouettes, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="Cannot write to the cache directory"):
        embed(encoder, silhouettes, EmbeddingStore(tmp_path / "file"))
    assert encoder.seen == 0


# Diagnosis


def synthetic(redraws, n=4000, noise=0.05):
    """Embeddings that are a linear map of the factors; each kind of pair re-draws the factors it is given."""
    rng = np.random.default_rng(0)
    values = {"label": 5, "domain": 4, "coat": 6, "scene": 3, "light": 3, "blur": 2}
    maps = {factor: rng.normal(size=(k, 40)) for factor, k in values.items()}

    def draw():
        return {factor: rng.integers(k, size=n) for factor, k in values.items()}

    def embedding(factors):
        return sum(maps[f][v] for f, v in factors.items()) + noise * rng.normal(size=(n, 40))

    def table(**variables):
        return xr.Dataset({k: (("row", "feature"), v) for k, v in variables.items()})

    def intervened(factors, kind):
        fresh = draw()
        return embedding({f: fresh[f] if f in redraws[kind] else v for f, v in factors.items()})

    shown = draw()
    source = table(
        original=embedding(shown),
        caption=embedding(shown),
        image=intervened(shown, "image"),
        oracle=intervened(shown, "oracle"),
        edit=intervened(shown, "text"),
    )
    factors = draw()
    factors["domain"] = np.arange(n) % 4  # rows in an order, as the animal world has them
    test = table(original=embedding(factors), caption=embedding(factors))
    test = test.assign_coords(
        {f: ("row", v) for f, v in factors.items()} | {"shortcut": ("row", ["none"] * n)}
    )
    return Environments(source, test, xr.Dataset(), {})


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
    environments = synthetic(REDRAWS)
    n = environments.test.sizes["row"]
    blind = environments.test.assign_coords(
        blur=("row", np.random.default_rng(1).integers(2, size=n))
    )
    table = redrawn_share(dataclasses.replace(environments, test=blind)).set_index(
        ["intervention", "factor"]
    )
    assert abs(table.loc[("image", "blur"), "r2"]) < 0.05
    assert table.loc[("image", "coat"), "r2"] > 0.85


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


# Experiments


@pytest.mark.parametrize(
    ("world", "coat", "scene"),
    [(("coat", 0.9), 0.9, 0), (("scene", 0.5), 0, 0.5), (["coat+scene", 1.0], 1, 1)],
)
def test_a_world_sets_the_strengths(encoder, silhouettes, store, world, coat, scene):
    provenance = embed_world(encoder, silhouettes, store, world, seed=1, n=12).provenance
    assert (provenance["coat_strength"], provenance["scene_strength"]) == (coat, scene)
    assert (provenance["seed"], provenance["n"]) == (1, 12)


def test_bad_worlds(encoder, silhouettes, store):
    with pytest.raises(ValueError, match="'light' is unknown; choose 'coat', 'scene' or 'coat"):
        embed_world(encoder, silhouettes, store, ("light", 0.9), seed=0)
    with pytest.raises(ValueError, match="not a probability"):
        embed_world(encoder, silhouettes, store, ("coat", 1.9), seed=0)
    for worlds, seeds in (([], [0]), ([("coat", 0.9)], [])):
        with pytest.raises(ValueError, match="Nothing to run"):
            run_domain_generalization(
                "animal-world", encoder, store, worlds=worlds, seeds=seeds, silhouettes=silhouettes
            )


def test_the_grid_runs_every_world_seed_and_target(silhouettes, store, monkeypatch):
    calls = []

    def one_row(environments, target, **options):
        calls.append((environments.source, target, options))
        return pd.DataFrame({"target": [target], "seed": [options["seed"]]})

    def embed(encoder, animals, store, world, seed, n):
        return Environments((encoder.name, world, seed, n), None, None, {})

    monkeypatch.setattr(experiments, "embed_world", embed)
    monkeypatch.setattr(experiments, "leave_one_domain_out", one_row)
    worlds = [("coat", 0.9), ("coat+scene", 0.5)]
    table = run_domain_generalization(
        "animal-world", SimpleNamespace(name="one"), store, worlds=worlds, seeds=iter([0, 1]),
        silhouettes=silhouettes, n=8, interventions=["image"],
    )  # fmt: skip
    jobs = table[["shortcut", "strength", "world", "seed", "target"]]
    expected = [
        (shortcut, strength, f"{shortcut} {strength}", seed, style)
        for shortcut, strength in worlds
        for seed in (0, 1)
        for style in STYLES
    ]
    assert list(jobs.itertuples(index=False, name=None)) == expected
    assert (table[["dataset", "encoder"]] == ["animal-world", "one"]).all(axis=None)
    assert [call[:2] for call in calls] == [
        (("one", (shortcut, strength), seed, 8), STYLES.index(style))
        for shortcut, strength, _, seed, style in expected
    ]
    assert all(call[2]["interventions"] == ["image"] for call in calls)


def test_targets_are_chosen_by_name(silhouettes, store, monkeypatch):
    monkeypatch.setattr(experiments, "embed_world", lambda *_: Environments(None, None, None, {}))
    monkeypatch.setattr(
        experiments,
        "leave_one_domain_out",
        lambda _, target, **__: pd.DataFrame({"number": [target]}),
    )

    def run(**options):
        return run_domain_generalization(
            "animal-world", SimpleNamespace(name="one"), store, worlds=[("coat", 0.9)], seeds=[0],
            silhouettes=silhouettes, **options,
        )  # fmt: skip

    some = run(targets=["sketch", "photo"])
    assert dict(zip(some["target"], some["number"], strict=True)) == {
        name: STYLES.index(name) for name in ("sketch", "photo")
    }
    assert run(protocol="open class")["target"].tolist() == ["none"]
    with pytest.raises(
        ValueError, match=r"targets=\['cubism'\] are no domains of the data; they are"
    ):
        run(targets=["cubism"])


def test_single_interventions_join_the_source_table(embedded, silhouettes):
    environments = with_single_interventions(
        embedded.environments, embedded.encoder, silhouettes, embedded.store
    )
    latents = sample_latents(silhouettes, "source", seed=SEED, n=N, **STRENGTHS)
    images = render(latents, silhouettes)
    for name in IMAGE_INTERVENTIONS:
        expected = embedded.encoder.encode_images(intervene_images(images, [name], SEED))
        np.testing.assert_allclose(environments.source[name], expected, atol=1e-6)
    xr.testing.assert_identical(
        environments.source.drop_vars(list(IMAGE_INTERVENTIONS)), embedded.environments.source
    )
    seen = embedded.encoder.seen
    with_single_interventions(embedded.environments, embedded.encoder, silhouettes, embedded.store)
    assert embedded.encoder.seen == seen


def linear_world(n=1200):
    """Two classes in the first feature, four domains; the third feature is re-drawn by every intervention."""
    rng = np.random.default_rng(0)
    label, domain, oracle_domain = (
        rng.integers(2, size=n),
        rng.integers(4, size=n),
        rng.integers(4, size=n),
    )
    X = rng.normal(size=(n, 3)) + np.outer(2 * label - 1, [1.0, 0.0, 2.0])
    X_do = np.c_[X[:, :2], rng.normal(size=n)]
    rows = {"original": X, "image": X_do, "oracle": X_do, "caption": X, "edit": X_do}
    source = xr.Dataset(
        {k: (("row", "feature"), v) for k, v in rows.items()},
        {
            "label": ("row", label),
            "domain": ("row", domain),
            "oracle_domain": ("row", oracle_domain),
        },
    )
    shortcut = np.array(["aligned", "none", "reversed"])[np.arange(n) % 3]
    test = source.drop_vars("oracle_domain").assign_coords(shortcut=("row", shortcut))
    prompts = xr.Dataset(
        {"prompt": (("row", "feature"), np.array([[-1.0, 0, 0], [1, 0, 0]]))},
        {"label": ("row", [0, 1])},
    )
    return Environments(source, test, prompts, {})


def test_the_ablation_grid_measures_every_target_and_set():
    grid = ablation_grid(
        linear_world(), "image", seed=1, n_components=[1, 2, 3], consistency_weights=[0.0, 10.0]
    )
    assert len(grid) == len(STYLES) * 2 * 3 * 2
    assert set(grid["target"]) == set(STYLES)
    assert (grid[["intervention", "objective", "seed"]] == ["image", "trace", 1]).all(axis=None)
    measured = grid[["intervened", "plain", *CONDITIONS]]
    assert ((measured >= 0) & (measured <= 100)).all(axis=None)
    assert measured.max(axis=None) > 90  # in percent
    data = split(linear_world(), 1, seed=1)
    direct = grid_accuracy(
        data, "image", n_components=[2], consistency_weights=[10.0],
        evaluate_on={"intervened": validation_set(data, "intervened", "image")},
    )  # fmt: skip
    same = grid[
        (grid["target"] == STYLES[1]) & (grid["K"] == 2) & (grid["consistency_weight"] == 10)
    ]
    np.testing.assert_allclose(same["intervened"], 100 * direct["intervened"])


def test_selection_takes_the_best_row_of_each_run():
    parts = [
        ablation_grid(
            linear_world(), "image", seed=s, n_components=[1, 2], consistency_weights=[0.0, 10.0]
        )
        for s in (1, 2)
    ]
    grid = pd.concat(parts)  # row numbers occur twice
    for validation in ("intervened", "unseen"):
        best = select(grid, validation)
        runs = ["target", "seed", "predictor"]
        assert len(best) == len(grid.drop_duplicates(runs)) == 16
        assert (best["selection"] == validation).all()
        expected = grid.groupby(runs)[validation].max()
        pd.testing.assert_series_equal(best.set_index(runs)[validation].sort_index(), expected)


def test_test_accuracies_become_rows():
    grid = ablation_grid(
        linear_world(), "image", seed=1, n_components=[1], consistency_weights=[1.0]
    )
    tidy = to_conditions(grid)
    assert len(tidy) == 3 * len(grid)
    assert not {"intervened", "plain", *CONDITIONS} & set(tidy.columns)
    for condition in CONDITIONS:
        np.testing.assert_array_equal(
            tidy.loc[tidy["condition"] == condition, "value"], grid[condition]
        )
