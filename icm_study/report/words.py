"""Sentences that several pages share."""

from __future__ import annotations

from icm_study.encoders.loading import (
    PHOTO,
)

NOTES = {  # what a page says beside a result of an encoder
    "animal-world": (
        "This encoder is a small CLIP that ships with the study. It was trained on rendered "
        "animals of all four styles, so a style is "
        "*unseen* by what is fitted on its embeddings, not by the encoder itself (model "
        "card: `icm_study/encoders/weights/README.md`)."
    ),
    "animal-world-biased": (
        "This encoder is a small CLIP that ships with the study. In its own training coat "
        "and scene followed the class six times in ten, so it "
        "has learnt a shortcut itself. It was also trained on fewer images than "
        "`animal-world`, so that it is the weaker of the two is not the "
        "shortcut's doing alone (model card: `icm_study/encoders/weights/README.md`)."
    ),
    PHOTO: (
        "**This encoder is not CLIP**: it joins a classifier's image tower and a sentence "
        "encoder by a regression, and no "
        "image was ever seen together with a caption. The linear probe is its serious use; "
        "its zero-shot and its text "
        "interventions say little about CLIP (model card: "
        "`icm_study/encoders/weights/lite0-minilm.md`)."
    ),
}
