"""Text-based pairs for a folder of images: a caption for each image, and its edit.

This puts the parts of the package together: who writes the caption (a captioner that
looks at the image, or the lexicon, which needs nothing), and who edits it (rules, or a
language model).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from icm_study.photographs.known import CATALOG, class_words
from icm_study.text.captions import (
    PHOTO_LEXICON,
    Lexicon,
    attribute_captions,
    domain_word,
    lexicon_for,
    with_class_word,
)
from icm_study.text.editors import load_editor


def text_pairs(
    images: pd.DataFrame,
    *,
    name: str,
    captioner: str | None = None,
    editor: str = "rules",
    domain_words: Mapping[str, str | None] | None = None,
    seed: int = 0,
    cache: str | os.PathLike[str] = "cache",
) -> tuple[list[str], list[str]]:
    """Caption each image of a folder, and edit the variant words of its caption.

    Parameters
    ----------
    images : DataFrame
        Columns path, label and domain.
    name : str
        The data set's, for the words of its classes and domains (see
        :mod:`icm_study.photographs.known`).
    captioner : str, optional
        A captioner that looks at the images, see
        :func:`~icm_study.text.captioner.caption_images`. By default captions are
        written from class, domain and attributes drawn at random, and no pixel is
        looked at, see
        :func:`~icm_study.text.captions.attribute_captions`.
    editor : {"rules", "llm"}
        See :func:`~icm_study.text.editors.load_editor`.
    domain_words : mapping of str to (str or None), optional
        For a domain's folder the word for it in the captions that are written, such as
        ``{"hospital_1": "X-ray"}``; None for none. One that the lexicon lacks is added
        to its media. By default a known data set's own words, and of other folders
        those that the lexicon knows, see :func:`~icm_study.text.captions.domain_word`.
    seed : int
    cache : path-like
        Folder for what the captioner and the language model answered.

    Returns
    -------
    captions, edits : list of str
        One for each image.

    Raises
    ------
    ValueError
        If `domain_words` names what is no domain, gives a word that has a class word in
        it, or is given for a captioner, which finds its own words.
    ValueError, RuntimeError
        As the captioner and the editor.
    """
    words, lexicon, of_domain = _words(images, name, captioner, domain_words or {})
    of_image = [words[label] for label in images["label"]]
    if captioner is None:
        known = [of_domain[domain] for domain in images["domain"]]
        captions = attribute_captions(of_image, known, seed=seed, lexicon=lexicon)
    else:
        from icm_study.text.captioner import caption_images  # imports open_clip, which is slow

        seen = caption_images(captioner, images["path"].tolist(), Path(cache) / "captions.jsonl")
        captions = [
            with_class_word(caption, word) for caption, word in zip(seen, of_image, strict=True)
        ]
    options: dict[str, Any] = {"lexicon": lexicon} if editor == "rules" else {}
    options |= {"cache": Path(cache) / "edits.jsonl"} if editor == "llm" else {}
    edit = load_editor(editor, list(words.values()), **options)
    return captions, edit(captions, of_image, seed=seed)


def _words(
    images: pd.DataFrame, name: str, captioner: str | None, given: Mapping[str, str | None]
) -> tuple[dict[str, str], Lexicon, dict[str, str | None]]:
    """Find the words of classes and domains, and the lexicon that has all of the latter."""
    if captioner is not None and given:
        raise ValueError(
            f"domain_words is {dict(given)} for the captioner {captioner!r}, which looks at the "
            "images and finds its own words. Leave one of the two out."
        )
    classes = sorted(images["label"].unique())
    words = dict(zip(classes, class_words(name if name in CATALOG else None, classes), strict=True))
    if captioner is not None:
        return words, PHOTO_LEXICON, {}
    return words, *_domain_words(images, name, list(words.values()), given)


def _domain_words(
    images: pd.DataFrame, name: str, class_words: list[str], given: Mapping[str, str | None]
) -> tuple[Lexicon, dict[str, str | None]]:
    """Find the word of each domain, and the lexicon that has all of them."""
    domains = sorted(images["domain"].unique())
    if unknown := sorted(set(given) - set(domains)):
        raise ValueError(
            f"domain_words names {', '.join(map(repr, unknown))}; the domains are "
            f"{', '.join(map(repr, domains))}."
        )
    values = {value.lower() for of_factor in PHOTO_LEXICON.values() for value in of_factor}
    added = dict.fromkeys(word for word in given.values() if word and word.lower() not in values)
    lexicon = lexicon_for(
        class_words, {**PHOTO_LEXICON, "medium": (*PHOTO_LEXICON["medium"], *added)}
    )
    usable = {value for of_factor in lexicon.values() for value in of_factor}
    kept = {value.lower() for value in usable}
    for domain, word in given.items():
        if word is not None and word.lower() not in kept:
            raise ValueError(
                f"domain_words gives {word!r} for {domain!r}; expected a word that is no class "
                f"word ({', '.join(map(repr, class_words[:5]))}) and has none in it, since a "
                "caption would show that class. Give another word, or None."
            )
    known = CATALOG[name].domain_words if name in CATALOG else {}
    found = {d: known[d] if d in known else domain_word(d, lexicon) for d in domains}
    found = {domain: word if word in usable else None for domain, word in found.items()}
    chosen = {d: word if word in added or not word else word.lower() for d, word in given.items()}
    return lexicon, found | chosen


@dataclass(frozen=True)
class Texts:
    """What writes the captions of a folder of images, and what edits them.

    Attributes
    ----------
    captioner : str, optional
    editor : {"rules", "llm"}
    domain_words : mapping of str to (str or None), optional
        As for :func:`text_pairs`.
    """

    captioner: str | None = None
    editor: str = "rules"
    domain_words: Mapping[str, str | None] | None = None

    @property
    def note(self) -> str:
        """What a page says of the captions."""
        how = (
            f"one is written by {self.captioner} for each image"
            if self.captioner
            else "one is written for each image from its class, its domain's word and attributes "
            "drawn at random, and no pixel is looked at for it"
        )
        return f"{how}, and edited by `{self.editor}`. (Encoders that know too few words get none.)"

    def check(self, images: pd.DataFrame, name: str) -> None:
        """Refuse, before an encoder is loaded, words of classes and domains that cannot be used.

        Raises
        ------
        ValueError
            As :func:`text_pairs` of `domain_words`, and as
            :func:`~icm_study.photographs.known.class_words`.
        """
        _words(images, name, self.captioner, self.domain_words or {})

    def write(
        self, images: pd.DataFrame, name: str, cache: str | os.PathLike[str]
    ) -> tuple[list[str], list[str]]:
        """Write captions and edits, see :func:`text_pairs`."""
        return text_pairs(
            images,
            name=name,
            captioner=self.captioner,
            editor=self.editor,
            domain_words=self.domain_words,
            cache=cache,
        )
