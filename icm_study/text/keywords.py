"""Classes of captions by the words that they have.

A caption is of a class if it has a word of that class and of no other; captions of none, or
of several, are left out. So what is labelled is what the caption *says*: an image can show
more, and a class is easier to tell from a caption than from its image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from icm_study.text.captions import whole_words

Keywords = Mapping[str, Sequence[str]]

#: Ways to make classes of photographs of everyday scenes, from the coarsest.
CLASSINGS: Mapping[str, Keywords] = {
    "indoors or out": {
        "indoors": (
            *("bathroom", "restroom", "toilet", "bathtub", "tub", "shower", "kitchen", "stove"),
            *("oven", "cabinet", "bedroom", "living room", "office", "desk", "sink"),
        ),
        "outdoors": (
            *("street", "road", "highway", "runway", "field", "grass", "beach", "park", "sky"),
            *("sidewalk", "intersection", "airport", "forest", "hill", "mountain", "city"),
        ),
    },
    "kinds of things": {
        "room": (
            *("bathroom", "restroom", "toilet", "bathtub", "tub", "shower", "kitchen", "stove"),
            *("oven", "cabinet", "bedroom", "living room", "office", "desk"),
        ),
        "vehicle": (
            *("motorcycle", "motorbike", "scooter", "plane", "airplane", "jet", "aircraft", "car"),
            *("bus", "train", "truck", "bicycle", "bike", "boat", "van", "taxi"),
        ),
        "animal": (
            *("cat", "kitten", "dog", "puppy", "giraffe", "zebra", "elephant", "horse", "cow"),
            *("sheep", "bird", "bear"),
        ),
        "food": (
            *("food", "banana", "orange", "apple", "pizza", "sandwich", "cake", "fruit", "bread"),
            *("dessert", "vegetable", "meal"),
        ),
    },
    "things": {
        "bathroom": ("bathroom", "restroom", "toilet", "bathtub", "tub", "shower"),
        "kitchen": ("kitchen", "stove", "oven", "refrigerator"),
        "motorcycle": ("motorcycle", "motorbike", "scooter"),
        "plane": ("plane", "airplane", "jet", "aircraft", "airliner"),
        "bicycle": ("bicycle", "bike"),
        "car": ("car", "truck", "van", "bus", "taxi"),
        "cat": ("cat", "kitten"),
        "dog": ("dog", "puppy"),
    },
}


def label_by_keywords(captions: Sequence[str], classes: Keywords) -> NDArray[np.intp]:
    """Give each caption the number of its class; -1 where it has words of no class, or of several.

    Parameters
    ----------
    captions : sequence of str
    classes : mapping of str to sequence of str
        For each class its words, which are found whole, in any case, in the plural too.

    Returns
    -------
    ndarray of shape (n,)
        Places in `classes`.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or one word is of two of them.
    """
    listed = [word for words in classes.values() for word in words]
    twice = sorted({word for word in listed if listed.count(word) > 1})
    if len(classes) < 2 or twice:
        raise ValueError(
            f"Got {len(classes)} classes, and of two of them {twice}; expected two classes or "
            "more, and each word in one. Take these words out of one."
        )
    patterns = [whole_words(words, plural=True) for words in classes.values()]
    has = np.array([[bool(pattern.search(text)) for pattern in patterns] for text in captions])
    return np.where(has.sum(axis=1) == 1, has.argmax(axis=1), -1)
