"""A shipped encoder that is loaded late, and the facts that stand in for its model."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import numpy as np
import pytest

from icm_study.encoders import animal_clip, loading, shipped
from icm_study.encoders.loading import load_encoder
from icm_study.facts import Facts, made_by

NAME = "animal-world"


@pytest.fixture
def facts(tmp_path):
    return Facts(tmp_path / "facts")


def test_a_late_encoder_has_the_keys_and_embeddings_of_the_same_loaded_at_once(encoder, facts):
    late = load_encoder(NAME, "cpu", facts=facts)
    images = np.random.default_rng(0).integers(256, size=(3, 3, 64, 64), dtype=np.uint8)
    pixels = pytest.importorskip("torch").from_numpy(images)
    texts = ["a photo of a cat", "a red dog"]
    for _ in range(2):  # found out, then recalled
        assert late.fingerprint == encoder.fingerprint
        assert late.text_key(*texts) == encoder.text_key(*texts)
        late = load_encoder(NAME, "cpu", facts=facts)
    assert (late.precision, late.embedding_dim) == (encoder.precision, encoder.embedding_dim)
    for name, given in (("encode_images", pixels), ("encode_text", texts)):
        same = getattr(late, name)(given), getattr(encoder, name)(given)
        np.testing.assert_allclose(*same, atol=1e-6)
    assert repr(copy.copy(late)) == repr(encoder)


@pytest.mark.parametrize("what", ["encode_text", "encode_images"])
def test_a_model_that_is_loaded_to_embed_can_be_tuned_afterwards(what, facts):
    late = load_encoder(NAME, "cpu", facts=facts)
    torch = pytest.importorskip("torch")
    if what == "encode_text":
        late.encode_text(["a cat"])
    else:
        late.encode_images(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    image = late.resize(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)).float()
    late.model.encode_image(image).sum().backward()
    late.model.encode_text(late.tokenizer(["a dog"])).sum().backward()
    assert late.model.text_projection.grad.abs().sum() > 0
    assert late.model.visual.conv1.weight.grad.abs().sum() > 0


def test_keys_that_are_known_take_no_torch(facts):
    load_encoder(NAME, "cpu", facts=facts).text_key("a cat")
    code = (
        "import sys; from icm_study.facts import Facts; "
        "from icm_study.encoders.loading import load_encoder; "
        f"encoder = load_encoder({NAME!r}, 'cpu', facts=Facts(sys.argv[1])); "
        "encoder.text_key('a cat'), encoder.is_cut(['a']), encoder.embedding_dim; "
        "print({'torch', 'open_clip'} & set(sys.modules)); encoder.text_key('a dog'); "
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(facts.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["set()", "True"]


def test_another_weight_is_another_fact(facts, tmp_path, monkeypatch):
    """What is recalled holds the weights: a copy with one more byte is asked again."""
    own = tmp_path / "weights"
    own.mkdir()
    for file in animal_clip.WEIGHTS_FOLDER.glob(f"{NAME}.*"):
        (own / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(animal_clip, "WEIGHTS_FOLDER", own)
    found = []
    monkeypatch.setattr(shipped, "encoder_fingerprint", lambda _: found.append(1) or "f")
    for _ in range(2):
        assert load_encoder(NAME, "cpu", facts=facts).fingerprint == "f"
    assert len(found) == 1
    config = own / f"{NAME}.json"
    config.write_text(json.dumps(json.loads(config.read_text()), indent=2))
    assert load_encoder(NAME, "cpu", facts=facts).fingerprint == "f"
    assert len(found) == 2


def test_what_would_be_refused_is_refused_before_the_model_is_needed(facts, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="precision is 'half'"):
        load_encoder(NAME, "cpu", "half", facts)
    with pytest.raises(AttributeError, match="no attribute 'wings'"):
        _ = load_encoder(NAME, "cpu", facts=facts).wings
    monkeypatch.setattr(animal_clip, "WEIGHTS_FOLDER", tmp_path)
    with pytest.raises(RuntimeError, match="install again"):
        load_encoder(NAME, "cpu", facts=facts)


def test_where_there_may_be_a_gpu_torch_is_asked(facts, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "GPUS", (str(tmp_path),))
    monkeypatch.setattr(sys, "platform", "linux")
    assert not shipped.has_no_gpu()
    assert not isinstance(load_encoder(NAME, facts=facts), shipped.ShippedEncoder)
    monkeypatch.setattr(shipped, "GPUS", (str(tmp_path / "none"),))
    assert isinstance(loading.load_encoder(NAME, facts=facts), shipped.ShippedEncoder)


def test_a_damaged_fact_is_found_out_again(facts):
    assert facts.recall({"of": 1}, lambda: "first") == "first"
    assert facts.recall({"of": 1}, lambda: "second") == "first"
    assert facts.recall({"of": 2}, lambda: "second") == "second"
    (path,) = [p for p in facts.root.iterdir() if "first" in p.read_text()]
    for damage in ("", "{}", "[1]", path.read_text().replace('"first"', '"third"')):
        path.write_text(damage)
        assert facts.recall({"of": 1}, lambda: "again") == "again"


def test_code_that_changes_changes_what_a_fact_depends_on(tmp_path):
    (tmp_path / "a.py").write_text("1")
    before = made_by([tmp_path], ["numpy"])
    assert made_by([tmp_path], ["numpy"]) == before
    assert made_by([tmp_path], ["torch"]) != before
    (tmp_path / "a.py").write_text("2")
    assert made_by([tmp_path], ["numpy"]) != before
