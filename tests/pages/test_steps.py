"""Which steps run again: a setting counts where it is used and nowhere else; damage is noticed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
import study as driver
import yaml
from conftest import ROOT, copy_workflow, drive
from damage import damaged_files, is_archive, is_parquet

from icm_study.experiments.names import check_names
from icm_study.experiments.record import checked, default_parameters, read_table, write_table


def table() -> bytes:
    """Write a small table of results, as the study writes them."""
    with TemporaryDirectory() as place:
        path = Path(place, "table.parquet")
        write_table(pd.DataFrame({"method": ["plain", "ICM"] * 40, "value": range(80)}), path)
        return path.read_bytes()


#: In place of all that computes: writes every file that a step is to leave, whole.
WRITER = """
import sys
import zipfile
from pathlib import Path

import yaml

WHOLE = {
    ".parquet": TABLE,
    ".safetensors": (2).to_bytes(8, "little") + b"{}",
    ".html": b"<html>",
}


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        zipfile.ZipFile(path, "w").close()
    else:
        path.write_bytes(WHOLE.get(path.suffix, b"{}"))


kind, *given = Path(sys.argv[0]).stem, *sys.argv[1:]
if kind == "render_report":
    write(Path("_site/index.html"))
elif "--check" in given:
    pass
elif kind in ("execute", "run_study"):
    if kind == "execute":
        write(Path(given[1]))
    files = yaml.safe_load(given[given.index("-y") + 3])  # after the settings
    for name in {"results", "claims", "projection"} & set(files):
        if isinstance(files[name], str):
            write(Path("notebooks", files[name]))
else:
    write(Path(given[-1]))
"""
SCRIPTS = ("execute", "run_study", "embed", "world", "render_report")
SCRIPTS += ("embedding_plan", "embed_images", "embed_texts")
NOTEBOOKS = ("00_summary", "00_claims", "00_numbers", "01_theory", "02_domain_generalization")
NOTEBOOKS += ("03_ablations", "04_imagenet_variants", "05_your_data", "06_methods", "07_explore")
NOTEBOOKS += ("08_real_clip", "09_identifiability", "10_open_questions", "11_released_code")
CONFIG: dict[str, Any] = {
    "seeds": [0, 1],
    "domain_generalization": {
        "main": {"encoder": "animal-world", "worlds": [["coat", 0.9], ["scene", 0.9]]},
        "other": {"encoder": "animal-world", "worlds": [["coat", 0.9]]},
    },
    "notebooks": {"01_theory": {"n_seeds": 2}, "04_imagenet_variants": {"n_images": 600}},
    "methods": {
        "compared": {
            "dataset": "animal-world", "encoder": "animal-world", "targets": ["photo", "sketch"],
        },
    },
    "questions": {"asked": {"notebook": "09_identifiability"}},
    "data": "data",
    "embedding_jobs": 2,
    "recorded": {
        "photos": {
            "notebook": "02_domain_generalization", "dataset": "PACS",
            "encoder": "animal-world", "seeds": [0],
        },
        "published": {"notebook": "08_real_clip", "dataset": "clip"},
    },
}  # fmt: skip
EVERYTHING = ("all", "photographs", "methods", "questions")


def plan(study: Path, *targets: str) -> dict[str, int]:
    """Say how often each rule would run, but `all` and the ones that only gather names."""
    planned = drive(*targets, "--dry-run", cwd=study)
    assert planned.returncode == 0, planned.stderr
    lines = (planned.stdout + planned.stderr).splitlines()
    counts = dict(line.split() for line in lines if len(line.split()) == 2)
    gathers = (*EVERYTHING, "total", "job")
    steps = {rule for rule in counts if rule.isidentifier() and rule not in gathers}
    return {rule: int(counts[rule]) for rule in steps if counts[rule].isdigit()}


def write_config(study: Path, config: dict[str, Any]) -> None:
    (study / "workflow" / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with the real workflow in which nothing is computed, finished."""
    study = tmp_path_factory.mktemp("study")
    copy_workflow(study)
    for name in SCRIPTS:
        script = WRITER.replace("TABLE", repr(table()))
        (study / "workflow" / "scripts" / f"{name}.py").write_text(script)
    data = [f"{at}/{of}" for at in ("data", "elsewhere") for of in ("PACS/photo", "clip/texts")]
    for folder in ("notebooks", "reports/recorded", *data):
        (study / folder).mkdir(parents=True)
    for name in NOTEBOOKS:
        (study / "notebooks" / f"{name}.ipynb").write_text('{"cells": []}')
    for name in ("photos", "compared", "published", "asked"):
        (study / "reports" / "recorded" / f"{name}.parquet").write_bytes(table())
    for name in ("reproduce.qmd", "data.qmd", "styles.css", "favicon.svg"):
        (study / "reports" / name).touch()
    write_config(study, CONFIG)
    done = drive(*EVERYTHING, "--cores", "2", cwd=study)
    assert done.returncode == 0, done.stderr
    return study


@pytest.fixture
def study(finished: Path) -> Any:
    """The finished study; its settings are put back afterwards."""
    yield finished
    write_config(finished, CONFIG)


JUDGED = {"summary": 1, "claims": 1, "report": 1}
FRONT = {**JUDGED, "numbers": 1}
EMBEDDED = {
    "domain_generalization": 2, "gather_domain_generalization": 2, "ablations": 1,
    "methods_on_target": 4, "gather_methods": 1, "explore": 1,
}  # fmt: skip
EVALUATED = {
    "recorded_check": 1, "recorded_on_target": 1, "recorded_run": 1, "recorded_page": 1,
}  # fmt: skip
CHANGES: dict[str, tuple[tuple[str, ...], Any, dict[str, int]]] = {
    "nothing": (("data",), "data", {}),
    "a seed more": (
        ("seeds",), [0, 1, 2],
        {"embeddings": 1, "domain_generalization": 1, "gather_domain_generalization": 2,
         "ablations": 1, "imagenet_variants": 1, "methods_on_target": 2, "gather_methods": 1,
         "recorded_page": 1, **FRONT},
    ),
    "a strength": (
        ("domain_generalization", "other", "worlds"), [["coat", 0.8]],
        {"embeddings": 2, **EMBEDDED, **FRONT},
    ),
    "the encoder of a run": (
        ("domain_generalization", "other", "encoder"), "animal-world-biased",
        {"embeddings": 2, **EMBEDDED, **FRONT},
    ),
    "the protocol of a split run": (
        ("domain_generalization", "main", "protocol"), "open class",
        {"domain_generalization": 2, "gather_domain_generalization": 1, **FRONT},
    ),
    "the targets of a run": (
        ("domain_generalization", "other", "targets"), ["photo"],
        {"gather_domain_generalization": 1, **FRONT},
    ),
    "theory": (("notebooks", "01_theory", "n_seeds"), 3, {"theory": 1, **JUDGED}),
    "ablations": (("notebooks", "03_ablations"), {"seeds": [0]}, {"ablations": 1, **JUDGED}),
    "variants": (
        ("notebooks", "04_imagenet_variants", "n_images"), 500, {"imagenet_variants": 1, **JUDGED},
    ),
    "your data": (("notebooks", "05_your_data"), {"seeds": [0]}, {"your_data": 1, "report": 1}),
    "explore": (("notebooks", "07_explore"), {"seeds": [1]}, {"explore": 1, "report": 1}),
    "a method": (
        ("methods", "compared", "methods"), ["plain"],
        {"methods_on_target": 4, "gather_methods": 1, "recorded_page": 1, **JUDGED},
    ),
    "a setting of a recorded run": (
        ("recorded", "photos", "accept_problems"), True,
        {"embedding_plan": 1, "embed_images": 2, "embed_texts": 1, **EVALUATED, **JUDGED},
    ),
    "the targets of a recorded run": (
        ("recorded", "photos", "targets"), ["photo"],
        {**EVALUATED, **JUDGED, "recorded_on_target": 0},  # there is no other
    ),
    "a seed more of a recorded run": (
        ("recorded", "photos", "seeds"), [0, 1], {**EVALUATED, **JUDGED},
    ),
    "a run more on the same images": (
        ("recorded",),
        {"first": CONFIG["recorded"]["photos"] | {"protocol": "open class"}, **CONFIG["recorded"]},
        {"embed_texts": 1, **EVALUATED, "recorded_page": 0},
    ),
    "a run of another notebook on the same images": (
        ("recorded",),
        {"first": CONFIG["recorded"]["photos"] | {"notebook": "06_methods"}, **CONFIG["recorded"]},
        {"embed_texts": 1, **EVALUATED, "recorded_page": 0},
    ),
    "the number of jobs that embed": (("embedding_jobs",), 3, {}),
    "the texts of a recorded run": (
        ("recorded", "photos", "editor"), "llm", {"embed_texts": 1, **EVALUATED, **JUDGED},
    ),
    "the place of the data": (
        ("data",), "elsewhere",
        {"embedding_plan": 1, "embed_images": 2, "embed_texts": 1, "recorded_check": 1,
         "recorded_on_target": 1, "recorded_run": 1, "recorded_embeddings": 1},
    ),
    "a setting of a run on published embeddings": (
        ("recorded", "published", "n_draws"), 3,
        {"recorded_embeddings": 1, "recorded_page": 1, **JUDGED},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_setting_runs_again_what_depends_on_it(study: Path, change: str) -> None:
    path, value, expected = CHANGES[change]
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    inner = config
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    write_config(study, config)
    assert plan(study, *EVERYTHING) == {rule: n for rule, n in expected.items() if n}


@pytest.mark.slow
def test_a_plan_that_is_made_again_repeats_its_runs_as_the_page_says(study: Path) -> None:
    page = (ROOT / "reports" / "reproduce.qmd").read_text(encoding="utf-8")
    option, of = re.search(r'ARGS="(--forcerun) (\S+?)PACS_lite0-minilm\.parquet"', page).groups()
    again = {"embedding_plan": 1, "embed_images": 2, "embed_texts": 1, **EVALUATED}
    again = again | {"recorded_page": 0}
    found = plan(study, "photographs", option, f"{of}PACS_animal-world.parquet")
    assert found == {rule: n for rule, n in again.items() if n}


@pytest.mark.slow
def test_data_sets_whose_names_are_written_alike_are_two(study: Path) -> None:
    for name in ("TI NY", "TI-NY"):
        (study / "data" / name / "photo").mkdir(parents=True, exist_ok=True)
    runs = {
        f"run{i}": CONFIG["recorded"]["photos"] | {"dataset": name}
        for i, name in enumerate(("TI NY", "TI-NY"))
    }
    write_config(study, CONFIG | {"recorded": runs})
    found = plan(study, "photographs")
    assert (found["embedding_plan"], found["embed_images"], found["embed_texts"]) == (2, 4, 2)


@pytest.mark.slow
def test_settings_of_the_command_line_count_as_those_of_the_file(study: Path) -> None:
    given = ["--config", "seeds=[0, 1]", "notebooks={01_theory: {n_seeds: 3}}"]
    assert plan(study, "all", *given) == {"theory": 1, **JUDGED}


@pytest.mark.slow
def test_runs_are_renamed_removed_and_reordered(study: Path) -> None:
    main, other = CONFIG["domain_generalization"].values()
    write_config(study, CONFIG | {"domain_generalization": {"new": main, "other": other}})
    renamed = {"domain_generalization": 2, "gather_domain_generalization": 1, **FRONT}
    assert plan(study, "all") == renamed
    write_config(study, CONFIG | {"domain_generalization": {"main": main}})
    assert plan(study, "all") == FRONT
    write_config(study, CONFIG | {"domain_generalization": {"other": other, "main": main}})
    assert plan(study, "all") == FRONT  # another headline


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "seeds=3"], "'seeds': got 3, but it should be a valid list"),
        (["--config", "sedes=[0]"], "'sedes' is unknown; did you mean 'seeds'?"),
        (
            ["photographs", "--config", "data=/nowhere"],
            "/nowhere holds the data of no recorded run",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence(
    study: Path, arguments: list[str], said: str
) -> None:
    refused = drive(*arguments, cwd=study)
    assert refused.returncode != 0
    assert said in refused.stderr


@pytest.mark.slow
def test_a_target_before_an_option_is_not_taken_for_a_word_of_another(study: Path) -> None:
    assert plan(study, "photographs", "--executor", "local", "--jobs", "1") == {}


def documented() -> list[list[str]]:
    """List the commands that the page on repeating the study tells, in words."""
    page = (ROOT / "reports" / "reproduce.qmd").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


@pytest.mark.slow
def test_the_commands_of_the_page_are_understood(study: Path) -> None:
    by_hand = ("conda", "python -m pip")  # of another environment
    commands = [words for words in documented() if not " ".join(words).startswith(by_hand)]
    assert len(commands) > 10
    for program, *words in commands:
        if program == "make":  # which tells what it would do
            done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            continue
        script, *given = words
        assert Path(program).name == "python"
        if script == "-c":
            compile(given[0], "reproduce.qmd", "exec")
        elif script.endswith("study.py"):
            plan(study, *given)
        else:
            assert script == "workflow/scripts/execute.py"
            notebook, _page, option, settings = given
            assert option == "-y"
            asked = yaml.safe_load(settings)
            defaults = default_parameters(ROOT / notebook)
            check_names(asked, defaults, notebook)
            checked(Path(notebook).stem, defaults | asked)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def test_damage_inside_a_file_of_the_same_size_is_noticed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = tmp_path / "table.parquet", tmp_path / "arrays.npz"
    values = pd.DataFrame({"value": rng.normal(size=4000), "bits": [rng.bytes(9)] * 4000})
    write_table(values, paths[0])
    np.savez_compressed(paths[1], values=rng.integers(9, size=4000))
    for path, is_whole in zip(paths, (is_parquet, is_archive), strict=True):
        whole = path.read_bytes()
        assert is_whole(path)
        # a table has a checksum over all; of an archive the parts have theirs
        last = len(whole) if path.suffix == ".parquet" else len(whole) // 2
        for place in rng.integers(100, last, size=60).tolist():
            spoilt = bytearray(whole)
            spoilt[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(spoilt)
            assert not is_whole(path), place
        if path.suffix == ".parquet":
            with pytest.raises(ValueError, match="is no whole table of results"):
                read_table(path)
        path.write_bytes(whole)
        assert is_whole(path)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [empty, cut])
@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("results/01_theory_claims.parquet", "results/01_theory.ipynb"),
        ("results/05_your_data.safetensors", "results/05_your_data.ipynb"),
        ("results/03_ablations.ipynb", "results/03_ablations.ipynb"),
        # what is asked for is at hand, and all that was made of it
        ("results/01_theory_claims.parquet", "all"),
        ("cache/silhouettes.npz", "all"),
    ],
)
def test_a_damaged_result_is_told_and_made_again(
    study: Path, name: str, target: str, damage: Callable[[Path], None]
) -> None:
    whole = (study / name).read_bytes()
    damage(study / name)
    assert damaged_files(study) == [study / name]
    again = drive(target, "--cores", "1", cwd=study)
    assert again.returncode == 0, again.stderr
    assert f"{name} is damaged" in again.stderr
    assert (study / name).read_bytes() == whole
    assert damaged_files(study) == []


@pytest.mark.slow
def test_a_damaged_result_that_no_step_makes_any_more_is_told_and_stops_nothing(
    study: Path,
) -> None:
    left = study / "results" / "of_a_run_that_was_removed.parquet"
    empty(left)
    done = drive("--cores", "1", cwd=study)
    assert done.returncode == 0, done.stderr
    assert f"{left.relative_to(study)} is damaged, and no step makes it" in done.stderr
    left.unlink()


@pytest.mark.slow
def test_a_damaged_table_that_git_keeps_is_told_and_not_touched(study: Path) -> None:
    table = study / "reports" / "recorded" / "photos.parquet"
    whole = table.read_bytes()
    empty(table)
    refused = drive(cwd=study)
    assert refused.returncode != 0
    assert "git checkout reports/recorded/photos.parquet" in refused.stderr
    assert table.exists()
    table.write_bytes(whole)


@pytest.mark.parametrize(
    ("written", "kept", "is_made", "is_new"),
    [
        ("by this run", "before", True, True),
        ("by this run", "since", True, True),  # git brought another one while it ran
        ("by this run", "never", False, True),
        ("by a former run", "since", True, False),
        ("by a former run", "before", True, True),  # that was killed
        ("by a former run", "never", True, True),
        ("by a former run", "never", False, False),  # the run has left the settings
    ],
)
def test_the_tables_that_are_kept_are_new(
    written: str, kept: str, is_made: bool, is_new: bool,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(driver, "ROOT", tmp_path)
    monkeypatch.setattr(driver, "is_made", lambda _: is_made)
    assert driver.recorded() == {}
    assert not driver.keep_recorded({})  # there is none
    ours, theirs = (tmp_path / place / "recorded" / "x.parquet" for place in ("results", "reports"))
    ours.parent.mkdir(parents=True)
    theirs.parent.mkdir(parents=True)
    ours.write_text("former")
    os.utime(ours, ns=(1000, 1000))
    before = driver.recorded()
    if written == "by this run":
        ours.write_text("ours")
        os.utime(ours, ns=(1003, 1003))
    if kept != "never":
        theirs.write_text("theirs")
        time = {"before": 999, "since": 2000}[kept]
        os.utime(theirs, ns=(time, time))
    assert driver.keep_recorded(before)
    if is_new:
        assert theirs.read_text() == ours.read_text()
    else:
        assert not theirs.exists() or theirs.read_text() == "theirs"
    assert ("study: reports/recorded/x.parquet is new" in capsys.readouterr().err) == is_new
    assert driver.keep_recorded(driver.recorded())
    assert not capsys.readouterr().err  # once


@pytest.mark.slow
def test_a_run_keeps_what_it_wrote_and_no_older_table(study: Path) -> None:
    ours, theirs = (
        study / place / "recorded" / "asked.parquet" for place in ("results", "reports")
    )
    whole, time = theirs.read_bytes(), theirs.stat()
    left = ours.with_name("of_a_run_that_was_removed.parquet")
    left.write_bytes(whole)
    write_table(pd.DataFrame({"method": ["brought by git"]}), theirs)
    brought = theirs.read_bytes()

    def ask() -> str:
        done = drive("questions", "--cores", "1", cwd=study)
        assert done.returncode == 0, done.stderr
        assert "nothing was recorded" not in done.stderr
        assert not theirs.with_name(left.name).exists()
        return done.stderr

    said = ask()
    assert "Nothing to be done" in said
    assert "is new" not in said
    assert theirs.read_bytes() == brought
    ours.unlink()
    assert "reports/recorded/asked.parquet is new" in ask()  # it is made again
    assert theirs.read_bytes() == ours.read_bytes() == whole
    theirs.unlink()
    assert "reports/recorded/asked.parquet is new" in ask()
    assert theirs.read_bytes() == whole
    os.utime(theirs, ns=(time.st_atime_ns, time.st_mtime_ns))
    left.unlink()
