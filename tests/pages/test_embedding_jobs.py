"""Embedding by many jobs: their store is that of one, to the bit; no image is embedded twice."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import embed_images
import embed_texts
import embedding_plan
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from embed_images import read_part

from icm_core.interventions import IMAGE_INTERVENTIONS
from icm_study.animals.rendering import write_folder
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.embedding import files
from icm_study.embedding.files import embed_files
from icm_study.embedding.store import EmbeddingStore
from icm_study.encoders import animal_clip
from icm_study.encoders.encoder import Encoder
from icm_study.encoders.loading import load_encoder
from icm_study.photographs.folders import index_folder
from icm_study.testbeds.image_folder import ImageFolder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a script of the workflow in this process, with shards of 16 images."""
    monkeypatch.setattr(EmbeddingStore.__init__, "__defaults__", (16,))

    def main(script: Any, *arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
        monkeypatch.chdir(ROOT)
        return script.main()

    return main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "zoo", load_silhouettes(), per_class=5)


def settings(data: Path, tmp_path: Path) -> str:
    given = {"dataset": str(data), "encoder": "animal-world", "cache": str(tmp_path / "store")}
    return yaml.safe_dump(given, default_flow_style=True)


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass of an encoder embeds, interventions counted too."""
    passes: list[int] = []
    encode = Encoder.encode_images

    def counted(self: Encoder, images: Any) -> Any:
        passes.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(Encoder, "encode_images", counted)
    return passes


def test_the_store_of_many_jobs_is_that_of_one(
    call: Callable[..., int], data: Path, tmp_path: Path, embedded: list[int]
) -> None:
    given = yaml.safe_load(settings(data, tmp_path)) | {"precision": "bfloat16"}
    given = yaml.safe_dump(given, default_flow_style=True)
    notebook, plan = "02_domain_generalization", tmp_path / "plan.parquet"
    assert call(embedding_plan, notebook, "-y", given, plan) == 0
    images = index_folder(data)
    assert pd.read_parquet(plan)["path"].tolist() == images["path"].tolist()
    for part in (2, 1, 3):
        record = tmp_path / "store" / "parts" / f"{part}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        command = (notebook, "-y", given, "--part", part, "--parts", 3, plan, record)
        assert call(embed_images, *command) == 0
        assert 40 < json.loads(record.read_text())["images"] < 90
        before = sum(embedded)
        assert call(embed_images, *command) == 0  # it is all there
        assert sum(embedded) == before
    assert sum(embedded) == 2 * len(images)

    encoder = load_encoder("animal-world", precision="bfloat16")
    again = embed_files(encoder, images, EmbeddingStore(tmp_path / "store"))
    assert sum(embedded) == 2 * len(images)  # it only reads
    alone = embed_files(encoder, images, EmbeddingStore(tmp_path / "alone"))
    assert again.identical(alone)
    many, one = (
        {path.name: path.read_bytes() for path in (tmp_path / store).glob("*.nc")}
        for store in ("store", "alone")
    )
    assert many == one
    assert len(many) > 6


def test_an_image_that_changed_since_the_plan_is_refused_until_it_is_put_back(
    call: Callable[..., int], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = shutil.copytree(data, tmp_path / "zoo")
    given, store = settings(data, tmp_path), tmp_path / "store"
    notebook, plan, record = "02_domain_generalization", tmp_path / "plan.parquet", store / "a/1"
    record.parent.mkdir(parents=True)
    assert call(embedding_plan, notebook, "-y", given, plan) == 0
    table = pd.read_parquet(plan)
    changed = Path(table["path"].iloc[-1])
    content = changed.read_bytes()
    shutil.copy(table["path"][0], changed)
    command = (notebook, "-y", given, "--part", 1, "--parts", 1, plan, record)
    assert call(embed_images, *command) == 1
    assert f"image {str(changed)!r} changed since it was listed" in capsys.readouterr().err
    assert not record.exists()
    assert len(list(store.glob("*.nc"))) == table["shard"].max()  # all but the last

    changed.write_bytes(content)
    assert call(embed_images, *command) == 0
    encoder, images = load_encoder("animal-world"), index_folder(data)
    found = embed_files(encoder, images, EmbeddingStore(store))
    assert found.identical(embed_files(encoder, images, EmbeddingStore(tmp_path / "alone")))


def test_texts_are_embedded_by_a_job_and_then_only_read(
    call: Callable[..., int], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from icm_study.experiments.study import Study

    colours = ["red", "blue", "green", "white", "black"]
    texts = [[f"a {side} {one} dog" for one in colours] * 40 for side in ("bright", "dim")]
    monkeypatch.setattr(ImageFolder, "written", lambda *_: texts)  # words that the encoder knows
    given = yaml.safe_load(settings(data, tmp_path))
    record = tmp_path / "store" / "texts.json"
    record.parent.mkdir()
    own = yaml.safe_dump(given, default_flow_style=True)
    assert call(embed_texts, "02_domain_generalization", "-y", own, record) == 0
    assert json.loads(record.read_text())["encoder"] == "animal-world"

    again: list[str] = []
    encode = Encoder.encode_text

    def counted(self: Encoder, texts: list[str]) -> Any:
        again.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(Encoder, "encode_text", counted)
    found = Study("02_domain_generalization", given | {"seeds": [0]}).embedded(0)
    assert set(again) <= {"a"}  # which tells how many features there are
    assert {"caption", "edit"} <= set(found.source)


def test_what_each_image_got_is_found_by_a_job_and_then_only_read(
    call: Callable[..., int], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from icm_study.experiments.study import Study

    given = settings(data, tmp_path)
    record = tmp_path / "store" / "texts.json"
    record.parent.mkdir()
    assert call(embed_texts, "06_methods", "-y", given, record) == 0  # its choices ask for it
    stored = sorted(record.parent.glob("*.nc"))
    monkeypatch.setattr(files, "read_image", None)
    study = Study("06_methods", yaml.safe_load(given) | {"seeds": [3]})
    assert set(study.drawn) <= set(IMAGE_INTERVENTIONS)
    assert len(study.drawn) == len(study.pooled.source.row)
    assert sorted(record.parent.glob("*.nc")) == stored


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("seed", range(3))
def test_parts_have_each_shard_once_and_are_about_equal(
    tmp_path: Path, parts: int, seed: int
) -> None:
    sizes = np.random.default_rng(seed).integers(1, 100, size=30)
    shards = np.repeat(np.arange(30), sizes)
    rows = pd.DataFrame({"path": "x", "hash": "y", "shard": shards, "interventions": ""})
    rows.to_parquet(tmp_path / "plan.parquet", row_group_size=64)
    found = [read_part(tmp_path / "plan.parquet", part + 1, parts) for part in range(parts)]
    assert pd.concat(found)["shard"].astype(int).tolist() == shards.tolist()
    owners = Counter(shard for part in found for shard in set(part["shard"]))
    assert set(owners.values()) == {1}
    assert max(map(len, found)) <= sizes.sum() / parts + 100


@pytest.mark.parametrize("script", [embed_images, embed_texts])
def test_weights_that_cannot_be_had_are_told_in_a_sentence(
    call: Callable[..., int],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    script: Any,
) -> None:
    monkeypatch.setattr(animal_clip, "WEIGHTS_FOLDER", tmp_path)
    pd.DataFrame({"path": [], "hash": [], "shard": [0][:0], "interventions": []}).to_parquet(
        tmp_path / "plan.parquet"
    )
    own = ("--part", 1, "--parts", 1, tmp_path / "plan.parquet") if script is embed_images else ()
    given = settings(data, tmp_path)
    command = ("02_domain_generalization", "-y", given, *own, tmp_path / "store" / "record.json")
    assert call(script, *command) == 1
    said = capsys.readouterr().err
    assert f"{script.__name__}: The weights of 'animal-world' should be in" in said
    assert "Traceback" not in said


def test_a_folder_with_problems_is_told_before_anything_is_embedded(
    call: Callable[..., int], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = settings(data / "nowhere", tmp_path)
    plan = tmp_path / "plan.parquet"
    assert call(embedding_plan, "02_domain_generalization", "-y", given, plan) == 1
    assert "nowhere" in capsys.readouterr().err
    assert not plan.exists()
