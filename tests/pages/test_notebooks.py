"""Every notebook is in the form that papermill and readers expect; some run on files."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import open_clip
import pandas as pd
import papermill
import pytest
from conftest import FRONT, PAGES, ROOT, RUNS, execute
from PIL import Image
from real_clip_stand_in import write_stand_in
from safetensors.torch import save_file

from icm_core.projection import InvariantProjection
from icm_study.animals.rendering import write_folder
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.embedding.files import embed_files
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import pair_moments
from icm_study.encoders.loading import load_encoder
from icm_study.experiments.real_clip_runs import experiments_of
from icm_study.experiments.study import Study
from icm_study.photographs.check import load_folder
from icm_study.photographs.imagenet import imagenet_classes
from icm_study.photographs.real_clip import open_real_clip
from icm_study.report.audit import EXPERIMENTS as AUDITED
from icm_study.report.identifiability import EXPERIMENTS as IDENTIFIABILITY
from icm_study.report.open_questions import EXPERIMENTS as QUESTIONS
from icm_study.report.verdicts import COLUMNS

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    """Give each notebook in turn."""
    return nbformat.read(request.param, as_version=4)


def test_git_does_not_see_what_jupyterlab_saves(tmp_path: Path) -> None:
    for part in (".gitattributes", "Makefile", "notebooks", "pyproject.toml"):
        source = ROOT / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / part)

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    # the command that `make lab` sets up, with this Python instead of the one it installs
    run("git", "init", "-q")
    said = next(line for line in run("make", "-n", "lab").splitlines() if "git config" in line)
    run("sh", "-c", said.replace(f"{tmp_path}/.venv/bin/python", sys.executable))
    committed = {path: path.read_bytes() for path in (tmp_path / "notebooks").glob("*.ipynb")}
    first, *others = sorted(committed)
    run("git", "add", str(first))
    for path in committed:
        saved = nbformat.read(path, as_version=4)
        saved.metadata.language_info = dict.fromkeys(
            ("codemirror_mode", "file_extension", "mimetype", "nbconvert_exporter"), "x"
        ) | {"name": "python", "pygments_lexer": "ipython3", "version": "3.11.7"}
        for cell in saved.cells:
            if cell.cell_type == "code":
                cell.execution_count = 1
                cell.metadata.execution = {"iopub.status.idle": "2026-01-01T00:00:00Z"}
                cell.outputs = [nbformat.v4.new_output("stream", text="1\n")]
        nbformat.write(saved, path)
    assert run("git", "diff", "--name-only") == ""
    first.write_text(first.read_text().replace('"# ', '"# Other ', 1))
    assert run("git", "diff", "--name-only") == f"notebooks/{first.name}\n"  # a change is seen
    # the others in one process
    run("sh", "-c", f"{run('git', 'config', 'filter.notebooks.clean').strip()} notebooks/*.ipynb")
    assert [path.name for path in others if path.read_bytes() != committed[path]] == []


def test_every_notebook_has_tiny_parameters() -> None:
    assert {path.stem for path in PATHS} == {
        *FRONT,
        *(notebook for notebook, _ in PAGES.values()),
        *(run["notebook"] for run in RUNS.values()),
    }


def test_is_valid(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


def test_opens_with_a_title_and_prose(notebook: nbformat.NotebookNode) -> None:
    first = next(
        cell for cell in notebook.cells if cell.cell_type != "raw"
    )  # raw: settings of the page
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert (
        sum(cell.source.startswith("# ") for cell in notebook.cells if cell.cell_type == "markdown")
        == 1
    )


def test_has_one_cell_of_commented_parameters(notebook: nbformat.NotebookNode) -> None:
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        if line and not line.startswith((" ", "]", "}", ")", "#")):
            assert "#" in line, f"{line!r} does not say what it is for"


def test_is_stored_without_outputs(notebook: nbformat.NotebookNode) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def code_of(notebook: nbformat.NotebookNode) -> list[str]:
    """Give the sources of its code cells but the parameters."""
    return [
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
    ]


def test_calls_the_library_in_short_cells(notebook: nbformat.NotebookNode) -> None:
    long = [source.splitlines()[0] for source in code_of(notebook) if source.count("\n") >= 15]
    assert long == [], "cells of more than 15 lines; move code into the library, or split"


def test_defines_no_function(notebook: nbformat.NotebookNode) -> None:
    for source in code_of(notebook):
        code = "\n".join(line for line in source.split("\n") if not line.startswith("%"))
        defined = [type(node) for node in ast.walk(ast.parse(code))]
        assert not {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda} & set(defined)


def test_says_at_least_half_as_much_as_it_computes(notebook: nbformat.NotebookNode) -> None:
    prose = sum(len(cell.source) for cell in notebook.cells if cell.cell_type == "markdown")
    assert prose >= 0.5 * sum(map(len, code_of(notebook)))


def test_asks_first_and_answers_before_it_explains(notebook: nbformat.NotebookNode) -> None:
    cells = [cell for cell in notebook.cells if cell.cell_type != "raw"]
    title, *rest = cells[0].source.split("\n")
    assert "question" in cells[0].source or (title.endswith("?") and not rest)
    kinds = [cell.cell_type for cell in cells]
    assert kinds[:4] == [
        "markdown",
        "code",
        "code",
        "code",
    ]  # question, parameters, then the answer


def test_its_cell_of_parameters_is_their_one_list(notebook: nbformat.NotebookNode) -> None:
    code = "\n".join(code_of(notebook))
    assert 'parameters("' in code  # reads and checks them
    assert code.count("run_record(") <= 1


def test_lines_have_at_most_100_columns(notebook: nbformat.NotebookNode) -> None:
    wide = [line for cell in notebook.cells for line in cell.source.split("\n") if len(line) > 100]
    assert wide == []


@pytest.mark.slow
def test_the_comparison_runs_anew_on_the_animal_world(tmp_path: Path) -> None:
    names = ["plain", "tuned penalty", "ICM text", "ICM auto text", "CoOp", "LoRA + ICM"]
    given = {"methods": names, "targets": ["photo", "sketch"], "n_images": 240, "seeds": [0, 1]}
    given |= {"settings": {name: {"learning_rate": [2e-3]} for name in ("CoOp", "LoRA + ICM")}}
    files = {key: str(tmp_path / f"{key}.parquet") for key in ("results", "claims")}
    execute(
        "06_methods", tmp_path / "page.ipynb", given | files | {"cache": str(tmp_path / "cache")}
    )
    table = pd.read_parquet(files["results"])
    assert list(table["method"].unique()) == names
    assert set(zip(table["target"], table["seed"], strict=True)) == {
        (t, s) for t in ("photo", "sketch") for s in (0, 1)
    }
    assert table.attrs["parameters"]["methods"] == names
    assert tuple(pd.read_parquet(files["claims"])) == COLUMNS


@pytest.mark.slow
def test_real_clip_runs_on_embeddings_at_hand(tmp_path: Path) -> None:
    folder = write_stand_in(tmp_path / "real_clip")
    given = {
        "dataset": str(folder), "n_names": [20], "ranks": [2, 4], "n_draws": 2, "seeds": [0],
        "widths": [8], "lengths": [128], "n_images": 160, "cache": str(tmp_path / "encoders"),
    }  # fmt: skip
    files = {key: str(tmp_path / f"{key}.parquet") for key in ("results", "claims")}
    execute("08_real_clip", tmp_path / "page.ipynb", given | files)
    table = pd.read_parquet(files["results"])
    assert table.attrs["data"] == {"real_clip": open_real_clip(folder).fingerprint}
    assert "cache" not in table.attrs["parameters"]
    assert set(experiments_of(table)) == {
        "names", "diversity", "narrow", "classes", "modality_probe", "modality_retrieval",
        "modality_kept", "modality_grid", "animal_read", "animal_spans", "animal_pairs",
    }  # fmt: skip
    verdicts = pd.read_parquet(files["claims"]).set_index("statement")["verdict"]
    assert verdicts["an exact linear map is found"] == "supported"
    assert verdicts["names that are shuffled have no map"] == "supported"
    # the names of the stand-in are of twelve factors, linearly
    assert verdicts["a linear map from RN50 to ViT-B-32 explains new names"] == "supported"
    execute(
        "08_real_clip", tmp_path / "again.ipynb", {"dataset": "none", "tables": [files["results"]]}
    )


@pytest.mark.slow
def test_identifiability_runs_small_and_shows_what_it_recorded(tmp_path: Path) -> None:
    given = {
        "seeds": [0, 1], "n_images": 120, "single_seeds": 1, "dimensions": [16], "n_worlds": 2,
        "encoder_seeds": [0], "widths": [8], "lengths": [128], "narrow": [4], "n_compared": 60,
        "encoders": str(tmp_path / "encoders"), "cache": str(tmp_path / "cache"), "parts": None,
    }  # fmt: skip
    files = {key: str(tmp_path / f"{key}.parquet") for key in ("results", "claims")}
    execute("09_identifiability", tmp_path / "page.ipynb", given | files)
    table = pd.read_parquet(files["results"])
    assert list(table.attrs["weights"]) == ["animal-world"]
    assert set(experiments_of(table)) == set(IDENTIFIABILITY)
    verdicts = pd.read_parquet(files["claims"]).set_index("statement")["verdict"]
    assert verdicts["shuffled factors explain nothing"] == "supported"
    execute("09_identifiability", tmp_path / "again.ipynb", {"tables": [files["results"]]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "experiments"), [("10_open_questions", QUESTIONS), ("11_released_code", AUDITED)]
)
def test_open_questions_run_small(name: str, experiments: Collection[str], tmp_path: Path) -> None:
    given: dict[str, Any] = {"seeds": [0], "n_images": 160, "consistency_weights": [1.0, 1000.0]}
    if name == "10_open_questions":
        given = {"seeds": [0], "n_images": 320, "n_coloured": 4, "tuned_seeds": [0]}
        given |= {"tuned_targets": ["photo"], "n_tuned": 24}
        photographs = write_folder(tmp_path / "photos", load_silhouettes(), per_class=4)
        for folder in photographs.glob("*/*"):
            if folder.name not in ("bear", "cat", "dog"):
                shutil.rmtree(folder)
        given |= {"photographs": str(photographs)}
        given |= {"real_clip": str(write_stand_in(tmp_path / "real_clip"))}
    files = {key: str(tmp_path / f"{key}.parquet") for key in ("results", "claims")}
    files |= {"cache": str(tmp_path / "cache")}
    execute(name, tmp_path / "page.ipynb", given | files | {"parts": None})
    table = pd.read_parquet(files["results"])
    assert set(experiments_of(table)) == set(experiments)
    assert tuple(pd.read_parquet(files["claims"])) == COLUMNS


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder of images, domain/class/image."""
    return write_folder(
        tmp_path_factory.mktemp("data") / "animals", load_silhouettes(), per_class=10
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "protocol", ["leave-one-domain-out", "open class", "domain shift with open classes"]
)
def test_domain_generalization_runs_on_a_folder(
    tmp_path: Path, animals: Path, protocol: str
) -> None:
    given = {
        "dataset": str(animals), "encoder": "animal-world", "protocol": protocol, "seeds": [0],
        "cache": str(tmp_path),
    }  # fmt: skip
    results = Study("02_domain_generalization", given).results()
    table = results.table
    assert set(table["protocol"]) == {protocol}
    assert table["target"].nunique() == (1 if protocol == "open class" else 4)
    # the shipped encoders know no words of a folder
    assert not table["method"].str.contains("text|oracle").any()
    assert str(animals) in results.record["command"]  # it repeats the run on this folder
    assert ("linear probe" in set(table["predictor"])) == (protocol == "leave-one-domain-out")


@pytest.mark.slow
def test_your_data_saves_the_projection_that_it_tells(tmp_path: Path, animals: Path) -> None:
    saved = tmp_path / "projection.safetensors"
    given = {
        "folder": str(animals),
        "encoder": "animal-world",
        "seeds": [0],
        "projection": str(saved),
    }
    execute("05_your_data", tmp_path / "page.ipynb", given | {"cache": str(tmp_path / "cache")})
    loaded = InvariantProjection.load(saved)
    components, told = loaded.components_, loaded.made_from_
    assert {"commit", "weights", "pixels", "verdict"} <= set(told)
    encoder, images = load_encoder(told["encoder"]), load_folder(animals)
    embedded = embed_files(encoder, images, EmbeddingStore(tmp_path / "cache"))
    expected = InvariantProjection(
        told["n_components"], consistency_weight=told["consistency_weight"]
    ).fit_moments(pair_moments(embedded, told["intervention"]))
    np.testing.assert_allclose(components, expected.components_, atol=1e-6)
    np.testing.assert_allclose(components @ components.T, np.eye(len(components)), atol=1e-6)


@pytest.mark.slow
def test_imagenet_variants_run_on_folders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder, n in (("train", 12), ("renditions", 4)):
        for name in imagenet_classes("imagenet-r")["wnid"][:4]:
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(256, size=(40, 40, 3), dtype=np.uint8)).save(
                    tmp_path / folder / name / f"{i}.png"
                )
    given = {
        "dataset": str(tmp_path / "train"), "variants": {"R": str(tmp_path / "renditions")},
        "encoder": str(random_checkpoint(tmp_path / "model")), "accept_problems": True,
        "results": str(tmp_path / "results.parquet"),
    }  # fmt: skip
    execute(
        "04_imagenet_variants", tmp_path / "page.ipynb", given | {"cache": str(tmp_path / "cache")}
    )
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert set(table["condition"]) == {"in_distribution", "R"}
    kinds = {"image", "text", "image+text"}
    assert {name.removeprefix("ICM ") for name in table["method"]} >= kinds
    (tmp_path / "renditions").rename(tmp_path / "imagenet-r")  # a part of a known variant
    given["variants"] = {"R": str(tmp_path / "imagenet-r")}
    with pytest.raises(papermill.PapermillExecutionError, match="imagenet-r has 30,000"):
        execute(
            "04_imagenet_variants",
            tmp_path / "page.ipynb",
            given | {"cache": str(tmp_path / "cache")},
        )


def random_checkpoint(folder: Path) -> Path:
    """Save a tiny CLIP with random weights as a local checkpoint."""
    model = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "patch_size": 16,
            "head_width": 16,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    }
    folder.mkdir()
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"model_cfg": model, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(open_clip.CLIP(**model).state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.slow
def test_the_comparison_runs_on_a_folder_as_documented(tmp_path: Path) -> None:
    documented = ["plain", "LDA", "ICM auto image"]
    assert (
        f'"methods": {str(documented).replace(chr(39), chr(34))}'
        in (ROOT / "reports" / "reproduce.qmd").read_text()
    )
    root = write_folder(tmp_path / "animals", load_silhouettes(), per_class=5)
    given = {
        "dataset": str(root), "methods": documented, "choices": ["intervened", "held-out"],
        "cache": str(tmp_path / "cache"),
    }  # fmt: skip
    files = {key: str(tmp_path / f"{key}.parquet") for key in ("results", "claims")}
    execute("06_methods", tmp_path / "page.ipynb", given | files)
    table = pd.read_parquet(files["results"])
    assert len(pd.read_parquet(files["claims"])) == 4  # two plain predictors, LDA, and zero-shot
    assert list(table["method"].unique()) == documented
    assert table["target"].nunique() == 4
