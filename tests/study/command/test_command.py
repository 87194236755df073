"""The command `icm`: what the README promises, tried literally; errors are sentences."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import ROOT, run_warm
from PIL import Image
from safetensors.torch import save_file

from icm_core import InvariantProjection, LinearProbe
from icm_core.prediction import unit_rows
from icm_study import command
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Embedder
from icm_study.encoders.loading import load_encoder
from icm_study.experiments import duration
from icm_study.experiments import run as run_module
from icm_study.experiments.record import default_parameters
from icm_study.experiments.study import Study
from icm_study.photographs.check import load_folder
from icm_study.report.advice import advise

ENCODER = "ViT-B-16/openai"  # as the README names it; here a folder of this name
DOMAINS, CLASSES, EACH = ("day", "dusk", "night"), ("cat", "cow", "dog"), 8
README = (ROOT / "README.md").read_text(encoding="utf-8")


def write_encoder(folder: Path, seed: int = 0) -> None:
    """Save a tiny CLIP with random weights as a local checkpoint of open_clip."""
    model = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16
        },
        "text_cfg": {
            "context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1
        },
    }  # fmt: skip
    folder.mkdir(parents=True)
    config = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_file(open_clip.CLIP(**model).state_dict(), folder / "open_clip_model.safetensors")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with images in photos/, and with an encoder."""
    root = tmp_path_factory.mktemp("workplace")
    rng = np.random.default_rng(0)
    for i, domain in enumerate(DOMAINS):
        for j, name in enumerate(CLASSES):
            folder = root / "photos" / domain / name
            folder.mkdir(parents=True)
            for n in range(EACH):
                pixels = rng.integers(60, size=(40, 40, 3)) + 40 * i
                pixels[: 12 * (j + 1), :, j] += 90  # a class is told by a coloured part
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")
    write_encoder(root / ENCODER)
    return root


@pytest.fixture
def here(workplace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work in a folder of its own, with the images and the encoder."""
    for name in ("photos", ENCODER.split("/")[0]):
        (tmp_path / name).symlink_to(workplace / name)
    (tmp_path / "cache").symlink_to(workplace / "cache")
    (workplace / "cache").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def icm(line: str) -> Result:
    """Give a command as one types it."""
    name, *words = shlex.split(line)
    assert name == "icm"
    return CliRunner().invoke(command.icm, words)


def done(line: str) -> str:
    """Give a command that must end well, and return what it prints."""
    result = icm(line)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(line: str) -> str:
    """Give a command that must be refused, and return why."""
    result = icm(line)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def test_the_installation_has_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"icm": f"{command.__name__}:{command.icm.name}"}
    said = subprocess.run(
        [sys.executable, "-m", command.__name__, "--help"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "icm fold projection.safetensors folded" in said


@pytest.mark.parametrize("name", command.icm.commands)
def test_each_command_explains_itself_with_an_example(name: str) -> None:
    said = done(f"icm {name} --help")
    assert f"  icm {name} " in said
    assert max(map(len, said.splitlines())) <= 100


def test_what_nobody_says_is_as_in_the_notebook() -> None:
    own = default_parameters(ROOT / "notebooks" / f"{command.NOTEBOOK}.ipynb")
    assert {name: own[name] for name in command.DEFAULTS} == command.DEFAULTS


@pytest.mark.slow
def test_from_a_folder_to_a_folded_checkpoint_as_the_readme_says(here: Path) -> None:
    (block,) = re.findall(r"```bash\n(icm .*?)```", README, re.DOTALL)
    lines = block.strip().splitlines()
    assert len(lines) == 3
    said = [done(line) for line in lines]
    assert "72 readable images" in said[0]
    assert "No problems found." in said[0]
    assert "CLIP-ICM" in said[1]
    assert "Gains over the plain probe" in said[1]
    projection = InvariantProjection.load("projection.safetensors")
    assert f"embed_dim {projection.n_components_}" in said[2]
    folded = open_clip.create_model("local-dir:folded", require_pretrained=True).eval()
    plain = load_encoder(ENCODER, "cpu", "float32")
    pixels = torch.from_numpy(np.random.default_rng(1).normal(size=(5, 3, 32, 32))).float()
    tokens = open_clip.get_tokenizer("local-dir:folded")(["a cat", "three cows at night"])
    with torch.inference_mode():
        for own, before in (
            (folded.encode_image(pixels, True), plain.model.encode_image(pixels, True)),
            (folded.encode_text(tokens, True), plain.model.encode_text(tokens, True)),
        ):
            by_hand = unit_rows(projection.transform(before))
            assert own.shape == by_hand.shape
            assert (own.numpy() * by_hand).sum(axis=1).min() >= 0.99999
    told = json.loads(Path("folded/open_clip_config.json").read_text())["clip_icm"]
    assert told["weights"] == plain.fingerprint
    assert told["verdict"] in ("helps", "does not pay", "cannot be told")
    assert {"commit", "encoder", "pixels", "n_components"} <= set(told)


@pytest.mark.slow
def test_advice_is_that_of_the_notebook(here: Path) -> None:
    line = f"icm advise photos -e {ENCODER} -y '{{seeds: [0], worth: 3}}'"
    result = icm(f"{line} --json --html out/answer.html")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert re.search(r"icm: about .* to embed .* to fit \(3 runs\)", result.stderr)
    given = {"dataset": "photos", "folder": "photos", "encoder": ENCODER, "seeds": [0]}
    study = Study("05_your_data", given | {"cache": "cache/embeddings"})
    expected = advise(study.results(), worth=3)
    assert {key: told[key] for key in ("gain", "low", "high", "verdict", "answer")} == {
        key: getattr(expected, key) for key in ("gain", "low", "high", "verdict", "answer")
    }
    assert told["made_from"]["pixels"] == study.pooled.provenance["pixels"]
    assert expected.method in {row["name"].rpartition(",")[0] for row in told["gains"]}
    page = Path("out/answer.html").read_text(encoding="utf-8")
    assert expected.answer in page
    assert f"{expected.gain:+.1f}" in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing is fetched
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) >= 4
    assert all(re.search(r'alt="\w', image) for image in images)


def test_fit_gives_what_the_library_gives(here: Path) -> None:
    said = done(f"icm fit photos -e {ENCODER} --probe out/probe.safetensors -K 6")
    loaded = InvariantProjection.load("projection.safetensors")
    encoder = load_encoder(ENCODER, "cpu", "float32")
    table = Embedder(encoder, EmbeddingStore("cache/embeddings")).pairs(load_folder("photos"))
    pairs = (table[name].to_numpy() for name in ("original", "image"))
    expected = InvariantProjection(6).fit(*pairs)
    np.testing.assert_allclose(loaded.components_, expected.components_, atol=1e-9)
    assert loaded.made_from_["intervention"] == "image"
    assert "K = 6 of 16 dimensions" in said
    done(f"icm fit photos -e {ENCODER} -o again.safetensors -K 6")
    assert Path("again.safetensors").read_bytes() == Path("projection.safetensors").read_bytes()


def test_the_probe_is_served_without_this_project(here: Path) -> None:
    done(f"icm fit photos -e {ENCODER} --probe probe.safetensors")
    script, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in script.splitlines() if line]) <= 20
    alone = "import sys; sys.modules.update(icm_core=None, icm_study=None); exec(sys.argv.pop(1))"
    serve = ("-c", alone, script, "photos/day/cow/3.png")
    served = run_warm(*serve).stdout.split()
    encoder = load_encoder(ENCODER, "cpu", "float32")
    table = Embedder(encoder, EmbeddingStore("cache/embeddings")).pairs(load_folder("photos"))
    projection = InvariantProjection.load("projection.safetensors")
    Z, paths = projection.transform(table["original"]), table["path"].to_numpy()
    probe = LinearProbe().fit(Z, table["label"].to_numpy())
    row = Z[[path.endswith("day/cow/3.png") for path in paths]]
    assert served[0] == probe.predict(row)[0]
    assert float(served[1]) == pytest.approx(probe.predict_proba(row).max(), abs=0.01)
    write_encoder(here / "other", seed=1)
    (here / "ViT-B-16").unlink()  # another encoder in place of the one it was fitted on
    (here / "ViT-B-16").mkdir()
    (here / "other").rename(here / ENCODER)
    wrong = run_warm(*serve)
    assert wrong.returncode == 1
    assert "not the encoder that the probe was fitted on" in wrong.stderr


def test_embeddings_as_a_table(here: Path) -> None:
    done(f"icm fit photos -e {ENCODER} -K 3")
    said = done(f"icm embed photos -e {ENCODER} -o plain.parquet")
    assert said == "plain.parquet: 72 images, 16 dimensions.\n"
    done(f"icm embed photos -e {ENCODER} -p projection.safetensors -o projected.parquet")
    plain, projected = (pd.read_parquet(f"{name}.parquet") for name in ("plain", "projected"))
    X = plain.filter(regex=r"^f\d")
    projection = InvariantProjection.load("projection.safetensors")
    assert X.attrs["weights"] == projection.made_from_["weights"]
    np.testing.assert_allclose(projected.filter(regex=r"^f\d"), projection.transform(X), atol=1e-6)
    assert [*projected.columns[:3]] == ["path", "label", "domain"]
    X.attrs["weights"] = "another"
    with pytest.raises(ValueError, match="Embed with the encoder that it was made for"):
        projection.transform(X)


def test_another_encoder_is_refused(here: Path) -> None:
    done(f"icm fit photos -e {ENCODER} -K 3")
    write_encoder(here / "other", seed=1)
    for line in (
        "icm fold projection.safetensors folded -e other",
        "icm embed photos -e other -p projection.safetensors",
    ):
        assert f"made from embeddings of '{here / ENCODER}'" in refused(line)
    assert not Path("folded").exists()
    assert not Path("embeddings.parquet").exists()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("icm check nowhere", "'nowhere' does not exist"),
        ("icm check photos --dataset PACSS", "PACSS"),
        ("icm check photos --value-range 0,much", "'0,much'; expected file, used"),
        ("icm check photos --value-range some", "value_range is 'some'"),
        ("icm advise photos", "Missing option '-e'"),
        ("icm advise photos -e ViT-B-16/openaii", "Close names: .*ViT-B-16/openai"),
        ("icm advise photos -e animal-world -y 'seed: [0]'", "seed.*seeds"),
        ("icm advise photos -e animal-world -y 'seeds: [0.5]'", "seeds"),
        (
            "icm advise photos -e animal-world -y '{nested: ['",
            "is not plain YAML, line 1, column 11",
        ),
        ("icm advise photos -e animal-world -y '{worth: 1, worth: 2}'", "'worth' is given twice"),
        ("icm advise photos -e animal-world -y '{seeds: [010]}'", "'010' is 8 in YAML 1.1"),
        ("icm advise photos -e animal-world -y nested", "names no parameters; write"),
        ("icm advise photos -e animal-world -y 'encoder: y'", "says encoder too"),
        (
            "icm advise photos -e animal-world --html photos/day/cat/0.png/a.html",
            "cannot be written",
        ),
        ("icm fit photos -e x -K 0", "'0'; expected a whole number from 1 on"),
        ("icm fit photos -e x -K many", "'many'; expected a whole number from 1 on"),
        ("icm fit photos -e x --consistency-weight nan", "'nan'; expected a positive number"),
        ("icm fit photos -e x --pairs sound", "'sound' is not one of"),
        ("icm fit photos -e animal-world --probe p", "open_clip cannot build 'animal-world'"),
        ("icm fold photos/day/cat/0.png folded", "is not a whole safetensors file"),
        ("icm download PACSS", "PACSS"),
    ],
)
def test_errors_are_sentences(here: Path, line: str, why: str) -> None:
    assert re.search(why, " ".join(refused(line).split()))


def test_a_folder_with_problems_has_exit_status_one(here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "photos", here / "broken")
    (here / "broken" / "day" / "cat" / "0.png").write_bytes(b"")
    result = icm("icm check broken")
    assert result.exit_code == 1
    assert "unreadable images (1)" in result.stdout
    assert "unreadable images (1)" in refused(f"icm fit broken -e {ENCODER}")


def test_a_shipped_encoder_has_the_projection_behind_it_and_says_why(here: Path) -> None:
    done("icm fit photos -e animal-world -K 3")
    write_encoder(here / "folded")  # what was folded before does not count
    config = here / "folded" / "open_clip_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"clip_icm": {}}))
    said = done("icm fold projection.safetensors folded")
    assert "whose tokenizer is this project's own, so the projection stands behind it" in said
    assert "embed_dim 3, cosine with projecting by hand at least 1.0" in said
    folded, plain = load_encoder("folded", "cpu"), load_encoder("animal-world", "cpu")
    projection = InvariantProjection.load("folded/projection.safetensors")
    assert folded.fingerprint != plain.fingerprint
    by_hand = unit_rows(projection.transform(plain.encode_text(["a cow", "a white cat"])))
    np.testing.assert_allclose(folded.encode_text(["a cow", "a white cat"]), by_hand, atol=1e-6)
    assert done("icm embed photos -e folded") == "embeddings.parquet: 72 images, 3 dimensions.\n"
    told = Path("folded/projected_clip.json")
    told.write_text(told.read_text().replace('"animal-world"', '"animal-world-biased"'))
    assert "a projection for another encoder" in refused("icm embed photos -e folded -o p")


def test_a_fold_does_not_write_over_an_encoder(here: Path) -> None:
    write_encoder(here / "mine")
    write_encoder(here / "other", seed=1)
    (here / "text").mkdir()
    (here / "text" / "open_clip_config.json").write_text("{")
    done("icm fit photos -e mine -K 3")
    before = {path: path.read_bytes() for path in here.glob("*/*.*")}
    (here / "link").symlink_to("mine")
    for folder in ("mine", "link"):
        said = refused(f"icm fold projection.safetensors {folder}")
        assert "holds the encoder that is folded, which would be lost; give another folder" in said
    for folder in ("other", "text"):
        said = refused(f"icm fold projection.safetensors {folder}")
        assert "holds a model that icm fold did not write" in said
    assert before == {path: path.read_bytes() for path in before}
    for _ in range(2):
        done("icm fold projection.safetensors folded")
    done("icm fit photos -e folded -K 2 -o second.safetensors")
    assert "the encoder that is folded" in refused("icm fold second.safetensors folded")
    assert "embed_dim 2," in done("icm fold second.safetensors twice")


def test_more_directions_than_the_embedding_has_are_refused_before_it_is_embedded(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmbeddingStore, "get", lambda *_: 1 / 0)
    said = refused(f"icm fit photos -e {ENCODER} -K 17")
    assert "-K: n_components is 17; expected at most 16" in said
    tried = "{settings: {ICM image: {n_components: [4, 17]}}}"
    said = refused(f"icm advise photos -e {ENCODER} -y '{tried}'")
    assert "ICM image: n_components is 17; expected at most 16" in said


def test_interrupted_it_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"icm fit photos -e {ENCODER} --cache own"
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingStore, "get", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        result = icm(line)
    assert result.exit_code == 130
    assert "the same command goes on from there" in result.stderr
    done(line)
    with monkeypatch.context() as patch:  # all is kept: nothing is embedded again
        patch.setattr("icm_study.encoders.encoder.Encoder.encode_images", lambda *_: 1 / 0)
        done(line)


@pytest.mark.slow
def test_advice_that_is_interrupted_keeps_the_seeds_that_are_done(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"icm advise photos -e {ENCODER} --json -y 'seeds: [0, 1]' --cache"
    expected = json.loads(done(f"{line} whole"))
    monkeypatch.setattr("icm_study.experiments.study.commit", lambda: "a" * 40)
    own, ran = run_module.run, []

    def run(beds: Any, embedder: Any, seeds: list[int], *rest: Any) -> pd.DataFrame:
        ran.extend(seeds)
        if stop_at in seeds:
            raise KeyboardInterrupt
        return own(beds, embedder, seeds, *rest)

    monkeypatch.setattr(run_module, "run", run)
    stop_at = 1
    assert icm(f"{line} parts").exit_code == 130
    stop_at = -1
    told = json.loads(done(f"{line} parts"))
    assert ran == [0, 1, 1]
    monkeypatch.setattr("icm_study.experiments.study.commit", lambda: "b" * 40)
    done(f"{line} parts")
    assert ran[3:] == [0, 1]  # other code
    for one in (told, expected):
        one["made_from"].pop("commit")
    assert told == expected


def test_the_record_names_only_parameters_of_the_notebook(here: Path) -> None:
    given = command._parameters("photos", ENCODER, "cache/embeddings", "")
    assert given["folder"] == str(here / "photos")  # wherever the notebook runs
    record = Study(command.NOTEBOOK, given)._record()
    known = default_parameters(ROOT / "notebooks" / f"{command.NOTEBOOK}.ipynb")
    assert set(record["parameters"]) <= set(known)


def test_download_hands_on_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "icm_study.photographs.download.download", lambda *given: asked.append(given)
    )
    done("icm download PACS")
    done("icm download PACS elsewhere --revision abc")
    assert asked == [("PACS", "data", None), ("PACS", "elsewhere", "abc")]


def test_the_time_is_told_of_what_is_not_stored(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duration, "_seconds", lambda call: call() or 2.0)
    embedder = Embedder(load_encoder(ENCODER, "cpu"), EmbeddingStore(here / "own"))
    images = load_folder("photos")
    per_image = 2.0 / duration.SAMPLE
    for kinds in ((), ("grayscale",)):
        told = duration.embedding_seconds(embedder, images, kinds)
        assert told == pytest.approx(len(images) * per_image)
        embedder.pairs(images, interventions=kinds)
        assert duration.embedding_seconds(embedder, images, kinds) == 0
    monkeypatch.setattr(duration, "_seconds", lambda call: 2.0)
    assert duration.fitting_seconds(["plain"], 3, (40, 16, 3)) == 6.0
    both = duration.fitting_seconds(["plain", "ICM image"], 3, (40, 16, 3))
    n_settings = len(duration.METHODS["ICM image"].settings(16))
    assert both == 6.0 * (1 + n_settings)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (42, "42 s"), (600, "10 min"), (9000, "2.5 h")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration.said(seconds) == words
