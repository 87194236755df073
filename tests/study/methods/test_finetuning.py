"""Tuned image towers: against plain training of a copy, at their ends, the encoder untouched."""

import copy
import math
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from icm_core.prediction import LinearProbe
from icm_study.encoders.animal_clip import AnimalTokenizer
from icm_study.encoders.animal_pretraining import MODEL_CONFIG, PREPROCESS_CONFIG
from icm_study.encoders.encoder import Encoder
from icm_study.methods import tuning
from icm_study.methods.finetuning import FineTuning, WiSEFT
from icm_study.methods.lora import ICMThenLoRA, LoRA, LoRAThenICM, LoRAWithPenalty
from icm_study.methods.maps import ICM
from icm_study.methods.shared import Shared
from icm_study.methods.tuning import tower_weights

D = MODEL_CONFIG["embed_dim"]
FAST = {"learning_rate": 3e-4, "epochs": 1}


@pytest.fixture(scope="module")
def sources(task):
    return task.sources


@pytest.fixture(scope="module")
def vit_sources(sources):
    torch.manual_seed(0)
    vision = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 12, "image_size": 48}
    tokenizer = AnimalTokenizer.from_lexicon(24)
    text = MODEL_CONFIG["text_cfg"] | {"vocab_size": tokenizer.vocab_size}
    model = open_clip.CLIP(D, vision, text).eval()
    return afresh(sources, encoder=Encoder("small ViT", model, tokenizer, PREPROCESS_CONFIG, "cpu"))


class Convolutions(nn.Module):
    """A model with an image tower of another make, a part that nobody uses, and no scale."""

    def __init__(self):
        super().__init__()
        self.visual = nn.Sequential(
            nn.Conv2d(3, D, 8, stride=8), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.unused = nn.Linear(D, D)

    def encode_image(self, image, normalize=False):
        return self.visual(image)


@pytest.fixture
def plain_sources(sources):
    torch.manual_seed(0)
    return afresh(
        sources, encoder=Encoder("convolutions", Convolutions(), None, PREPROCESS_CONFIG, "cpu")
    )


def afresh(sources, **changes):
    """The same sources, with nothing computed yet."""
    return replace(sources, **changes, shared=Shared())


def weights_of(encoder):
    return {name: value.detach().clone() for name, value in encoder.model.named_parameters()}


def with_weights(encoder, weights):
    """A whole copy of the encoder, with some weights replaced."""
    model = copy.deepcopy(encoder.model)
    model.load_state_dict(weights, strict=False)
    return Encoder("copy", model, encoder.tokenizer, encoder.preprocess, "cpu")


@pytest.mark.parametrize("batch_size", [64, 40])
def test_fine_tuning_is_plain_training_of_a_copy(sources, encoder, batch_size):
    method = FineTuning(**FAST | {"epochs": 2}, batch_size=batch_size, random_state=3)
    method.fit_map(afresh(sources))

    model = copy.deepcopy(encoder.model)
    pixels = encoder.normalize(encoder.resize(sources.images.pixels()))
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    means = np.stack([sources.prompts[sources.prompt_label == c].mean(0) for c in range(10)])
    classes = normalize(torch.from_numpy(means), dim=1)
    optimizer = torch.optim.AdamW(model.visual.parameters(), weight_decay=0.1)
    order = torch.Generator().manual_seed(3)
    for rate in (3e-4, 3e-4 * (1 + math.cos(math.pi / 2)) / 2):
        optimizer.param_groups[0]["lr"] = rate
        for rows in torch.randperm(len(pixels), generator=order).split(batch_size):
            embedded = normalize(model.visual(pixels[rows]), dim=1)
            logits = model.logit_scale.detach().exp() * embedded @ classes.T
            optimizer.zero_grad()
            cross_entropy(logits, torch.from_numpy(sources.images.label)[rows]).backward()
            optimizer.step()
    assert method.weights_.keys() == {
        f"visual.{name}" for name, _ in model.visual.named_parameters()
    }
    own, expected = weights_of(encoder), model.state_dict()
    for name, weight in method.weights_.items():
        # at 48 pixels the pool sees one place: whom it attends to has no effect, and a
        # gradient of rounding alone
        if not name.startswith(("visual.attnpool.q_proj", "visual.attnpool.k_proj")):
            assert (weight - expected[name]).norm() < 0.02 * (expected[name] - own[name]).norm(), (
                name
            )


@pytest.mark.parametrize("make", [FineTuning, LoRA])
@pytest.mark.parametrize("setting", [{"epochs": 0}, {"learning_rate": 0.0, "epochs": 1}])
def test_without_training_it_is_the_encoder(sources, task, make, setting):
    method = make(**setting).fit(afresh(sources))
    images = task.tests["unseen"]
    np.testing.assert_allclose(method.map_images(images), images.embedded, atol=1e-5)
    np.testing.assert_array_equal(method.map_text(sources.prompts), sources.prompts)


@pytest.mark.parametrize("make", [FineTuning, WiSEFT, LoRA, LoRAThenICM])
@pytest.mark.parametrize("kind", ["sources", "vit_sources"])
def test_training_lowers_the_loss_and_leaves_the_encoder_alone(make, kind, request):
    sources = afresh(request.getfixturevalue(kind))
    encoder = sources.encoder
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    # each epoch is one batch of all images, so that losses differ by the training alone
    method = make(learning_rate=1e-3, epochs=3, batch_size=len(sources.images)).fit(sources)
    assert (np.diff(method.losses_) < 0).all()
    method.scores(sources.images)
    for name, value in encoder.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(weight.grad is None for weight in encoder.model.parameters())


@pytest.mark.parametrize("make", [FineTuning, LoRAThenICM])
def test_the_same_seed_gives_the_same_numbers(make, sources, task):
    images = task.tests["unseen"]

    def scores(seed):
        torch.manual_seed(np.random.default_rng().integers(2**31))
        return make(**FAST, random_state=seed).fit(afresh(sources)).scores(images)["linear probe"]

    first = scores(0)
    np.testing.assert_array_equal(first, scores(0))
    assert not np.array_equal(first, scores(1))


def test_predictors_stand_on_the_tuned_embedding(sources, task, encoder):
    method = FineTuning(**FAST).fit(sources)
    tuned = with_weights(encoder, method.weights_)
    images = task.tests["unseen"]
    embedded = tuned.encode_images(images.pixels())
    assert np.abs(embedded - images.embedded).max() > 1e-2
    np.testing.assert_allclose(method.map_images(images), embedded, atol=1e-5)
    probe = LinearProbe().fit(tuned.encode_images(sources.images.pixels()), sources.images.label)
    scores = method.scores(images)
    np.testing.assert_allclose(scores["linear probe"], probe.decision_function(embedded), atol=1e-2)
    means = np.stack([sources.prompts[sources.prompt_label == c].mean(0) for c in range(10)])
    cosine = embedded @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    np.testing.assert_array_equal(scores["zero-shot"].argmax(1), cosine.argmax(1))
    n = sum(weight.numel() for weight in encoder.model.visual.parameters())
    assert method.n_parameters_ == {"zero-shot": n, "linear probe": n + 10 * (D + 1)}


def test_last_block_of_a_resnet(sources, encoder):
    own, method = weights_of(encoder), FineTuning("last block", **FAST)
    method.fit(sources)
    assert method.weights_.keys() == {
        n for n in own if n.startswith(("visual.layer4.", "visual.attnpool."))
    }
    assert all((weight != own[name]).any() for name, weight in method.weights_.items())


def test_last_block_of_a_vit(vit_sources):
    own, method = weights_of(vit_sources.encoder), FineTuning("last block", **FAST)
    method.fit(vit_sources)
    last = ("visual.transformer.resblocks.1.", "visual.ln_post.", "visual.proj")
    assert method.weights_.keys() == {name for name in own if name.startswith(last)}
    assert len(method.weights_) == 12 + 2 + 1
    assert all((weight != own[name]).any() for name, weight in method.weights_.items())


def test_wise_ft_is_linear_between_its_ends(sources, task, encoder):
    own, tuned = weights_of(encoder), FineTuning(**FAST).fit(sources).weights_
    images = task.tests["unseen"]
    for alpha in (0.0, 0.25, 0.75, 1.0):
        method = WiSEFT(alpha, **FAST).fit(sources)
        for name, weight in method.weights_.items():
            np.testing.assert_allclose(
                weight, (1 - alpha) * own[name] + alpha * tuned[name], atol=1e-6
            )
        if alpha == 0:
            assert all(torch.equal(weight, own[name]) for name, weight in method.weights_.items())
            np.testing.assert_allclose(method.map_images(images), images.embedded, atol=1e-5)
        if alpha == 1:
            assert all(torch.equal(weight, tuned[name]) for name, weight in method.weights_.items())
    assert method.n_parameters_ == FineTuning(**FAST).fit(sources).n_parameters_


def test_a_tower_is_tuned_once_for_all_that_share_its_setting(sources):
    sources = afresh(sources)
    fine, low = FineTuning(**FAST).fit(sources), LoRA(**FAST).fit(sources)
    sources.shared.borrowed_seconds()
    WiSEFT(**FAST).fit(sources)
    assert sources.shared.borrowed_seconds() > 0
    assert FineTuning(**FAST).fit(sources).weights_ is fine.weights_
    assert LoRAThenICM(**FAST).fit(sources).factors_ is low.factors_
    (some, *_) = np.unique(sources.drawn)
    assert LoRAThenICM(**FAST).fit(sources.without(some)).factors_ is low.factors_
    assert LoRA(**FAST, rank=2).fit(sources).factors_ is not low.factors_
    assert (
        LoRA(**FAST).fit(sources.take(np.arange(len(sources.images)))).factors_ is not low.factors_
    )


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("sources", {f"visual.attnpool.{x}_proj.weight" for x in "qkvc"}),
        (
            "vit_sources",
            {
                f"visual.transformer.resblocks.{i}.attn.{x}"
                for i in (0, 1)
                for x in ("in_proj_weight", "out_proj.weight")
            },
        ),
    ],
)  # fmt: skip
def test_lora_adds_updates_of_low_rank_to_attention(kind, names, request):
    sources = request.getfixturevalue(kind)
    method = LoRA(rank=3, learning_rate=3e-3, epochs=2).fit(sources)
    assert method.factors_.keys() == names
    own = weights_of(sources.encoder)
    updates = {name: B @ A for name, (B, A) in method.factors_.items()}
    for name, update in updates.items():
        assert update.shape == own[name].shape
        assert 1 <= np.linalg.matrix_rank(update.numpy()) <= 3
    merged = with_weights(
        sources.encoder, {name: own[name] + update for name, update in updates.items()}
    )
    some = sources.images.take(slice(0, 30))
    embedded = merged.encode_images(some.pixels())
    np.testing.assert_allclose(method.map_images(some), embedded, atol=1e-5)
    assert np.abs(embedded - sources.encoder.encode_images(some.pixels())).max() > 1e-3
    n = sum(3 * sum(own[name].shape) for name in names)
    assert method.n_parameters_["zero-shot"] == n


@pytest.mark.parametrize("texts", [True, False])
def test_lora_then_icm_by_hand(sources, task, encoder, texts):
    k, weight = 5, 2.0
    sources = afresh(sources).without("invert")
    if not texts:
        sources = replace(sources, texts=(np.empty((0, D)), np.empty((0, D))))
    method = LoRAThenICM(k, weight, **FAST).fit(sources)
    own = weights_of(encoder)
    tuned = with_weights(
        encoder, {name: own[name] + B @ A for name, (B, A) in method.factors_.items()}
    )

    usable = (sources.drawn != "") & (sources.drawn != "invert")
    assert usable.sum() < len(usable)
    kinds = [
        [
            tuned.encode_images(x.take(usable).pixels())
            for x in (sources.images, sources.copies["image"])
        ]
    ]
    if texts:
        captions, edits = sources.texts
        edited = (captions != edits).any(axis=1)
        kinds.append([captions[edited], edits[edited]])
    C, S = np.zeros((D, D)), np.zeros((D, D))
    for before, after in kinds:
        f, change = before.astype(float), (before - after).astype(float)
        C += f.T @ f / len(f) / len(kinds)
        S += change.T @ change / len(f) / len(kinds)
    top = np.linalg.eigh(C - weight * S)[1][:, -k:]
    A = method.projection_.components_
    np.testing.assert_allclose(A.T @ A, top @ top.T, atol=1e-4)

    images = task.tests["unseen"]
    projected = tuned.encode_images(images.pixels()) @ A.T
    np.testing.assert_allclose(method.map_images(images), projected, atol=1e-5)
    np.testing.assert_allclose(method.map_text(sources.prompts), sources.prompts @ A.T, atol=1e-6)
    probe = LinearProbe().fit(
        tuned.encode_images(sources.images.pixels()) @ A.T, sources.images.label
    )
    scores = method.scores(images)["linear probe"]
    np.testing.assert_allclose(scores, probe.decision_function(projected), atol=1e-2)
    rank = sum(B.numel() + A.numel() for B, A in method.factors_.values())
    assert method.n_parameters_["zero-shot"] == rank + k * D
    assert method.sees_interventions == {"image", "text"}
    assert LoRA().sees_interventions == frozenset()


def test_icm_before_lora_tunes_behind_the_projection(sources, task):
    some = afresh(sources.take(np.arange(60)))
    whole = {"batch_size": 60, "epochs": 1, "learning_rate": 1e-12}
    method = ICMThenLoRA(5, 2.0, **whole).fit(some)
    plain = ICM("image+text", 5, 2.0).fit(some)
    images = task.tests["unseen"].take(slice(0, 40))
    np.testing.assert_allclose(method.map_images(images), plain.map_images(images), atol=1e-4)
    # untrained, its loss is the cross-entropy of what zero-shot says behind the projection
    A = method.projection_.components_
    unit = normalize(torch.from_numpy(some.images.embedded @ A.T).float(), dim=-1)
    prototypes = torch.from_numpy(tuning.class_prototypes(some) @ A.T).float()
    scale = tuning.logit_scale(some.encoder)
    logits = scale * unit @ normalize(prototypes, dim=-1).T
    wanted = cross_entropy(logits, torch.from_numpy(some.images.label).long())
    assert method.losses_[0] == pytest.approx(wanted.item(), rel=1e-3)


def test_a_penalty_on_change_is_in_the_loss_and_lowers_the_change(sources):
    some = afresh(sources.take(np.arange(60)))
    still = {"batch_size": 60, "epochs": 1, "learning_rate": 1e-12}
    plain, held = LoRA(**still).fit(some), LoRAWithPenalty(2.0, **still).fit(some)
    before, after = some.images, some.copies["image"]
    change = np.square(before.embedded - after.embedded).sum(axis=1)
    assert held.losses_[0] - plain.losses_[0] == pytest.approx(2 * change.mean(), rel=1e-3)
    # a copy that must not be used has no part in it
    without = LoRAWithPenalty(2.0, **still).fit(some.without("invert"))
    of_kept = change[some.drawn != "invert"].mean()
    assert without.losses_[0] - plain.losses_[0] == pytest.approx(2 * of_kept, rel=1e-3)

    def changed(method):
        one, other = (method.map_images(part) for part in (before, after))
        return np.square(one - other).sum(axis=1).mean()

    fast = {"batch_size": 20, "epochs": 2, "learning_rate": 1e-2}
    free, none = LoRA(**fast).fit(some), LoRAWithPenalty(0.0, **fast).fit(some)
    for name, pair in free.factors_.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, none.factors_[name], strict=True))
    assert changed(LoRAWithPenalty(30.0, **fast).fit(some)) < 0.95 * changed(free)


def test_pixels_are_loaded_a_batch_at_a_time(sources, task, monkeypatch):
    method, images, sizes = FineTuning(epochs=0).fit(sources), task.tests["unseen"], []

    def load(rows):
        sizes.append(len(rows))
        return images.load(rows)

    expected = method.map_images(images)
    monkeypatch.setattr(tuning, "_BATCH", 16)
    np.testing.assert_allclose(method.map_images(replace(images, load=load)), expected, atol=1e-5)
    assert max(sizes) == 16
    assert sum(sizes) == len(images)


@pytest.mark.parametrize("make", [FineTuning, LoRA])
def test_the_target_can_be_trained_on(make, sources, task):
    target = task.tests["reversed"]
    method = make(learning_rate=1e-3, epochs=3).fit(sources.labelled(target))
    hits = method.scores(target)["linear probe"].argmax(1) == target.label
    assert hits.mean() > 0.9


def test_another_tower_is_tuned_whole_or_not_at_all(plain_sources):
    assert tower_weights(plain_sources.encoder) == ["visual.0.weight", "visual.0.bias"]
    method = FineTuning(learning_rate=1e-3, epochs=4).fit(plain_sources)
    assert method.losses_[-1] < method.losses_[0]
    with pytest.raises(ValueError, match=r"'last block'.*'convolutions'.*Use part='all'"):
        FineTuning("last block").fit(plain_sources)
    with pytest.raises(ValueError, match=r"'convolutions' has no attention.*Use FineTuning"):
        LoRA().fit(plain_sources)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (FineTuning("first block"), "part is 'first block'; expected one of 'all', 'last block'"),
        (WiSEFT(1.5), "alpha is 1.5; expected a number from 0 to 1"),
        (WiSEFT(-0.1), "alpha is -0.1"),
        (LoRA(0), "rank is 0; expected a positive integer"),
        (LoRAWithPenalty(-1.0), "penalty is -1.0; expected a number, at least 0"),
    ],
)
def test_a_wrong_parameter_is_an_error(method, message, sources):
    with pytest.raises(ValueError, match=message):
        method.fit(sources)
