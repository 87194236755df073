"""The recorded results: whole, consistent, and with everything it takes to repeat them."""

import json
import re
import shlex
import subprocess

import numpy as np
import pytest
import yaml
from conftest import CONFIG, REAL_CLIP, RECORDED, ROOT, RUNS, run
from conftest import METHODS as COMPARISONS

from icm_study.animals.latents import STYLES
from icm_study.encoders.animal_clip import SHIPPED
from icm_study.experiments.choosing import NOT_CHOSEN, REFERENCE
from icm_study.experiments.intervals import unpack
from icm_study.experiments.reading import IDENTITY
from icm_study.experiments.record import PACKAGES, read_table
from icm_study.methods.registry import METHODS
from icm_study.methods.sources import PREDICTORS
from icm_study.photographs.real_clip import open_real_clip
from icm_study.testbeds.base import CONDITIONS, PROTOCOLS

COLUMNS = set(
    [
        "dataset",
        "encoder",
        "protocol",
        "world",
        "shortcut",
        "strength",
        "target",
        "seed",
        "method",
        "family",
        "predictor",
        "choice",
        "judged_by",
        "setting",
        "K",
        "consistency_weight",
        "fit_seconds",
        "n_parameters",
        "condition",
        "n",
        "value",
        "correct",
    ]
)
EVERY = sorted(RECORDED.glob("*.parquet"))
#: Tables of accuracies; that of embeddings of real CLIPs, and the open questions', hold others.
OTHERS = ("08_real_clip", "09_identifiability", "10_open_questions", "11_released_code")
PATHS = [path for path in EVERY if RUNS[path.stem]["notebook"] not in OTHERS]


def named(path):
    table = read_table(path)
    table.attrs["name"] = path.stem
    return table


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def table(request):
    return named(request.param)


@pytest.fixture(params=COMPARISONS)
def comparison(request):
    return named(RECORDED / f"{request.param}.parquet")


def test_real_pacs_is_recorded():
    assert "PACS_lite0-minilm" in {path.stem for path in PATHS}


def test_the_files_are_small():
    assert sum(path.stat().st_size for path in EVERY) < 5e6


def test_every_setting_of_the_run_is_recorded(table):
    record, settings = table.attrs, dict(RUNS[table.attrs["name"]])
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), "recorded from a checkout with changes"
    assert set(record["versions"]) == {"python", *PACKAGES}
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in record["weights"].values())
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in record["data"].values())
    assert list(record["weights"]) == [settings["encoder"]]
    assert list(record["data"]) == [settings["dataset"], *settings.get("variants", {})]
    notebook = settings.pop("notebook")
    program, page, _, _, given = shlex.split(record["command"])
    assert (program, page) == ("papermill", f"{notebook}.ipynb")
    assert yaml.safe_load(given) == record["parameters"]
    if table.attrs["name"] not in COMPARISONS:
        settings["dataset"] = f"../data/{settings['dataset']}"
    if "variants" in settings:
        settings["variants"] = {
            name: f"../data/{folder}" for name, folder in settings["variants"].items()
        }
    for key, value in settings.items():
        assert record["parameters"][key] == value
    assert not re.search(r"/(home|root|tmp|work|Users)/", json.dumps(record)), (
        "a path of one machine"
    )


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git checkout")
@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_the_commit_is_in_the_history(path):
    shallow = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True
    )
    if shallow.stdout.strip() != "false":
        pytest.skip("the history is not whole")
    found = subprocess.run(["git", "cat-file", "-e", read_table(path).attrs["commit"]], cwd=ROOT)
    assert found.returncode == 0


def test_the_rows_are_whole(table):
    parameters = table.attrs["parameters"]
    assert set(table.columns) == COLUMNS
    assert set(table["predictor"]) <= set(PREDICTORS)
    assert set(table["condition"]) <= {*CONDITIONS, *parameters.get("variants", {})}
    if "protocol" in parameters:
        assert set(table["protocol"]) == {parameters["protocol"]} <= set(PROTOCOLS)
    assert set(table["encoder"]) == {parameters["encoder"]}
    assert set(table["world"]) == {table.attrs["testbed"]["world"]}
    assert sorted(table["seed"].unique()) == parameters["seeds"]
    assert not table.duplicated([*IDENTITY, "target", "seed"]).any()
    own = table[table["choice"] != REFERENCE]
    assert own.groupby(["target", "seed", "condition"]).size().nunique() == 1
    icm = table["method"].str.match(r"ICM (?!gap|held-out)")
    assert table.loc[icm, ["K", "consistency_weight"]].notna().all(axis=None)


def test_accuracies_are_those_of_the_images(table):
    packed = (
        {"correct": correct, "n": n}
        for correct, n in zip(table["correct"], table["n"], strict=True)
    )
    accuracy = [100 * unpack(row).mean() for row in packed]
    np.testing.assert_allclose(table["value"], accuracy, rtol=1e-6)
    assert (table[["fit_seconds", "n_parameters"]] >= 0).all(axis=None)


def test_settings_are_those_that_were_to_be_tried_and_each_choice_took_one(table):
    parameters = table.attrs["parameters"]
    choices, given = set(parameters["choices"]), parameters.get("settings") or {}
    size = len(next(iter(next(iter(table.attrs["spectrum"].values())).values())))
    for name, rows in table.groupby("method"):
        entry = METHODS[name]
        tried = entry.settings(size, given.get(name))
        if entry.then:
            tried = [more for best in tried for more in entry.given_best(best).settings(size)]
        settings = [json.dumps(setting) for setting in tried]
        assert set(rows["setting"]) <= set(settings)
        ways = choices if len(settings) > 1 else {NOT_CHOSEN}
        is_asked = entry.on_target and parameters.get("methods")  # where methods are named
        reference = {REFERENCE} if is_asked else set()
        assert set(rows["choice"]) == ways | reference
        # no probe has seen the new classes of an open protocol
        can_tell = {"zero-shot"} if "open" in parameters.get("protocol", "") else set(PREDICTORS)
        named = set(entry.predictors or entry.make().predictors)
        assert set(rows["predictor"]) == named & can_tell


def test_the_comparison_has_every_method(comparison):
    own = comparison[comparison["choice"] != REFERENCE]
    runs = own.groupby(["predictor", "method", "choice", "condition"]).size()
    assert set(runs) == {len(STYLES) * len(CONFIG["seeds"])}
    assert set(comparison["seed"]) == set(CONFIG["seeds"])
    assert set(comparison["method"]) == set(METHODS)


def test_real_clip_is_recorded_with_all_that_it_took():
    table = read_table(RECORDED / "real-clip.parquet")
    record = table.attrs
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), "recorded from a checkout with changes"
    assert record["parameters"]["dataset"] == "../data/real_clip"
    assert list(record["weights"]) == list(SHIPPED)
    assert list(record["data"]) == ["real_clip"]
    assert set(record["versions"]) == {"python", *PACKAGES}
    program, page, _, _, given = shlex.split(record["command"])
    assert program == "papermill"
    assert re.fullmatch(r"\d\d_real_clip.ipynb", page)  # as it was named when it ran
    assert yaml.safe_load(given) == record["parameters"]
    assert not re.search(r"/(home|root|tmp|work|Users)/", json.dumps(record)), (
        "a path of one machine"
    )


@pytest.mark.parametrize(
    "path", [path for path in EVERY if path.stem in CONFIG["questions"]], ids=lambda path: path.stem
)
def test_an_open_question_is_recorded_with_all_that_it_took(path):
    record = read_table(path).attrs
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), "recorded from a checkout with changes"
    assert set(record["versions"]) == {"python", *PACKAGES}
    assert set(record["weights"]) >= {"animal-world"}
    program, page, _, _, given = shlex.split(record["command"])
    assert (program, page) == ("papermill", f"{RUNS[path.stem]['notebook']}.ipynb")
    assert yaml.safe_load(given) == record["parameters"]


@pytest.mark.skipif(not REAL_CLIP.exists(), reason="no real CLIP at hand")
def test_real_clip_at_hand_is_what_was_recorded():
    record = read_table(RECORDED / "real-clip.parquet").attrs
    assert open_real_clip(REAL_CLIP).fingerprint == record["data"]["real_clip"]


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_recorded_table_is_shown_without_torch(path):
    given = {"dataset": "data/PACS", "tables": [str(path)]}
    notebook = RUNS[path.stem]["notebook"]
    code = (
        "import sys; from icm_study.experiments.study import Study; "
        "from icm_study.methods.registry import overview; "
        f"study = Study({notebook!r}, {given}); table = study.results().table; "
        "overview(table['method'].unique()); print(study.examples(), 'torch' in sys.modules)"
    )
    done = run("-c", code)
    assert done.stdout == "{} False\n", done.stderr
