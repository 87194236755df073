"""Classes of captions by the words that they have."""

import pytest

from icm_study.text.keywords import CLASSINGS, label_by_keywords

CLASSES = {"cat": ["cat", "kitten"], "car": ["car", "fire truck"]}


@pytest.mark.parametrize(
    ("caption", "label"),
    [
        ("A cat.", 0), ("Two KITTENS", 0), ("a fire truck", 1), ("cars, and more cars", 1),
        ("a cat in a car", -1), ("a dog", -1), ("a category", -1), ("a truck", -1), ("", -1),
    ],
)  # fmt: skip
def test_a_caption_is_of_the_one_class_whose_words_it_has(caption, label):
    assert label_by_keywords([caption], CLASSES).tolist() == [label]


def test_a_word_is_of_one_class():
    with pytest.raises(ValueError, match=r"of two of them \['car'\]"):
        label_by_keywords([], {"a": ["car"], "b": ["car", "bus"]})
    with pytest.raises(ValueError, match="Got 1 classes"):
        label_by_keywords([], {"a": ["car"]})


@pytest.mark.parametrize("name", CLASSINGS)
def test_every_word_makes_its_class(name):
    for number, words in enumerate(CLASSINGS[name].values()):
        labels = label_by_keywords([f"a photo of the {word}" for word in words], CLASSINGS[name])
        assert set(labels) == {number}
