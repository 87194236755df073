"""Text-based pairs for a folder of images: a caption for each image, and its edit.

This puts the parts of the package together: who writes the caption (a captioner that
looks at the image, or the lexicon, which needs nothing), and who edits it (rules, or a
language model).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from icm_study.photographs.known import CATALOG, class_words
from icm_study.text.captioner import caption_images
from icm_study.text.captions import attribute_captions, lexicon_for, with_class_word
from icm_study.text.editors import load_editor


def text_pairs(
    images: pd.DataFrame,
    *,
    name: str,
    captioner: str | None = None,
    editor: str = "rules",
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
    seed : int
    cache : path-like
        Folder for what the captioner and the language model answered.

    Returns
    -------
    captions, edits : list of str
        One for each image.

    Raises
    ------
    ValueError, RuntimeError
        As the captioner and the editor.
    """
    classes = sorted(images["label"].unique())
    words = dict(zip(classes, class_words(name if name in CATALOG else None, classes), strict=True))
    of_image = [words[label] for label in images["label"]]
    if captioner is None:
        lexicon = lexicon_for(list(words.values()))
        known = CATALOG[name].domain_words if name in CATALOG else {}
        media = [known.get(domain) for domain in images["domain"]]
        media = [word if word in lexicon.get("medium", ()) else None for word in media]
        captions = attribute_captions(of_image, media, seed=seed, lexicon=lexicon)
    else:
        seen = caption_images(captioner, images["path"].tolist(), Path(cache) / "captions.jsonl")
        captions = [
            with_class_word(caption, word) for caption, word in zip(seen, of_image, strict=True)
        ]
    options = {"cache": Path(cache) / "edits.jsonl"} if editor == "llm" else {}
    edit = load_editor(editor, list(words.values()), **options)
    return captions, edit(captions, of_image, seed=seed)


@dataclass(frozen=True)
class Texts:
    """What writes the captions of a folder of images, and what edits them.

    Attributes
    ----------
    captioner : str, optional
    editor : {"rules", "llm"}
        As for :func:`text_pairs`.
    """

    captioner: str | None = None
    editor: str = "rules"

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

    def write(
        self, images: pd.DataFrame, name: str, cache: str | os.PathLike[str]
    ) -> tuple[list[str], list[str]]:
        """Write captions and edits, see :func:`text_pairs`."""
        return text_pairs(
            images, name=name, captioner=self.captioner, editor=self.editor, cache=cache
        )
