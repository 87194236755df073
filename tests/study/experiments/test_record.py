"""The record of a run: what was given, what was used, and a command that repeats it."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from icm_study.animals.rendering import write_folder
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.experiments import record as module
from icm_study.experiments.record import (
    FILES,
    PACKAGES,
    commit,
    default_parameters,
    gather,
    parameters,
    read_only_run,
    read_table,
    repeat_command,
    run_record,
    write_table,
)
from icm_study.experiments.study import Study


class StandIn:
    name, fingerprint = "some-encoder", "f00"


# The record


def test_the_record_survives_parquet_and_names_what_was_used(tmp_path):
    record = run_record("02_study", {"seeds": [0, 1]}, [StandIn()], {"PACS": "abc"})
    table = pd.DataFrame({"value": [1.0]})
    table.attrs = record
    write_table(table, tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet").attrs
    assert read == record
    assert read["parameters"] == {"seeds": [0, 1]}
    assert read["weights"] == {"some-encoder": "f00"}
    assert read["data"] == {"PACS": "abc"}
    assert set(read["versions"]) == {"python", *PACKAGES}


def test_the_record_is_the_same_when_the_run_is_repeated():
    assert run_record("a", {"n": 1}) == run_record("a", {"n": 1})


def test_where_files_are_kept_is_no_part_of_a_run():
    told = {"dataset": "../data/PACS", "folder": "mine", "projection_images": "others"}
    record = run_record("a", told | dict.fromkeys(FILES, "somewhere"))
    assert record["parameters"] == told
    assert "somewhere" not in record["command"]


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


# The command


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda one: st.lists(one) | st.dictionaries(st.text(), one),
    max_leaves=8,
)


@given(st.dictionaries(st.from_regex("[a-z_]+", fullmatch=True), json_values))
def test_the_command_gives_the_parameters_back(told):
    """As a shell and papermill read it: its option -y is YAML."""
    *program, said = shlex.split(repeat_command("02_study", told))
    assert program == ["papermill", "02_study.ipynb", "out.ipynb", "-y"]
    assert yaml.safe_load(said) == json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    "value",
    ['it\'s "mine"', "$HOME `ls`", "on", "1e5", "2024-01-01", "# none", "Tiere 🦊 ä", 1e-05, 1e300,
     None, [["coat+scene", 0.9]], {"V2": "a b"}],
)  # fmt: skip
def test_values_that_a_shell_or_yaml_could_take_for_others(value):
    *_, said = shlex.split(repeat_command("n", {"x": value}))
    found = yaml.safe_load(said)["x"]
    assert found == value
    assert type(found) is type(value)


def test_the_command_repeats_the_run_on_the_folder_that_was_given(tmp_path):
    folder = str(write_folder(tmp_path / "it's mine", load_silhouettes(), per_class=4))
    told = {
        "dataset": folder, "encoder": "animal-world", "seeds": [0], "targets": ["sketch"],
        "methods": ["plain", "ICM image"], "settings": {"ICM image": {"n_components": [8, 4]}},
        "cache": str(tmp_path / "cache"), "results": str(tmp_path / "first.parquet"),
    }  # fmt: skip
    first = Study("06_methods", told).results()
    *program, said = shlex.split(first.record["command"])
    again = yaml.safe_load(said)
    assert program[1] == "06_methods.ipynb"
    assert again["dataset"] == folder
    assert again == first.record["parameters"] == {k: v for k, v in told.items() if k not in FILES}
    second = Study("06_methods", again | {"cache": told["cache"]}).results()
    seconds = ["fit_seconds"]
    pd.testing.assert_frame_equal(
        first.table.drop(columns=seconds), second.table.drop(columns=seconds)
    )
    assert second.record == first.record
    assert read_table(told["results"]).attrs == first.record


# Parameters


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """A notebook with a cell of parameters, as papermill runs it, with what was injected."""
    cell = nbformat.v4.new_code_cell(
        'dataset = "animal-world"  # or a folder\nvariants = {}\nprojection_images = ""\n'
        'seeds = [0]\nworld = ["coat", 0.9]\nn_images = None\ntables = []\n'
        'cache = "../cache"\nresults = None\n'
        "claims = None\nprojection = None"
    )
    cell.metadata["tags"] = ["parameters"]
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Page"), cell])
    nbformat.write(page, tmp_path / "04_imagenet_variants.ipynb")

    def run(**injected):
        user = {}
        exec(cell.source, user)
        lines = [f"{name} = {value!r}" for name, value in injected.items()]
        said = "\n".join(["# Parameters", *lines])
        user |= injected | {"In": ["", cell.source, *([said] if injected else [])]}
        monkeypatch.setattr(module, "get_ipython", lambda: SimpleNamespace(user_ns=user))
        return parameters("04_imagenet_variants", tmp_path), user

    return run


def test_parameters_are_those_of_the_notebook_s_own_cell(notebook, tmp_path):
    found, _ = notebook()
    names = ["dataset", "variants", "projection_images", "seeds", "world", "n_images"]
    names += ["tables", "cache", "results", "claims", "projection"]
    assert list(found) == names
    defaults = default_parameters(tmp_path / "04_imagenet_variants.ipynb")
    assert found == defaults | {"world": ("coat", 0.9)}
    assert found["dataset"] == "animal-world"
    assert notebook(seeds=[1, 2])[0]["seeds"] == [1, 2]


@pytest.mark.parametrize(("name", "near"), [("datset", "dataset"), ("resutls", "results")])
def test_a_misspelt_parameter_is_refused_and_the_nearest_told(notebook, name, near):
    with pytest.raises(
        ValueError,
        match=f"04_imagenet_variants: '{name}' is unknown; did you mean '{near}'. Known: dataset, ",
    ):
        notebook(seeds=[0], **{name: "mine"})
    with pytest.raises(ValueError, match=r"'qqq' is unknown; Known: dataset, .*projection\.$"):
        notebook(qqq=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seeds", ["0"]), ("seeds", [0.5]), ("seeds", []), ("seeds", [1, 1]), ("n_images", 0)],
)
def test_a_value_of_another_type_or_range_is_refused(notebook, name, value):
    with pytest.raises(ValueError, match=f"04_imagenet_variants.*{name}"):
        notebook(**{name: value})


def test_what_only_animals_have_is_refused_with_a_folder(notebook):
    with pytest.raises(ValueError, match=r"04_imagenet_variants: got world, which a folder of ima"):
        notebook(dataset="photos", world=["scene", 0.9])
    notebook(dataset="photos")
    notebook(dataset="photos", world=["coat", 0.9])  # as the record of a run repeats it
    notebook(world=["scene", 0.9])


def test_home_is_expanded_in_paths_and_nowhere_else(notebook, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    found, user = notebook(
        dataset="~/IN", projection_images="~/mine", variants={"V2": "~/v2", "~": "r"},
        tables=["~/a.parquet", "b.parquet"], cache="~/scratch", results="~/r/t.parquet",
    )  # fmt: skip
    expected = {
        "dataset": f"{tmp_path}/IN", "projection_images": f"{tmp_path}/mine",
        "variants": {"V2": f"{tmp_path}/v2", "~": "r"}, "seeds": [0], "n_images": None,
        "world": ("coat", 0.9),
        "tables": [f"{tmp_path}/a.parquet", "b.parquet"], "cache": f"{tmp_path}/scratch",
        "results": f"{tmp_path}/r/t.parquet", "claims": None, "projection": None,
    }  # fmt: skip
    assert found == expected
    assert {name: user[name] for name in expected} == expected  # what the cells below see


@pytest.mark.parametrize("name", ["results", "claims", "projection"])
def test_a_path_that_cannot_be_written_is_refused_before_any_work(notebook, name, tmp_path):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file" / "t.parquet", tmp_path):
        with pytest.raises(ValueError, match=f"{name}='{path}' cannot be written: .*Give the path"):
            notebook(**{name: str(path)})
    made = tmp_path / "new" / "t.parquet"
    notebook(**{name: str(made)})
    assert made.parent.is_dir()
    assert not made.exists()  # an empty table would pass for one that was written
    notebook(**{name: str(tmp_path / "file")})
    assert (tmp_path / "file").read_text() == "kept"


def test_a_notebook_that_is_elsewhere_or_has_no_parameters(notebook, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"was not found.*--cwd notebooks"):
        default_parameters(tmp_path / "06_other.ipynb")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "07_empty.ipynb")
    with pytest.raises(ValueError, match="has no cell that is tagged 'parameters'"):
        default_parameters(tmp_path / "07_empty.ipynb")


# Tables


@pytest.fixture
def table():
    table = pd.DataFrame({"value": [1.0, 2.0], "correct": [b"\x01", b"\xff"]})
    table.attrs = {"parameters": {"seeds": [0]}}
    return table


def test_a_table_is_written_whole_with_its_record(table, tmp_path):
    path = tmp_path / "new" / "t.parquet"
    write_table(table, path)
    pd.testing.assert_frame_equal(read_table(path), table)
    assert read_table(path).attrs == table.attrs
    assert [one.name for one in path.parent.iterdir()] == ["t.parquet"]
    write_table(table, None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_table_leaves_the_earlier_one_and_nothing_else(
    table, tmp_path, monkeypatch, error
):
    path, whole = tmp_path / "t.parquet", Path.write_bytes
    write_table(table, path)

    def half(self, content):
        whole(self, content[:100])
        raise error

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(error):
        write_table(table.head(1), path)
    assert [one.name for one in tmp_path.iterdir()] == ["t.parquet"]
    pd.testing.assert_frame_equal(read_table(path), table)


@pytest.mark.parametrize("kept", [0, 1, -1])
def test_a_damaged_table_is_named(table, tmp_path, kept):
    path = tmp_path / "t.parquet"
    write_table(table, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"t\.parquet is no whole table of results .*Delete it"):
        read_table(path)
    with pytest.raises(ValueError, match=r"t\.parquet is no whole table"):
        gather([path], "02_study")


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(table, tmp_path):
    """Also in the footer, where Parquet has no checksum and columns get their names."""
    path, rng, noticed = tmp_path / "t.parquet", np.random.default_rng(0), 0
    write_table(table, path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoilt)
        try:
            read = read_table(path)
        except ValueError:
            noticed += 1
        else:  # a word that no reader looks at
            pd.testing.assert_frame_equal(read, table)
            assert read.attrs == table.attrs
    assert noticed > len(whole) - 40


def test_a_table_without_a_checksum_over_all_is_read(table, tmp_path):
    table.to_parquet(tmp_path / "t.parquet", index=False)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), table)


def test_a_table_that_is_absent_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.parquet")


# Several runs


def recorded(tmp_path, name, told, commit="c"):
    table = pd.DataFrame({"seed": told["seeds"]})
    table.attrs = run_record("02_study", told) | {"commit": commit, "spectrum": told["seeds"]}
    table.attrs |= {"diagnosis": {"seed": told["seeds"], "score": [0.5] * len(told["seeds"])}}
    write_table(table, tmp_path / name)
    return tmp_path / name


def test_runs_that_differ_in_seeds_and_targets_are_gathered(tmp_path):
    told = {"dataset": "it's", "seeds": [2], "targets": ["a"]}
    paths = [
        recorded(tmp_path, "1", told),
        recorded(tmp_path, "2", told | {"seeds": [0, 1], "targets": ["b", "a"]}, commit="d"),
    ]
    joined = gather(paths, "02_study")
    assert joined["seed"].tolist() == [2, 0, 1]
    expected = told | {"seeds": [0, 1, 2], "targets": ["a", "b"]}
    assert joined.attrs["parameters"] == expected
    *program, said = shlex.split(joined.attrs["command"])
    assert program[1] == "02_study.ipynb"
    assert yaml.safe_load(said) == expected
    assert joined.attrs["diagnosis"] == {"seed": [2, 0, 1], "score": [0.5] * 3}
    assert joined.attrs["spectrum"] == [2]
    other = recorded(tmp_path, "3", told | {"dataset": "other"})
    with pytest.raises(ValueError, match="differ in more than seeds and targets"):
        gather([paths[0], other], "02_study")


@pytest.mark.parametrize("what", ["versions", "weights", "data"])
def test_runs_of_other_versions_weights_or_data_are_not_gathered(tmp_path, what):
    told = {"dataset": "x", "seeds": [0], "targets": None}
    paths = [recorded(tmp_path, name, told | {"seeds": [int(name)]}) for name in "12"]
    assert len(gather(paths, "02_study")) == 2
    other = read_table(paths[1])
    other.attrs[what] = {"another": "0"}
    write_table(other, paths[1])
    with pytest.raises(ValueError, match="differ in more than seeds and targets"):
        gather(paths, "02_study")


def test_a_table_of_another_notebook_is_refused(tmp_path):
    path = recorded(tmp_path, "1.parquet", {"dataset": "x", "seeds": [0], "targets": None})
    with pytest.raises(ValueError, match=r"1\.parquet is a table of 02_study; expected one of 06_"):
        gather([path], "06_methods")
    with pytest.raises(ValueError, match="06_methods shows the table of one run; got 2"):
        read_only_run([path, path], "06_methods")
    assert read_only_run([path], "02_study").attrs["parameters"]["dataset"] == "x"
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(ValueError, match="without the record of a run; expected what 02_study"):
        gather([path], "02_study")
