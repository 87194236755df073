"""What writes and edits the captions of a folder: plugged by name, and told on its page."""

import pandas as pd
import pytest

from icm_study.text import pairs
from icm_study.text.pairs import Texts, text_pairs


def test_written_pairs_keep_the_class_and_start_from_the_domain():
    images = pd.DataFrame(
        {"label": ["dog", "guitar"] * 50, "domain": ["sketch", "art_painting"] * 50}
    )
    captions, edits = text_pairs(images, name="PACS", seed=0)
    media = ["sketch", "painting"] * 50
    for label, medium, caption, edit in zip(images["label"], media, captions, edits, strict=True):
        assert label in caption.split()
        assert label in edit.split()
        assert medium in caption.split()
        assert medium not in edit.split()
    assert (captions, edits) == text_pairs(images, name="PACS", seed=0)
    assert captions != text_pairs(images, name="PACS", seed=1)[0]


@pytest.mark.parametrize("given", ["name by name", "as what writes texts"])
def test_a_captioner_and_an_editor_are_plugged_by_name(monkeypatch, tmp_path, given):
    images = pd.DataFrame(
        {"path": ["a.jpg", "b.jpg"], "label": ["dog", "house"], "domain": ["photo", "photo"]}
    )
    seed = 3 if given == "name by name" else 0

    def caption(name, paths, cache):
        where = tmp_path / "captions.jsonl"
        assert (name, paths, cache) == ("some/coca", ["a.jpg", "b.jpg"], where)
        return ["a dog in a dark field", "a red building"]

    def editor(name, words, **options):
        where = {"cache": tmp_path / "edits.jsonl"}
        assert (name, words, options) == ("llm", ["dog", "house"], where)
        return lambda captions, words, seed: [
            f"{text} {word} {seed}" for text, word in zip(captions, words, strict=True)
        ]

    monkeypatch.setattr("icm_study.text.captioner.caption_images", caption)
    monkeypatch.setattr(pairs, "load_editor", editor)
    if given == "name by name":
        captions, edits = text_pairs(
            images, name="PACS", captioner="some/coca", editor="llm", seed=3, cache=tmp_path
        )
    else:
        captions, edits = Texts("some/coca", "llm").write(images, "PACS", tmp_path)
    assert captions == ["a dog in a dark field", "a house, a red building"]
    assert edits == [
        f"a dog in a dark field dog {seed}", f"a house, a red building house {seed}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (Texts(), ["from its class", "no pixel is looked at", "edited by `rules`"]),
        (Texts("some/coca", "llm"), ["written by some/coca for each image", "edited by `llm`"]),
    ],
)
def test_a_page_says_who_wrote_the_captions(texts, said):
    assert all(part in texts.note for part in said)
