"""Rivals of the projection: each against its closed form, brute force or its paper."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigh, subspace_angles
from scipy.optimize import minimize as scipy_minimize
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from toy_sources import CLASSES, DOMAINS, D, images_of, new_images, toy_sources

from icm_core.moments import PairMoments
from icm_core.prediction import LinearProbe, ZeroShotClassifier
from icm_core.projection import InvariantProjection
from icm_study.methods.adapters import CLIPAdapter, TipAdapter
from icm_study.methods.maps import (
    ICM,
    LEACE,
    PCA,
    BiasedPrompts,
    FukunagaKoontz,
    Plain,
    RandomProjection,
)
from icm_study.methods.probes import CORAL, IRM, LDA, Augmentation, GroupDRO, risk_slope
from icm_study.methods.ridge import IndicatorRidge
from icm_study.methods.shared import Shared
from icm_study.methods.sources import Images, Sources

seeds = st.integers(0, 2**16)
some = settings(max_examples=15)


def risk(weights, X, y):
    return -log_softmax(X @ weights.T, axis=1)[np.arange(len(y)), y].mean()


def features(images, scale):
    return np.hstack([images.embedded.astype(float) * scale, np.ones((len(images), 1))])


# --- maps


def test_the_plain_predictors_are_the_library_s_own():
    sources, images = toy_sources(), new_images()
    scores = Plain().fit(sources).scores(images)
    zero_shot = ZeroShotClassifier().fit(sources.prompts, sources.prompt_label)
    probe = LinearProbe().fit(sources.images.embedded, sources.images.label)
    for name, of in {"zero-shot": zero_shot, "linear probe": probe}.items():
        np.testing.assert_array_equal(scores[name], of.decision_function(images.embedded))
        np.testing.assert_array_equal(scores[name].argmax(axis=1), of.predict(images.embedded))
    single = Plain(prompts="single").fit(sources).heads_["zero-shot"]
    np.testing.assert_allclose(single.prototypes_, sources.prompts[[0, 2, 4]], rtol=1e-5)


@pytest.mark.parametrize(
    ("computes", "expected"), [("cpu", None), ("mps", None), ("cuda:1", "cuda:1")]
)
def test_probes_are_fitted_on_the_encoder_s_gpu(computes, expected):
    """Another device lacks double precision, or has no gain."""
    encoder = SimpleNamespace(device=computes)
    assert replace(toy_sources(), encoder=encoder).device == expected


@pytest.mark.parametrize("device", ["cpu", *["cuda"] * torch.cuda.is_available()])
@pytest.mark.parametrize(
    "method",
    [Plain(), ICM("image", 3), Augmentation(), CORAL(), IRM(), GroupDRO(), CLIPAdapter()],
    ids=lambda method: type(method).__name__,
)
def test_a_method_on_a_device_scores_as_it_does_without(method, device, monkeypatch):
    images = new_images()
    expected = clone(method).fit(toy_sources()).scores(images)
    monkeypatch.setattr(Sources, "device", device)
    on_device = clone(method).fit(toy_sources())
    for name, scores in on_device.scores(images).items():
        np.testing.assert_allclose(scores, expected[name], rtol=0, atol=1e-3)
    probe = getattr(on_device, "probe_", None) or getattr(on_device, "heads_", {}).get(
        "linear probe"
    )
    if isinstance(probe, LinearProbe):
        assert probe.device == device


def test_a_class_that_the_sources_lack_is_never_the_probe_s_answer():
    sources, images = toy_sources(), new_images()
    fewer = sources.take(sources.images.label != 1)
    scores = Plain().fit(fewer).scores(images)
    assert (scores["linear probe"][:, 1] == -np.inf).all()
    probe = LinearProbe().fit(fewer.images.embedded, fewer.images.label)
    np.testing.assert_array_equal(
        scores["linear probe"].argmax(axis=1), probe.predict(images.embedded)
    )
    assert (scores["zero-shot"].argmax(axis=1) == 1).any()


@pytest.mark.parametrize("asked", [("zero-shot",), ("linear probe",)])
def test_a_map_answers_for_the_predictors_that_are_asked_for(asked):
    sources, images = replace(toy_sources(), predictors=asked), new_images()
    fitted = ICM("image", 3).fit(sources)
    both = ICM("image", 3).fit(toy_sources()).scores(images)
    scores = fitted.scores(images)
    assert tuple(scores) == tuple(fitted.n_parameters_) == asked
    np.testing.assert_array_equal(scores[asked[0]], both[asked[0]])


@some
@given(seeds, st.integers(1, D))
def test_pca_spans_the_leading_singular_vectors(seed, k):
    sources = toy_sources(seed)
    fitted = PCA(k).fit(sources)
    right = np.linalg.svd(sources.images.embedded.astype(float))[2][:k]
    assert subspace_angles(fitted.components_.T, right.T).max() < 1e-6


def test_a_random_projection_is_orthonormal_and_repeats():
    first, second = (
        RandomProjection(4, random_state=r).fit(toy_sources()).components_ for r in (0, 1)
    )
    np.testing.assert_allclose(first @ first.T, np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(first, RandomProjection(4).fit(toy_sources(seed=5)).components_)
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("intervention", ["image", "text", "image+text", "oracle"])
def test_icm_takes_the_leading_eigenvectors_of_every_kind_of_pairs(intervention):
    sources = toy_sources()
    captions, edits = sources.texts
    pairs = {
        "image": (sources.images.embedded, sources.copies["image"].embedded),
        "oracle": (sources.images.embedded, sources.copies["oracle"].embedded),
        "text": (captions[10:], edits[10:]),  # the first ten edits changed nothing
    }
    C = S = np.zeros((D, D))
    for kind in intervention.split("+"):
        before, after = (part.astype(float) for part in pairs[kind])
        share = 1 / len(intervention.split("+"))
        C = C + share * before.T @ before / len(before)
        S = S + share * (before - after).T @ (before - after) / len(before)
    values, vectors = np.linalg.eigh(C - 2.0 * S)
    fitted = ICM(intervention, 2, 2.0).fit(sources)
    assert subspace_angles(fitted.components_.T, vectors[:, -2:]).max() < 1e-6
    auto = ICM(intervention, "auto", 2.0).fit(sources)
    assert len(auto.components_) == max(1, (values > 1e-12).sum())
    for one, k in ((fitted, 2), (auto, len(auto.components_))):
        assert (one.n_components_, one.consistency_weight_) == (k, 2.0)  # what tables report


@pytest.mark.parametrize("whole", [PCA(D), RandomProjection(D), ICM("image", D)])
def test_a_map_that_keeps_all_directions_is_none(whole, monkeypatch):
    """A rotation changes no predictor: the scores are the plain ones, and so is the probe."""
    sources, images = toy_sources(), new_images()
    plain = Plain().fit(sources).scores(images)
    monkeypatch.setattr(LinearProbe, "fit", None)  # it has been fitted
    scores = whole.fit(sources).scores(images)
    for name, expected in plain.items():
        np.testing.assert_allclose(scores[name], expected, atol=1e-6)


@pytest.mark.parametrize("C", [1e-3, 0.316, 100.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_ridge_that_stands_in_is_that_of_scikit_learn_behind_any_map(C, dtype, monkeypatch):
    monkeypatch.setattr("icm_study.methods.ridge._ROWS", 13)  # in many blocks
    rng = np.random.default_rng(0)
    label = rng.choice([0, 2, 5], size=100)
    X = (0.4 + rng.normal(size=(100, D)) + 2 * np.eye(6, D)[label]).astype(dtype)
    sums = IndicatorRidge(X, label)
    for components in (np.eye(D), rng.normal(size=(3, D)), np.eye(2, D)):
        mapped = X.astype(float) @ components.T
        ridge = RidgeClassifier(alpha=np.mean(mapped**2) / C).fit(mapped, label)
        found = sums.behind(components, C)
        np.testing.assert_array_equal(found.classes_, ridge.classes_)
        expected = (ridge.decision_function(mapped) + 1) / 2  # of indicators of 0 and 1
        np.testing.assert_allclose(found.decision_function(mapped), expected, atol=1e-5)
        (labels,) = sums.predict(components, [C], X)
        np.testing.assert_array_equal(labels, ridge.predict(mapped))


def test_methods_share_the_probe_of_the_same_rows_labels_and_penalty(monkeypatch):
    sources, fits = toy_sources(), []
    own = LinearProbe.fit
    monkeypatch.setattr(LinearProbe, "fit", lambda *given: (fits.append(given), own(*given))[1])
    shared = [Plain(C=C).fit(sources).heads_["linear probe"] for C in (0.1, 1.0, 0.1)]
    assert len(fits) == 2
    assert shared[0] is shared[2]
    alone = Plain(C=1.0).fit(toy_sources()).heads_["linear probe"]
    assert np.array_equal(shared[1].coef_, alone.coef_)
    other = sources.images.label[::-1]  # the same rows with other labels are another probe
    relabelled = replace(sources, images=replace(sources.images, label=other))
    assert Plain(C=1.0).fit(relabelled).heads_["linear probe"] is not shared[1]
    assert shared[0].coef_.dtype == np.float32


def test_the_penalty_reaches_the_probe_behind_the_projection():
    sources, images = toy_sources(), new_images()
    A = ICM("image", 3).fit(sources).components_
    probe = LinearProbe(C=0.01).fit(sources.images.embedded @ A.T, sources.images.label)
    scores = ICM("image", 3, C=0.01).fit(sources).scores(images)["linear probe"]
    np.testing.assert_allclose(scores, probe.decision_function(images.embedded @ A.T), atol=1e-6)


def test_pairs_of_other_images_take_the_place_of_the_sources_own():
    """Which images the classes are learnt from does not change, and which interventions does."""
    sources, others = toy_sources(), toy_sources(seed=5)
    pairs = {"image": others.pairs("image")}
    fitted = ICM("image", 2).fit(replace(sources, others=pairs, shared=Shared()))
    expected = InvariantProjection(2, consistency_weight=1.0).fit(*pairs["image"]).components_
    np.testing.assert_allclose(fitted.components_, expected, atol=1e-7)
    probe = LinearProbe().fit(sources.images.embedded @ expected.T, sources.images.label)
    images = new_images()
    np.testing.assert_allclose(
        fitted.scores(images)["linear probe"],
        probe.decision_function(images.embedded @ expected.T),
        atol=1e-5,
    )
    with pytest.raises(ValueError, match=r"'text': these sources have no such pairs.*use 'image'"):
        ICM("text").fit(replace(sources, others=pairs, shared=Shared()))
    with pytest.raises(ValueError, match=r"other images.*Choose settings in another way"):
        replace(sources, others=pairs).without("invert")


@pytest.mark.parametrize("left_out", [None, "invert"])
def test_images_of_one_group_are_held_out_together(left_out):
    sources = toy_sources()
    group = np.arange(len(sources.images)) // 6
    images = replace(sources.images, group=group)
    grouped = replace(sources, images=images, shared=Shared())
    grouped = grouped if left_out is None else grouped.without(left_out)
    keep = grouped.drawn != ""
    before, after = (part.embedded[keep] for part in (images, sources.copies["image"]))
    expected = PairMoments(D).update(before, after, group[keep])
    found = grouped.moments("image")
    np.testing.assert_allclose(found._sum_outer, expected._sum_outer, atol=1e-12)
    assert (found._sum_pairs != sources.moments("image")._sum_pairs).any()


def test_an_intervention_that_is_unknown_or_has_no_pairs_is_an_error():
    sources = toy_sources()
    with pytest.raises(ValueError, match=r"Intervention 'texts'.*they have 'image', 'oracle'"):
        ICM("texts").fit(sources)
    none = np.empty((0, D), np.float32)
    with pytest.raises(ValueError, match=r"'text': these sources have no such pairs.*use 'image'"):
        ICM("image+text").fit(replace(sources, texts=(none, none), shared=Shared()))
    alone = replace(sources, copies={"image": sources.copies["image"]}, shared=Shared())
    for method in (ICM("oracle"), Augmentation(intervention="oracle")):
        with pytest.raises(ValueError, match=r"'oracle'.*no such copies.*they have 'image'"):
            method.fit(alone)


def test_an_intervention_that_is_left_out_leaves_the_moments():
    sources = toy_sources()
    fitted = ICM("image", 2, 1.0).fit(sources.without("invert"))
    keep = sources.drawn != "invert"
    X, X_do = sources.images.embedded[keep], sources.copies["image"].embedded[keep]
    expected = InvariantProjection(2, consistency_weight=1.0).fit(X, X_do).components_
    np.testing.assert_allclose(fitted.components_, expected, atol=1e-7)
    assert len(sources.without("invert").images) == len(sources.images)
    for kind in ("text", "oracle"):
        kept, own = sources.without("invert").moments(kind), sources.moments(kind)
        np.testing.assert_array_equal(kept.S, own.S)


@some
@given(seeds, st.integers(1, D), st.sampled_from([0.0, 1e-4, 0.3]))
def test_fukunaga_koontz_is_the_eigenproblem_of_s_against_c_plus_s(seed, k, shrinkage):
    sources = toy_sources(seed)
    fitted = FukunagaKoontz("image+text", k, shrinkage=shrinkage).fit(sources)
    moments = sources.moments("image+text")
    noise = shrinkage * np.trace(moments.C) / D * np.eye(D)
    S, both = moments.S + 2 * noise, moments.C + moments.S + 3 * noise
    shares, columns = eigh(S, both)
    assert ((shares > 0) & (shares < 1)).all()
    A = fitted.components_
    np.testing.assert_allclose(A @ both @ A.T, np.eye(k), atol=1e-8)
    np.testing.assert_allclose(np.diag(A @ S @ A.T), shares[:k], atol=1e-8)
    if k < D and shares[k] - shares[k - 1] > 1e-4:
        assert subspace_angles(A.T, columns[:, :k]).max() < 1e-5


def test_leace_leaves_no_linear_information_on_the_domain():
    sources = toy_sources(n=300)
    fitted = LEACE().fit(sources)
    erased = fitted.map_images(sources.images)
    domain = np.eye(DOMAINS)[sources.images.domain]
    covariance = (erased - erased.mean(0)).T @ (domain - domain.mean(0)) / len(erased)
    assert np.abs(covariance).max() < 1e-7
    before = LogisticRegression().fit(sources.images.embedded, sources.images.domain)
    after = LogisticRegression().fit(erased, sources.images.domain)
    assert before.score(sources.images.embedded, sources.images.domain) > 0.6
    chance = np.bincount(sources.images.domain) / len(erased)
    np.testing.assert_allclose(
        after.predict_proba(erased), np.tile(chance, (len(erased), 1)), atol=1e-3
    )


@pytest.mark.parametrize("n", [2, 5])
def test_leace_erases_a_domain_of_few_images_too(n):
    rng = np.random.default_rng(0)
    domain = np.repeat([0, 1, 2], [3000, 2000, n])
    X = rng.normal(size=(len(domain), D)) + 0.3 * np.eye(3, D)[domain]
    labels = np.arange(len(domain)) % CLASSES
    images = Images(X, labels, domain, np.arange(len(domain)), None)
    erased = LEACE()
    erased.fit_map(SimpleNamespace(images=images))
    moved = erased.map_text(X)
    means = np.array([moved[domain == one].mean(axis=0) for one in range(3)])
    np.testing.assert_allclose(means, np.tile(moved.mean(axis=0), (3, 1)), atol=1e-6)


def test_leace_erases_nothing_where_there_is_one_domain():
    X = np.random.default_rng(0).normal(size=(300, D))
    images = Images(X, np.arange(300) % CLASSES, np.full(300, 3), np.arange(300), None)
    erased = LEACE()
    erased.fit_map(SimpleNamespace(images=images))
    np.testing.assert_allclose(erased.map_text(X), X, atol=1e-12)


@pytest.mark.parametrize("method", [PCA, RandomProjection, FukunagaKoontz])
@pytest.mark.parametrize("value", [0, -3, D + 1, 1.5, True])
def test_a_number_of_components_that_there_is_not_is_refused(method, value):
    with pytest.raises(ValueError, match=f"n_components is {value!r}; expected .* 1 to {D}"):
        method(n_components=value).fit_map(toy_sources())


def test_a_number_of_directions_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="n_directions is -1; expected a whole number from 0"):
        BiasedPrompts(n_directions=-1).fit_map(toy_sources())


@pytest.mark.parametrize("calibration", [0.0, 7.0])
def test_biased_prompts_minimise_the_paper_s_calibrated_objective(calibration):
    sources = toy_sources()
    A = BiasedPrompts(2, calibration).fit(sources).components_
    prompts = sources.encoder.encode_text(sources.spurious).astype(float)
    removed = BiasedPrompts(2, 0.0).fit(sources).components_
    np.testing.assert_allclose(
        removed @ (prompts - prompts.mean(0)).T, 0, atol=1e-6
    )  # three prompts span two
    np.testing.assert_allclose(removed @ removed, removed, atol=1e-9)
    assert round(np.trace(removed)) == D - 2
    captions, edits = sources.texts
    d = (captions - edits)[10:].astype(float)
    slope = (A - removed) + calibration * A @ d.T @ d / len(d)  # of |A - P0|²/2 + γ/2 E|A d|²
    np.testing.assert_allclose(slope, 0, atol=1e-6)


# --- probes


@pytest.mark.parametrize("kind", ["image", "oracle"])
def test_augmentation_trains_on_both_and_forgets_what_is_left_out(kind):
    sources, images = toy_sources(), new_images()
    both = np.concatenate([sources.images.embedded, sources.copies[kind].embedded])
    expected = LinearProbe().fit(both, np.tile(sources.images.label, 2))

    def scores(sources):
        return Augmentation(intervention=kind).fit(sources).scores(images)["linear probe"]

    whole = expected.decision_function(images.embedded)
    np.testing.assert_allclose(scores(sources), whole, atol=1e-5)
    fewer = sources
    for name in ("invert", "grayscale", "equalize"):
        fewer = fewer.without(name)
    plain = Plain().fit(sources).scores(images)["linear probe"]
    left = plain if kind == "image" else whole  # the oracle's copies are no image intervention's
    np.testing.assert_allclose(scores(fewer), left, atol=1e-5)


def test_lda_finds_the_bayes_direction():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(D, D))
    label = np.arange(6000) % 2
    centres = rng.normal(size=(2, D))
    X = centres[label] + rng.normal(size=(6000, D)) @ mixing.T
    sources = toy_sources().labelled(Images(X, label, label, label, load=lambda rows: None))
    weights = LDA().fit(sources).probe_.coef_.ravel()
    bayes = np.linalg.solve(mixing @ mixing.T, centres[1] - centres[0])
    assert weights @ bayes / np.linalg.norm(weights) / np.linalg.norm(bayes) > 0.99


def test_coral_gives_every_domain_the_pooled_moments():
    images = images_of(np.random.default_rng(0), 600)
    aligned = CORAL(shrinkage=1e-9).align(images.embedded.astype(float), images.domain)
    for domain in range(DOMAINS):
        rows = aligned[images.domain == domain]
        np.testing.assert_allclose(rows.mean(0), images.embedded.mean(0), atol=1e-6)
        np.testing.assert_allclose(
            np.cov(rows.T, bias=True), np.cov(images.embedded.T, bias=True), atol=1e-6
        )


@some
@given(seeds)
def test_the_slope_of_irm_is_the_derivative_in_the_scale(seed):
    rng = np.random.default_rng(seed)
    logits, labels = 3 * rng.normal(size=(20, 4)), rng.integers(4, size=20)
    step = 1e-5
    up, down = (risk(np.eye(4) * (1 + s), logits, labels) for s in (step, -step))
    ours = float(risk_slope(torch.from_numpy(logits), torch.from_numpy(labels)))
    assert ours == pytest.approx((up - down) / (2 * step), abs=1e-6)


def slopes(method, sources):
    """Squared slope of each domain's risk in the scale of the logits, as IRM penalises it."""
    images = sources.images
    logits = features(images, method.scale_) @ method.weights_.T
    parts = [(logits[images.domain == d], images.label[images.domain == d]) for d in range(DOMAINS)]
    return [float(risk_slope(torch.from_numpy(z), torch.from_numpy(y))) ** 2 for z, y in parts]


def test_irm_without_its_penalty_is_the_probe_and_with_more_the_slopes_fall():
    sources, images = toy_sources(), new_images()
    probe, logits = (
        log_softmax(method.fit(sources).scores(images)["linear probe"], axis=1)
        for method in (Plain(), IRM(0.0))
    )
    np.testing.assert_allclose(np.exp(logits), np.exp(probe), atol=2e-3)
    penalties = [np.mean(slopes(IRM(w).fit(sources), sources)) for w in (0.0, 1.0, 100.0)]
    assert penalties[0] > 1.3 * penalties[1]
    assert penalties[1] > 3 * penalties[2]


def test_group_dro_reaches_the_smallest_worst_risk():
    sources = toy_sources(n=60)
    images = sources.images
    fitted = GroupDRO(sharpness=1000.0).fit(sources)
    X = features(images, fitted.scale_)
    parts = [(X[images.domain == d], images.label[images.domain == d]) for d in range(DOMAINS)]

    def objective(weights):
        penalty = (weights[:, :-1] ** 2).sum() / (2 * 0.316 * len(images))
        return max(risk(weights, *part) for part in parts) + penalty

    def epigraph(flat):  # t above every risk: a smooth program that SLSQP solves
        weights = flat[:-1].reshape(CLASSES, D + 1)
        return flat[-1] + (weights[:, :-1] ** 2).sum() / (2 * 0.316 * len(images))

    above = [
        {
            "type": "ineq",
            "fun": lambda flat, p=p: flat[-1] - risk(flat[:-1].reshape(CLASSES, D + 1), *p),
        }
        for p in parts
    ]
    start = np.append(np.zeros(CLASSES * (D + 1)), 2.0)
    best = scipy_minimize(
        epigraph, start, constraints=above, method="SLSQP", options={"maxiter": 300}
    )
    assert best.success
    assert objective(fitted.weights_) == pytest.approx(best.fun, abs=2e-3)
    assert (
        objective(fitted.weights_)
        < objective(GroupDRO(sharpness=1e-3).fit(sources).weights_) - 1e-4
    )


# --- adapters


def test_adapters_without_weight_are_zero_shot():
    sources, images = toy_sources(), new_images()
    cosine = Plain().fit(sources).scores(images)["zero-shot"]
    np.testing.assert_allclose(
        CLIPAdapter(ratio=0.0).fit(sources).scores(images)["zero-shot"], cosine, atol=1e-6
    )
    tip = TipAdapter(alpha=0.0).fit(sources).scores(images)["zero-shot"]
    np.testing.assert_allclose(tip, np.exp(3.0) * cosine, rtol=1e-4, atol=1e-4)


def test_clip_adapter_learns_and_repeats():
    sources = toy_sources()

    def loss(steps):
        scores = (
            CLIPAdapter(ratio=0.5, steps=steps).fit(sources).scores(sources.images)["zero-shot"]
        )
        return risk(np.eye(CLASSES), np.exp(3.0) * scores, sources.images.label)

    assert loss(200) < 0.9 * loss(0)
    assert loss(20) == loss(20)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    CLIPAdapter(steps=1).fit(sources)
    assert torch.equal(before, torch.get_rng_state())


def test_tip_adapter_is_its_formula_image_by_image():
    sources, images = toy_sources(n=12), new_images(n=5)
    prototypes = Plain().fit(sources).heads_["zero-shot"].prototypes_
    expected = np.zeros((5, CLASSES))
    for i, f in enumerate(images.embedded):
        for c in range(CLASSES):
            likeness = [
                np.exp(-2.0 * (1 - f @ k))
                for k, y in zip(sources.images.embedded, sources.images.label, strict=True)
                if y == c
            ]
            expected[i, c] = np.exp(3.0) * f @ prototypes[c] + 0.7 * sum(likeness)
    scores = TipAdapter(alpha=0.7, beta=2.0).fit(sources).scores(images)["zero-shot"]
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
