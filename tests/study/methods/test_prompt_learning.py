"""Learnt prompts: zero-shot before training, the encoder untouched, what contexts depend on."""

import numpy as np
import open_clip
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from icm_core.prediction import ZeroShotClassifier
from icm_study.animals.silhouettes import CLASSES
from icm_study.encoders.animal_clip import AnimalTokenizer
from icm_study.encoders.animal_pretraining import MODEL_CONFIG, PREPROCESS_CONFIG
from icm_study.encoders.encoder import Encoder
from icm_study.methods.base import logit_scale
from icm_study.methods.contexts import CONTEXT, PromptTower
from icm_study.methods.prompts import DPL, CoCoOp, CoOp

METHODS = [CoOp, CoCoOp, DPL]


@pytest.fixture
def images(task):
    return task.tests["in_distribution"]


def custom_text_encoder(**text):
    """An encoder with open_clip's other layout, where the text tower is a module of its own."""
    torch.manual_seed(0)
    tokenizer = AnimalTokenizer.from_lexicon(24)
    text = MODEL_CONFIG["text_cfg"] | {"vocab_size": tokenizer.vocab_size} | text
    model = open_clip.CustomTextCLIP(
        MODEL_CONFIG["embed_dim"], MODEL_CONFIG["vision_cfg"], text
    ).eval()
    return Encoder("custom", model, tokenizer, PREPROCESS_CONFIG, "cpu")


def zero_shot(encoder, images, template=CONTEXT + " {}"):
    prompts = encoder.encode_text([template.format(name) for name in CLASSES])
    return logit_scale(encoder) * images.embedded @ prompts.T


def mean_loss(method, images):
    return cross_entropy(
        torch.from_numpy(method.scores(images)["zero-shot"]), torch.from_numpy(images.label)
    ).item()


@pytest.mark.parametrize("make", METHODS)
def test_untrained_prompts_are_zero_shot(make, task, encoder, images):
    scores = make(epochs=0).fit(task.sources).scores(images)["zero-shot"]
    np.testing.assert_allclose(
        scores, zero_shot(encoder, images), atol=2e-4
    )  # of logits up to about 50
    np.testing.assert_array_equal(
        scores.argmax(1),
        ZeroShotClassifier()
        .fit(encoder.encode_text([f"{CONTEXT} {name}" for name in CLASSES]), np.arange(10))
        .predict(images.embedded),
    )


@pytest.mark.parametrize(
    "text",
    [{}, {"no_causal_mask": True}, {"pool_type": "last"}],
    ids=["causal", "both ways", "last token"],
)
def test_every_layout_of_the_text_tower_is_called_as_it_is(text):
    encoder = custom_text_encoder(**text)
    prompts = PromptTower(encoder, CLASSES)
    expected = encoder.encode_text([f"{CONTEXT} {name}" for name in CLASSES])
    assert prompts.words_as_vectors.shape == (4, MODEL_CONFIG["text_cfg"]["width"])
    np.testing.assert_allclose(
        prompts(prompts.words_as_vectors[None])[0].detach().numpy(), expected, atol=1e-6
    )


def test_vectors_of_other_words_make_the_prompt_with_these_words(encoder):
    prompts = PromptTower(encoder, CLASSES)
    tokens = encoder.tokenizer(["an image of the cat"])
    vectors = encoder.model.token_embedding(tokens)[:, 1:5]
    both = torch.cat([vectors, prompts.words_as_vectors[None]])
    embedded = prompts(both).detach().numpy()
    for template, found in zip(("an image of the {}", "a photo of a {}"), embedded, strict=True):
        np.testing.assert_allclose(
            found, encoder.encode_text([template.format(name) for name in CLASSES]), atol=1e-6
        )


@pytest.mark.parametrize("make", METHODS)
def test_training_lowers_the_loss_and_leaves_the_encoder_alone(make, task, encoder):
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    method = make(epochs=3).fit(task.sources)
    untrained = make(epochs=0).fit(task.sources)
    assert len(method.losses_) == 3
    assert mean_loss(method, task.sources.images) < mean_loss(untrained, task.sources.images)
    for name, value in encoder.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(weight.grad is None for weight in encoder.model.parameters())
    assert not encoder.model.token_embedding._forward_hooks


@pytest.mark.parametrize("make", METHODS)
def test_the_same_seed_gives_the_same_numbers_whatever_is_random_elsewhere(make, task, images):
    def scores(seed):
        # several batches in the small sources, so that their order matters
        method = make(epochs=1, batch_size=16, random_state=seed).fit(task.sources)
        return method.scores(images)["zero-shot"]

    torch.manual_seed(1)
    first = scores(0)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    np.testing.assert_array_equal(first, scores(0))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not np.array_equal(first, scores(1))


def test_the_gradient_is_the_slope_of_the_loss(task):
    """The hook and the cut of the padding against finite differences."""
    method = CoOp(epochs=0).fit(task.sources)
    images, vectors = task.sources.images, method.context_.vectors
    loss = cross_entropy(
        method._logits(torch.from_numpy(images.embedded)), torch.from_numpy(images.label)
    )
    (gradient,) = torch.autograd.grad(loss, vectors)
    direction, step = gradient / gradient.norm(), 1e-2
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            vectors += sign * step * direction
        sides.append(mean_loss(method, images))
        with torch.no_grad():
            vectors -= sign * step * direction
    assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(gradient.norm().item(), rel=0.03)


def test_cocoop_without_its_network_is_coop(task, images):
    conditional, one = CoCoOp(epochs=1).fit(task.sources), CoOp(epochs=0).fit(task.sources)
    one.context_.vectors.data = conditional.context_.vectors.data
    assert not np.allclose(
        conditional.scores(images)["zero-shot"], one.scores(images)["zero-shot"], atol=1e-4
    )
    for weight in conditional.context_.meta_net.parameters():
        nn.init.zeros_(weight)
    np.testing.assert_allclose(
        conditional.scores(images)["zero-shot"], one.scores(images)["zero-shot"], atol=2e-4
    )


def test_cocoop_scores_an_image_by_itself(task, images):
    method = CoCoOp(epochs=1).fit(task.sources)
    together = method.scores(images)["zero-shot"]
    for i in (0, 40):
        alone = method.scores(images.take(slice(i, i + 1)))["zero-shot"]
        np.testing.assert_allclose(alone[0], together[i], atol=2e-4)


def test_dpl_scores_an_image_by_the_mean_of_its_domain(task, images):
    method = DPL(epochs=3).fit(task.sources)
    together = method.scores(images)["zero-shot"]
    first, *others = np.unique(images.domain)
    assert others
    own = images.domain == first
    np.testing.assert_allclose(
        method.scores(images.take(own))["zero-shot"], together[own], atol=2e-4
    )
    single = method.scores(images.take(slice(0, 1)))["zero-shot"]
    assert single.shape == (1, 10)
    assert not np.allclose(single[0], together[0], atol=1e-3)
    # by hand: the network's mean over the domain, as one context
    X = torch.from_numpy(images.embedded[own])
    with torch.no_grad():
        context = method.context_.start + torch.stack(
            [method.context_.network(x).view(4, -1) for x in X]
        ).mean(0)
        prompts = method.prompts_(context[None])[0]
    np.testing.assert_allclose(together[own], method.scale_ * (X @ prompts.T).numpy(), atol=2e-4)


def test_numbers_learnt(task):
    D, width = 64, MODEL_CONFIG["text_cfg"]["width"]
    expected = {
        CoOp: 4 * width,
        CoCoOp: 4 * width + (D + 1) * 4 + (4 + 1) * width,
        DPL: 2 * (D + 1) * D + (D + 1) * 4 * width,
    }
    for make, n in expected.items():
        assert make(epochs=0).fit(task.sources).n_parameters_ == {"zero-shot": n}


def test_a_text_tower_without_token_embeddings_is_an_error(task):
    class Sentences(nn.Module):
        def __init__(self):
            super().__init__()
            self.text = nn.Linear(2, 2)

        encode_text = encode_image = None

    other = Encoder("sentences", Sentences(), None, PREPROCESS_CONFIG, "cpu")
    with pytest.raises(ValueError, match=r"'sentences'.*Linear.*token_embedding.*Use an encoder"):
        PromptTower(other, CLASSES)
