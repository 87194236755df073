"""A projection to take away: as a torch module, in a CLIP, and with a probe in one file."""

import json
import textwrap

import numpy as np
import onnxruntime
import open_clip
import pytest
import torch
from safetensors import safe_open
from torch import nn

from icm_core.deploy import (
    ProjectedCLIP,
    as_module,
    example_pixels,
    fold,
    load_projected,
    save_open_clip,
    save_probe,
    save_projected,
)
from icm_core.prediction import LinearProbe
from icm_core.projection import InvariantProjection

D, K = 16, 5
VIT = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
RESNET = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "head_width": 16}
TIMM = {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_pool": "token"}
POOLED = VIT | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
TEXT = {"context_length": 8, "vocab_size": 60, "width": 32, "heads": 2, "layers": 1}
COCA_TEXT = TEXT | {"embed_cls": True, "output_tokens": True}
DECODER = TEXT | {"context_length": 8, "width": D}

#: The configs of towers, and whether embed_dim becomes K.
MODELS = {
    "ViT": ({"vision_cfg": VIT}, True),
    "ViT with quick GELU": ({"vision_cfg": VIT, "quick_gelu": True}, True),
    "average pooled ViT": ({"vision_cfg": VIT | {"pool_type": "avg"}}, True),
    "ModifiedResNet": ({"vision_cfg": RESNET}, True),
    "timm, linear": ({"vision_cfg": TIMM}, True),
    "timm, linear with bias": ({"vision_cfg": TIMM | {"timm_proj_bias": True}}, True),
    "timm, mlp": ({"vision_cfg": TIMM | {"timm_proj": "mlp"}}, False),
    "timm, its classifier": ({"vision_cfg": TIMM | {"timm_proj": None}}, True),
    "custom text": ({"vision_cfg": VIT, "custom_text": True}, True),
    "text with bias": (
        {"vision_cfg": VIT, "custom_text": True, "text_cfg": TEXT | {"proj_bias": True}},
        True,
    ),
    "text without projection": (
        {"vision_cfg": VIT, "text_cfg": TEXT | {"width": D, "proj_type": "none"}},
        True,
    ),
    "CoCa": (
        {"vision_cfg": POOLED, "text_cfg": COCA_TEXT, "multimodal_cfg": DECODER}
        | {"custom_text": True},
        False,
    ),
    "CoCa without pooling": (
        {
            "vision_cfg": VIT | {"output_tokens": True},
            "text_cfg": COCA_TEXT,
            "multimodal_cfg": TEXT,
            "custom_text": True,
        },
        True,
    ),
}  # fmt: skip
PREPROCESS = {"mean": [0.1, 0.2, 0.3], "std": [0.9, 0.8, 0.7], "resize_mode": "squash"}


def fitted(d=D, k=K, **settings):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, d)) @ rng.normal(size=(d, d))
    return InvariantProjection(k, **settings).fit(X, X + rng.normal(size=X.shape))


def config_of(name):
    return {
        "model_cfg": {"embed_dim": D, "text_cfg": TEXT} | MODELS[name][0],
        "preprocess_cfg": PREPROCESS,
    }


def model_of(folder, config, seed=0):
    """Build a model of random weights as open_clip does from a folder."""
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.create_model(
            f"local-dir:{folder}", load_weights=False, pretrained_text=False
        )
        for part in model.parameters():  # biases are not zero in a trained model
            part.data += 0.1 * torch.randn_like(part)
    return model.eval()


def inputs(model):
    rng = np.random.default_rng(1)
    size = open_clip.get_model_preprocess_cfg(model)["size"]
    side = size if isinstance(size, int) else size[0]
    pixels = torch.from_numpy(rng.normal(size=(4, 3, side, side)).astype(np.float32))
    tokens = torch.from_numpy(rng.integers(1, 50, size=(4, 8)))
    tokens[:, -1] = 59  # the end has the highest id
    return pixels, tokens


def embed(model, pixels, tokens):
    with torch.inference_mode():
        return [
            model.encode_image(pixels, normalize=True).double().numpy(),
            model.encode_text(tokens, normalize=True).double().numpy(),
        ]


def cosine(X, Y):
    return (X * Y).sum(axis=1) / np.linalg.norm(X, axis=1) / np.linalg.norm(Y, axis=1)


@pytest.mark.parametrize("name", MODELS)
def test_a_folded_model_loads_in_plain_open_clip_and_projects(name, tmp_path):
    config = config_of(name)
    model = model_of(tmp_path / "plain", config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given, projection = inputs(model), fitted()
    folded = fold(model, projection)
    save_open_clip(folded, tmp_path / "folded", config, {"encoder": name})
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'folded'}", require_pretrained=True)
    for own, plain in zip(embed(loaded.eval(), *given), embed(model, *given), strict=True):
        by_hand = projection.transform(plain)
        assert own.shape[1] == (K if MODELS[name][1] else D)
        assert cosine(own[:, :K], by_hand).min() >= 0.99999
        assert not own[:, K:].any()
        assert np.ptp(own[:, :K], axis=0).max() > 1e-3  # the inputs are told apart
    told = json.loads((tmp_path / "folded" / "open_clip_config.json").read_text())
    assert told["model_cfg"]["embed_dim"] == (K if MODELS[name][1] else D)
    assert told["clip_icm"] == {"encoder": name}
    assert bool(folded.note) != MODELS[name][1]
    preprocess = open_clip.get_model_preprocess_cfg(loaded)
    assert {key: [*value] if key in ("mean", "std") else value for key, value in preprocess.items()
            if key in PREPROCESS} == PREPROCESS  # fmt: skip
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])  # the model that was given is as it was
    parts = [sum(part.numel() for part in one.parameters()) for one in (loaded, model)]
    new_layer = name == "text without projection"
    assert parts[0] <= parts[1] + new_layer * D * K  # no more to compute


def test_it_is_saved_to_the_same_bytes(tmp_path):
    config = config_of("ViT")
    model = model_of(tmp_path / "plain", config)
    for folder in ("first", "second", "first"):
        save_open_clip(fold(model, fitted()), tmp_path / folder, config, {"a": 1, "b": 2})
    for file in ("open_clip_config.json", "open_clip_model.safetensors"):
        assert len({(tmp_path / one / file).read_bytes() for one in ("first", "second")}) == 1
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    with safe_open(tmp_path / "first" / "open_clip_model.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["clip_icm"]) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("proj", "embed_dim"), [("linear", K), (None, K), ("mlp", D)], ids=["linear", "none", "mlp"]
)
def test_text_towers_of_transformers(tmp_path, proj, embed_dim):
    text = {"model_type": "roberta", "hidden_size": D, "num_hidden_layers": 1, "vocab_size": 60}
    text |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 20}
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text(json.dumps(text))
    tower = {"hf_model_name": str(tmp_path / "text"), "hf_proj_type": proj, "context_length": 8}
    config = config_of("ViT")
    config["model_cfg"] |= {"text_cfg": tower | {"hf_pooler_type": "mean_pooler"}}
    model, projection = model_of(tmp_path / "plain", config), fitted()
    folded = fold(model, projection)
    assert folded.embed_dim == embed_dim
    assert ("hidden layer" in folded.note) == (proj == "mlp")
    save_open_clip(folded, tmp_path / "folded", config)
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'folded'}", require_pretrained=True)
    given = inputs(model)
    for own, plain in zip(embed(loaded.eval(), *given), embed(model, *given), strict=True):
        assert cosine(own[:, :K], projection.transform(plain)).min() >= 0.99999
        assert np.ptp(own[:, :K], axis=0).max() > 1e-3


@pytest.mark.parametrize("pool", ["token", "avg", "map"])
def test_a_tower_of_timm_without_a_projection(tmp_path, pool):
    config = config_of("custom text")
    config["model_cfg"] |= {
        "embed_dim": 192,
        "vision_cfg": TIMM | {"timm_pool": pool, "timm_proj": "none"},
    }
    model = model_of(tmp_path / "plain", config)
    projection = fitted(192)
    folded = fold(model, projection)
    save_open_clip(folded, tmp_path / "folded", config)
    loaded = open_clip.create_model(f"local-dir:{tmp_path / 'folded'}", require_pretrained=True)
    given = inputs(model)
    for own, plain in zip(embed(loaded.eval(), *given), embed(model, *given), strict=True):
        assert cosine(own, projection.transform(plain)).min() >= 0.99999


class Other(nn.Module):
    """A model whose parts have other names."""

    def __init__(self, clip):
        super().__init__()
        self.inner = clip

    def encode_image(self, image, normalize=False):
        return self.inner.encode_image(image, normalize=normalize)

    def encode_text(self, text, normalize=False):
        return self.inner.encode_text(text, normalize=normalize)


def test_what_cannot_absorb_it_has_it_behind(tmp_path):
    model = Other(model_of(tmp_path / "plain", config_of("ViT")))
    given, projection = inputs(model.inner), fitted()
    folded = fold(model, projection)
    assert isinstance(folded.model, ProjectedCLIP)
    assert "image and the text tower of this Other was not found" in folded.note
    for own, plain in zip(embed(folded.model, *given), embed(model, *given), strict=True):
        assert own.shape == (4, K)
        assert cosine(own, projection.transform(plain)).min() >= 0.99999
        np.testing.assert_allclose(np.linalg.norm(own, axis=1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match=r"cannot build it from a config\. `save_projected`"):
        save_open_clip(folded, tmp_path / "folded", config_of("ViT"))
    assert not (tmp_path / "folded").exists()


def test_a_projection_behind_a_model_is_served_by_what_the_docstring_says(tmp_path):
    model = Other(model_of(tmp_path / "plain", config_of("ViT")))
    given, projection = inputs(model.inner), fitted()
    projection.made_from_ = {"encoder": "e"}
    with torch.inference_mode():
        (example,) = model.encode_image(example_pixels((32, 32)), normalize=True).numpy()
    told = {"name": "e", "preprocess": PREPROCESS | {"size": 32}}
    for folder in ("first", "second"):
        save_projected(tmp_path / folder, projection, encoder=told, example=example, note="why")
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == ["projected_clip.json", "projection.safetensors"]
    for file in files:
        assert len({(tmp_path / one / file).read_bytes() for one in ("first", "second")}) == 1
    loaded, encoder, kept = load_projected(tmp_path / "first")
    assert np.array_equal(loaded.components_, projection.components_)
    assert loaded.made_from_ == {"encoder": "e"}
    assert encoder == told
    assert np.array_equal(kept, example)

    served = textwrap.dedent(save_projected.__doc__.split("this::\n")[1].split("Raises\n")[0])
    assert len([line for line in served.splitlines() if line.strip()]) <= 20
    names = {}
    exec(served, names)
    with torch.inference_mode():
        behind = names["Projected"](model, tmp_path / "first")
        own = [behind.encode_image(given[0]).numpy(), behind.encode_text(given[1]).numpy()]
        for one, plain in zip(own, embed(model, *given), strict=True):
            by_hand = projection.transform(plain)
            assert cosine(one, by_hand).min() >= 0.99999
        other = Other(model_of(tmp_path / "other", config_of("ViT"), seed=1))
        with pytest.raises(SystemExit, match="not the model that the projection was made for"):
            names["Projected"](other, tmp_path / "first")


@pytest.mark.parametrize("text", ["", "{}", '{"kind": "x", "format_version": 1}', "[]"])
def test_a_folder_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "projected_clip.json").write_text(text)
    with pytest.raises(ValueError, match="is not what `save_projected` writes"):
        load_projected(tmp_path)


def test_a_folder_of_another_version_is_refused(tmp_path):
    told = {"preprocess": {"size": [8, 8]}}
    save_projected(tmp_path, fitted(), encoder=told, example=np.ones(D))
    path = tmp_path / "projected_clip.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(ValueError, match=r"version 2; expected 'projected CLIP' and 1"):
        load_projected(tmp_path)


def test_a_model_of_another_dimension_is_refused(tmp_path):
    for name in ("ViT", "ModifiedResNet"):
        model = model_of(tmp_path / name, config_of(name))
        with pytest.raises(ValueError, match=r"fitted on 8 features.*have 16"):
            fold(model, fitted(8))


def test_half_precision_stays_half(tmp_path):
    model = model_of(tmp_path / "plain", config_of("ViT")).half()
    folded = fold(model, fitted()).model
    assert {part.dtype for part in folded.parameters()} == {torch.float16}
    exact = model.visual.proj.detach().double().numpy() @ fitted().components_.T
    np.testing.assert_allclose(folded.visual.proj.double().numpy(), exact, rtol=1e-3)


# As a torch module


@pytest.mark.parametrize("objective", ["trace", "generalized"])
def test_the_module_projects_also_when_exported(objective, tmp_path):
    projection = fitted(objective=objective)
    X = np.random.default_rng(2).normal(size=(7, D)).astype(np.float32)
    by_hand = projection.transform(X)
    module, example = as_module(projection), torch.from_numpy(X[:2])
    batch = {0: torch.export.Dim("rows")}
    program = torch.export.export(module, (example,), dynamic_shapes=(batch,))
    torch.export.save(program, tmp_path / "p.pt2")
    loaded = torch.export.load(tmp_path / "p.pt2").module()
    torch.onnx.export(
        module, (example,), tmp_path / "p.onnx", input_names=["embedding"], verbose=False,
        dynamic_shapes=(batch,), dynamo=True,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx")
    with torch.inference_mode():
        for given in (module(torch.from_numpy(X)), loaded(torch.from_numpy(X))):
            np.testing.assert_allclose(given.numpy(), by_hand, rtol=1e-5, atol=1e-5)
    (served,) = session.run(None, {"embedding": X})
    np.testing.assert_allclose(served, by_hand, rtol=1e-5, atol=1e-5)
    doubled = as_module(projection, torch.float64)(torch.from_numpy(X.astype(np.float64)))
    np.testing.assert_allclose(doubled.numpy(), projection.transform(X.astype(float)), rtol=1e-12)


def test_a_folded_tower_is_exported_as_any_other(tmp_path):
    model = model_of(tmp_path / "plain", config_of("ViT"))
    pixels, tokens = inputs(model)
    tower = fold(model, fitted()).model.visual
    torch.onnx.export(
        tower,
        (pixels,),
        tmp_path / "tower.onnx",
        input_names=["pixels"],
        verbose=False,
        dynamo=True,
    )
    session = onnxruntime.InferenceSession(tmp_path / "tower.onnx")
    (served,) = session.run(None, {"pixels": pixels.numpy()})
    plain, _ = embed(model, pixels, tokens)
    assert cosine(served, fitted().transform(plain)).min() >= 0.99999


# The probe


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("projected", [True, False])
def test_the_probe_in_one_file_gives_its_probabilities(tmp_path, n_classes, projected):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(200, D))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    labels = np.sort([7, 2, 4, 9][:n_classes])
    y = labels[X[:, :n_classes].argmax(axis=1)]
    projection = fitted() if projected else None
    Z = X if projection is None else projection.transform(X)
    probe = LinearProbe().fit(Z, y)
    names = [f"class {i}" for i in range(10)]
    save_probe(
        tmp_path / "probe", probe, projection, classes=names, encoder={"preprocess": PREPROCESS},
        example=X[0], made_from={"encoder": "e"},
    )  # fmt: skip
    with safe_open(tmp_path / "probe", "numpy") as file:
        weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
        told = json.loads(file.metadata()["clip_icm"])["told"]
        assert np.array_equal(file.get_tensor("example"), X[0].astype(np.float32))
    scores = np.exp(X @ weight.T + bias)
    served = scores / scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(served, probe.predict_proba(Z), atol=1e-5)
    assert told["classes"] == [f"class {label}" for label in labels]
    assert told["encoder"] == {"preprocess": PREPROCESS}
    assert told["made_from"] == {"encoder": "e"}


def test_a_probe_of_another_projection_is_refused(tmp_path):
    X = np.random.default_rng(0).normal(size=(20, 7))
    probe = LinearProbe().fit(X, X[:, 0] > 0)
    with pytest.raises(ValueError, match=r"fitted on 7 features; expected the 5"):
        save_probe(
            tmp_path / "probe", probe, fitted(), classes=["a", "b"], encoder={}, example=np.ones(D),
        )  # fmt: skip
    assert not (tmp_path / "probe").exists()


def test_the_example_has_the_size_that_is_asked_for():
    pixels = example_pixels((2, 4))
    assert pixels.shape == (1, 3, 2, 4)
    assert (pixels.min(), pixels.max()) == (-1, 1)
