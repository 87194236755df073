"""Captions by a CoCa model: a tiny one with random weights, that really generates."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from conftest import PACS
from open_clip import coca_model
from PIL import Image
from safetensors.torch import save_file

from icm_study.encoders.loading import load_encoder
from icm_study.text import captioner
from icm_study.text.captioner import caption_images

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "attentional_pool": True,
        "attn_pooler_heads": 2, "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 76, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
        "embed_cls": True, "output_tokens": True,
    },
    "multimodal_cfg": {
        "context_length": 76, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1,
        "attn_pooler_heads": 2,
    },
    "custom_text": True,
}  # fmt: skip
PREPROCESS = {
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def _save(folder, seed=0, end_seed=0):
    """Write a CoCa with random weights; large ones for the end mark: captions differ in length."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    model = open_clip.CoCa(**{k: v for k, v in CONFIG.items() if k != "custom_text"})
    weights = {k: torch.randn(v.shape, generator=generator) for k, v in model.state_dict().items()}
    end = torch.randn(16, generator=torch.Generator().manual_seed(end_seed))
    weights["text_decoder.text_projection"][:, captioner.END] = 5 * end
    weights = {
        k: v.clone() if "attn_mask" not in k else model.state_dict()[k].clone()
        for k, v in weights.items()
    }
    save_file(weights, folder / "open_clip_model.safetensors")
    config = {"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="module")
def coca(tmp_path_factory):
    return _save(tmp_path_factory.mktemp("models") / "coca")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        pixels = torch.randint(0, 256, (2, 3, 3), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).resize((48, 40), Image.Resampling.NEAREST).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def described(monkeypatch):
    """Record the images that a model really looks at."""
    seen = []
    describe = captioner._describe

    def recorded(model, paths):
        seen.extend(Path(path).name for path in paths)
        return describe(model, paths)

    monkeypatch.setattr(captioner, "_describe", recorded)
    return seen


def test_captions_are_texts_that_depend_on_the_image_and_not_on_the_batch(coca, images, tmp_path):
    captions = caption_images(coca, images, tmp_path / "a.jsonl", batch_size=4, progress=False)
    assert len(set(captions)) > 1
    assert all(captions)
    assert not any("start_of_text" in c or "end_of_text" in c or c != c.strip() for c in captions)
    assert captions == caption_images(
        coca, images, tmp_path / "b.jsonl", batch_size=1, progress=False
    )
    backwards = caption_images(coca, images[::-1], tmp_path / "c.jsonl", progress=False)
    assert captions == backwards[::-1]


@pytest.mark.parametrize(("end_seed", "shortest"), [(0, 20), (34, 7)])
def test_the_caption_is_what_open_clip_generates(end_seed, shortest, images, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    for name in (
        "LogitsProcessorList",
        "RepetitionPenaltyLogitsProcessor",
        "MinLengthLogitsProcessor",
    ):
        monkeypatch.setattr(coca_model, name, getattr(transformers, name), raising=False)
    for name in ("MaxLengthCriteria", "StoppingCriteriaList"):
        monkeypatch.setattr(coca_model, name, getattr(transformers, name), raising=False)
    monkeypatch.setattr(coca_model, "_has_transformers", True)
    monkeypatch.setitem(coca_model.GENERATION_TYPES, "top_k", transformers.TopKLogitsWarper)
    encoder = load_encoder(_save(tmp_path / "coca", end_seed=end_seed))
    pixels = torch.cat(
        [encoder.resize(captioner.pil_to_tensor(Image.open(path))[None]) for path in images]
    )
    with torch.no_grad():
        theirs = encoder.model.generate(encoder.normalize(pixels), generation_type="top_k", top_k=1)
    texts = [
        open_clip.decode(row).split("<end_of_text>")[0].replace("<start_of_text>", "")
        for row in theirs
    ]
    lengths = {(row == captioner.END).nonzero()[0, 0].item() + 1 for row in theirs}
    assert (min(lengths), max(lengths)) == (
        shortest,
        captioner.CAPTION_TOKENS,
    )  # some end by themselves; 34 would end too soon
    assert captioner._describe(encoder, images) == [" ".join(text.split()) for text in texts]


def test_no_image_is_described_twice(coca, images, tmp_path, described):
    cache = tmp_path / "c.jsonl"
    first = caption_images(coca, images[:3], cache, batch_size=2, progress=False)
    everything = caption_images(coca, [*images, *images], cache, batch_size=2, progress=False)
    assert sorted(described) == sorted(path.name for path in images)
    assert everything == [*first, *everything[3:6], *first, *everything[3:6]]


def test_what_was_described_before_an_unreadable_image_is_kept(coca, images, tmp_path, described):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    cache = tmp_path / "c.jsonl"
    paths = [*images[:4], bad]
    with pytest.raises(ValueError, match=r"bad\.png.*cannot be read"):
        caption_images(coca, paths, cache, batch_size=2, progress=False)
    assert len(caption_images(coca, images[:4], cache, progress=False)) == 4
    assert sorted(described) == sorted(path.name for path in paths)


def test_another_content_or_other_weights_are_another_caption(coca, images, tmp_path, described):
    cache, moved = tmp_path / "c.jsonl", tmp_path / "moved.png"
    (caption,) = caption_images(coca, images[:1], cache, progress=False)
    moved.write_bytes(images[0].read_bytes())
    assert caption_images(coca, [moved], cache, progress=False) == [caption]
    assert described == ["0.png"]
    moved.write_bytes(images[1].read_bytes())
    caption_images(coca, [moved], cache, progress=False)
    caption_images(_save(tmp_path / "other", 1), images[:1], cache, progress=False)
    assert described == ["0.png", "moved.png", "0.png"]


def test_a_named_model_is_not_needed_where_all_captions_are_there(
    coca, images, tmp_path, monkeypatch
):
    name = "coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k"
    monkeypatch.setattr(captioner, "load_encoder", lambda _: load_encoder(coca))
    captions = caption_images(name, images, tmp_path / "c.jsonl", progress=False)
    monkeypatch.setattr(captioner, "load_encoder", lambda _: pytest.fail("loaded"))
    assert caption_images(name, images, tmp_path / "c.jsonl", progress=False) == captions


def test_without_network_the_message_tells_the_ways_out(images, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    name = "coca_ViT-B-32/mscoco_finetuned_laion2b_s13b_b90k"
    with pytest.raises(RuntimeError, match=rf"'{name}' could not be loaded.*local folder"):
        caption_images(name, images, tmp_path / "c.jsonl", progress=False)


def test_what_is_no_captioner(images, tmp_path):
    cache = tmp_path / "c.jsonl"
    with pytest.raises(
        ValueError, match=r"Unknown captioner 'ViT-B-16/openai'.*coca_ViT-L-14/mscoco"
    ):
        caption_images("ViT-B-16/openai", images, cache)
    clip = tmp_path / "clip"
    clip.mkdir()
    config = {k: v for k, v in CONFIG.items() if k in ("embed_dim", "vision_cfg", "text_cfg")}
    config["vision_cfg"] = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}
    config["text_cfg"] = {
        "context_length": 8,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
    }
    model = open_clip.CLIP(**config)
    save_file(model.state_dict(), clip / "open_clip_model.safetensors")
    (clip / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": PREPROCESS})
    )
    with pytest.raises(ValueError, match=r"no captioner: expected a CoCa model.*got CLIP"):
        caption_images(str(clip), images, cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"open_clip_config\.json"):
        caption_images(str(tmp_path / "empty"), images, cache)


def test_bad_arguments(coca, images, tmp_path):
    with pytest.raises(TypeError, match="paths must be a sequence"):
        caption_images(coca, str(images[0]), tmp_path / "c.jsonl")
    with pytest.raises(ValueError, match="batch_size is 0"):
        caption_images(coca, images, tmp_path / "c.jsonl", batch_size=0)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        caption_images(coca, ["nowhere.png"], tmp_path / "c.jsonl")


def test_it_describes_real_photographs(coca, tmp_path):
    root = PACS
    paths = [
        next((root / domain / "dog").iterdir()) for domain in ("photo", "sketch") if root.is_dir()
    ]
    if not paths:
        pytest.skip("PACS is not here")
    assert all(caption_images(coca, paths, tmp_path / "c.jsonl", progress=False))
