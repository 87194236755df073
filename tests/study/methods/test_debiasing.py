"""Maps that take a bias out, and the independent components: each against what it must undo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from toy_sources import CLASSES, DOMAINS, D, new_images, toy_sources

from icm_core.prediction import LinearProbe, ZeroShotClassifier
from icm_study.methods.adapters import ICAAdapter
from icm_study.methods.debiasing import SHED, SPD, TIE, Centring
from icm_study.methods.maps import BiasedPrompts, Plain
from icm_study.methods.shared import Shared
from icm_study.methods.sources import Images

WIDE = 24


def wide_images(seed, n=2400):
    """Images of three classes, whose domain moves eight directions that no class uses."""
    rng = np.random.default_rng(seed)
    label, domain = np.arange(n) % CLASSES, np.arange(n) // 3 % DOMAINS
    means = np.zeros((DOMAINS, WIDE))
    means[:, 8:16] = np.random.default_rng(7).normal(size=(DOMAINS, 8))
    X = 1.0 + 1.5 * np.eye(CLASSES, WIDE)[label] + means[domain] + 0.5 * rng.normal(size=(n, WIDE))
    return Images(X, label, domain, np.arange(n), None)


def wide_sources(seed=0, **changed):
    rng = np.random.default_rng(seed)
    prompt_label = np.repeat(np.arange(CLASSES), 2)
    prompts = 2.0 + np.eye(CLASSES, WIDE)[prompt_label] + 0.1 * rng.normal(size=(6, WIDE))
    given = {"prompts": prompts, "prompt_label": prompt_label, "images": wide_images(seed)}
    return replace(toy_sources(), shared=Shared(), **(given | changed))


def domain_accuracy(map_images, train, test):
    probe = LinearProbe().fit(map_images(train), train.domain)
    return probe.score(map_images(test), test.domain)


# --- the domain is found no more


def test_no_probe_finds_the_domain_after_enough_rounds_and_classes_stay():
    sources, new = wide_sources(), wide_images(1)
    fitted = SPD(n_rounds=2).fit(sources)
    assert domain_accuracy(lambda images: images.embedded, sources.images, new) > 0.95
    assert domain_accuracy(fitted.map_images, sources.images, new) < 1 / DOMAINS + 0.06
    hits = fitted.scores(new)["linear probe"].argmax(axis=1) == new.label
    plain = Plain().fit(sources).scores(new)["linear probe"].argmax(axis=1) == new.label
    assert hits.mean() > plain.mean() - 0.02


def test_rounds_remove_nested_directions_of_the_domain_alone():
    sources = wide_sources()
    first, second = (SPD(n_rounds=n).fit(sources).removed_ for n in (1, 2))
    assert len(first) == DOMAINS - 1  # the weights of a softmax add up to zero
    np.testing.assert_allclose(second[: len(first)], first)
    np.testing.assert_allclose(second @ second.T, np.eye(len(second)), atol=1e-10)
    own = LinearProbe().fit(sources.images.embedded, sources.images.domain).coef_
    assert subspace_angles(first.T, own.T[:, :2]).max() < 1e-5
    assert np.abs(first[:, 8:16]).max() > 3 * np.abs(first[:, :8]).max()


def test_what_is_removed_makes_place_for_a_neutral_mean_and_the_rest_stays():
    sources = wide_sources()
    many = sources.images.take(
        np.flatnonzero((sources.images.domain != 2) | (np.arange(2400) < 60))
    )
    sources = replace(sources, images=many, shared=Shared())  # a domain of few images counts alike
    fitted = SPD(n_rounds=1).fit(sources)
    B, X = fitted.removed_, many.embedded
    mapped = fitted.map_images(many)
    neutral = np.mean([X[many.domain == one].mean(axis=0) for one in range(DOMAINS)], axis=0)
    np.testing.assert_allclose(mapped @ B.T, np.tile(neutral @ B.T, (len(X), 1)), atol=1e-9)
    rest = np.linalg.svd(B)[2][len(B) :]
    np.testing.assert_allclose(mapped @ rest.T, X @ rest.T, atol=1e-9)
    texts = fitted.map_text(sources.prompts)
    expected = np.tile(sources.prompts.mean(axis=0) @ B.T, (len(texts), 1))
    np.testing.assert_allclose(texts @ B.T, expected, atol=1e-9)
    np.testing.assert_allclose(texts @ rest.T, sources.prompts @ rest.T, atol=1e-9)


def test_spd_changes_nothing_without_rounds_or_with_one_domain():
    sources = toy_sources()
    alone = replace(sources.images, domain=np.full(90, 5))
    for fitted in (
        SPD(n_rounds=0).fit(sources),
        SPD(n_rounds=3).fit(replace(sources, images=alone, shared=Shared())),
    ):
        images = new_images()
        np.testing.assert_allclose(fitted.map_images(images), images.embedded)
        np.testing.assert_allclose(fitted.map_text(sources.prompts), sources.prompts)
    for wrong in (-1, 1.5, True):
        with pytest.raises(ValueError, match=f"n_rounds is {wrong!r}; expected .* from 0 to {D}"):
            SPD(n_rounds=wrong).fit(sources)


def test_rounds_end_where_no_direction_is_left():
    sources = toy_sources()
    fitted = SPD(n_rounds=D).fit(sources)
    np.testing.assert_allclose(fitted.removed_ @ fitted.removed_.T, np.eye(D), atol=1e-8)
    assert np.ptp(fitted.map_images(sources.images), axis=0).max() < 1e-6


# --- means


def test_both_modalities_are_centred_and_the_probe_s_classes_stay():
    sources, images = toy_sources(), new_images()
    fitted = Centring().fit(sources)
    np.testing.assert_allclose(fitted.map_images(sources.images).mean(axis=0), 0, atol=1e-7)
    np.testing.assert_allclose(fitted.map_text(sources.prompts).mean(axis=0), 0, atol=1e-7)
    shifted = np.float32(10)  # a constant gap between the modalities, which centring undoes
    apart = replace(sources.images, embedded=sources.images.embedded + shifted)
    moved = replace(images, embedded=images.embedded + shifted)
    gap = Centring().fit(replace(sources, images=apart, shared=Shared())).scores(moved)
    for name, scores in fitted.scores(images).items():
        np.testing.assert_allclose(gap[name], scores, atol=2e-3)


def test_the_centroids_of_all_styles_coincide_after_shed():
    sources = toy_sources()
    fitted = SHED().fit(sources)
    homogenized, label = fitted._labelled(sources)
    np.testing.assert_array_equal(label, sources.images.label)
    for domain in range(DOMAINS):
        rows = sources.images.domain == domain
        np.testing.assert_allclose(homogenized[rows].mean(axis=0), 0, atol=1e-7)
        before = sources.images.embedded[rows]
        np.testing.assert_allclose(np.diff(homogenized[rows], axis=0), np.diff(before, axis=0))


def test_shed_scores_a_new_image_by_its_styles_one_by_one():
    sources, images = toy_sources(), new_images(n=7)
    scores = SHED().fit(sources).scores(images)
    X, domain = sources.images.embedded.astype(float), sources.images.domain
    means = np.array([X[domain == one].mean(axis=0) for one in range(DOMAINS)])
    styles = sources.encoder.encode_text(sources.spurious).astype(float)
    centroids = [style - styles.mean(axis=0) + means.mean(axis=0) for style in styles]
    probe = LinearProbe().fit(X - means[domain], sources.images.label)
    classes = ZeroShotClassifier().fit(sources.prompts, sources.prompt_label).prototypes_
    classes = classes - classes.mean(axis=0)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    for i, x in enumerate(images.embedded):
        cosines = [x @ c / np.linalg.norm(x) / np.linalg.norm(c) for c in centroids]
        weights = softmax(np.exp(3.0) * np.array(cosines))  # the toy encoder's own scale
        parts = [probe.decision_function([x - c])[0] for c in centroids]
        np.testing.assert_allclose(scores["linear probe"][i], weights @ parts, atol=1e-5)
        left = sum(w * (x - c) for w, c in zip(weights, centroids, strict=True))
        cosine = classes @ left / np.linalg.norm(left)
        np.testing.assert_allclose(scores["zero-shot"][i], cosine, atol=1e-5)


# --- a translation


def test_images_lean_towards_no_value_of_theirs_after_tie_and_keep_their_spread():
    sources = toy_sources()
    fitted, half = (TIE(strength=s).fit(sources) for s in (1.0, 0.5))
    X = sources.images.embedded.astype(float)
    values = sources.encoder.encode_text(sources.spurious).astype(float)
    nearest = np.array([np.argmax([x @ v for v in values]) for x in X])
    assert len(np.unique(nearest)) > 1
    directions = values - values.mean(axis=0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    own = directions[nearest]
    mapped = fitted.map_images(sources.images)
    before = (X * own).sum(axis=1).mean()
    assert abs(before) > 0.01
    assert (mapped * own).sum(axis=1).mean() == pytest.approx(0, abs=1e-7)
    halved = half.map_images(sources.images)
    assert (halved * own).sum(axis=1).mean() == pytest.approx(before / 2, abs=1e-7)
    for value in np.unique(nearest):  # a translation: differences stay
        rows = nearest == value
        np.testing.assert_allclose(
            np.diff(mapped[rows], axis=0), np.diff(X[rows], axis=0), atol=1e-6
        )
    np.testing.assert_array_equal(fitted.map_text(sources.prompts), sources.prompts)


def test_tie_without_strength_is_plain():
    sources, images = toy_sources(), new_images()
    plain = Plain().fit(sources).scores(images)
    for name, scores in TIE(strength=0.0).fit(sources).scores(images).items():
        np.testing.assert_allclose(scores, plain[name], atol=1e-5)


@pytest.mark.parametrize("method", [SPD, SHED, TIE])
def test_its_penalty_is_that_of_the_probe_and_leaves_the_map_alone(method):
    sources, images = toy_sources(), new_images(1)
    y = sources.images.label
    zero_shot = []
    for fitted, C in ((method(C=1e-3).fit(sources), 1e-3), (method().fit(sources), 0.316)):
        X = sources.images.embedded
        if method is SHED:  # whose probe is trained on what is left beside the domains' centroids
            domain = sources.images.domain
            X = X - np.stack([X[domain == one].mean(axis=0) for one in domain])
        else:
            X = fitted.map_images(sources.images)
        scale = 1 / np.sqrt(np.mean(X**2))
        by_hand = LogisticRegression(C=C, tol=1e-8).fit(scale * X, y)
        expected = by_hand.predict_proba(scale * fitted.map_images(images))
        scores = fitted.scores(images)
        found = softmax(scores["linear probe"], axis=1)
        np.testing.assert_allclose(found, expected, atol=1e-3)
        zero_shot.append(scores["zero-shot"])
    np.testing.assert_array_equal(*zero_shot)


@pytest.mark.parametrize("method", [TIE(), SHED(), BiasedPrompts()])
def test_data_without_prompts_for_variant_values_are_refused(method):
    with pytest.raises(ValueError, match=r"no prompts that name a variant value.*Leave it out"):
        method.fit(toy_sources(spurious=()))


# --- independent components


def mixed_sources(n=3000):
    """Images that mix independent, far from normal factors, of which one tells two classes."""
    rng = np.random.default_rng(0)
    factors = rng.laplace(size=(n, D)) / np.sqrt(2)
    label = (factors[:, 0] > 0).astype(int)
    mixing = rng.normal(size=(D, D))
    X = factors @ mixing.T + 3.0
    images = Images(X, label, np.arange(n) % DOMAINS, np.arange(n), None)
    return replace(toy_sources(), images=images, words=("no", "yes"), shared=Shared()), factors


def test_independent_factors_are_found_up_to_order_and_sign():
    sources, factors = mixed_sources()
    sources = replace(sources, prompts=sources.prompts[:4], prompt_label=np.array([0, 0, 1, 1]))
    fitted = ICAAdapter(0.0, C=0.01, n_components=D).fit(sources)
    found = fitted.unmixing_.transform(sources.images.embedded)
    likeness = np.abs(np.corrcoef(found.T, factors.T)[:D, D:])
    np.testing.assert_allclose(np.sort(likeness.ravel())[-D:], 1, atol=0.02)
    assert set(likeness.argmax(axis=0)) == set(range(D))
    (told_by,) = np.flatnonzero(fitted.probe_.coef_)  # the one factor that tells the classes
    assert told_by == likeness[:, 0].argmax()


def test_to_a_probe_with_an_l2_penalty_the_rotation_makes_no_difference():
    """So the components are read by an L1 penalty."""
    sources, _ = mixed_sources()
    Z = (
        ICAAdapter(n_components=D)
        .fit(replace(sources, prompts=sources.prompts[:4], prompt_label=np.array([0, 0, 1, 1])))
        .unmixing_.transform(sources.images.embedded)
    )
    rotation = np.linalg.qr(np.random.default_rng(3).normal(size=(D, D)))[0]

    def told(Z, **penalty):
        fitted = LogisticRegression(tol=1e-6, max_iter=5000, **penalty).fit(Z, sources.images.label)
        return fitted.predict_proba(Z)

    ridge = {"C": 0.01}
    lasso = {"C": 0.01, "l1_ratio": 1, "solver": "saga"}
    np.testing.assert_allclose(told(Z @ rotation, **ridge), told(Z, **ridge), atol=1e-4)
    assert np.abs(told(Z @ rotation, **lasso) - told(Z, **lasso)).max() > 0.05


def test_the_text_s_part_of_the_logits_is_zero_shot_and_repeats():
    sources, images = toy_sources(), new_images()
    fitted = [ICAAdapter(w, n_components=3).fit(sources) for w in (0.0, 0.5)]
    without, with_text = (one.scores(images)["linear probe"] for one in fitted)
    cosine = Plain().fit(sources).scores(images)["zero-shot"]
    np.testing.assert_allclose(with_text - without, 0.5 * np.exp(3.0) * cosine, atol=1e-4)
    again = ICAAdapter(0.0, n_components=3).fit(replace(sources, shared=Shared()))
    np.testing.assert_array_equal(again.scores(images)["linear probe"], without)
    learnt = 3 * D + np.count_nonzero(fitted[0].probe_.coef_) + CLASSES
    assert fitted[0].n_parameters_ == {"linear probe": learnt}
    with pytest.raises(ValueError, match=f"n_components is 0; expected .* from 1 to {D}"):
        ICAAdapter(n_components=0).fit(sources)
