"""Captions and edits of a folder: the words of its domains."""

import pandas as pd
import pytest

from icm_study.text.captions import PHOTO_LEXICON, has_word
from icm_study.text.pairs import text_pairs


def folder(*domains, classes=("dog", "horse"), n=30):
    rows = [(f"{d}/{c}/{i}.png", c, d) for d in domains for c in classes for i in range(n)]
    return pd.DataFrame(rows, columns=["path", "label", "domain"])


def named(texts, images, domain, word):
    """Give the share of a domain's texts that have a word."""
    of_domain = [
        has_word(t, word) for t, d in zip(texts, images["domain"], strict=True) if d == domain
    ]
    return sum(of_domain) / len(of_domain)


def test_a_users_folder_is_captioned_as_a_known_one():
    images = folder("photo", "sketch")
    mine, known = text_pairs(images, name="mine"), text_pairs(images, name="PACS")
    assert mine == known
    for domain in ("photo", "sketch"):
        assert named(mine[0], images, domain, domain) == 1
        assert named(mine[1], images, domain, domain) == 0  # the edit is another medium


def test_domains_of_other_factors_and_of_no_word():
    images = folder("night", "Sunny", "camera_1")
    captions, edits = text_pairs(images, name="cars")
    for domain, word in (("night", "at night"), ("Sunny", "sunny")):
        assert named(captions, images, domain, word) == 1
        assert named(edits, images, domain, word) == 0
    assert 0 < named(captions, images, "camera_1", "photo") < 0.5


def test_a_users_words_are_written_and_edited():
    images = folder("hospital_1", "hospital_2", "photo", "art")
    given = {"hospital_1": "X-ray", "hospital_2": "Sketch", "photo": None}
    captions, edits = text_pairs(images, name="clinic", domain_words=given)
    assert named(captions, images, "hospital_1", "X-ray") == 1
    assert named(edits, images, "hospital_1", "X-ray") == 0
    assert named(captions, images, "hospital_2", "sketch") == 1
    assert named(captions, images, "photo", "photo") < 0.5
    assert "X-ray" not in PHOTO_LEXICON["medium"]
    assert any(has_word(edit, "X-ray") for edit in edits)  # a medium among the others


def test_known_words_give_way_to_a_users():
    images = folder("photo", "sketch")
    captions, _ = text_pairs(images, name="PACS", domain_words={"photo": "engraving"})
    assert named(captions, images, "photo", "engraving") == 1
    assert named(captions, images, "sketch", "sketch") == 1


def test_a_domain_whose_word_is_a_class_has_none():
    images = folder("photo", "sketch", classes=("photo", "dog"))
    captions, _ = text_pairs(images, name="mine")
    dogs = [c for c, label in zip(captions, images["label"], strict=True) if label == "dog"]
    assert not any(has_word(caption, "photo") for caption in dogs)
    with pytest.raises(ValueError, match=r"gives 'photo' for 'sketch'; expected .* no class word"):
        text_pairs(images, name="mine", domain_words={"sketch": "photo"})


def test_a_class_word_with_an_article_goes_through():
    images = folder("s1", "s2", classes=("grade_A_apple", "grade_B_apple"), n=40)
    captions, edits = text_pairs(images, name="fruit")
    for label, caption, edit in zip(images["label"], captions, edits, strict=True):
        word = label.replace("_", " ")
        assert word.lower() in caption.lower()
        assert word.lower() in edit.lower()
        assert "grade an" not in (caption + edit).lower()


def test_words_for_what_is_no_domain_or_for_a_captioner():
    images = folder("a", "b")
    with pytest.raises(ValueError, match="domain_words names 'c'; the domains are 'a', 'b'"):
        text_pairs(images, name="x", domain_words={"c": "photo"})
    with pytest.raises(ValueError, match="for the captioner 'some/coca'"):
        text_pairs(images, name="x", captioner="some/coca", domain_words={"a": "photo"})


@pytest.mark.parametrize(
    ("word", "classes"),
    [
        ("X-ray", ("x-ray", "MRI")),
        ("dog show", ("dog", "cat")),
        ("cat", ("cat", "dog")),
        ("", "ab"),
    ],
)
def test_a_word_for_a_domain_that_shows_a_class_is_refused(word, classes):
    images = folder("hospital_1", "hospital_2", classes=tuple(classes), n=2)
    with pytest.raises(ValueError, match=f"gives '{word}' for 'hospital_1'; .*another"):
        text_pairs(images, name="x", domain_words={"hospital_1": word})
