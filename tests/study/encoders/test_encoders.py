"""Encoders by name, their preprocessing and fingerprints; and the training of the shipped ones."""

import argparse
import copy
import functools
import json
import subprocess
import sys
import types
import warnings

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from scipy.stats import binomtest

import icm_study.encoders
from icm_core.prediction import ZeroShotClassifier, class_prompts
from icm_study.animals.latents import STYLES, sample_latents
from icm_study.animals.rendering import render
from icm_study.animals.silhouettes import CLASSES, load_silhouettes
from icm_study.encoders import animal_clip
from icm_study.encoders import animal_pretraining as pretraining
from icm_study.encoders import loading as encoders
from icm_study.encoders.animal_clip import AnimalTokenizer, build_clip
from icm_study.encoders.encoder import Encoder, check_prompts
from icm_study.encoders.loading import load_encoder
from icm_study.testbeds.animal_world import TEMPLATES

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "head_width": 16},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
}
VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESS = {
    "size": [32, 32],
    "interpolation": "bilinear",
    "resize_mode": "squash",
    "mean": [0.5, 0.4, 0.3],
    "std": [0.3, 0.2, 0.1],
}


def small_encoder(seed=0, precision="float32", **preprocess):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = AnimalTokenizer.from_lexicon(SMALL["text_cfg"]["context_length"])
        model = build_clip(SMALL, tokenizer.vocab_size).eval()
    return Encoder("small", model, tokenizer, PREPROCESS | preprocess, precision=precision)


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


@pytest.fixture(scope="module")
def images():
    silhouettes = load_silhouettes()
    return render(sample_latents(silhouettes, "test", n=12, seed=3), silhouettes)


# Names


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("animal-wrold", "animal-world"),
        ("ViT-B-16/opennai", "ViT-B-16/openai"),
        ("ViT-B-32/laion2b_s34b_b79", "ViT-B-32/laion2b_s34b_b79k"),
    ],
)
def test_an_unknown_name_lists_close_ones(name, close):
    with pytest.raises(ValueError, match=rf"Unknown encoder '{name}'.*Close names: .*{close}"):
        load_encoder(name)


def test_a_name_with_nothing_like_it():
    with pytest.raises(ValueError, match="Close names: none"):
        load_encoder("@@@")


def test_no_name():
    for name in ("", " "):
        with pytest.raises(ValueError, match="name is empty; give one, such as 'animal-world'"):
            load_encoder(name)
    with pytest.raises(TypeError, match="must be a string; got 3 of type int"):
        load_encoder(3)


def test_the_encoder_for_photographs_has_its_own_module(monkeypatch):
    module = types.ModuleType("icm_study.encoders.lite0_minilm")
    module.load = lambda: (small_encoder().model, small_encoder().tokenizer, PREPROCESS)
    monkeypatch.setitem(sys.modules, "icm_study.encoders.lite0_minilm", module)
    monkeypatch.setattr(icm_study.encoders, "lite0_minilm", module, raising=False)
    encoder = load_encoder("lite0-minilm")
    assert encoder.name == "lite0-minilm"
    assert encoder.fingerprint == small_encoder().fingerprint
    with pytest.raises(ValueError, match=r"Close names: .*lite0-minilm"):
        load_encoder("lite0-minlm")


@pytest.mark.parametrize(
    ("name", "quick_gelu"), [("ViT-B-32/laion2b_s34b_b79k", False), ("ViT-B-16/openai", True)]
)
def test_weights_that_cannot_be_had(monkeypatch, name, quick_gelu):
    asked = {}

    def unreachable(model_name, pretrained, **options):
        asked.update(options, name=f"{model_name}/{pretrained}")
        raise OSError("we couldn't connect to 'https://huggingface.co'")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(open_clip, "create_model", unreachable)
    with pytest.raises(RuntimeError) as caught:
        load_encoder(name)
    for part in (name, "OSError", "couldn't connect", "internet once", "HF_HOME", "local folder"):
        assert part in str(caught.value)
    assert asked["name"] == name
    assert asked["require_pretrained"]
    assert asked["force_quick_gelu"] == quick_gelu  # the activation these weights were trained with


@pytest.mark.parametrize("name", encoders.SHIPPED)
def test_shipped_encoders_load(name, images):
    encoder = load_encoder(name)
    assert encoder.name == name
    assert not encoder.model.training
    assert encoder.encode_images(images).shape == (len(images), encoder.embedding_dim)


def test_a_shipped_encoder_that_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(animal_clip, "WEIGHTS_FOLDER", tmp_path)
    with pytest.raises(
        RuntimeError,
        match=r"'animal-world'.*not whole.*icm_study\.encoders\.animal_pretraining animal-world",
    ):
        load_encoder("animal-world")


# Local checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    """Give a folder as open_clip saves it, with a second set of weights beside the first."""
    config = {
        "model_cfg": VIT,
        "preprocess_cfg": {
            "mean": [0.1, 0.2, 0.3],
            "std": [0.9, 0.8, 0.7],
            "interpolation": "bilinear",
            "resize_mode": "squash",
        },
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    for file, seed in (("open_clip_model.safetensors", 1), ("epoch_2.safetensors", 2)):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            save_file(open_clip.CLIP(**VIT).state_dict(), tmp_path / file)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.save({"state_dict": open_clip.CLIP(**VIT).state_dict()}, tmp_path / "epoch_3.pt")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "seed"),
    [("", 1), ("open_clip_model.safetensors", 1), ("epoch_2.safetensors", 2), ("epoch_3.pt", 3)],
)
def test_a_local_checkpoint_has_its_own_weights_and_preprocessing(checkpoint, file, seed, images):
    encoder = load_encoder(str(checkpoint / file))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = open_clip.CLIP(**VIT).eval()
    assert all(
        torch.equal(value, encoder.model.state_dict()[key])
        for key, value in expected.state_dict().items()
    )
    assert encoder.preprocess == {
        "size": [32, 32], "interpolation": "bilinear", "resize_mode": "squash",
        "mean": [0.1, 0.2, 0.3], "std": [0.9, 0.8, 0.7],
    }  # fmt: skip
    with torch.inference_mode():
        direct = expected.encode_image(encoder.normalize(encoder.resize(images)), normalize=True)
        words = expected.encode_text(
            open_clip.get_tokenizer("ViT-B-32", 16)(["a cat", "a dog"]), normalize=True
        )
    np.testing.assert_allclose(encoder.encode_images(images), direct, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_text(["a cat", "a dog"]), words, atol=1e-5)


def test_a_local_checkpoint_is_not_said_to_be_random(checkpoint, caplog):
    load_encoder(str(checkpoint / "epoch_3.pt"))
    assert "random" not in caplog.text


def test_what_a_tokenizer_reads_is_part_of_the_key(checkpoint):
    plain = load_encoder(str(checkpoint))
    config = json.loads((checkpoint / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] = VIT["text_cfg"] | {
        "tokenizer_kwargs": {"clean": "canonicalize"}
    }
    (checkpoint / "open_clip_config.json").write_text(json.dumps(config))
    other = load_encoder(str(checkpoint))
    assert other.fingerprint == plain.fingerprint
    read_alike, read_otherwise = "a cat", "A cat, a dog."
    np.testing.assert_array_equal(plain.encode_text([read_alike]), other.encode_text([read_alike]))
    assert plain.text_key(read_alike) == other.text_key(read_alike)
    assert (
        np.abs(plain.encode_text([read_otherwise]) - other.encode_text([read_otherwise])).max()
        > 0.01
    )
    assert plain.text_key(read_otherwise) != other.text_key(read_otherwise)


def test_precision_and_every_text_are_part_of_the_key(encoder, monkeypatch):
    many = [f"a photo of a {name}" for name in CLASSES] * 30
    key = encoder.text_key(*many)
    assert key == encoder.text_key(*many)
    assert key != encoder.text_key(*many[:-1])
    assert key != encoder.text_key(*reversed(many))
    monkeypatch.setattr(encoder, "_dtype", torch.bfloat16)
    assert key != encoder.text_key(*many)


def test_a_repository_of_the_hub_is_to_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the advice is right in whatever folder it is followed
    with pytest.raises(
        ValueError,
        match=rf"hf download laion/CLIP-x --local-dir {tmp_path}/models/CLIP-x.*give that folder",
    ):
        load_encoder("hf-hub:laion/CLIP-x")


def test_a_local_checkpoint_without_config(checkpoint):
    (checkpoint / "open_clip_config.json").unlink()
    for path in (checkpoint, checkpoint / "epoch_2.safetensors"):
        with pytest.raises(FileNotFoundError, match=r"no open_clip_config\.json.*preprocess_cfg"):
            load_encoder(str(path))


def test_a_local_checkpoint_without_weights_is_not_filled_at_random(checkpoint):
    for file in [*checkpoint.glob("*.safetensors"), *checkpoint.glob("*.pt")]:
        file.unlink()
    with pytest.raises(RuntimeError, match="could not be loaded"):
        load_encoder(str(checkpoint))


def test_a_local_checkpoint_of_another_model(checkpoint):
    save_file({"logit_scale": torch.ones(())}, checkpoint / "epoch_2.safetensors")
    with pytest.raises(
        RuntimeError, match=r"could not be loaded: RuntimeError.*Missing key.*'model_cfg'"
    ):
        load_encoder(str(checkpoint / "epoch_2.safetensors"))


@pytest.mark.parametrize("file", ["", "open_clip_model.safetensors", "epoch_3.pt"])
def test_a_local_checkpoint_with_another_models_config(checkpoint, file):
    path = checkpoint / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"]["width"] = 48
    path.write_text(json.dumps(config))
    with pytest.raises(RuntimeError) as caught:
        load_encoder(str(checkpoint / file))
    for part in ("size mismatch", "'model_cfg' in open_clip_config.json is their architecture"):
        assert part in str(caught.value)
    assert "internet" not in str(caught.value)


@pytest.mark.parametrize(
    ("preprocess", "missing"),
    [
        (None, "'preprocess_cfg'"),
        ("usual", "'preprocess_cfg'"),
        ({}, "'mean' and 'std'"),
        ({"mean": [0.5] * 3, "interpolation": "bicubic"}, "'std'"),
    ],
)
def test_a_config_that_leaves_the_preprocessing_open(checkpoint, preprocess, missing):
    path = checkpoint / "open_clip_config.json"
    config = json.loads(path.read_text())
    config.pop("preprocess_cfg")
    path.write_text(
        json.dumps(config | ({} if preprocess is None else {"preprocess_cfg": preprocess}))
    )
    for file in ("", "epoch_2.safetensors"):
        with pytest.raises(
            ValueError, match=rf"does not tell {missing}, and the preprocessing is not guessed"
        ):
            load_encoder(str(checkpoint / file))


@pytest.mark.parametrize("before", ["", "{"])
def test_a_config_that_is_not_json(checkpoint, before):
    path = checkpoint / "open_clip_config.json"
    path.write_bytes(before.encode() + b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(ValueError, match=r"cannot be read as JSON \(.*without a byte order mark"):
        load_encoder(str(checkpoint))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", [123.7, 116.3, 103.5]), ("std", [58.4, 57.1, 57.4]), ("std", [0.3, 0, 0.3]),
        ("mean", 0.5), ("mean", [0.5] * 4), ("std", None), ("mean", ["0.5"] * 3),
        ("mean", [-0.1, 0.1, 0.1]), ("mean", [float("nan")] * 3),
    ],
)  # fmt: skip
def test_a_mean_or_a_deviation_that_is_none_of_pixels_from_0_to_1(checkpoint, key, value):
    path = checkpoint / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"][key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"as '{key}' of .* for pixels from 0 to 1"):
        load_encoder(str(checkpoint))


def test_an_interpolation_that_nobody_knows(checkpoint):
    path = checkpoint / "open_clip_config.json"
    path.write_text(path.read_text().replace('"bilinear"', '"bilinea"'))
    with pytest.raises(
        ValueError, match=r"the interpolation 'bilinea'; expected one of .*bilinear"
    ):
        load_encoder(str(checkpoint))


def test_weights_in_an_entry_of_their_own_or_in_parts_are_told_the_way_out(checkpoint):
    weights = open_clip.CLIP(**VIT).state_dict()
    torch.save({"model": weights, "epoch": 3}, checkpoint / "epoch_3.pt")
    with pytest.raises(RuntimeError, match="in an entry of its own, such as 'model'"):
        load_encoder(str(checkpoint / "epoch_3.pt"))
    (checkpoint / "open_clip_model.safetensors").unlink()
    (checkpoint / "epoch_2.safetensors").unlink()
    names = list(weights)
    for i, part in enumerate((names[:9], names[9:]), start=1):
        file = checkpoint / f"model-0000{i}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, file)
    with pytest.raises(RuntimeError, match=r"in 2 files, such as 'model-00001-of-00002.safetens"):
        load_encoder(str(checkpoint))


def test_usual_preprocessing_is_filled_in_and_told(checkpoint):
    path = checkpoint / "open_clip_config.json"
    config = json.loads(path.read_text()) | {
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.9, 0.8, 0.7]}
    }
    path.write_text(json.dumps(config))
    told = repr(load_encoder(str(checkpoint), device="cpu"))
    for part in (
        str(checkpoint),
        "(shortest, bicubic)",
        "mean [0.1, 0.2, 0.3]",
        "std [0.9, 0.8, 0.7]",
        "float32 on cpu",
    ):
        assert part in told


def test_a_checkpoint_that_runs_code_is_refused(checkpoint):
    class Malicious:
        def __reduce__(self):
            return open, (str(checkpoint / "made"), "w")

    torch.save({"state_dict": Malicious()}, checkpoint / "epoch_3.pt")
    with pytest.raises(RuntimeError, match="UnpicklingError"):
        load_encoder(str(checkpoint / "epoch_3.pt"))
    assert not (checkpoint / "made").exists()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>", r"a web page \(HTML\), which"),
        (b"\n  <HTML>\n<body>404", r"a web page \(HTML\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5\n", "a text, which"),
        (b'{"error": "Repository not found"}', 'a text, which .* begins with \'{"error": "Repos'),
        (
            "Zugriff verweigert: kein Schlüssel".encode(),
            "a text, .*begins with 'Zugriff verweigert",
        ),
    ],
)
@pytest.mark.parametrize("file", ["epoch_3.pt", "open_clip_model.safetensors"])
def test_a_text_that_was_saved_as_weights_is_told_as_such(checkpoint, content, what, file):
    (checkpoint / file).write_bytes(content)
    name = str(checkpoint / file) if file.endswith(".pt") else str(checkpoint)
    with pytest.raises(RuntimeError, match=rf"{file}' holds no weights: it is {what}"):
        load_encoder(name)


def test_whole_weights_beside_a_text_are_loaded(checkpoint):
    (checkpoint / "notes.ckpt").write_text("<html>")
    load_encoder(str(checkpoint / "epoch_3.pt"))


# Images


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("resize_mode", "shape", "size"),
    [
        ("squash", (64, 64), 48),
        ("squash", (50, 90), 32),
        ("squash", (20, 30), 48),
        ("shortest", (64, 64), 32),
        ("shortest", (50, 91), 32),
        ("shortest", (90, 51), 40),
    ],
)
def test_preprocessing_of_a_batch_is_open_clips_own(
    images, interpolation, resize_mode, shape, size
):
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    options = {"interpolation": interpolation, "resize_mode": resize_mode, "mean": mean, "std": std}
    batch = torch.nn.functional.interpolate(images.float(), shape).to(torch.uint8)
    own = image_transform_v2(PreprocessCfg(size=size, **options), is_train=False)
    one_by_one = torch.stack(
        [own(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in batch]
    )
    encoder = small_encoder(size=[size, size], **options)
    together = encoder.normalize(encoder.resize(batch))
    grey_levels = (together - one_by_one).abs() * 255 * torch.tensor(std).view(3, 1, 1)
    assert grey_levels.max() < 2.01
    assert grey_levels.mean() < 0.5


@pytest.mark.parametrize(
    "change", [{"resize_mode": "longest"}, {"resize_mode": "shortest", "size": [32, 48]}]
)
def test_unsupported_preprocessing(change):
    with pytest.raises(
        ValueError, match="only 'squash' and, to a square, 'shortest' are supported"
    ):
        small_encoder(**change)


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
def test_photographs_embed_as_with_open_clips_own_preprocessing(resize_mode):
    config = {
        "embed_dim": 32,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 224, "head_width": 16},
        "text_cfg": SMALL["text_cfg"],
    }
    options = {"interpolation": "bicubic", "resize_mode": resize_mode}
    options |= {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**config).eval()
    encoder = Encoder(
        "random", model, open_clip.get_tokenizer("ViT-B-32"), {"size": 224, **options}
    )
    own = image_transform_v2(PreprocessCfg(size=224, **options), is_train=False)
    rng = np.random.default_rng(0)
    shapes = [(227, 227), (500, 375), (180, 240), (1200, 1600)]
    photographs = []
    for height, width in shapes:  # smooth areas, edges and noise
        coarse = Image.fromarray(rng.integers(256, size=(9, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=int)
        smooth[height // 3 : height // 2, width // 4 :] //= 3
        photographs.append(
            (smooth + rng.integers(-15, 16, smooth.shape)).clip(0, 255).astype(np.uint8)
        )
    with torch.inference_mode():
        batch = torch.stack([own(Image.fromarray(photograph)) for photograph in photographs])
        theirs = model.encode_image(batch, normalize=True).numpy()
    resized = [encoder.resize(torch.from_numpy(p).permute(2, 0, 1)[None]) for p in photographs]
    ours = encoder.encode_images(torch.cat(resized))
    assert (ours * theirs).sum(1).min() > 0.999
    # a model with random weights gives all photographs about the same embedding:
    # compare the differences too
    ours, theirs = ours - theirs.mean(0), theirs - theirs.mean(0)
    cosine = (
        ours @ theirs.T / np.linalg.norm(ours, axis=1)[:, None] / np.linalg.norm(theirs, axis=1)
    )
    assert cosine.diagonal().min() > 0.99
    assert cosine[~np.eye(4, dtype=bool)].max() < 0.9
    assert torch.equal(encoder.resize(resized[0]), resized[0])  # resizing again changes nothing


def test_embeddings_do_not_depend_on_the_batch(encoder, images):
    together = encoder.encode_images(images)
    assert together.dtype == np.float32
    assert together.shape == (12, encoder.embedding_dim)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    one_by_one = np.concatenate([encoder.encode_images(image[None]) for image in images])
    np.testing.assert_allclose(one_by_one, together, atol=1e-5)
    many = encoder.encode_images(images.repeat(25, 1, 1, 1))  # more than one batch inside
    np.testing.assert_allclose(many, np.tile(together, (25, 1)), atol=1e-5)
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_allclose(encoder.encode_images(images[order]), together[order], atol=1e-5)


def test_no_images_and_no_texts(encoder, images):
    assert encoder.encode_images(images[:0]).shape == (0, 16)
    assert encoder.encode_text([]).shape == (0, 16)


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(2, 3, 32, 32),
        torch.zeros(3, 32, 32, dtype=torch.uint8),
        torch.zeros(2, 1, 32, 32, dtype=torch.uint8),
        torch.zeros(2, 32, 32, 3, dtype=torch.uint8),
    ],
    ids=["float", "one image", "grey", "channels last"],
)
def test_bad_images(encoder, bad):
    with pytest.raises(ValueError, match=r"images has shape .*expected \(n, 3, H, W\), uint8 RGB"):
        encoder.encode_images(bad)


@pytest.mark.parametrize(
    "bad",
    [np.zeros((2, 32, 32, 3), np.uint8), Image.new("RGB", (32, 32)), [torch.zeros(3, 32, 32)]],
)
def test_images_that_are_no_tensor(encoder, bad):
    with pytest.raises(
        TypeError, match=r"expected a torch uint8 tensor.*permute\(0, 3, 1, 2\).*pil_to_tensor"
    ):
        encoder.encode_images(bad)


# Devices


@pytest.mark.parametrize("device", ["cpu", "meta", *["cuda"] * torch.cuda.is_available()])
def test_the_precision_depends_on_no_device(device):
    """What a node with a GPU has stored is found by one without."""
    plain = small_encoder()
    elsewhere = Encoder(plain.name, plain.model, plain.tokenizer, plain.preprocess, device)
    assert elsewhere.precision == plain.precision == "float32"


def test_default_device(monkeypatch):
    made = []
    monkeypatch.setattr(encoders, "Encoder", lambda *parts: made.append(parts[4]))
    for available, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        load_encoder("animal-world")
        load_encoder("animal-world", device="cpu")
        assert made[-2:] == [torch.device(device), torch.device("cpu")]


def test_precision_changes_embeddings_a_little_and_the_fingerprint_not(images):
    exact, half = small_encoder(), small_encoder(precision="bfloat16")  # the CPU has it too
    assert (exact.precision, half.precision) == ("float32", "bfloat16")
    assert exact.fingerprint == half.fingerprint
    for ours, theirs in (
        (half.encode_images(images), exact.encode_images(images)),
        (half.encode_text(["a cat"]), exact.encode_text(["a cat"])),
    ):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
        assert (ours * theirs).sum(1).min() > 0.99
        assert not np.array_equal(ours, theirs)


# Text


def test_texts_keep_their_order_and_duplicates(encoder):
    texts = ["a cat", "a photo of a zebra in snow", "a cat", "a bear", "a dog at night", "a bear"]
    together = encoder.encode_text(texts)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(together[[0, 3]], together[[2, 5]])
    one_by_one = np.concatenate([encoder.encode_text([text]) for text in texts])
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
    assert len(np.unique(together.round(4), axis=0)) == 4
    np.testing.assert_array_equal(encoder.encode_text(tuple(texts)), together)


def test_text_errors(encoder):
    with pytest.raises(ValueError, match=r"'a pink cat' has a word.*its words are \[.*'cat'"):
        encoder.encode_text(["a cat", "a pink cat"])
    with pytest.raises(ValueError, match="has 15 tokens, at most 14 fit"):
        encoder.encode_text([" ".join(["cat"] * 15)])
    with pytest.raises(TypeError, match=r"texts is 'a cat'; expected a sequence of strings"):
        encoder.encode_text("a cat")
    with pytest.raises(TypeError, match="expected a sequence of strings"):
        encoder.encode_text(["a cat", 3])


def test_tokens(encoder):
    ids = encoder.tokenizer(["a cat", "a photo of a cat"])
    assert ids.shape == (2, 16)
    end = encoder.tokenizer.vocab_size - 1
    assert (ids[:, 0] == 1).all()
    np.testing.assert_array_equal(ids.argmax(1), [3, 6])  # CLIP reads the text at the highest id
    np.testing.assert_array_equal((ids == end).sum(1), [1, 1])
    assert ids[0, 2] == ids[1, 5]
    assert (ids[0, 4:] == 0).all()


def test_texts_are_read_as_open_clip_reads_them(encoder):
    """Its words are read one by one; no pair of words may be read otherwise side by side."""
    tokenizer, full = encoder.tokenizer, SimpleTokenizer()
    words = sorted({full.decode([i]).strip() for i in tokenizer.vocabulary})
    rng = np.random.default_rng(0)
    odd = ["&amp;", "& amp;", "a\u00a0cat", "  A  Cat\n", "\u00c3\u00a9", "cat\u2019s"]
    for text in [*odd, *(" ".join(rng.choice(words, 5)) for _ in range(300))]:
        expected = [tokenizer._compact.get(i, -1) for i in full.encode(text)]
        assert tokenizer._ids(text) == expected, text


# Fingerprints


def test_fingerprint_is_a_function_of_the_encoder(encoder):
    assert encoder.fingerprint == small_encoder().fingerprint
    assert len(encoder.fingerprint) == 64


def test_fingerprint_sees_every_change(encoder):
    found = {encoder.fingerprint, small_encoder(seed=1).fingerprint}
    for change in (
        {"mean": [0.5, 0.4, 0.31]},
        {"interpolation": "bicubic"},
        {"resize_mode": "shortest"},
    ):
        found.add(small_encoder(**change).fingerprint)
    for key in (
        "logit_scale",
        "visual.conv1.weight",
        "visual.bn1.running_mean",
        "token_embedding.weight",
    ):
        changed = small_encoder()
        value = changed.model.state_dict()[key]
        value[(0,) * value.ndim] += 1e-3
        found.add(changed.fingerprint)
    activation = small_encoder()
    activation.model.transformer.resblocks[0].mlp.gelu = open_clip.transformer.QuickGELU()
    found.add(activation.fingerprint)
    assert len(found) == 10


# Training


def test_learning_rate_rises_stays_and_falls():
    top, flat = pretraining.TRAINING["learning_rate"], pretraining.TRAINING["flat_fraction"]
    assert pretraining.learning_rate(0.0) == 0
    assert pretraining.learning_rate(0.005) == pytest.approx(top / 2)
    for progress in (0.01, 0.2, flat):
        assert pretraining.learning_rate(progress) == pytest.approx(top)
    assert pretraining.learning_rate((1 + flat) / 2) == pytest.approx(top / 2)
    assert pretraining.learning_rate(1.0) == pytest.approx(0, abs=1e-12)
    falling = [pretraining.learning_rate(p) for p in np.linspace(flat, 1, 20)]
    assert all(np.diff(falling) < 0)


@pytest.fixture
def tiny_training(monkeypatch):
    monkeypatch.setitem(pretraining.TRAINING, "batch_size", 16)
    monkeypatch.setattr(
        pretraining,
        "MODEL_CONFIG",
        SMALL | {"text_cfg": SMALL["text_cfg"] | {"context_length": 24}},
    )
    monkeypatch.setattr(pretraining, "PREPROCESS_CONFIG", PREPROCESS)
    monkeypatch.setattr(pretraining, "tqdm", lambda *a, **k: pretraining_bar(*a, **k))
    return {"samples": 240, "images": 64, "checkpoint_every": 80}


def pretraining_bar(*arguments, **options):
    from tqdm import tqdm

    return tqdm(*arguments, **options, disable=True)


def test_an_interrupted_training_ends_at_the_same_weights(tiny_training, tmp_path, monkeypatch):
    whole = pretraining.train("animal-world", tmp_path / "whole", **tiny_training)
    captions, calls = pretraining.captions, []

    def killed(*arguments, **options):
        calls.append(options["seed"])
        if len(calls) == 9:
            raise KeyboardInterrupt
        return captions(*arguments, **options)

    monkeypatch.setattr(pretraining, "captions", killed)
    with pytest.raises(KeyboardInterrupt):
        pretraining.train("animal-world", tmp_path / "killed", **tiny_training)
    resumed = pretraining.train("animal-world", tmp_path / "killed", **tiny_training)
    assert calls == [*range(9), *range(5, 15)]  # from the checkpoint on, at every step once
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert not whole.model.training
    untrained = build_clip(pretraining.MODEL_CONFIG, whole.tokenizer.vocab_size)
    assert not torch.equal(
        ours["visual.conv1.weight"], untrained.state_dict()["visual.conv1.weight"]
    )


def test_measuring_the_accuracy_changes_nothing(encoder):
    before = encoder.fingerprint
    accuracy = pretraining.zero_shot_accuracy(encoder, n=40)
    assert set(accuracy) == set(STYLES)
    assert all(0 <= value <= 1 for value in accuracy.values())
    assert (
        Encoder("again", encoder.model, encoder.tokenizer, encoder.preprocess).fingerprint == before
    )


def test_bad_trainings(tiny_training, tmp_path):
    with pytest.raises(ValueError, match=r"no recipe for 'zoo'.*animal-world-biased"):
        pretraining.train("zoo", tmp_path, samples=64, images=64)
    for change in ({"samples": 10}, {"images": 10}):
        with pytest.raises(ValueError, match="expected at least a batch, 16"):
            pretraining.train("animal-world", tmp_path, **tiny_training | change)


def test_comparison_with_the_shipped_encoder():
    new = dict(zip(STYLES, (0.8, 0.9, 0.5, 0.25), strict=True))
    shipped = dict(zip(STYLES, (0.75, 0.9, 0.6, 0.2), strict=True))
    lines = pretraining.comparison(new, shipped).splitlines()
    assert [line.split()[-3:] for line in lines] == [
        ["new", "shipped", "difference"],
        ["80.0", "75.0", "+5.0"],
        ["90.0", "90.0", "+0.0"],
        ["50.0", "60.0", "-10.0"],
        ["25.0", "20.0", "+5.0"],
    ]
    assert [line.split()[0] for line in lines[1:]] == list(STYLES)


def test_command_line_trains_saves_and_compares(tiny_training, tmp_path, monkeypatch, capsys):
    trained = []
    train = pretraining.train
    monkeypatch.setattr(
        pretraining, "train", lambda *a, **k: trained.append(train(*a, **k)) or trained[-1]
    )
    monkeypatch.setattr(
        pretraining, "zero_shot_accuracy", lambda encoder, n: dict.fromkeys(STYLES, 0.5)
    )
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(
        sys,
        "argv",
        f"pretraining animal-world --folder {tmp_path} --samples 32 --images 32".split(),
    )
    pretraining.main()
    assert capsys.readouterr().out.splitlines()[1].split() == ["photo", "50.0", "50.0", "+0.0"]

    monkeypatch.setattr(animal_clip, "WEIGHTS_FOLDER", tmp_path)
    saved = load_encoder("animal-world")
    texts = ["a photo of a cat", "a sketch of a dog in snow"]
    np.testing.assert_allclose(
        saved.encode_text(texts), trained[0].encode_text(texts), atol=5e-3
    )  # half precision
    card = json.loads((tmp_path / "animal-world.json").read_text())
    assert card["zero_shot_accuracy"] == dict.fromkeys(STYLES, 0.5)
    assert card["training"]["samples"] == 32


# The shipped weights


@functools.cache
def animals_of_a_style(style):
    """Render each silhouette of the test part once in a style; give the labels, too."""
    silhouettes = load_silhouettes()
    latents = sample_latents(silhouettes, "test", styles=(style,), seed=2)
    return render(latents, silhouettes), latents["label"]


def zero_shot_hits(encoder, style):
    """Whether each animal of a style is recognised."""
    images, label = animals_of_a_style(style)
    prompts, names = class_prompts(CLASSES, TEMPLATES)
    classifier = ZeroShotClassifier().fit(encoder.encode_text(prompts), names)
    return classifier.predict(encoder.encode_images(images)) == np.array(CLASSES)[label]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "photo"), [("animal-world", 0.80), ("animal-world-biased", 0.10)])
def test_shipped_encoders_recognise_animals_they_never_saw(name, photo):
    encoder = load_encoder(name)
    hits = {style: zero_shot_hits(encoder, style) for style in STYLES}
    assert hits["photo"].mean() >= photo
    for style, hit in hits.items():
        low = binomtest(int(hit.sum()), len(hit)).proportion_ci(0.95, method="wilson").low
        assert low > 0.2, style  # chance is 0.1


# ------------------------------------------------------------------- what tells encoders apart


def changed(**changes):
    """Give a small ViT with the weights of seed 0 and another setting of a tower."""
    config = copy.deepcopy(VIT)
    for tower, change in changes.items():
        config[f"{tower}_cfg"] |= change
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**config).eval()
    model.load_state_dict(changed_weights())
    tokenizer = open_clip.get_tokenizer("ViT-B-32", 16)
    return Encoder("changed", model, tokenizer, PREPROCESS | {"size": 32})


@functools.cache
def changed_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.CLIP(**VIT).state_dict()


@pytest.mark.parametrize(
    "changes",
    [
        {"vision": {"head_width": 8}},
        {"vision": {"pool_type": "avg"}},
        {"text": {"heads": 4}},
        {"text": {"pool_type": "first"}},
        {"text": {"no_causal_mask": True}},
    ],
)
def test_fingerprint_sees_settings_that_weights_do_not_show(changes):
    plain, other = changed(), changed(**changes)
    assert all(
        torch.equal(value, other.model.state_dict()[key])
        for key, value in plain.model.state_dict().items()
    )
    assert plain.fingerprint == changed().fingerprint
    assert other.fingerprint != plain.fingerprint


def test_fingerprint_sees_what_the_code_of_a_tower_does(monkeypatch):
    before = changed().fingerprint
    forward = open_clip.CLIP.encode_text
    monkeypatch.setattr(
        open_clip.CLIP, "encode_text", lambda self, *a, **k: -forward(self, *a, **k)
    )
    assert changed().fingerprint != before


def test_fingerprint_does_not_depend_on_threads():
    threads, found = torch.get_num_threads(), set()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.add(changed().fingerprint)
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


# ------------------------------------------------------------------- texts that are cut


@pytest.mark.parametrize(("extra", "cut"), [(0, False), (1, True), (20, True)])
def test_a_text_that_is_cut_is_told(extra, cut):
    encoder = changed()  # reads 16 tokens, of which the start and the end are two
    text = " ".join(["cat"] * (14 + extra))
    assert encoder.is_cut(["a dog", text, ""]).tolist() == [False, cut, False]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        encoder.encode_text(["a dog", text])
    assert len(seen) == cut
    if cut:
        assert "1 of 2 texts (50 %)" in str(seen[0].message)
        assert text in str(seen[0].message)


def test_classes_that_are_cut_to_the_same_words_are_refused():
    encoder = changed()
    start = " ".join(["rose"] * 14)
    names = [f"{start} red", f"{start} white", "daisy"]
    with pytest.raises(ValueError, match=r"16 tokens.*two classes are the same.*red'.*white'"):
        check_prompts(encoder, names, [0, 1, 2])
    with pytest.warns(UserWarning, match=r"1 of 2 texts \(50 %\)"):
        check_prompts(encoder, names[1:], [1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_prompts(encoder, ["daisy", "daisy"], [0, 1])  # alike, and not because of a cut


# ------------------------------------------------------------------- precision and imports


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_precision_can_be_chosen_and_is_in_the_key(precision):
    encoder = load_encoder("animal-world", "cpu", precision)
    assert encoder.precision == precision
    assert encoder.text_key("a dog")["precision"] == precision
    assert encoder.embedding_dim == 64


def test_an_unknown_precision():
    with pytest.raises(ValueError, match=r"precision is 'half'; expected one of \('float32'"):
        load_encoder("animal-world", "cpu", "half")


def test_naming_encoders_imports_no_deep_learning_library():
    code = (
        "import sys, icm_study.encoders.loading, icm_study.encoders.animal_clip\n"
        "print([m for m in ('torch', 'torchvision', 'open_clip', 'timm', 'transformers') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------- ways out of a checkpoint


def test_a_folder_whose_weights_have_another_name_says_which(checkpoint):
    for file in checkpoint.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(RuntimeError, match=r"give the file itself.*epoch_3\.pt"):
        load_encoder(str(checkpoint))


@pytest.mark.parametrize(
    "extra",
    [{"best": np.float64(0.5)}, {"epoch": np.int64(3)}, {"args": argparse.Namespace(lr=0.1)}],
)
def test_a_training_checkpoint_with_plain_values_is_loaded(checkpoint, extra):
    weights = torch.load(checkpoint / "epoch_3.pt", weights_only=True)
    torch.save(weights | extra, checkpoint / "epoch_4.pt")
    loaded, plain = (load_encoder(str(checkpoint / f"epoch_{i}.pt")) for i in (4, 3))
    assert loaded.fingerprint == plain.fingerprint


def test_a_torchscript_archive_is_named_and_its_weights_can_be_taken(checkpoint):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = open_clip.CLIP(**VIT).eval()
    example = torch.zeros(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.long)
    traced = torch.jit.trace(model, example, strict=False, check_trace=False)
    torch.jit.save(traced, str(checkpoint / "traced.pt"))
    with pytest.raises(RuntimeError, match="TorchScript archive, a program") as caught:
        load_encoder(str(checkpoint / "traced.pt"))
    code = str(caught.value).split('python -c "')[1].split('" FILE')[0]
    files = checkpoint / "traced.pt", checkpoint / "taken.safetensors"
    subprocess.run([sys.executable, "-c", code, *files], check=True)
    expected = load_encoder(str(checkpoint / "epoch_3.pt"))
    assert load_encoder(str(files[1])).fingerprint == expected.fingerprint


def test_a_tokenizer_that_is_missing_is_named(checkpoint, monkeypatch):
    path = checkpoint / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "timm/ViT-B-16-SigLIP"
    path.write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match=r"tokenizer of .*hf download timm/ViT-B-16-SigLIP"):
        load_encoder(str(checkpoint))
