import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from icm_study.photographs.imagenet import (
    VARIANTS,
    imagenet_classes,
    imagenet_index,
    imagenet_templates,
)
from icm_study.photographs.known import (
    CATALOG,
    Hub,
    class_word,
    class_words,
    guess_dataset,
    known_dataset,
)

REFERENCES = (ROOT / "reports" / "references.bib").read_text()

# ----------------------------------------------------------------------------------------------
# the catalog


def test_counts_are_those_of_the_papers():
    assert {
        name: (known.n_images, known.n_classes, len(known.domains))
        for name, known in CATALOG.items()
    } == {
        "PACS": (9991, 7, 4),
        "VLCS": (10729, 5, 4),
        "office_home": (15588, 65, 4),
        "terra_incognita": (24788, 10, 4),
        "domain_net": (586575, 345, 6),
        "imagenet": (1281167, 1000, 1),
        "imagenet-v2": (10000, 1000, 1),
        "imagenet-r": (30000, 200, 1),
        "imagenet-sketch": (50889, 1000, 1),
        "imagenet-a": (7500, 200, 1),
    }
    assert sum(CATALOG["terra_incognita"].versions[1].values()) == 24330


@pytest.mark.parametrize("name", CATALOG)
def test_every_entry_is_complete(name):
    known = CATALOG[name]
    assert known.name == name
    assert bool(known.source) != bool(known.by_hand)
    assert known.licence.endswith(".")
    assert known.page.startswith("https://")
    (entry,) = re.findall(rf"^@\w+{{{known.citation},\n.*?^}}$", REFERENCES, re.M | re.S)
    assert entry.count("{") == entry.count("}")
    assert {"title", "author", "year"} <= set(re.findall(r"^  (\w+) = ", entry, re.M))
    assert set(known.domain_words) == set(known.domains)
    assert all(set(version) == set(known.domains) for version in known.versions)
    if isinstance(known.source, Hub):
        assert re.fullmatch("[0-9a-f]{40}", known.source.revision)  # a commit, not a branch
    with pytest.raises(dataclasses.FrozenInstanceError):
        known.name = "other"


def test_lookup():
    assert known_dataset("PACS") is CATALOG["PACS"]
    with pytest.raises(ValueError, match="unknown data set 'pacs'; the known ones are PACS, VLCS"):
        known_dataset("pacs")
    assert guess_dataset("/somewhere/office_home/") == "office_home"
    assert guess_dataset("mine") is None


def table(**counts):
    rows = [(f"c{i % 7}", domain) for domain, number in counts.items() for i in range(number)]
    return pd.DataFrame(rows, columns=["label", "domain"])


def test_differences():
    full = table(**CATALOG["PACS"].versions[0])
    assert CATALOG["PACS"].differences(full) == ()
    assert CATALOG["PACS"].differences(full[1:]) == ("art_painting: 2,047 images; PACS has 2,048",)
    renamed = full.replace({"domain": {"photo": "photos"}})
    assert CATALOG["PACS"].differences(renamed) == (
        "photo: 0 images; PACS has 1,670",
        "photos: 1,670 images; PACS has 0",
    )
    assert CATALOG["PACS"].differences(full[full["label"] != "c3"])[0] == "6 classes; PACS has 7"
    assert "location_38: 3 images; terra_incognita has 9,767 or 9,736" in CATALOG[
        "terra_incognita"
    ].differences(table(location_38=3))


@pytest.mark.parametrize("version", CATALOG["terra_incognita"].versions)
def test_both_versions_of_terra_incognita_are_known(version):
    rows = [(f"c{i % 10}", domain) for domain, number in version.items() for i in range(number)]
    assert (
        CATALOG["terra_incognita"].differences(pd.DataFrame(rows, columns=["label", "domain"]))
        == ()
    )


def test_a_flat_data_set_may_lie_in_any_folder():
    rows = pd.DataFrame({"label": [f"c{i % 200}" for i in range(7500)], "domain": "my-imagenet-a"})
    assert CATALOG["imagenet-a"].differences(rows) == ()
    assert CATALOG["imagenet-a"].differences(rows[2:]) == (
        "imagenet-a: 7,498 images; imagenet-a has 7,500",
    )


# ------------------------------------------------------------------------------------------------
# class words


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("alarm_clock", "alarm clock"),
        ("Alarm_Clock", "alarm clock"),
        ("dog", "dog"),
        ("TV", "TV"),
        ("t-shirt", "t-shirt"),
        ("_hot__dog_", "hot dog"),
        ("猫", "猫"),
    ],
)
def test_class_word(name, word):
    assert class_word(name) == word


def test_overrides():
    assert class_word("ToothBrush", {"ToothBrush": "toothbrush"}) == "toothbrush"
    names = ["ToothBrush", "Desk_Lamp", "TV"]
    assert class_words("office_home", names) == ["toothbrush", "desk lamp", "TV"]
    assert class_words(None, names) == ["toothbrush", "desk lamp", "TV"]
    assert class_words("terra_incognita", ["bobcat", "empty"]) == ["bobcat", "empty scene"]
    assert class_words("domain_net", ["The_Eiffel_Tower", "teddy-bear"]) == [
        "Eiffel Tower",
        "teddy bear",
    ]


@given(st.lists(st.from_regex(r"[a-z]{2,6}", fullmatch=True), min_size=1, max_size=4))
def test_joined_words_come_apart(words):
    assert class_word("_".join(words)) == " ".join(words)
    assert class_word("_".join(word.capitalize() for word in words)) == " ".join(words)


def test_a_name_without_a_word():
    with pytest.raises(ValueError, match="the class '__' gives no word for a prompt"):
        class_word("__")


def test_two_classes_of_one_word():
    with pytest.raises(ValueError, match="'alarm_clock' and 'Alarm_Clock' are both 'alarm clock'"):
        class_words(None, ["alarm_clock", "Alarm_Clock"])
    assert class_words(None, ["dog", "cat", "dog"]) == ["dog", "cat", "dog"]


# ------------------------------------------------------------------------------------------
# ImageNet


def test_imagenet_order_is_that_of_the_sorted_ids():
    classes = imagenet_classes()
    assert len(classes) == 1000
    assert classes["wnid"].is_monotonic_increasing
    assert classes["wnid"].is_unique
    assert classes["index"].tolist() == list(range(1000))
    known = {
        "n01440764": (0, "tench"),
        "n02106662": (235, "German Shepherd Dog"),
        "n03594945": (609, "jeep"),
        "n07753592": (954, "banana"),
        "n15075141": (999, "toilet paper"),
    }
    rows = classes.set_index("wnid")
    assert {wnid: tuple(rows.loc[wnid, ["index", "word"]]) for wnid in known} == known


@pytest.mark.parametrize("variant", VARIANTS)
def test_classes_of_the_variants(variant):
    classes, full = imagenet_classes(variant), imagenet_classes()
    assert len(classes) == CATALOG[variant].n_classes
    merged = classes.merge(full, on="wnid", suffixes=("", "_full"), validate="one_to_one")
    assert len(merged) == len(classes)
    assert (merged["index"] == merged["index_full"]).all()
    assert (merged["word"] == merged["word_full"]).all()
    np.testing.assert_array_equal(imagenet_index(classes["folder"]), classes["index"])
    assert class_words(variant, classes["folder"]) == classes["word"].tolist()


def test_the_subsets_are_the_right_ones():
    renditions, adversarial = (
        set(imagenet_classes(name)["word"]) for name in ("imagenet-r", "imagenet-a")
    )
    assert {"goldfish", "joystick", "pizza"} <= renditions
    assert "tench" not in renditions | adversarial
    assert len(renditions & adversarial) < 200


def test_v2_folders_are_numbers():
    assert imagenet_classes("imagenet-v2")["folder"].tolist() == [str(i) for i in range(1000)]
    assert imagenet_index(["0", "10", "n01443537"]).tolist() == [0, 10, 1]


def test_labels_that_are_no_imagenet_class():
    with pytest.raises(
        ValueError, match="no ImageNet classes: '007', '1000', 'dog'; expected WordNet ids"
    ):
        imagenet_index(["n01440764", "dog", "1000", "007"])
    with pytest.raises(ValueError, match="no ImageNet classes: 'dog'"):
        class_words("imagenet-r", ["dog"])
    with pytest.raises(
        ValueError, match="unknown ImageNet variant 'imagenet-c'; expected one of imagenet, "
    ):
        imagenet_classes("imagenet-c")


def test_templates():
    templates = imagenet_templates()
    assert len(templates) == 80
    assert "a photo of a {}." in templates
    assert all(template.count("{}") == 1 for template in templates)
    assert templates[0].format("dog") == "a bad photo of a dog."


# ------------------------------------------------------------------------------------------
# the documentation


@pytest.mark.parametrize("name", CATALOG)
def test_the_page_on_data_says_what_the_catalog_says(name):
    page = (ROOT / "reports" / "data.qmd").read_text()
    known = CATALOG[name]
    row = next(
        line for line in page.splitlines() if line.startswith(f"| [`{name}`]({known.page}) |")
    )
    for fact in (f"{known.n_classes:,}", f"{known.n_images:,}", known.size, known.licence):
        assert f"| {fact} |" in row
    assert "(references.bib)" in page
