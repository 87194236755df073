"""Caption editors: text-based interventions ``t -> t_do``.

An editor takes captions and gives each variant factor that they mention another value;
the class word, and all else that makes the image what it is, stays. `load_editor` makes
one by name:

- ``"rules"`` exchanges the words of a lexicon. It needs nothing, and understands
  nothing: a caption without a word of the lexicon comes back as it is, and "drawing"
  becomes "painting" where it is a verb.
- ``"llm"`` asks a language model behind any server that speaks OpenAI's chat API. Every
  answer is checked; those that pass are kept in a JSONL file, with which a study is
  repeated without the model.

Every editor refuses a caption without its class word;
`icm_study.text.captions.with_class_word` puts it in.
"""

import operator
import re
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

from icm_core.interventions import intervene_captions
from icm_study.text.captions import (
    PHOTO_LEXICON,
    Lexicon,
    check_pairs,
    has_word,
    lexicon_for,
    whole_words,
)

EDITORS = ("rules", "llm")


class CaptionEditor(Protocol):
    """What an editor is: a function of captions, class words and a seed."""

    def __call__(
        self, captions: Sequence[str], class_words: Sequence[str], seed: int = 0
    ) -> list[str]:
        """Edit the variant factors of each caption, and keep its class word.

        Parameters
        ----------
        captions : sequence of n str
        class_words : sequence of n str
            The word of each caption that must stay.
        seed : int

        Returns
        -------
        list of n str
        """


def load_editor(name: str, class_words: Sequence[str] = (), **options: Any) -> CaptionEditor:
    """Make a caption editor by name.

    Parameters
    ----------
    name : {"rules", "llm"}
    class_words : sequence of str
        The class words of the whole data set: no edit writes one into a caption that
        does not have it.
    **options
        As for `RuleEditor`, or `icm_study.text.llm_editor.LLMEditor`.

    Returns
    -------
    CaptionEditor

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    if name == "rules":
        return RuleEditor(class_words, **options)
    if name == "llm":
        from icm_study.text.llm_editor import LLMEditor

        return LLMEditor(class_words, **options)
    raise ValueError(f"unknown caption editor {name!r}; the known ones are: {', '.join(EDITORS)}.")


class RuleEditor:
    """Exchange the words of a lexicon; see `icm_core.interventions.intervene_captions`.

    The edit of a caption depends on the caption, its class word, the seed and the
    editor, and on no other caption.

    Parameters
    ----------
    class_words : sequence of str
        The class words of the whole data set. The lexicon's values that are or contain
        one are not used, and class words in a caption stay as they are.
    lexicon : mapping of str to sequence of str
        Variant factors and their interchangeable values.

    Raises
    ------
    TypeError, ValueError
        As `icm_study.text.captions.lexicon_for`.

    Notes
    -----
    Two words may still make a class together: where "brown bear" is a class, "a white
    bear" can become one. An article before an exchanged word follows it: "an engraving"
    becomes "a mosaic".
    """

    def __init__(self, class_words: Sequence[str] = (), lexicon: Lexicon = PHOTO_LEXICON) -> None:
        self.lexicon = lexicon_for(class_words, lexicon)
        self.class_words = tuple(class_words)

    def __call__(
        self, captions: Sequence[str], class_words: Sequence[str], seed: int = 0
    ) -> list[str]:
        """Edit captions.

        Parameters
        ----------
        captions, class_words : sequence of n str
        seed : int

        Returns
        -------
        list of n str

        Raises
        ------
        TypeError, ValueError
            If captions and class words do not fit together, or a caption lacks its class word.

        Warns
        -----
        UserWarning
            If captions come back unchanged, since they have no word of the lexicon.
        """
        check_pairs(captions, class_words)
        seed = operator.index(seed)
        edited = list(captions)
        rows_of: dict[tuple[str, ...], list[int]] = {}
        for row, word in enumerate(class_words):
            keep = self.class_words if word in self.class_words else (*self.class_words, word)
            rows_of.setdefault(keep, []).append(row)
        for keep, rows in rows_of.items():
            lexicon = lexicon_for(keep, self.lexicon)
            for row, edit in zip(
                rows,
                intervene_captions([captions[row] for row in rows], lexicon, seed, keep),
                strict=True,
            ):
                edited[row] = _with_articles(captions[row], edit, keep)
        unchanged = [
            before for before, after in zip(captions, edited, strict=True) if before == after
        ]
        if unchanged:
            warnings.warn(
                f"{len(unchanged)} of {len(edited)} captions have no word of the lexicon and come "
                f"back unchanged, the first is {unchanged[0]!r}. Such pairs say nothing of what "
                "varies: leave them out, extend the lexicon, or use the editor 'llm'.",
                stacklevel=2,
            )
        return edited


def _with_articles(before: str, after: str, keep: Sequence[str]) -> str:
    """Write "a" or "an" as the next word asks, where that word is new behind it.

    An article within a word to keep ("grade A") is none, and stays.
    """

    def fitting(match: re.Match[str]) -> str:
        article, following = match.groups()
        if article is None:
            return match[0]
        if has_word(before, f"{article} {following}"):
            return article
        n = "N" if len(following) > 1 and following.isupper() else "n"
        return article[0] + n * (following[0].lower() in "aeiou")

    articles = rf"{whole_words(keep).pattern}|(?<![\w-])(an?)(?= ([\w-]+))"
    return re.sub(articles, fitting, after, flags=re.IGNORECASE)
