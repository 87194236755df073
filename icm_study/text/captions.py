"""Captions of real images, and the words in them that name variant factors.

A text-based intervention needs a caption `t` and an edit of it in which only the words
for variant factors change (`icm_study.text.editors`). For real photographs the captions
come from one of two places:

- `attribute_captions` writes them from what is known without looking: the class word,
  the domain's word ("sketch") and other factors drawn at random. Nothing has to be
  installed or downloaded.
- `icm_study.text.captioner.caption_images` has one of open_clip's CoCa models look at
  each image and describe it.

`PHOTO_LEXICON` lists the variant factors of photographs and pictures and the words for them.
`lexicon_for` takes out of it what is a class of the data set at hand.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

Lexicon = Mapping[str, Sequence[str]]

# A value is one word, or a phrase that stands or falls as a whole. No two values of a
# factor mean the same: "photograph" for "photo", or "grey" for "gray", would be an edit
# that changes nothing. Words that are also common nouns of another meaning ("spring",
# "light", "scene") are left out.
PHOTO_LEXICON: Lexicon = {
    # what the picture is made with: the domains of PACS, OfficeHome and DomainNet, the
    # renditions of ImageNet-R
    "medium": (
        *(
            "photo",
            "painting",
            "sketch",
            "drawing",
            "cartoon",
            "clip art",
            "watercolor",
            "engraving",
            "mosaic",
        ),
        *("embroidery", "graffiti", "origami", "sculpture", "infographic", "doodle", "tattoo"),
    ),
    # how the camera or the copy treated it
    "quality": (
        "blurry",
        "sharp",
        "grainy",
        "low resolution",
        "high resolution",
        "pixelated",
        "overexposed",
    ),
    "tone": ("black and white", "colorful", "sepia", "faded", "pastel"),
    "light": ("bright", "dark", "dim", "sunlit", "moonlit", "backlit"),
    "framing": ("close-up", "cropped", "wide-angle", "zoomed-out"),
    "viewpoint": ("from above", "from below", "from behind", "from the front", "from the side"),
    # the object's variant properties
    "size": ("small", "large", "tiny", "huge"),
    "color": (
        "red",
        "blue",
        "green",
        "yellow",
        "brown",
        "black",
        "white",
        "gray",
        "pink",
        "purple",
        "orange",
    ),
    # where and when
    "ground": ("grass", "snow", "sand", "mud", "gravel", "concrete", "carpet"),
    "place": (
        *(
            "forest",
            "field",
            "desert",
            "meadow",
            "park",
            "garden",
            "city",
            "village",
            "street",
            "kitchen",
        ),
        *("bedroom", "office", "studio"),
    ),
    "weather": ("sunny", "cloudy", "rainy", "foggy", "snowy", "windy", "stormy"),
    "season": ("winter", "summer", "autumn"),
    "time": (
        "at night",
        "at dawn",
        "at noon",
        "at dusk",
        "at sunset",
        "in the morning",
        "in the evening",
    ),
}

"""Variant factors of photographs and pictures, each with its interchangeable values."""

# Where `attribute_captions` puts each factor: before the medium, before the class word,
# or behind it.
BEFORE_MEDIUM = dict.fromkeys(("tone", "quality", "light", "framing"), "{} ")

BEFORE_CLASS = dict.fromkeys(("size", "color"), "{} ")

BEHIND = {
    **{"ground": " on {}", "place": " in a {}", "viewpoint": " {}"},
    **{"weather": " on a {} day", "time": " {}", "season": " in {}"},
}

PREPOSITION = re.compile("(?:at|in|from)(?: the)? ")  # with which some values begin

MENTIONED = 1 / 3  # the probability with which a factor other than the medium is mentioned


def whole_words(words: Sequence[str], plural: bool = False) -> re.Pattern[str]:
    """Make the pattern that finds any of the words or phrases, whole, in any case.

    The longest is found first. A hyphen joins words: "red" is not in "red-haired". With
    `plural`, an ending -s or -es is allowed.
    """
    longest_first = sorted(map(re.escape, words), key=len, reverse=True)
    ending = "(?:e?s)?" if plural else ""
    return re.compile(rf"(?<![\w-])(?:{'|'.join(longest_first)}){ending}(?![\w-])", re.IGNORECASE)


def has_word(text: str, word: str) -> bool:
    """Tell whether `text` contains `word`, as `whole_words` finds it."""
    return whole_words([word]).search(text) is not None


def check_pairs(captions: Sequence[str], class_words: Sequence[str]) -> None:
    """Check that each caption has its class word.

    Parameters
    ----------
    captions, class_words : sequence of n str

    Raises
    ------
    TypeError
        If one is a single string, or holds something else than strings.
    ValueError
        If they differ in length, a class word is blank, or a caption does not contain
        its class word.
    """
    for what, texts in (("captions", captions), ("class_words", class_words)):
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{what} is {texts!r:.80}; expected a sequence of strings.")
    if len(captions) != len(class_words):
        raise ValueError(
            f"{len(captions)} captions and {len(class_words)} class words; give one for each."
        )
    if any(not word or word != word.strip() for word in class_words):
        raise ValueError(
            "class_words must hold words with no blanks around them; one is blank or has some."
        )
    lacking = [
        (caption, word)
        for caption, word in zip(captions, class_words, strict=True)
        if not has_word(caption, word)
    ]
    if lacking:
        raise ValueError(
            f"{len(lacking)} of {len(captions)} captions lack their class word; the first is "
            f"{lacking[0][0]!r}, which lacks {lacking[0][1]!r}. Put it in with "
            "icm_study.text.captions.with_class_word."
        )


def with_class_word(caption: str, class_word: str) -> str:
    """Put the class word in front of a caption that does not contain it.

    A captioner may say "a man on a couch" of the dog beside him. A pair made of such a
    caption says nothing of what must stay, and the editors refuse it.

    Parameters
    ----------
    caption, class_word : str

    Returns
    -------
    str
        The caption as it is, or ``"a dog, a man on a couch"``.
    """
    if has_word(caption, class_word):
        return caption
    return f"{_articles('a ', class_word)}, {caption}"


def lexicon_for(
    class_words: Sequence[str], lexicon: Lexicon = PHOTO_LEXICON
) -> dict[str, tuple[str, ...]]:
    """Take the values out of a lexicon that are, or contain, a class word.

    "grass" is a background for PACS and a class of DomainNet; "orange" is a color and a
    class of ImageNet. To write either into a caption would put another class in the
    picture. A value that is only a part of a class word ("white" in "great white
    shark") stays: `intervene_captions` leaves it alone within the class word.

    Parameters
    ----------
    class_words : sequence of str
        The class words of the data set. A plural in -s or -es counts too.
    lexicon : mapping of str to sequence of str

    Returns
    -------
    dict of str to tuple of str
        The same factors and order. A factor left with fewer than two values is left out.

    Raises
    ------
    TypeError
        If `class_words` is a single string, or holds something else than strings.
    ValueError
        If a class word is blank, or no factor is left.
    """
    _check_words(class_words)
    if not class_words:
        return {factor: tuple(values) for factor, values in lexicon.items()}
    classes = whole_words(class_words, plural=True)
    left = {
        factor: tuple(value for value in values if not classes.search(value))
        for factor, values in lexicon.items()
    }
    left = {factor: values for factor, values in left.items() if len(values) >= 2}
    if not left:
        raise ValueError(
            f"no variant factor is left: the values of {', '.join(map(repr, lexicon))} are class "
            "words. Give a lexicon with two or more values that are no class."
        )
    return left


#: Other spellings of the lexicon's words, in the names of folders.
SPELLINGS = {
    "photographic": "photo", "photography": "photo", "photograph": "photo",
    "watercolour": "watercolor", "water colour": "watercolor", "water color": "watercolor",
    "colourful": "colorful", "grey": "gray",
}  # fmt: skip


def domain_word(folder: str, lexicon: Lexicon = PHOTO_LEXICON) -> str | None:
    """Find the lexicon's word for a domain's folder.

    Parameters
    ----------
    folder : str
        The folder's name.
    lexicon : mapping of str to sequence of str

    Returns
    -------
    str or None
        The value that the name is, in this spelling or another ("watercolour"), or is the
        plural or the last word of ("clipart", "sketches", "night" for "at night"), or the
        one medium that it contains ("pencil_sketch"). None where there is no such value.

    Examples
    --------
    >>> domain_word("Sketches"), domain_word("night"), domain_word("camera_1")
    ('sketch', 'at night', None)
    """
    name = " ".join(re.split(r"[\s_-]+", folder.lower()))
    for spelling, value in SPELLINGS.items():
        name = re.sub(rf"\b{spelling}(?=s?\b)", value, name)
    for values in lexicon.values():
        for value in values:
            joined = (re.sub(r"[\s_-]+", "", text) for text in (name, value))
            if len(set(joined)) == 1 or whole_words([value], plural=True).fullmatch(name):
                return value
    phrases = [v for values in lexicon.values() for v in values if PREPOSITION.match(v)]
    contained = [v for v in lexicon.get("medium", ()) if whole_words([v], True).search(name)]
    for found in ([v for v in phrases if PREPOSITION.sub("", v) == name], contained):
        if len(found) == 1:
            return found[0]
    return None


def attribute_captions(
    class_words: Sequence[str],
    domain_words: Sequence[str | None] | None = None,
    *,
    seed: int,
    lexicon: Lexicon = PHOTO_LEXICON,
) -> list[str]:
    """Write one caption for each image from its class word, without looking at the image.

    No pixel is looked at. The class word is true of the image, and so is the domain's
    word where it is given; every other factor is drawn at random, and, but for the
    medium, left out with probability 2/3. So these captions do not describe the images.
    They need not: an interventional pair of texts is a caption and its edit, and both
    are texts.

    Parameters
    ----------
    class_words : sequence of n str
        The class word of each image, such as ``"alarm clock"``.
    domain_words : sequence of n (str or None), optional
        The word for each image's domain, a value of the lexicon, such as "sketch" or
        "at night"; see `domain_word`. None where it is not known.
    seed : int
        Together with an image's row, decides the draw.
    lexicon : mapping of str to sequence of str
        Factors and their values. Those that are class words are not used; see `lexicon_for`.

    Returns
    -------
    list of n str
        Such as "a dark sketch of a small dog on grass".

    Raises
    ------
    TypeError
        If the words are a single string, or hold something else than strings (or, for
        domains, None).
    ValueError
        If the two sequences differ in length, a class word is blank, a domain's word is
        no value of the lexicon, or the lexicon has a factor for which a caption has no
        place.
    """
    _check_words(class_words)
    words = lexicon_for(sorted(set(class_words)), lexicon)
    placed = {"medium", *BEFORE_MEDIUM, *BEFORE_CLASS, *BEHIND}
    if unknown := [factor for factor in words if factor not in placed]:
        raise ValueError(
            f"no place in a caption for {unknown}; the factors with a place are {sorted(placed)}."
        )
    factor_of = {value: factor for factor, values in words.items() for value in values}
    known = _check_domains(domain_words, len(class_words), factor_of)
    return [
        _write(
            class_word,
            {factor_of[word]: word} if word is not None else {},
            words,
            np.random.default_rng([seed, row]),
        )
        for row, (class_word, word) in enumerate(zip(class_words, known, strict=True))
    ]


def _check_words(class_words: Sequence[str]) -> None:
    if isinstance(class_words, str):
        raise TypeError(
            f"class_words must be a sequence of strings; got a string. Write [{class_words!r}]."
        )
    for word in class_words:
        if not isinstance(word, str):
            raise TypeError(
                f"class_words must hold strings; got {word!r} of type {type(word).__name__}."
            )
        if not word or word != word.strip():
            raise ValueError(
                f"class_words must hold words with no blanks around them; got {word!r}."
            )


def _check_domains(
    domain_words: Sequence[str | None] | None, n: int, factor_of: Mapping[str, str]
) -> Sequence[str | None]:
    """Check the domains' words; None for each of the `n` images where there are none."""
    if domain_words is None:
        return [None] * n
    if isinstance(domain_words, str):
        raise TypeError(f"domain_words must be a sequence; got a string. Write [{domain_words!r}].")
    if len(domain_words) != n:
        raise ValueError(
            f"{len(domain_words)} domain_words for {n} class_words; give one for each image."
        )
    for word in domain_words:
        if word is not None and word not in factor_of:
            raise ValueError(
                f"the domain word {word!r} is no value of the lexicon for these classes, "
                f"{tuple(factor_of)}. Use one of these; or add it to the lexicon; or pass None."
            )
    return domain_words


def _write(
    class_word: str, known: Mapping[str, str], words: Lexicon, rng: np.random.Generator
) -> str:
    """Write a caption that mentions the known values, and others by chance."""

    def draw(factor: str) -> str:
        return known.get(factor) or words[factor][int(rng.integers(len(words[factor])))]

    def mention(places: Mapping[str, str]) -> str:
        mentioned = [
            factor
            for factor in places
            if factor in words and (factor in known or rng.random() < MENTIONED)
        ]
        return "".join(places[factor].format(draw(factor)) for factor in mentioned)

    medium = draw("medium") if "medium" in words else "picture"
    head, attributes = mention(BEFORE_MEDIUM) + medium, mention(BEFORE_CLASS)
    return _articles(f"a {head} of a {attributes}", class_word, mention(BEHIND))


def _articles(before: str, class_word: str, behind: str = "") -> str:
    """Write "an" where "a" stands before a vowel; the class word stays as it is."""
    parts = (before + class_word[0], behind)  # an article may stand before the class word
    before, behind = (
        re.sub(r"\ba (?=[aeiou])", "an ", part, flags=re.IGNORECASE) for part in parts
    )
    return before[:-1] + class_word + behind
