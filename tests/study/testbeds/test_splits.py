"""Protocols: what may be trained on, chosen on and tested on, of animals and of folders."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from linear_world import table
from stand_ins import change, linear_data

from icm_study.embedding.tables import EmbeddedData
from icm_study.experiments.run import Plan, run
from icm_study.testbeds.animal_variants import AnimalVariants
from icm_study.testbeds.animal_world import AnimalWorld
from icm_study.testbeds.base import CONDITIONS, PROTOCOLS
from icm_study.testbeds.image_folder import ImageFolder
from icm_study.testbeds.splits import check_counts, hold_out, split

LEAVE_OUT, OPEN, SHIFT_OPEN = PROTOCOLS
CLASSES, DOMAINS = 5, 3
SEEN = {0, 1, 2}  # the first half, and the one in the middle
TARGET = 2


def folder(n=600, seed=0):
    """A folder of images: class and domain at random, the class in the first features."""
    rng = np.random.default_rng(seed)
    label, domain = rng.integers(CLASSES, size=n), rng.integers(DOMAINS, size=n)
    X = np.eye(8)[label] + 0.3 * rng.normal(size=(n, 8))
    X_do = np.c_[X[:, :CLASSES], rng.normal(size=(n, 8 - CLASSES))]
    where = {"label": label, "domain": domain, "number": np.arange(n)}
    source = table(where, original=X, image=X_do)
    prompts = table({"label": np.arange(CLASSES)}, prompt=np.eye(8)[:CLASSES])
    return EmbeddedData(source, None, prompts, {}, ("a", "b", "c"), tuple("vwxyz"))


def animals(n=900):
    """The same with other images for the tests, under three kinds of shortcut."""
    images = folder(n, seed=1)
    shortcut = np.array(["aligned", "none", "reversed"])[np.arange(n) % 3]
    test = images.source.assign_coords(shortcut=("row", shortcut))
    return replace(images, source=folder().source, test=test)


@pytest.fixture(scope="module")
def linear():
    return linear_data()


def numbers(part):
    return set(part["number"].to_numpy().tolist())


# A folder


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_image_of_a_folder_is_used_twice(protocol):
    data = split(folder(), None if protocol == OPEN else 1, protocol=protocol, seed=3)
    parts = [data.train, data.held_out, *data.tests.values()]
    assert sum(len(numbers(part)) for part in parts) == len(set().union(*map(numbers, parts)))


def test_a_folder_leaves_the_target_out_and_halves_what_is_held_out():
    source = folder().source
    data = split(folder(), 1, seed=3)
    assert tuple(data.tests) == ("in_distribution", "unseen")
    assert data.target == "unseen"
    assert numbers(data.tests["unseen"]) == set(np.flatnonzero(source["domain"] == 1))
    for part in (data.train, data.held_out, data.tests["in_distribution"]):
        assert 1 not in part["domain"]
    sources = int((source["domain"] != 1).sum())
    assert data.train.sizes["row"] == pytest.approx(0.8 * sources, abs=1)
    assert data.held_out.sizes["row"] == pytest.approx(0.1 * sources, abs=1)
    assert data.tests["in_distribution"].sizes["row"] == pytest.approx(0.1 * sources, abs=1)


# A folder whose images come in groups


def grouped(n_groups=60, across=False, classes_in_group=1):
    """Each group is in one domain, or some images elsewhere; it shows one class, or two."""
    rng = np.random.default_rng(0)
    group = rng.integers(n_groups, size=1200)
    domain, label = group % DOMAINS, group // DOMAINS + rng.integers(classes_in_group, size=1200)
    if across:
        elsewhere = rng.random(1200) < 0.05
        domain = np.where(elsewhere, rng.integers(DOMAINS, size=1200), domain)
    where = {"group": group, "domain": domain, "label": label % CLASSES}
    data = folder(1200)
    return replace(
        data, source=data.source.assign_coords({k: ("row", v) for k, v in where.items()})
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"across": True, "n_groups": 300},
        {"classes_in_group": 2},
        {"classes_in_group": 2, "across": True, "n_groups": 300},
    ],
    ids=str,
)
def test_no_group_is_on_two_sides(protocol, options):
    data = split(grouped(**options), None if protocol == OPEN else 1, protocol=protocol, seed=3)
    of_target = {LEAVE_OUT: ["unseen"], OPEN: ["new_classes"]}
    of_target = of_target.get(protocol, ["seen_classes", "new_classes"])
    sides = [data.train, data.held_out]
    sides += [test for name, test in data.tests.items() if name not in of_target]
    groups = [set(side["group"].to_numpy().tolist()) for side in sides]
    groups.append({g for name in of_target for g in data.tests[name]["group"].to_numpy().tolist()})
    assert all(groups)
    assert sum(map(len, groups)) == len(set().union(*groups))
    seen = set(range(CLASSES)) if protocol == LEAVE_OUT else SEEN
    for part in sides[:2]:
        assert set(part["label"].to_numpy().tolist()) == seen


def test_a_tenth_of_the_groups_chooses_and_a_tenth_measures():
    data = split(grouped(n_groups=300), 1, seed=3)
    sides = data.train, data.held_out, data.tests["in_distribution"]
    n = [len(np.unique(side["group"])) for side in sides]
    assert n[1] + n[2] == pytest.approx(0.2 * sum(n), abs=6)
    assert n[1] == pytest.approx(n[2], abs=6)


def test_groups_are_split_anew_by_each_seed():
    first, again, other = (numbers(split(grouped(), 1, seed=s).held_out) for s in (0, 0, 1))
    assert first == again != other


def test_of_few_groups_more_are_held_out():
    """Of the six groups of a class in two source domains, four train."""
    data = grouped()
    where = data.source["label"] + CLASSES * data.source["domain"] + 15 * (np.arange(1200) % 3)
    few = data.source.assign_coords(group=("row", where.to_numpy()))
    parts = split(replace(data, source=few), 1, seed=0)
    sides = parts.train, parts.held_out, parts.tests["in_distribution"]
    assert [len(np.unique(side["group"])) for side in sides] == [20, 5, 5]
    assert all(len(np.unique(side["label"])) == CLASSES for side in sides)


def test_too_few_groups_are_told():
    with pytest.raises(ValueError, match=r"in 2 group\(s\), which cannot be divided into 3"):
        split(grouped(n_groups=15), 1)  # one of each class in each domain


def test_a_group_that_is_in_every_domain_leaves_no_source():
    data = grouped()
    alike = data.source.assign_coords(group=("row", np.zeros(1200, int)))
    with pytest.raises(ValueError, match="No source domain is left"):
        split(replace(data, source=alike), 1)


# The animal world, and data like it


@pytest.mark.parametrize("target", range(DOMAINS))
def test_the_target_is_kept_out_and_the_parts_are_disjoint(linear, target):
    source = linear.source.assign_coords(number=("row", np.arange(linear.source.sizes["row"])))
    data = split(replace(linear, source=source), target, seed=4)
    train, held_out = data.train["number"].to_numpy(), data.held_out["number"].to_numpy()
    usable = (source["domain"] != target) & (source["oracle_domain"] != target)
    assert not set(train) & set(held_out)
    np.testing.assert_array_equal(np.sort(np.r_[train, held_out]), np.flatnonzero(usable))
    assert len(held_out) / usable.sum() == pytest.approx(0.2, abs=0.01)
    share = source["label"].to_numpy()[usable].mean()
    for part in (data.train, data.held_out):
        assert part["label"].to_numpy().mean() == pytest.approx(share, abs=0.02)


def test_conditions_are_what_they_are_called(linear):
    data = split(linear, TARGET)
    assert tuple(data.tests) == CONDITIONS[:3]
    for condition, shortcut in zip(CONDITIONS[:3], ("aligned", "none", "reversed"), strict=True):
        test = data.tests[condition]
        assert set(test["shortcut"].to_numpy()) == {shortcut}
        expected = {0, 1} if condition == "in_distribution" else {TARGET}
        assert set(test["domain"].to_numpy()) == expected
    assert sum(test.sizes["row"] for test in data.tests.values()) < linear.test.sizes["row"]


def test_the_seed_decides_the_split(linear):
    one, again, other = (split(linear, TARGET, seed=seed).train for seed in (1, 1, 2))
    xr.testing.assert_identical(one, again)
    assert not one.identical(other)


def test_the_pairs_are_those_of_the_training_rows_unless_a_split_names_others(linear):
    data = split(linear, TARGET)
    assert data.paired is data.train
    others = data.train.isel(row=slice(8))
    assert replace(data, pairs=others).paired is others


# Open classes


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


@pytest.mark.parametrize(
    ("protocol", "target", "shortcut"), [(OPEN, None, "aligned"), (SHIFT_OPEN, 2, "none")]
)
def test_animals_are_tested_with_the_shortcut_of_the_protocol(protocol, target, shortcut):
    data = split(animals(), target, protocol=protocol)
    for test in data.tests.values():
        assert set(test["shortcut"].to_numpy()) == {shortcut}


# Errors


@pytest.mark.parametrize(
    ("target", "protocol", "message"),
    [
        (0, "closed", "protocol='closed' is unknown; choose one of"),
        (0, OPEN, "sets no domain aside; pass None"),
        (None, LEAVE_OUT, "target=None is not among the domains"),
        (7, SHIFT_OPEN, "target=7 is not among the domains"),
        (3, LEAVE_OUT, r"is not among the domains \[0, 1, 2\]"),
        (-1, LEAVE_OUT, r"is not among the domains \[0, 1, 2\]"),
        ("photo", LEAVE_OUT, r"target='photo' is not among the domains \[0, 1, 2\]"),
    ],
)
def test_bad_protocols_and_targets(target, protocol, message):
    for data in (folder(), animals()):
        with pytest.raises(ValueError, match=message):
            split(data, target, protocol=protocol)


def test_too_few_images_to_split():
    with pytest.raises(ValueError, match="too few images to train, to choose and to test on"):
        split(folder(n=45), 0)


def test_every_class_is_held_out_in_the_same_proportion():
    images = folder(1000).source
    rows = np.arange(100, 1000)
    first, second = hold_out(images, rows, 0.3, seed=1)
    np.testing.assert_array_equal(np.sort(np.r_[first, second]), rows)
    assert len(second) == 270
    counts = [np.bincount(images["label"].to_numpy()[part]) for part in (rows, second)]
    np.testing.assert_allclose(counts[1], 0.3 * counts[0], atol=1)
    assert (np.diff(first) > 0).all()
    assert (np.diff(second) > 0).all()


@pytest.mark.parametrize(
    ("name", "variable"), [("source", "original"), ("source", "edit"), ("test", "original")]
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite(linear, name, variable, bad):
    def break_one(values, _):
        values = values.copy()
        values[5, 1] = bad
        return values

    message = rf"The {name} table has NaN or infinite values in '{variable}'"
    with pytest.raises(ValueError, match=message):
        split(change(linear, name, variable, break_one), TARGET)


@pytest.mark.parametrize("name", ["source", "test"])
def test_a_class_absent_from_a_domain(linear, name):
    lacking = change(
        linear, name, "label", lambda v, t: np.where((t["domain"] == 1) & (v == 1), 0, v)
    )
    message = rf"The {name} table has no image of class \[1\] in domain 1"
    with pytest.raises(ValueError, match=message):
        split(lacking, TARGET)


def test_a_class_of_the_test_that_the_sources_or_prompts_lack(linear):
    more = change(linear, "test", "label", lambda v, t: np.where(np.arange(len(v)) % 3, v, 2))
    with pytest.raises(ValueError, match=r"The sources have fewer than 2 rows of class \[2\]"):
        split(more, TARGET)
    unnamed = change(linear, "prompts", "label", lambda v, t: np.array([0, 5]))
    with pytest.raises(ValueError, match=r"The prompts have fewer than 1 rows of class \[1\]"):
        split(unnamed, TARGET)


def test_a_condition_without_images(linear):
    kept = (linear.test["shortcut"] != "reversed").to_numpy()
    absent = replace(linear, test=linear.test.isel(row=kept))
    with pytest.raises(ValueError, match="no image for the condition 'reversed' of the target '"):
        split(absent, TARGET)


def test_no_source_left(linear):
    alone = change(linear, "source", "domain", lambda v, t: np.full_like(v, TARGET))
    with pytest.raises(ValueError, match="No source domain is left"):
        split(alone, TARGET)


# Before a folder is embedded


def listing(n=12, **fewer):
    """Images of three classes in three domains, `n` of each, of some classes fewer."""
    rows = [
        (f"{domain}/{label}/{i}.png", label, domain)
        for domain in ("art", "photo", "sketch")
        for label in ("cat", "cow", "dog")
        for i in range(fewer.get(label, n))
    ]
    return pd.DataFrame(rows, columns=["path", "label", "domain"])


def test_too_few_images_are_named_before_anything_is_embedded():
    for protocol in PROTOCOLS:
        check_counts(listing(), protocol)
    few = listing(cow=4)
    message = r"outside the target 'art', .*: 'cow' has 8\. Add images"
    with pytest.raises(ValueError, match=message):
        check_counts(few)
    check_counts(few, OPEN)  # 12 of the cow in all
    with pytest.raises(ValueError, match="'cow' has 8"):
        check_counts(few, SHIFT_OPEN)
    check_counts(listing(dog=1), SHIFT_OPEN)  # it is new, and not trained on
    with pytest.raises(ValueError, match="'dog' has 2"):
        check_counts(listing(dog=1))


@pytest.mark.parametrize(
    ("protocol", "absent", "condition"),
    [
        (SHIFT_OPEN, ["dog"], "new_classes"),
        (SHIFT_OPEN, ["cat", "cow"], "seen_classes"),
    ],
)
def test_a_domain_without_the_classes_to_test_is_told_before_anything_is_embedded(
    protocol, absent, condition
):
    images = listing(30)
    lacks = (images["domain"] == "sketch") & images["label"].isin(absent)
    bed = ImageFolder("listed", images[~lacks], protocol=protocol)
    with pytest.raises(ValueError, match=f"no image for the condition '{condition}' of the target"):
        run([bed], None, [0])
    bed.foreseen(["art", "photo"], 0)  # these can be told


@pytest.mark.parametrize(
    ("choice", "changes", "message"),
    [
        ("left-out domain", {"domains": ["art", "photo"]}, "The sources have one domain.*two"),
        ("unseen intervention", {"interventions": ["invert"]}, "by 'invert' only.*Name two"),
    ],
)
def test_a_choice_that_cannot_be_made_is_told_before_anything_is_embedded(choice, changes, message):
    images = listing(30)
    images = images[images["domain"].isin(changes.pop("domains", images["domain"]))]
    bed = ImageFolder("listed", images, **changes)
    for choices in ([choice], ["intervened", choice]):
        with pytest.raises(ValueError, match=message):
            run([bed], None, [0], plan=Plan(choices=choices))


@pytest.mark.parametrize("choice", ["left-out domain", "unseen intervention", "target"])
def test_variants_of_animals_can_be_chosen_by_held_out_images_only(encoder, choice):
    message = {
        "left-out domain": "The sources have one domain",
        "unseen intervention": "do not tell which intervention each of them got",
        "target": "no single test is the target here",
    }[choice]
    with pytest.raises(ValueError, match=message):
        run([AnimalVariants(encoder)], None, [0], plan=Plan(choices=[choice]))


@pytest.mark.parametrize("n", [1, 20, 60])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_too_few_animals_are_told_before_anything_is_embedded(n, protocol):
    with pytest.raises(ValueError, match=f"n_images={n}: with seed 0 .* None for every animal"):
        run([AnimalWorld(n=n, protocol=protocol)], None, [0])


def test_what_is_checked_is_what_is_split():
    """The outline has all that a split of the embedded data goes by."""
    for bed in (AnimalWorld(n=240), ImageFolder("listed", listing(30).assign(group=range(270)))):
        outline = bed.outline(0)
        parts = bed.split(outline, "sketch", 0)
        assert set(parts.tests) >= {"in_distribution", "unseen"}
        assert not set(parts.train.data_vars)
        assert parts.train.sizes["row"] > parts.held_out.sizes["row"] > 0


def test_a_misspelt_protocol_is_told():
    for protocol in ("open classes", "leave one domain out", ""):
        with pytest.raises(ValueError, match=f"protocol='{protocol}' is unknown; choose one of"):
            check_counts(listing(), protocol)


def test_a_single_domain_can_only_be_divided_by_classes():
    alone = listing().query("domain == 'sketch'")
    for protocol in (LEAVE_OUT, SHIFT_OPEN):
        with pytest.raises(ValueError, match="one domain, 'sketch'; to leave one out takes two"):
            check_counts(alone, protocol)
    check_counts(alone, OPEN)
