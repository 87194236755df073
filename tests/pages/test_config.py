"""The settings of the study: typed and checked where they enter, and handed on as they are."""

from __future__ import annotations

import ast
import json
import math
import os
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import papermill
import pytest
import yaml
from config import CONFIG, SINGLE, Study, read_config
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from pages import Page, fit_menus, pages_of

from icm_study.animals.latents import STYLES
from icm_study.encoders.loading import PHOTO, SHIPPED
from icm_study.experiments import settings
from icm_study.experiments.choosing import CHOICES
from icm_study.experiments.names import check_names, unknown_name
from icm_study.experiments.record import default_parameters
from icm_study.experiments.settings import NOTEBOOKS, Ablations, Methods, Theory, check_settings
from icm_study.methods.registry import METHODS
from icm_study.plain_yaml import read_yaml, write_yaml
from icm_study.testbeds.base import PROTOCOLS

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
EXTREME = [
    1e-05, 1e22, -0.0, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, 10**30, True, None,
    "true", "yes", "no", "1e3", "1e-05", "12", "0x1f", "1:30", "2026-11-29", "null", "~", "",
    "'", '"', "{a: b}", "- a", "#", "a: b", "größe", "\u2028", "\x85", "\n", "\\n", "%d", "$HOME",
]  # fmt: skip


class TestYaml:
    @given(PLAIN)
    def test_comes_back_as_it_was(self, value: Any) -> None:
        assert repr(read_yaml(write_yaml(value), "text")) == repr(value)  # repr: -0.0, 1 and True

    @pytest.mark.parametrize("value", EXTREME, ids=repr)
    def test_means_the_same_to_any_reader_of_yaml_1_1(self, value: Any) -> None:
        assert repr(yaml.safe_load(write_yaml({"x": [value]}))) == repr({"x": [value]})

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, {1, 2}, b"a", Path("a")])
    def test_what_is_not_plain_is_refused(self, value: Any) -> None:
        with pytest.raises((TypeError, ValueError)):
            write_yaml({"x": value})

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("a: 1\nb: [1\nc: 2\n", "file, line 3, column 2: "),
            ("a:\n\tb: 1\n", "file, line 2, column 1: "),
            ("a: 1\nb: 2\na: 3\n", "file, line 3, column 1: 'a' is given twice, first in line 1"),
            ("r: {a: 1, a: 2}", "file, line 1, column 11: 'a' is given twice"),
            ("a: !!python/object:os.system x", "file, line 1, column 4: could not determine"),
            ("n: 010", "file, line 1, column 4: '010' is 8 in YAML 1.1, and something else in"),
            ("a: [1, -0_7]", "file, line 1, column 8: '-0_7' is -7 in YAML 1.1"),
            ("t: 10:00", "file, line 1, column 4: '10:00' is 600 in YAML 1.1"),
            ("t: 1:30.5", "file, line 1, column 4: '1:30.5' is 90.5 in YAML 1.1"),
        ],
    )
    def test_a_fault_is_told_with_its_place(self, text: str, said: str) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
            read_yaml(text, "file")


class TestNames:
    def test_the_nearest_known_name_is_told(self) -> None:
        assert "did you mean 'folder'?" in unknown_name("foldr", ["encoder", "folder"])
        assert "did you mean" not in unknown_name("xyz", ["encoder", "folder"])

    def test_known_names_pass_and_every_unknown_one_is_told(self) -> None:
        check_names(["a"], ["a", "b"], "here")
        with pytest.raises(ValueError, match=r"here: 'c' is unknown.*\nhere: 'd' is unknown"):
            check_names(["c", "a", "d"], ["a", "b"], "here")


class TestSettings:
    @pytest.mark.parametrize("notebook", NOTEBOOKS)
    def test_are_the_parameters_of_the_notebook_but_its_files(self, notebook: str) -> None:
        files = {"results", "claims", "tables", "projection"}
        known = papermill.inspect_notebook(str(ROOT / "notebooks" / f"{notebook}.ipynb"))
        assert set(get_type_hints(NOTEBOOKS[notebook])) == set(known) - files

    def test_images_are_embedded_alike_for_two_notebooks(self) -> None:
        """The workflow embeds once for both."""
        rules = (ROOT / "workflow" / "rules" / "recorded.smk").read_text()
        listed = re.search(r"^IMAGES = (\(.*?\))", rules, re.M | re.S)
        assert listed
        names = set(ast.literal_eval(listed[1]))
        assert "precision" in names
        folders, methods = (
            default_parameters(ROOT / "notebooks" / f"{name}.ipynb")
            for name in ("02_domain_generalization", "06_methods")
        )
        of_both = names & set(folders) & set(methods)
        assert [folders[name] for name in of_both] == [methods[name] for name in of_both]

    @pytest.mark.parametrize("notebook", NOTEBOOKS)
    def test_the_defaults_of_the_notebook_pass(self, notebook: str) -> None:
        cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
        cell = next(cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
        defaults: dict[str, Any] = {}
        exec("".join(cell["source"]), {}, defaults)
        names = get_type_hints(NOTEBOOKS[notebook])
        defaults = {name: value for name, value in defaults.items() if name in names}
        checked = check_settings(NOTEBOOKS[notebook], defaults)
        assert json.dumps(checked, sort_keys=True) == json.dumps(defaults, sort_keys=True)

    def test_the_names_are_those_of_the_library(self) -> None:
        assert set(get_args(settings.Protocol)) == set(PROTOCOLS)
        assert set(get_args(settings.Choice)) == set(CHOICES)
        assert set(get_args(settings.Style)) == set(STYLES)
        assert set(settings.METHODS) == set(METHODS)
        assert set(settings.ENCODERS) == {*SHIPPED, PHOTO}

    def test_only_what_was_given_is_returned_and_typed(self) -> None:
        checked = check_settings(Theory, {"consistency_weight": 3, "n_seeds": 2})
        assert sorted(map(repr, checked.items())) == [
            "('consistency_weight', 3.0)",
            "('n_seeds', 2)",
        ]

    def test_a_tilde_is_expanded_where_it_enters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/someone")
        checked = check_settings(Methods, {"cache": "~/scratch", "dataset": "~/PACS"})
        assert checked == {"cache": "/home/someone/scratch", "dataset": "/home/someone/PACS"}

    @pytest.mark.parametrize("notebook", ["02_domain_generalization", "04_imagenet_variants"])
    def test_a_page_has_what_it_judges_clip_icm_by(self, notebook: str) -> None:
        kind, whole = NOTEBOOKS[notebook], ["plain", "ICM text", "ICM auto text"]
        for missing in whole:
            given = {"methods": [name for name in [*whole, "LDA"] if name != missing]}
            with pytest.raises(ValueError, match="judged by both ways to have its K and λ"):
                check_settings(kind, given)
        with pytest.raises(ValueError, match="of each kind of interventions both"):
            check_settings(kind, {"methods": [*whole, "ICM image"]})
        check_settings(kind, {"methods": [*whole, "ICM oracle"]})
        check_settings(kind, {"methods": []})
        check_settings(Methods, {"methods": ["LDA"]})

    @pytest.mark.parametrize(
        ("name", "values", "message"),
        [
            (
                "n_components",
                [8, 1.5],
                "got 1.5, but it should be a whole number from 1 on, 'auto'",
            ),
            ("n_components", [0], "got 0"),
            ("n_components", ["all"], "got 'all'"),
            ("n_components", [True], "got True"),
            ("consistency_weight", [1, -1.0], "got -1.0, but it should be a number, at least 0"),
            ("consistency_weight", ["1e3"], "got '1e3'"),
            ("C", [0.1, 0], "C: got 0, but it should be a number above 0"),
            ("learning_rate", ["auto"], "got 'auto'"),
        ],
    )
    def test_values_to_try_are_checked(self, name: str, values: list[Any], message: str) -> None:
        for notebook in ("05_your_data", "06_methods"):
            with pytest.raises(
                ValueError, match=f"'settings.ICM image': {name}: .*|{message}"
            ) as e:
                check_settings(NOTEBOOKS[notebook], {"settings": {"ICM image": {name: values}}})
            assert message in str(e.value)

    def test_values_to_try_that_are_good(self) -> None:
        grids = {
            "ICM image": {
                "n_components": [1, 64, "auto"],
                "consistency_weight": [0, 1.5, "held-out"],
            },
            "Tip-Adapter": {"C": [1, 0.5], "alpha": ["anything", None]},
        }
        assert check_settings(Methods, {"settings": grids}) == {"settings": grids}

    @pytest.mark.parametrize("name", ["n_components", "fine_components", "n_pairs"])
    @pytest.mark.parametrize("value", [[1.5], [0], ["held-out"], "held-out", [], [8, 8]])
    def test_a_grid_of_the_ablations_has_whole_numbers(self, name: str, value: Any) -> None:
        with pytest.raises(ValueError, match=rf"settings: '{name}[^ ]*: .*(should|twice)"):
            check_settings(Ablations, {name: value})

    @pytest.mark.parametrize(
        ("name", "value", "notebook"),
        [
            ("variants", {"V2": "v2"}, "04_imagenet_variants"),
            ("projection_images", "more", "04_imagenet_variants"),
            ("captioner", "coca", "04_imagenet_variants"),
            ("editor", "llm", "02_domain_generalization"),
            ("classes", "common", "06_methods"),
            ("value_range", "used", "06_methods"),
            ("groups", "folder", "06_methods"),
            ("interventions", ["invert"], "02_domain_generalization"),
        ],
    )
    def test_what_only_a_folder_can_be_given_is_not_ignored(
        self, name: str, value: object, notebook: str
    ) -> None:
        given, kind = {name: value}, NOTEBOOKS[notebook]
        with pytest.raises(ValueError, match=f"got {name}, which 'animal-world' does not have"):
            check_settings(kind, given)
        assert check_settings(kind, given | {"dataset": "imagenet"})[name] == value
        usual = {"editor": "rules", "classes": "all", "value_range": "file", "interventions": []}
        check_settings(kind, {name: usual.get(name)} if name in usual else {})

    def test_a_page_that_compares_with_the_plain_probe_needs_both(self) -> None:
        kind = NOTEBOOKS["05_your_data"]
        for methods in (["plain"], ["ICM image"], ["plain", "LDA"], ["plain", "ICM oracle"]):
            with pytest.raises(ValueError, match="compared with the plain probe; name 'plain', "):
                check_settings(kind, {"methods": methods})
        for methods in ([], "all", ["plain", "ICM auto image"], ["ICM text", "LDA", "plain"]):
            assert check_settings(kind, {"methods": methods}) == {"methods": methods}


@pytest.mark.parametrize(
    ("name", "value", "notebook"),
    [
        ("worlds", [["coat", 0.5]], "02_domain_generalization"),
        ("world", ["coat", 0.5], "06_methods"),
        ("reference", "animal-world", "04_imagenet_variants"),
    ],
)
def test_what_only_animals_can_be_given_is_refused_with_a_folder(
    name: str, value: Any, notebook: str, tmp_path: Path
) -> None:
    run = {"notebook": notebook, "dataset": "PACS", "encoder": "animal-world"}
    run |= {"seeds": [0], name: value}
    (tmp_path / "workflow").mkdir()
    (tmp_path / CONFIG).write_text(yaml.safe_dump(change({"mine": run}, "recorded")))
    with pytest.raises(ValueError, match=f"recorded.mine: got {name}, which a folder of images"):
        read_config(tmp_path)


def change(value: Any, *path: str) -> dict[str, Any]:
    """Change one value in the settings of the study, or add it."""
    study = yaml.safe_load((ROOT / CONFIG).read_text())
    inner = study
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return study


def write(study: Any, root: Path) -> Path:
    """Write settings where `read_config` looks for them."""
    (root / CONFIG).parent.mkdir()
    (root / CONFIG).write_text(study if isinstance(study, str) else yaml.safe_dump(study))
    return root


RUN = ("domain_generalization", "animal-world")
PACS = ("recorded", "PACS_lite0-minilm")


class TestConfig:
    def test_the_study_is_read(self) -> None:
        study = read_config(ROOT)
        raw = yaml.safe_load((ROOT / CONFIG).read_text())
        assert json.loads(json.dumps(study)) == raw
        assert set(study) == set(get_type_hints(Study))

    @pytest.mark.parametrize(
        ("path", "value", "said"),
        [
            (("sedes",), [0], "'sedes' is unknown; did you mean 'seeds'?"),
            (("seeds",), 3, "'seeds': got 3, but it should be a valid list"),
            (("seeds",), [], "'seeds': got []"),
            (("seeds",), [0, 1, 0], "'seeds': 0 is given twice"),
            (("seeds",), ["0"], "'seeds.0': got '0', but it should be a valid integer"),
            (("seeds",), [True], "'seeds.0': got True"),
            (("seeds",), [0.5], "'seeds.0': got 0.5"),
            (("seeds",), [-1], "'seeds.0': got -1"),
            (("data",), None, "'data': got None"),
            (("domain_generalization",), {}, "'domain_generalization': got {}"),
            (("domain_generalization", "a/b"), {}, "'a/b', which names files"),
            (
                (*RUN, "wrlds"),
                [],
                "domain_generalization.animal-world: 'wrlds' is unknown; did you",
            ),
            (
                (*RUN, "encoder"),
                "animal-wrld",
                "'animal-wrld' is unknown; did you mean 'animal-world'",
            ),
            ((*RUN, "encoder"), "ViT-B16/openai", "did you mean 'ViT-B-16/openai'?"),
            ((*RUN, "encoder"), "ViT-B-16", "did you mean 'ViT-B-16/TAG'?"),
            ((*RUN, "encoder"), "../models/mine", "'../models/mine' is unknown; Known: "),
            (("notebooks", "05_your_data"), {"encoder": "lite"}, "did you mean 'lite0-minilm'?"),
            ((*RUN, "worlds"), [], "animal-world: 'worlds': got []"),
            (
                (*RUN, "worlds"),
                ["coat", 0.9],
                "'worlds.0': got 'coat', but it should be a valid tuple",
            ),
            ((*RUN, "worlds"), [["coat", 1.5]], "'worlds.0.1': got 1.5"),
            ((*RUN, "worlds"), [["coat", "0.9"]], "'worlds.0.1': got '0.9'"),
            ((*RUN, "worlds"), [["cot", 0.9]], "'worlds.0.0': got 'cot'"),
            ((*RUN, "worlds"), [["coat", 0.9]] * 2, "('coat', 0.9) is given twice"),
            ((*RUN, "targets"), [], "'targets': got []"),
            ((*RUN, "worlds"), [["coat", 0, 9]], "it should have at most 2 items, not 3."),
            ((*RUN, "methods"), ["plain", "ICM imag"], "'methods': 'ICM imag' is unknown; did you"),
            ((*RUN, "methods"), ["plain", "plain"], "'methods': 'plain' is given twice; give eac"),
            ((*RUN, "settings"), {"ICM imag": {"C": [1.0]}}, "'settings': 'ICM imag' is unknown"),
            (("seeds",), [2**32], "'seeds.0': got 4294967296, but it should be less than 4294967"),
            (("domain_generalization", "a" * 101), {}, "can, at most 100"),
            (("domain_generalization", "a b"), {}, "'domain_generalization.a b': 'a b', which"),
            ((*RUN, "protocol"), "open clas", "'protocol': got 'open clas', but it should be"),
            ((*RUN, "encoder"), "", "'encoder': got ''"),
            (("notebooks", "06_method"), {}, "notebooks: '06_method' is unknown"),
            (("notebooks", "01_theory"), None, "'notebooks.01_theory': got None"),
            (("notebooks", "04_imagenet_variants"), {"n_images": "300"}, "'n_images': got '300'"),
            (
                ("notebooks", "04_imagenet_variants"),
                {"variants": {"R": "r"}},
                "got variants, which",
            ),
            (("notebooks", "01_theory"), {"consistency_weight": "1e-5"}, "a point and a sign"),
            (("notebooks", "01_theory"), {"consistency_weight": math.nan}, "got nan"),
            (("notebooks", "01_theory"), {"consistency_weight": math.inf}, "got inf"),
            (("notebooks", "01_theory"), {"results": "x.parquet"}, "'results' is unknown"),
            (("methods", "methods_animal-world", "targets"), [], "'targets': got []"),
            (("methods", "methods_animal-world", "dataset"), "PACS", "'dataset': got 'PACS'"),
            ((*PACS, "notebook"), "03_ablations", "notebook: '03_ablations' is unknown"),
            ((*PACS, "notebook"), "02_domain_generalisation", "did you mean '02_domain_general"),
            ((*PACS, "seed"), [0], "recorded.PACS_lite0-minilm: 'seed' is unknown; did you mean"),
            (("recorded", "x"), {"notebook": "06_methods"}, "recorded.x: 'dataset' is missing"),
            (("recorded", "x"), {}, "recorded.x: notebook: 'None' is unknown"),
            (("recorded", "x"), {"notebook": "08_real_clip"}, "recorded.x: 'dataset' is missing"),
            (
                ("recorded", "x"),
                {"notebook": "08_real_clip", "dataset": "real_clip", "width": [64]},
                "recorded.x: 'width' is unknown; did you mean 'widths'?",
            ),
            (("questions", "x"), {"notebook": "06_methods"}, "questions.x: notebook: '06_methods'"),
            (
                ("questions", "x"),
                {"notebook": "09_identifiability", "sedes": [0]},
                "questions.x: 'sedes' is unknown; did you mean 'seeds'?",
            ),
            (("recorded", "methods_animal-world"), None, "recorded.methods_animal-world"),
            ((*PACS, "cache"), "/scratch", "PACS_lite0-minilm: cache is '/scratch', but"),
            (("notebooks", "03_ablations"), {"cache": "/scratch"}, "03_ablations: cache is '/scr"),
        ],
    )
    def test_what_is_wrong_is_told(
        self, tmp_path: Path, path: tuple[str, ...], value: Any, said: str
    ) -> None:
        with pytest.raises(ValueError, match=f"^{re.escape(CONFIG)}.*{re.escape(said)}"):
            read_config(write(change(value, *path), tmp_path))

    @pytest.mark.parametrize("methods", [["plain", "plain"], ["ICM imag"], 5, "al"])
    def test_a_fault_in_the_methods_is_told_in_plain_words(self, methods: Any) -> None:
        with pytest.raises(ValueError, match="'methods': ") as error:
            check_settings(NOTEBOOKS["06_methods"], {"methods": methods})
        lines = str(error.value).splitlines()
        assert len(lines) == 1 + isinstance(methods, str)
        assert not re.search("function-after|literal|constrained", str(error.value))

    def test_runs_whose_names_differ_by_capitals_are_refused(self, tmp_path: Path) -> None:
        text = (ROOT / CONFIG).read_text().replace("  animal-world-biased:", "  Animal-World:")
        with pytest.raises(ValueError, match="generalization_animal-world' is given twice"):
            read_config(write(text, tmp_path))

    def test_two_runs_of_one_name_are_refused_in_one_section_and_in_two(
        self, tmp_path: Path
    ) -> None:
        text = (ROOT / CONFIG).read_text().replace("  animal-world-biased:", "  animal-world:")
        (tmp_path / "one").mkdir()
        with pytest.raises(ValueError, match=r"line \d+, column 3: 'animal-world' is given twice"):
            read_config(write(text, tmp_path / "one"))
        study = change({"notebook": "06_methods"}, "recorded", "methods_animal-world")
        study["recorded"]["methods_animal-world"] |= {
            "dataset": "a", "encoder": "animal-world", "seeds": [0],
        }  # fmt: skip
        (tmp_path / "two").mkdir()
        with pytest.raises(ValueError, match="'methods_animal-world' is given twice"):
            read_config(write(study, tmp_path / "two"))

    @pytest.mark.parametrize("text", ["", "[]", "seeds", "seeds: [0]"])
    def test_a_file_that_is_no_study_is_refused(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ValueError, match=f"^{CONFIG}: "):
            read_config(write(text, tmp_path))

    def test_the_command_line_counts_and_is_typed_alike(self) -> None:
        # as Snakemake hands them on: what stands in a list or a mapping is text
        given = {"seeds": ["7"], "data": "~/data", "notebooks": {"01_theory": {"n_seeds": "3"}}}
        study, plain = read_config(ROOT, given), read_config(ROOT)
        assert study["seeds"] == [7]
        assert study["data"] == os.path.expanduser("~/data")
        assert study["notebooks"] == plain["notebooks"] | {"01_theory": {"n_seeds": 3}}
        with pytest.raises(ValueError, match="'seeds': got 3"):
            read_config(ROOT, {"seeds": 3})


class TestMenus:
    ENTRIES = (
        {"href": "index.ipynb", "text": "Start"},
        {"href": "results/01_theory.ipynb", "text": "Theory"},
        {"text": "Runs", "menu": [{"href": "results/a.ipynb", "text": "A"}]},
        {"text": "Use", "menu": [{"href": "reports/data.qmd", "text": "Data"}]},
    )

    def test_lead_to_the_pages_that_are_made_and_to_nothing_else(self) -> None:
        pages = [Page("b", "B", "Runs"), Page("c", "C", "New")]
        assert fit_menus(self.ENTRIES, pages) == [
            {"href": "index.ipynb", "text": "Start"},
            {"text": "Runs", "menu": [{"href": "results/b.ipynb", "text": "B"}]},
            {"text": "Use", "menu": [{"href": "reports/data.qmd", "text": "Data"}]},
            {"text": "New", "menu": [{"href": "results/c.ipynb", "text": "C"}]},
        ]

    def test_a_menu_without_pages_is_gone(self) -> None:
        fitted = fit_menus(self.ENTRIES, [Page("01_theory", "T", "New")])
        assert [entry["text"] for entry in fitted] == ["Start", "Theory", "Use"]

    def test_those_of_the_study_are_as_they_are_written(self) -> None:
        site = yaml.safe_load((ROOT / "_quarto.yml").read_text())
        entries = site["website"]["navbar"]["left"]
        pages = pages_of(read_config(ROOT), ROOT)
        assert fit_menus(entries, pages) == entries
        assert {*SINGLE} < {page.name for page in pages}
