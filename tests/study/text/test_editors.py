"""The factory of caption editors, and the editor by rules."""

import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_study.text.captions import (
    PHOTO_LEXICON,
    attribute_captions,
    check_pairs,
    has_word,
    lexicon_for,
)
from icm_study.text.editors import EDITORS, RuleEditor, load_editor

CLASSES = ("dog", "elephant", "alarm clock", "great white shark", "orange", "grass", "photocopier")
FACTOR_OF = {value: factor for factor, values in PHOTO_LEXICON.items() for value in values}
PIECES = st.one_of(
    st.sampled_from(sorted(FACTOR_OF)),
    st.sampled_from(CLASSES),
    st.sampled_from(["a", "an", "of", "on", "the", "and", "two's", ",", ".", "runs"]),
)


@st.composite
def pairs(draw):
    word = draw(st.sampled_from(CLASSES))
    pieces = [*draw(st.lists(PIECES, max_size=8)), word]
    return " ".join(draw(st.permutations(pieces))), word


def edit(editor, captions, words, seed=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return editor(captions, words, seed)


@given(st.lists(pairs(), min_size=1, max_size=5), st.integers(0, 2**63), st.booleans())
def test_the_class_word_survives_and_only_variant_words_change(rows, seed, knows_all):
    classes = CLASSES if knows_all else ()
    captions, words = [c for c, _ in rows], [w for _, w in rows]
    edited = edit(RuleEditor(classes), captions, words, seed)
    assert len(edited) == len(rows)
    for before, after, word in zip(captions, edited, words, strict=True):
        assert has_word(after, word)
        assert before.lower().count(word) <= after.lower().count(word)
        keep = {word, *classes}
        assert _skeleton(before, keep) == _skeleton(after, keep)
        for other in classes:
            assert has_word(before, other) or not has_word(after, other)


def _skeleton(caption, keep):
    """Put the factor's name for each variant word; leave all other words but articles."""
    words = sorted([*FACTOR_OF, *keep], key=len, reverse=True)
    free = {value for values in lexicon_for(sorted(keep)).values() for value in values}
    pattern = re.compile(rf"(?<![\w-])({'|'.join(words)})(?![\w-])")
    marked = pattern.sub(lambda m: f"<{FACTOR_OF[m[0]]}>" if m[0] in free - keep else m[0], caption)
    return re.sub(r"\ban\b", "a", marked)


@given(st.lists(pairs(), min_size=2, max_size=5), st.integers(0, 100))
def test_an_edit_depends_on_its_own_caption_class_and_seed(rows, seed):
    captions, words = [c for c, _ in rows], [w for _, w in rows]
    editor = RuleEditor()
    together = edit(editor, captions, words, seed)
    assert together == [edit(editor, [c], [w], seed)[0] for c, w in rows]
    assert together == edit(RuleEditor(), captions[::-1], words[::-1], seed)[::-1]


@given(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=8), st.integers(0, 100))
def test_a_written_caption_always_changes(words, seed):
    captions = attribute_captions(words, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edited = RuleEditor(words)(captions, words, seed)
    assert all(before != after for before, after in zip(captions, edited, strict=True))


def test_every_mentioned_factor_changes():
    (after,) = RuleEditor()(["a dark sketch of a small red dog on grass at night"], ["dog"])
    assert not any(
        has_word(after, word) for word in ("dark", "sketch", "small", "red", "grass", "at night")
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("an orange dog", "a red dog"),
        ("a red dog", "an orange dog"),
        ("A red dog", "An orange dog"),
        ("A RED DOG", "AN ORANGE DOG"),
        ("AN ORANGE DOG", "A RED DOG"),
        (
            "a unicorn and a red dog",
            "a unicorn and an orange dog",
        ),  # what was not edited is not corrected
        ("an x-ray of a red dog", "an x-ray of an orange dog"),
        ("a elephant on a red dog", "a elephant on an orange dog"),
        ("vitamin-a red dog, plan a: red dog", "vitamin-a orange dog, plan a: orange dog"),
    ],
)
def test_an_article_follows_the_word_that_was_exchanged(before, after):
    assert RuleEditor(lexicon={"color": ("red", "orange")})([before], [before[-3:]]) == [after]


@given(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=8), st.integers(0, 100))
def test_articles_of_written_captions_are_right_after_an_edit(words, seed):
    for caption in edit(RuleEditor(words), attribute_captions(words, seed=seed), words, seed):
        assert not re.search(r"\b(a [aeiou]|an [^aeiou])", caption)


@pytest.mark.parametrize("word", ["hepatitis A", "grade A apple", "plan a", "vitamin A oil"])
def test_an_article_within_the_class_word_stays(word):
    captions = [f"a photo of a {word} {time}" for time in ("at night", "in a city", "from above")]
    for seed in range(20):
        for after in edit(RuleEditor([word, "hepatitis B"]), captions, [word] * 3, seed):
            assert f" {word} " in after
            assert not re.search(r"\b(a [aeiou]|an [^aeiou])", after.replace(word, "x", 1))


def test_a_class_is_neither_written_nor_changed():
    captions = [f"a dog on snow beside an orange {i}" for i in range(60)]
    bare, knowing = RuleEditor(), RuleEditor(["dog", "grass", "orange"])
    assert any(has_word(c, "grass") for c in bare(captions, ["dog"] * 60))
    assert not any("orange" in c for c in bare(captions, ["dog"] * 60))
    edited = knowing(captions, ["dog"] * 60)
    assert not any(has_word(c, "grass") for c in edited)
    assert all("orange" in c for c in edited)


def test_captions_without_a_variant_word_are_counted():
    with pytest.warns(UserWarning, match=r"2 of 3 captions .* unchanged, the first is 'a dog'"):
        edited = RuleEditor()(["a dog", "a red dog", "the dog runs"], ["dog"] * 3)
    assert (edited[0], edited[2]) == ("a dog", "the dog runs")


def test_the_lexicon_is_a_choice():
    editor = load_editor("rules", lexicon={"on": ("on a mat", "on a bed")})
    assert editor(["a red cat on a mat"], ["cat"]) == ["a red cat on a bed"]


def test_the_factory(tmp_path):
    assert isinstance(load_editor("rules", ["dog"]), RuleEditor)
    assert load_editor("llm", ["dog"], cache=tmp_path / "c.jsonl", model="m").model == "m"
    assert EDITORS == ("rules", "llm")
    with pytest.raises(ValueError, match=r"unknown caption editor 'gpt'.*rules, llm"):
        load_editor("gpt")


@pytest.mark.parametrize(
    ("captions", "words", "error", "match"),
    [
        ("a dog", ["dog"], TypeError, "captions is 'a dog'"),
        (["a dog"], "dog", TypeError, "class_words is 'dog'"),
        ([1], ["dog"], TypeError, "captions is"),
        (["a dog"], ["dog", "cat"], ValueError, "1 captions and 2 class words"),
        (["a dog"], [" "], ValueError, "blank"),
        (
            ["a dog", "a hotdog"],
            ["dog", "dog"],
            ValueError,
            r"1 of 2 .*'a hotdog'.*with_class_word",
        ),
    ],
)
def test_what_every_editor_refuses(captions, words, error, match, tmp_path):
    for editor in (
        check_pairs,
        load_editor("rules"),
        load_editor("llm", cache=tmp_path / "c.jsonl", model="m"),
    ):
        with pytest.raises(error, match=match):
            editor(captions, words)


def test_nothing_to_edit(tmp_path):
    assert load_editor("rules")([], []) == []
    assert load_editor("llm", cache=tmp_path / "c.jsonl", model="m")([], []) == []
