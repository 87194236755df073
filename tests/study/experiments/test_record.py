import json
import shlex
import subprocess

import pandas as pd
import pytest
from conftest import ROOT

from icm_study.experiments import record as module
from icm_study.experiments.record import PACKAGES, commit, repeat_command, run_record


class StandIn:
    name, fingerprint = "some-encoder", "f00"


def test_the_record_survives_parquet_and_names_what_was_used(tmp_path):
    record = run_record("02_study", {"seeds": [0, 1]}, [StandIn()], {"PACS": "abc"})
    table = pd.DataFrame({"value": [1.0]})
    table.attrs = record
    table.to_parquet(tmp_path / "t.parquet")
    read = pd.read_parquet(tmp_path / "t.parquet").attrs
    assert read == record
    assert read["parameters"] == {"seeds": [0, 1]}
    assert read["weights"] == {"some-encoder": "f00"}
    assert read["data"] == {"PACS": "abc"}
    assert set(read["versions"]) == {"python", *PACKAGES}


def test_the_record_is_the_same_when_the_run_is_repeated():
    assert run_record("a", {"n": 1}) == run_record("a", {"n": 1})


def test_the_command_gives_the_parameters_back():
    parameters = {"dataset": 'it\'s "mine"', "seeds": [0, 1], "targets": None}
    command = run_record("02_study", parameters)["command"]
    *program, given = shlex.split(command)
    assert program == ["papermill", "02_study.ipynb", "out.ipynb", "-y"]
    assert json.loads(given) == parameters
    assert json.loads(shlex.split(repeat_command(command, {"seeds": [2]}))[-1]) == {"seeds": [2]}


def test_the_commit_is_that_of_this_checkout():
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if said.returncode:
        pytest.skip("git does not know this folder")
    assert commit().removesuffix("+changes") == said.stdout.strip()


def test_without_git_the_commit_is_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert module.commit() == "unknown"


def test_a_parameter_that_is_no_json_is_refused():
    with pytest.raises(TypeError, match="JSON"):
        run_record("a", {"path": object()})
