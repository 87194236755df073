"""Sources in numbers alone: three classes and three domains, with pairs of every kind."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from icm_study.methods.sources import Images, Sources

D, CLASSES, DOMAINS = 6, 3, 3


def unit(X):
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


def images_of(rng, n, shift=0.0):
    label, domain = np.arange(n) % CLASSES, np.arange(n) // 2 % DOMAINS
    centres = np.eye(CLASSES, D)[label] + 0.4 * np.eye(DOMAINS, D, k=3)[domain]
    embedded = unit(centres + shift + 0.3 * rng.normal(size=(n, D)))
    return Images(
        embedded, label, domain, np.arange(n), load=lambda rows: pytest.fail("no pixels here")
    )


def toy_sources(seed=0, n=90, spurious=("one", "two", "three")):
    """Sources with three classes and three domains, whose encoder embeds a text by its letters."""
    rng = np.random.default_rng(seed)
    images = images_of(rng, n)
    captions = unit(rng.normal(size=(n, D)))
    edits = unit(captions + 0.5 * rng.normal(size=(n, D)))
    edits[:10] = captions[:10]
    prompt_label = np.repeat(np.arange(CLASSES), 2)
    encoder = SimpleNamespace(
        encode_text=lambda texts: unit(
            np.array([[len(t), *map(ord, t[:3]), 5, 7] for t in texts], float)
        ),
        model=SimpleNamespace(logit_scale=torch.tensor(3.0)),
        device="cpu",
    )
    return Sources(
        images=images,
        copies={
            "image": images_of(rng, n, shift=0.1),
            "oracle": images_of(np.random.default_rng([seed, 7]), n, shift=-0.2),
        },
        drawn=np.array(["invert", "grayscale", "equalize"])[np.arange(n) % 3],
        texts=(captions, edits),
        prompts=unit(np.eye(CLASSES, D)[prompt_label] + 0.2 * rng.normal(size=(2 * CLASSES, D))),
        prompt_label=prompt_label,
        words=("cat", "dog", "cow"),
        spurious=spurious,
        encoder=encoder,
    )


def new_images(seed=1, n=40):
    return images_of(np.random.default_rng([seed, 99]), n)
