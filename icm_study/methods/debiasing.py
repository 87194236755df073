"""Maps that take a bias out of the embedding, told by domains, by prompts or by the modality.

All are in closed form, or a few linear probes away from it. Images and texts may move
apart from each other: what is taken out of an image depends on its domain (SHED) or on the
variant value that it shows (TIE), and each modality has a mean of its own.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import orth
from scipy.special import softmax

from icm_core.prediction import LinearProbe, ZeroShotClassifier, unit_rows
from icm_study.methods.base import EmbeddingMap, class_prototypes, logit_scale, spurious_prompts
from icm_study.methods.maps import checked_directions
from icm_study.methods.sources import Images, Sources


class Centring(EmbeddingMap):
    """Subtract from images the mean of the source images, and from texts the mean of the prompts.

    That closes the gap between the modalities; the length of what is left does not matter
    to a cosine, and a probe has an intercept.

    Source: after An et al. 2024, *I0T: embedding standardization method towards zero modality
    gap*, arXiv 2412.14384, as far as its abstract says (standardised after training).
    """

    def fit_map(self, sources: Sources) -> int:
        """Take both means."""
        self.mean_image_ = sources.images.embedded.mean(axis=0, dtype=np.float64)
        self.mean_text_ = sources.prompts.mean(axis=0, dtype=np.float64)
        return self.mean_image_.size + self.mean_text_.size

    def map_text(self, embedded: np.ndarray) -> np.ndarray:
        """Subtract the mean of the prompts."""
        return embedded - self.mean_text_

    def map_images(self, images: Images) -> np.ndarray:
        """Subtract the mean of the source images."""
        return images.embedded - self.mean_image_


class SPD(EmbeddingMap):
    """Remove all directions in which linear probes find the domain, and put a neutral mean back.

    In each round a probe for the domain is trained on what the rounds before have left, and
    the span of its weights B is removed: x' = (I - BᵀB) x + BᵀB m. For images m is the mean
    over the domains of their means, for texts the mean of the prompts.

    Source: Zhao et al. 2025, *Bias is a subspace, not a coordinate*, arXiv 2511.18123, as far
    as its abstract says, with the rounds of Ravfogel et al. 2020, arXiv 2004.07667. There the
    bias is a person's group; here it is the domain, which alone is labelled, and each
    modality has its own neutral mean.

    Parameters
    ----------
    n_rounds : int
        How many probes are removed, one after the other; 0 changes nothing.
    C : float
        Inverse penalty of the probe for the classes.
    """

    def __init__(self, n_rounds: int = 4, C: float = 0.316):
        self.n_rounds = n_rounds
        self.C = C

    def fit_map(self, sources: Sources) -> int:
        """Find the directions, and both means within them."""
        embedded = sources.images.embedded.astype(np.float64)
        rounds = checked_directions("n_rounds", self.n_rounds, embedded.shape[1], least=0)
        self.removed_ = _decodable(sources, rounds)
        domain = sources.images.domain
        neutral = np.mean([embedded[domain == one].mean(axis=0) for one in np.unique(domain)], 0)
        self.neutral_image_ = self._within(neutral)
        self.neutral_text_ = self._within(sources.prompts.mean(axis=0, dtype=np.float64))
        return self.removed_.size + 2 * len(self.removed_)

    def _within(self, embedded: np.ndarray) -> np.ndarray:
        return embedded @ self.removed_.T @ self.removed_

    def map_text(self, embedded: np.ndarray) -> np.ndarray:
        """Put the mean of the prompts in the place of what tells the domain."""
        return embedded - self._within(embedded) + self.neutral_text_

    def map_images(self, images: Images) -> np.ndarray:
        """Put the neutral mean of the images in the place of what tells the domain."""
        return images.embedded - self._within(images.embedded) + self.neutral_image_


def _decodable(sources: Sources, n_rounds: int) -> np.ndarray:
    """Find orthonormal directions, (r, D), by which linear probes in turn tell the domain."""
    embedded, domain = sources.images.embedded.astype(np.float64), sources.images.domain
    if not n_rounds or len(np.unique(domain)) < 2:
        return np.empty((0, embedded.shape[1]))

    def find() -> np.ndarray:
        before = _decodable(sources, n_rounds - 1)
        left = embedded - embedded @ before.T @ before
        if not np.any(np.abs(left) > 1e-9):
            return before
        weights = LinearProbe().fit(left, domain).coef_
        return np.vstack([before, orth((weights - weights @ before.T @ before).T, rcond=1e-6).T])

    return sources.shared.once(("decodable", n_rounds), find, of_pairs=False)


class SHED(EmbeddingMap):
    """Subtract from an image the centroid of its style, and from texts their common centroid.

    The style of a source image is its domain. That of a new image is not known: its
    centroid is a mixture over prompts that name a variant value and no class. These are
    taken to the images by the difference between the means of both modalities, and weighted
    by the softmax of the encoder's own logits for the image.

    Source: Gan & Wei 2026, *SHED: style-homogenized embedding alignment for domain
    generalization*, arXiv 2605.16973, as far as its abstract says: how centroids are
    projected and weighted is ours, the weights mix centroids and not predictions (the same
    for a linear classifier), and no encoder is tuned.

    Parameters
    ----------
    C : float
        Inverse penalty of the probe.
    """

    def __init__(self, C: float = 0.316):
        self.C = C

    def fit_map(self, sources: Sources) -> int:
        """Take the centroids of domains, classes and prompts."""
        X, domain = sources.images.embedded.astype(np.float64), sources.images.domain
        domains = np.unique(domain)
        centroids = np.stack([X[domain == one].mean(axis=0) for one in domains])
        self.homogenized_ = X - centroids[np.searchsorted(domains, domain)]
        styles = spurious_prompts(sources)
        self.centroids_ = styles - styles.mean(axis=0) + centroids.mean(axis=0)
        self.scale_ = logit_scale(sources.encoder)
        return centroids.size + self.centroids_.size + X.shape[1]

    def map_images(self, images: Images) -> np.ndarray:
        """Subtract the centroid of styles that each image belongs to as far as it is like them."""
        likeness = unit_rows(images.embedded) @ unit_rows(self.centroids_).T
        return images.embedded - softmax(self.scale_ * likeness, axis=1) @ self.centroids_

    def _labelled(self, sources: Sources) -> tuple[np.ndarray, np.ndarray]:
        return self.homogenized_, sources.images.label

    def _zero_shot(self, sources: Sources) -> ZeroShotClassifier:
        classes = class_prototypes(sources)
        return ZeroShotClassifier().fit(
            classes - classes.mean(axis=0), np.unique(sources.prompt_label)
        )


class TIE(EmbeddingMap):
    """Move an image against the direction of the variant value that it shows, as prompts tell it.

    x' = x - s λ v. The value is that of the nearest prompt among those that name one and no
    class; v is the unit vector from the mean of these prompts to that one; λ is the mean of
    x · v over the source images.

    Source: Lu, Chai & Wang 2025, *Mitigating spurious correlations in zero-shot multimodal
    models*, ICLR 2025, as far as its abstract says: a translation of images along spurious
    vectors of prompts. How far is ours: one λ serves values that no source shows.

    Parameters
    ----------
    strength : float
        s; at 1 the source images do not lean towards their values any more, on average.
    C : float
        Inverse penalty of the probe.
    """

    def __init__(self, strength: float = 1.0, C: float = 0.316):
        self.strength = strength
        self.C = C

    def fit_map(self, sources: Sources) -> int:
        """Find the directions of the values, and how far the source images lean to theirs."""
        self.values_ = spurious_prompts(sources)
        self.directions_ = unit_rows(self.values_ - self.values_.mean(axis=0))
        X = sources.images.embedded
        self.lean_ = float((X * self._towards(X)).sum(axis=1).mean())
        return 1

    def _towards(self, X: np.ndarray) -> np.ndarray:
        return self.directions_[(X @ self.values_.T).argmax(axis=1)]

    def map_images(self, images: Images) -> np.ndarray:
        """Move each image against the direction of its value."""
        X = images.embedded
        return X - self.strength * self.lean_ * self._towards(X)
