"""The lexicon, and captions written from it."""

import re

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_core.interventions import intervene_captions
from icm_study.photographs.known import CATALOG
from icm_study.text.captions import (
    PHOTO_LEXICON,
    attribute_captions,
    domain_word,
    has_word,
    lexicon_for,
    with_class_word,
)

PACS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
VALUES = sorted(value for values in PHOTO_LEXICON.values() for value in values)
WORDS = st.one_of(
    st.sampled_from(VALUES), st.sampled_from(PACS), st.text("abc -", min_size=1).map(str.strip)
)
CLASS_WORDS = st.lists(WORDS.filter(bool), min_size=1, max_size=6)


def test_the_lexicon_keeps_the_rules_of_intervene_captions():
    (edited,) = intervene_captions(
        ["a dark photo of a dog on grass"], PHOTO_LEXICON, seed=0, keep=PACS
    )
    assert edited != "a dark photo of a dog on grass"
    assert len(VALUES) == len({value.lower() for value in VALUES})


def test_no_class_of_pacs_is_in_the_lexicon():
    assert lexicon_for(PACS) == {factor: tuple(values) for factor, values in PHOTO_LEXICON.items()}


def test_the_domain_words_are_media():
    words = {word for known in CATALOG.values() for word in known.domain_words.values()} - {None}
    assert words <= set(PHOTO_LEXICON["medium"])


def test_imagenet_has_an_orange():
    lexicon = lexicon_for(open_clip.IMAGENET_CLASSNAMES)
    assert set(lexicon) == set(PHOTO_LEXICON)
    assert "orange" in PHOTO_LEXICON["color"]
    assert "orange" not in lexicon["color"]
    assert "white" in lexicon["color"]  # "great white shark" is a class, "white" is not


@given(CLASS_WORDS)
def test_a_restricted_lexicon_has_no_class_word_and_loses_nothing_else(class_words):
    try:
        left = lexicon_for(class_words)
    except ValueError:
        left = {}
    for factor, values in PHOTO_LEXICON.items():
        # an oracle without regular expressions: every run of words
        free = [v for v in values if not any(_contains(v, w) for w in class_words)]
        assert left.get(factor, ()) == (tuple(free) if len(free) > 1 else ())
    if left:
        intervene_captions(["a photo"], left, keep=class_words)


def _contains(value, word):
    parts = value.split(" ")
    runs = {" ".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)}
    return any(word.lower() + ending in runs for ending in ("", "s", "es"))


def test_a_plural_is_a_class_too():
    assert "city" not in lexicon_for(["city"])["place"]
    assert lexicon_for(["shoe"], {"on": ("shoes", "boots", "socks")}) == {"on": ("boots", "socks")}
    assert lexicon_for(["glass"], {"on": ("glasses", "boots", "socks")}) == {
        "on": ("boots", "socks")
    }


def test_a_factor_with_one_value_left_is_left_out():
    assert "season" not in lexicon_for(["winter", "summer"])
    with pytest.raises(ValueError, match=r"no variant factor is left.*'color'"):
        lexicon_for(["red"], {"color": ("red", "blue")})


@pytest.mark.parametrize(
    ("words", "error", "match"),
    [("dog", TypeError, "Write \\['dog'\\]"), ([1], TypeError, "got 1"),
     ([""], ValueError, "no blanks"), (["dog "], ValueError, "no blanks")],
)  # fmt: skip
def test_bad_class_words(words, error, match):
    with pytest.raises(error, match=match):
        lexicon_for(words)
    with pytest.raises(error, match=match):
        attribute_captions(words, seed=0)


@given(
    st.lists(
        st.tuples(st.sampled_from(PACS), st.sampled_from([None, *PHOTO_LEXICON["medium"]])),
        max_size=20,
    ),
    st.integers(0, 2**32),
)
def test_a_caption_has_its_class_its_medium_and_nothing_else_of_its_own(rows, seed):
    class_words, media = [word for word, _ in rows], [medium for _, medium in rows]
    captions = attribute_captions(class_words, media, seed=seed)
    assert len(captions) == len(rows)
    assert captions == attribute_captions(class_words, media, seed=seed)
    for caption, word, medium in zip(captions, class_words, media, strict=True):
        assert has_word(caption, word)
        assert medium is None or has_word(caption, medium)
        rest = caption.replace(word, " ", 1)
        for value in sorted(VALUES, key=len, reverse=True):
            rest = re.sub(rf"(?<![\w-]){value}(?![\w-])", " ", rest, count=1)
        assert set(rest.split()) <= {"a", "an", "of", "on", "in", "day"}
        assert not re.search(r"\ba [aeiou]", caption)


def test_a_row_depends_on_its_own_class_and_not_on_the_rows_behind_it():
    long = attribute_captions(["dog"] * 30, seed=3)
    assert long[:10] == attribute_captions(["dog"] * 10, seed=3)
    assert len(set(long)) > 20
    assert long != attribute_captions(["dog"] * 30, seed=4)


def test_every_factor_and_value_is_drawn():
    text = "\n".join(attribute_captions(["dog"] * 4000, seed=0))
    assert [value for value in VALUES if not has_word(text, value)] == []


def test_factors_are_left_out_two_times_in_three():
    captions = attribute_captions(["dog"] * 3000, ["photo"] * 3000, seed=0)
    for factor in ("ground", "place", "viewpoint", "season", "size"):
        share = sum(any(has_word(c, v) for v in PHOTO_LEXICON[factor]) for c in captions) / 3000
        assert share == pytest.approx(1 / 3, abs=0.05)  # over 5 standard errors of 0.0086


def test_a_value_that_is_a_class_is_not_written():
    captions = attribute_captions(["orange", "grass"] * 500, seed=0)
    assert all(caption.count("orange") + caption.count("grass") == 1 for caption in captions)


def test_without_a_medium_it_is_a_picture():
    (caption,) = attribute_captions(["dog"], seed=0, lexicon={"color": ("red", "blue")})
    assert caption in {"a picture of a dog", "a picture of a red dog", "a picture of a blue dog"}


@pytest.mark.parametrize(
    ("folder", "word"),
    [
        ("sketch", "sketch"), ("Sketches", "sketch"), ("photos", "photo"), ("clipart", "clip art"),
        ("Clip-Art", "clip art"), ("pencil_sketch", "sketch"), ("closeup", "close-up"),
        ("night", "at night"), ("at_dawn", "at dawn"), ("morning", "in the morning"),
        ("front", "from the front"), ("above", "from above"), ("winter", "winter"),
        ("camera_1", None), ("photo_of_a_sketch", None), ("white_hospital", None), ("Real", None),
        ("___", None), ("nights", None), ("photograph", "photo"), ("Photographs", "photo"),
        ("photography", "photo"), ("watercolour", "watercolor"), ("water_colours", "watercolor"),
        ("old photographs", "photo"), ("greyhound", None), ("Grey", "gray"),
        ("photograph_of_a_sketch", None),
    ],
)  # fmt: skip
def test_the_word_of_a_domains_folder(folder, word):
    assert domain_word(folder) == word


@given(st.sampled_from([(f, v) for f, values in PHOTO_LEXICON.items() for v in values]))
def test_every_value_is_found_as_a_folder_and_mentioned_in_each_caption(factor_and_value):
    factor, value = factor_and_value
    assert domain_word(value.replace(" ", "_").title()) == value
    captions = attribute_captions(["dog"] * 20, [value] * 20, seed=0)
    others = [other for other in PHOTO_LEXICON[factor] if other not in value]
    for caption in captions:
        assert has_word(caption, value)
        assert not any(has_word(caption, other) for other in others)


def test_what_attribute_captions_refuses():
    with pytest.raises(ValueError, match="1 domain_words for 2 class_words"):
        attribute_captions(["dog", "cat"], ["photo"], seed=0)
    with pytest.raises(ValueError, match=r"'art_painting' is no value.*one of these"):
        attribute_captions(["dog"], ["art_painting"], seed=0)
    with pytest.raises(TypeError, match="domain_words must be a sequence"):
        attribute_captions(["dog"], "photo", seed=0)
    with pytest.raises(ValueError, match=r"no place in a caption for \['mood'\]"):
        attribute_captions(["dog"], seed=0, lexicon={"mood": ("happy", "sad")})


ARTICLES = ("grade A apple", "vitamin A oil", "hepatitis A", "a", "A", "Mona a Ulisse", "dog")


@pytest.mark.parametrize("word", ARTICLES)
def test_an_article_within_the_class_word_is_none(word):
    article = "an" if word[0] in "aeiou" or word == "A" else "a"
    plain = attribute_captions(["zebra"] * 200, seed=0)
    expected = [c.replace("a zebra", f"{article} {word}").replace("zebra", word) for c in plain]
    assert attribute_captions([word] * 200, seed=0) == expected


def test_a_class_word_with_an_article_in_it_is_put_in_as_it_is():
    word = "grade A apple"
    assert (
        with_class_word("two fruits in a crate", word) == "a grade A apple, two fruits in a crate"
    )
    assert with_class_word("two fruits", "A apple") == "an A apple, two fruits"


def test_the_class_word_is_put_in_only_where_it_is_missing():
    assert with_class_word("a DOG on grass", "dog") == "a DOG on grass"
    assert with_class_word("a man on a couch", "dog") == "a dog, a man on a couch"
    assert with_class_word("two elephants", "elephant") == "an elephant, two elephants"
    assert with_class_word("a dog-shaped cloud", "dog") == "a dog, a dog-shaped cloud"


@given(st.text(), st.sampled_from([*PACS, "alarm clock", "T-shirt", "c++"]))
def test_with_class_word_always_has_it_and_keeps_the_caption(caption, word):
    after = with_class_word(caption, word)
    assert has_word(after, word)
    assert after.endswith(caption)
    assert with_class_word(after, word) == after
