"""Protocols: what may be trained on, chosen on and tested on, for the animal world and for folders of images."""

import numpy as np
import pytest
import xarray as xr

from icm_study.embedding.tables import Environments, available
from icm_study.experiments.evaluation import leave_one_domain_out
from icm_study.testbeds.splits import PROTOCOLS, split

LEAVE_OUT, OPEN, SHIFT_OPEN = PROTOCOLS
CLASSES, DOMAINS = 5, 3
SEEN = {0, 1, 2}  # the first half, and the one in the middle


def folder(n=600, seed=0):
    """A folder of images: class and domain at random, the class written into the first features."""
    rng = np.random.default_rng(seed)
    label, domain = rng.integers(CLASSES, size=n), rng.integers(DOMAINS, size=n)
    X = np.eye(8)[label] + 0.3 * rng.normal(size=(n, 8))
    X_do = np.c_[X[:, :CLASSES], rng.normal(size=(n, 8 - CLASSES))]
    source = xr.Dataset(
        {k: (("row", "feature"), v) for k, v in {"original": X, "image": X_do}.items()},
        {"label": ("row", label), "domain": ("row", domain), "number": ("row", np.arange(n))},
    )
    prompts = xr.Dataset(
        {"prompt": (("row", "feature"), np.eye(8)[:CLASSES])},
        {"label": ("row", np.arange(CLASSES))},
    )
    return Environments(source, None, prompts, {}, ("a", "b", "c"), tuple("vwxyz"))


def animals(n=900):
    """The same with other images for the tests, under three kinds of shortcut."""
    images = folder(n, seed=1)
    shortcut = np.array(["aligned", "none", "reversed"])[np.arange(n) % 3]
    test = images.source.assign_coords(shortcut=("row", shortcut))
    return Environments(folder().source, test, images.prompts, {}, images.domains, images.classes)


def numbers(table):
    return set(table["number"].to_numpy().tolist())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_image_of_a_folder_is_used_twice(protocol):
    environments = folder()
    data = split(environments, None if protocol == OPEN else 1, protocol=protocol, seed=3)
    parts = [data.train, data.held_out, *data.tests.values()]
    assert sum(len(numbers(part)) for part in parts) == len(set().union(*map(numbers, parts)))


def test_a_folder_leaves_the_target_out_and_halves_what_is_held_out():
    environments = folder()
    data = split(environments, 1, seed=3)
    assert tuple(data.tests) == ("in_distribution", "unseen")
    assert numbers(data.tests["unseen"]) == numbers(
        environments.source.isel(row=(environments.source["domain"] == 1).to_numpy())
    )
    for part in (data.train, data.held_out, data.tests["in_distribution"]):
        assert 1 not in part["domain"]
    sources = int((environments.source["domain"] != 1).sum())
    assert data.train.sizes["row"] == pytest.approx(0.8 * sources, abs=1)
    assert data.held_out.sizes["row"] == pytest.approx(0.1 * sources, abs=1)
    assert data.tests["in_distribution"].sizes["row"] == pytest.approx(0.1 * sources, abs=1)


@pytest.mark.parametrize("make", [folder, animals])
@pytest.mark.parametrize("protocol", [OPEN, SHIFT_OPEN])
def test_open_classes_are_never_trained_on(make, protocol):
    target = None if protocol == OPEN else 1
    data = split(make(), target, protocol=protocol)
    for part in (data.train, data.held_out, data.tests["seen_classes"]):
        assert set(part["label"].to_numpy()) == SEEN
    assert set(data.tests["new_classes"]["label"].to_numpy()) == set(range(CLASSES)) - SEEN
    assert set(data.prompts["label"].to_numpy()) == set(range(CLASSES))
    domains = {name: set(test["domain"].to_numpy()) for name, test in data.tests.items()}
    expected = {0, 1, 2} if target is None else {1}
    assert domains == {"seen_classes": expected, "new_classes": expected}
    assert data.target == "new_classes"
    assert set(data.train["domain"].to_numpy()) == {0, 1, 2} - {target}


def test_animals_are_tested_on_other_animals_with_the_shortcut_of_the_protocol():
    environments = animals()
    for protocol, shortcut in ((OPEN, "aligned"), (SHIFT_OPEN, "none")):
        data = split(environments, None if protocol == OPEN else 2, protocol=protocol)
        for test in data.tests.values():
            assert set(test["shortcut"].to_numpy()) == {shortcut}


@pytest.mark.parametrize("protocol", [OPEN, SHIFT_OPEN])
def test_new_classes_are_for_zero_shot_alone(protocol):
    table = leave_one_domain_out(
        folder(), None if protocol == OPEN else 0, protocol=protocol, n_components=[4, 6]
    )
    assert set(table["predictor"]) == {"zero-shot"}
    assert set(table["method"]) == {"plain", "ICM", "ICM auto"}
    assert set(table["condition"]) == {"seen_classes", "new_classes"}
    assert (table["protocol"] == protocol).all()
    plain = table[table["method"] == "plain"]
    assert (plain["value"] > 90).all()


def test_a_folder_without_captions_has_image_interventions_only():
    assert available(folder().source) == ("image",)
    table = leave_one_domain_out(
        folder(), 0, n_components=[4, 6], validations=("intervened", "target")
    )
    assert set(table["intervention"]) == {"none", "image"}
    methods = {"plain", "augmentation", "ICM", "ICM auto", "ICM, tuned on the target"}
    assert set(table["method"]) == methods
    tuned = table[(table["condition"] == "unseen") & (table["predictor"] == "zero-shot")].set_index(
        "method"
    )
    assert tuned.loc["ICM, tuned on the target", "value"] >= tuned.loc["ICM", "value"]


def test_choosing_among_the_classes_of_a_condition():
    environments = folder()
    data = split(environments, 0)
    import dataclasses

    from icm_study.experiments.evaluation import evaluate

    unseen = data.tests["unseen"]
    few = unseen.isel(row=np.isin(unseen["label"], [1, 3]))
    noisy = few.assign(
        original=few["original"] + 2 * np.eye(8)[0]
    )  # looks like class 0, which it cannot be
    for candidates, chance in (({}, 20), ({"unseen": np.array([1, 3])}, 90)):
        narrowed = dataclasses.replace(data, tests={"unseen": noisy}, candidates=candidates)
        table = evaluate(narrowed, interventions=(), n_components=[4])
        plain = table[table["method"] == "plain"].set_index("predictor")["value"]
        assert (plain > chance if candidates else plain < chance).all()


@pytest.mark.parametrize(
    ("target", "protocol", "message"),
    [
        (0, "closed", "protocol='closed' is unknown; choose one of"),
        (0, OPEN, "sets no domain aside; pass None"),
        (None, LEAVE_OUT, "target=None is not among the domains"),
        (7, SHIFT_OPEN, "target=7 is not among the domains"),
    ],
)
def test_bad_protocols(target, protocol, message):
    with pytest.raises(ValueError, match=message):
        split(folder(), target, protocol=protocol)


def test_too_few_images_to_split():
    with pytest.raises(ValueError, match="too few images to train, to choose and to test on"):
        split(folder(n=45), 0)
