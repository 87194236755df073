"""The bibliography has every paper that the code names, and says it in Markdown."""

from __future__ import annotations

import re
from pathlib import Path

from bibliography import PLACE, bibliography, fill
from conftest import ROOT

BIB = ROOT / "reports" / "references.bib"


def test_every_paper_that_the_methods_name_is_listed() -> None:
    code = [*(ROOT / "icm_core").glob("*.py"), *(ROOT / "icm_study" / "methods").glob("*.py")]
    named = {n for path in code for n in re.findall(r"\b\d{4}\.\d{5}\b", path.read_text())}
    assert len(named) > 10
    assert named <= set(re.findall(r"eprint = \{(.*?)\}", BIB.read_text()))


def test_an_entry_is_an_item_with_a_name(tmp_path: Path) -> None:
    people = " and ".join(f"Last{i}, First{i}" for i in range(7))
    (tmp_path / "references.bib").write_text(
        "@article{b, title = {Why?}, author = {B{\\'e}a, Ann}, journal = {J}, year = {2020}}"
        f"@article{{a, title = {{A}}, author = {{{people}}}, journal = {{J}}, year = {{2021}},"
        "eprint = {2101.00001}}"
    )
    (tmp_path / "references.qmd").write_text(f"Papers\n\n{PLACE}\n")
    fill(tmp_path / "references.qmd")
    lines = (tmp_path / "references.qmd").read_text().split("\n")
    assert lines[0] == "Papers"
    first, second = (line for line in lines if line.startswith("- "))
    assert first == '- <span id="b"></span>Ann Béa. *Why?* J, 2020.'
    assert second == (
        '- <span id="a"></span>First0 Last0, First1 Last1, First2 Last2, First3 Last3, First4 '
        "Last4 and others. *A.* J, 2021. [arXiv 2101.00001](https://arxiv.org/abs/2101.00001)"
    )


def test_no_entry_is_left_in_tex() -> None:
    assert not re.search(r"[{}\\]", bibliography(BIB))
