"""The pages of the report, as the settings make them, and the menus that lead there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RECORDED = "reports/recorded"
OVERVIEWS = {"claims": "00_claims", "all_numbers": "00_numbers"}  # page -> notebook


class Page(NamedTuple):
    """A page, ``results/NAME.ipynb``, and its text and menu where no menu lists it yet."""

    name: str
    text: str
    menu: str

    @property
    def path(self) -> str:
        """Where the executed notebook is."""
        return f"results/{self.name}.ipynb"


def recorded_runs(study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Map the name of each run whose table is kept to its settings, with its notebook."""
    methods = {
        name: run | {"seeds": study["seeds"], "notebook": "06_methods"}
        for name, run in study["methods"].items()
    }
    recorded = {name: study["recorded"][name] for name in sorted(study["recorded"])}
    return recorded | methods | study["questions"]


def shown_runs(study: Mapping[str, Any], root: str | Path = ".") -> list[str]:
    """Name the recorded runs whose table is at hand."""
    return [
        name for name in recorded_runs(study) if Path(root, RECORDED, f"{name}.parquet").exists()
    ]


def pages_of(study: Mapping[str, Any], root: str | Path = ".") -> list[Page]:
    """List the pages but the first, in the order of the report."""
    recorded = recorded_runs(study)
    domains, more = "Domain generalization", "More results"
    return [
        Page("01_theory", "Theory", more),
        *(
            Page(f"02_domain_generalization_{run}", run, domains)
            for run in study["domain_generalization"]
        ),
        Page("03_ablations", "Ablations", more),
        Page("04_imagenet_variants", "Same classes, other images", more),
        Page("05_your_data", "Your data", "Use it"),
        Page("07_explore", "Explore", "Use it"),
        *(
            Page(
                run,
                f"{run} (recorded)",
                domains if recorded[run]["notebook"] == "02_domain_generalization" else more,
            )
            for run in shown_runs(study, root)
        ),
        Page("claims", "Every claim", "All numbers"),
        Page("all_numbers", "Every table", "All numbers"),
    ]


def fit_menus(entries: Sequence[Mapping[str, Any]], pages: Sequence[Page]) -> list[dict[str, Any]]:
    """Fit the entries of a navigation bar to the pages: none leads nowhere, every page is reached.

    Parameters
    ----------
    entries : sequence of mappings
        Quarto's ``navbar: left``: each has a ``href``, or a ``text`` and a ``menu`` of
        such.
    pages : sequence of Page

    Returns
    -------
    list of dict
        Entries that lead to a page of the study that is not made are gone; a page that
        had no entry stands at the end of its menu.
    """
    made = {page.path for page in pages}

    def leads_somewhere(entry: Mapping[str, Any]) -> bool:
        return not entry["href"].startswith("results/") or entry["href"] in made

    listed = {item["href"] for entry in entries for item in entry.get("menu", [entry])}
    added: dict[str, list[dict[str, str]]] = {}
    for page in pages:
        if page.path not in listed:
            added.setdefault(page.menu, []).append({"href": page.path, "text": page.text})
    fitted = []
    for entry in entries:
        if "menu" not in entry:
            fitted += [dict(entry)] if leads_somewhere(entry) else []
        else:
            items = [*filter(leads_somewhere, entry["menu"]), *added.pop(entry["text"], [])]
            fitted += [{**entry, "menu": items}] if items else []
    return fitted + [{"text": text, "menu": items} for text, items in added.items()]
