"""The modality as the environment, on a stand-in in which it is known what is shared."""

import numpy as np
import pandas as pd
import pytest
from real_clip_stand_in import CAPTION, write_stand_in

from icm_core.projection import InvariantProjection
from icm_study.experiments import modality
from icm_study.experiments.intervals import unpack
from icm_study.experiments.modality import (
    AFTER,
    CENTRED,
    DIRECTIONS,
    DROPPED,
    ICM,
    PLAIN,
    RELEASED,
    SHUFFLED,
    TUNED,
    SharedMap,
    count_classes,
    run_modality,
)
from icm_study.photographs.real_clip import open_real_clip
from icm_study.text.keywords import CLASSINGS, label_by_keywords
from icm_study.theory.objectives import objectives


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return open_real_clip(write_stand_in(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def runs(clip):
    return run_modality(clip, objectives()["released"])


def value(table, **where):
    rows = table[(table[list(where)] == pd.Series(where)).all(axis=1)]
    assert len(rows) == 1
    return rows["value"].iloc[0]


def test_every_pair_is_tested_once(clip, runs):
    assert set(runs["retrieval"]["n"]) == {len(clip.image)}
    for name, part in runs["probe"].groupby("classes"):
        labels = label_by_keywords(clip.caption, CLASSINGS[name])
        assert set(part["n"]) == {int((labels >= 0).sum())}
    for table in (runs["probe"], runs["retrieval"]):
        keys = ["target", "method", "condition", *({"classes", "penalty"} & set(table))]
        assert not table.duplicated(keys).any()
        hits = [100 * unpack(row).mean() for _, row in table.iterrows()]
        np.testing.assert_allclose(table["value"], hits)
    assert set(runs["probe"]["target"]) == set(DIRECTIONS)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_is_shared_carries_over_and_shuffled_pairs_do_not(runs, direction):
    own = {"target": direction, "classes": "things", "penalty": TUNED, "condition": "unseen"}
    assert value(runs["probe"], method=ICM, **own) > 90
    assert value(runs["probe"], method=CENTRED, **own) > 90
    assert value(runs["probe"], method=SHUFFLED, **own) < 50
    found = {"target": direction, "condition": "recall@1"}
    assert value(runs["retrieval"], method=CENTRED, **found) > 90
    assert value(runs["retrieval"], method=SHUFFLED, **found) < 10


def test_a_map_keeps_what_its_directions_hold(runs):
    kept = runs["kept"].groupby("method")[["between classes", "in common", "within pairs"]].mean()
    np.testing.assert_allclose(kept.loc[PLAIN], 1)
    np.testing.assert_allclose(kept.loc[CENTRED, ["between classes", "in common"]], 1)
    # the gap is nearly all that differs within pairs
    assert kept.loc[CENTRED, "within pairs"] < 0.1
    assert kept.loc[DROPPED, "within pairs"] < 0.1
    assert kept.loc[ICM, "within pairs"] < 0.1
    assert kept.loc[ICM, "in common"] > 0.9


def test_the_released_order_is_that_of_the_smallest_eigenvalues(clip):
    fold = next(modality.pair_folds(clip))
    maps = modality._maps(fold, objectives()["released"])
    icm = maps[ICM]
    matrix = fold.moments().C - icm.consistency_weight * fold.moments().S
    smallest = np.linalg.eigh(matrix)[1][:, : int(icm.K)]
    overlap = np.linalg.norm(maps[RELEASED].components @ smallest) ** 2
    assert overlap == pytest.approx(icm.K)


def test_a_tie_is_no_hit():
    fold = modality.Fold("images to captions", {}, {}, (np.arange(0), np.arange(3)))
    same = {"image": np.ones((12, 2)), "text": np.ones((12, 2))}
    assert not np.concatenate([*modality.searched(fold, same).values()]).any()
    apart = {"image": np.eye(12), "text": np.eye(12)}
    assert np.concatenate([*modality.searched(fold, apart).values()]).all()


def test_ranks_are_those_of_the_cosines():
    rng = np.random.default_rng(0)
    rows = {"image": rng.normal(size=(30, 4)), "text": rng.normal(size=(30, 4))}
    fold = modality.Fold("captions to images", {}, {}, (np.arange(0), np.arange(30)))
    cosine = {name: part / np.linalg.norm(part, axis=1)[:, None] for name, part in rows.items()}
    order = np.argsort(-(cosine["text"] @ cosine["image"].T), axis=1)
    for k in (1, 5, 10):
        expected = [i in order[i, :k] for i in range(30)]
        assert modality.searched(fold, rows)[f"recall@{k}"].tolist() == expected


def test_centring_gives_back_what_a_shift_takes(clip, runs):
    plain = {"target": "images to captions", "method": PLAIN}
    own, after = (value(runs["retrieval"], condition=name, **plain) for name in ("recall@1", AFTER))
    centred = value(runs["retrieval"], **plain | {"method": CENTRED}, condition="recall@1")
    assert after == centred >= own


def test_a_shared_map_moves_each_modality_by_its_own_centre():
    mapped = SharedMap(np.array([[1.0, 0.0]]), {"image": np.array([2.0, 5.0])})
    rows = np.array([[3.0, 1.0]])
    assert mapped(rows, "image").tolist() == [[1.0]]
    assert mapped(rows, "text").tolist() == [[3.0]]


def test_the_grid_has_every_cell_and_agrees_with_a_projection(clip, runs):
    grid = runs["grid"]
    sizes = [k for k in modality.SIZES if k <= 24]
    assert len(grid) == 2 * len(sizes) * len(modality.WEIGHTS)
    fold = next(modality.pair_folds(clip))
    fitted = InvariantProjection(8, consistency_weight=3.0).fit_moments(fold.moments())
    mapped = {name: fitted.transform(rows) for name, rows in fold.test.items()}
    label = label_by_keywords(clip.caption, CLASSINGS["things"])
    cell = next(
        one
        for one in modality._grid(fold, label)
        if (one["K"], one["consistency_weight"]) == (8, 3)
    )
    assert cell["recall"] == pytest.approx(100 * modality.searched(fold, mapped)["recall@1"].mean())


def test_captions_are_counted_once_for_each_way_to_make_classes(clip):
    counts = count_classes(clip)
    assert (counts.groupby("classes")["n"].sum() == len(clip.caption)).all()
    things = counts[counts["classes"] == "things"].set_index("class")["n"]
    assert things[list(CAPTION)].tolist() == [20] * 8
