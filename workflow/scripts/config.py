"""The settings of the study: one place that reads, types and checks them, before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Required

from pages import OVERVIEWS
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from icm_study.experiments.names import check_names
from icm_study.experiments.settings import (
    NOTEBOOKS,
    AcrossDomains,
    AcrossMethods,
    AcrossVariants,
    Count,
    EncoderName,
    Location,
    Plan,
    Protocol,
    RealClip,
    Seeds,
    Styles,
    World,
    Worlds,
    check_no_animals,
    check_settings,
    each_once,
)
from icm_study.plain_yaml import read_yaml

CONFIG = "workflow/config.yaml"
#: The notebooks that are run once; the others are run by the sections named after what
#: they do.
SINGLE = ("01_theory", "03_ablations", "04_imagenet_variants", "05_your_data", "07_explore")


def file_name(name: str) -> str:
    """Return `name`; raise a ValueError if it cannot be a part of a file's name."""
    if not re.fullmatch(r"\w[\w.+-]{0,99}", name):
        raise ValueError(
            f"{name!r}, which names files: letters, digits, '_', '-', '+' and '.' can, at most 100"
        )
    return name


RunName = Annotated[str, AfterValidator(file_name)]


class Study(TypedDict):
    """The sections of the configuration; each run in them is checked on its own."""

    seeds: Seeds
    domain_generalization: Annotated[dict[RunName, dict[str, Any]], Field(min_length=1)]
    notebooks: dict[str, dict[str, Any]]
    methods: dict[RunName, dict[str, Any]]
    questions: dict[RunName, dict[str, Any]]
    data: Location
    embedding_jobs: Count
    recorded: dict[RunName, dict[str, Any]]


class AnimalRun(Plan, total=False):
    """A run of 02_domain_generalization on the animal world; the first world is judged."""

    encoder: Required[EncoderName]
    worlds: Required[Worlds]
    seeds: Seeds
    protocol: Protocol
    targets: Styles | None
    n_images: Count | None


class MethodsRun(Plan, total=False):
    """A comparison of all methods on the animal world, a job for each seed and target."""

    dataset: Required[Literal["animal-world"]]
    encoder: Required[EncoderName]
    targets: Required[Styles]
    world: World
    n_images: Count | None


class Photographs(TypedDict):
    """What every recorded run has: a folder of `data`, an encoder, and the seeds of its splits."""

    dataset: Location
    encoder: EncoderName
    seeds: Seeds


class PhotographsAcrossDomains(AcrossDomains, Photographs):
    """A recorded run of 02_domain_generalization."""


class PhotographsAcrossVariants(AcrossVariants, Photographs):
    """A recorded run of 04_imagenet_variants."""


class PhotographsAcrossMethods(AcrossMethods, Photographs):
    """A recorded run of 06_methods."""


class Embeddings(TypedDict):
    """What a recorded run has that needs embeddings only: a folder of `data`."""

    dataset: Location


class RealEmbeddings(RealClip, Embeddings):
    """A recorded run of 08_real_clip."""


#: The kinds of recorded runs, by their notebooks.
RECORDED: dict[str, type] = {
    "02_domain_generalization": PhotographsAcrossDomains,
    "04_imagenet_variants": PhotographsAcrossVariants,
    "06_methods": PhotographsAcrossMethods,
    "08_real_clip": RealEmbeddings,
}
#: The notebooks of the paper's open questions, and of its code.
QUESTIONS = {
    name: NOTEBOOKS[name]
    for name in ("09_identifiability", "10_open_questions", "11_released_code")
}


def read_config(root: str | Path = ".", given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read the settings of the study from ``workflow/config.yaml`` below `root`.

    Parameters
    ----------
    root : path
        The folder of the project.
    given : mapping, optional
        Settings that count instead, as Snakemake hands them on from ``--config``: every
        value that stands in a list or a mapping is text, and is read as YAML here.

    Returns
    -------
    dict
        A `Study`, each of its runs checked and typed.

    Raises
    ------
    ValueError
        If the file is no YAML, gives a key twice, or has an unknown name, a wrong type
        or a wrong range somewhere; if two runs have one name, or one has its own cache.
    """
    values = read_yaml((Path(root) / CONFIG).read_text(encoding="utf-8"), CONFIG)
    study = check_settings(Study, _overlaid(values, _read_texts(given or {})), CONFIG)
    for section, kind in (("domain_generalization", AnimalRun), ("methods", MethodsRun)):
        runs = study[section].items()
        study[section] = {
            name: check_settings(kind, run, f"{CONFIG}: {section}.{name}") for name, run in runs
        }
    check_names(study["notebooks"], SINGLE, f"{CONFIG}: notebooks")
    study["notebooks"] = {
        name: check_settings(NOTEBOOKS[name], run, f"{CONFIG}: notebooks.{name}")
        for name, run in study["notebooks"].items()
    }
    for section, kinds in (("recorded", RECORDED), ("questions", QUESTIONS)):
        study[section] = {
            name: _recorded_run(kinds, run, f"{CONFIG}: {section}.{name}")
            for name, run in study[section].items()
        }
    _check_files(study)
    _check_caches(study)
    return study


def _check_caches(study: Mapping[str, Any]) -> None:
    """Raise a ValueError if a run has a cache of its own: steps before it fill the study's."""
    for section in ("domain_generalization", "notebooks", "methods", "recorded", "questions"):
        for name, run in study[section].items():
            if "cache" in run:
                raise ValueError(
                    f"{CONFIG}: {section}.{name}: cache is {run['cache']!r}, but the steps of the "
                    "study share cache/embeddings; make that folder a link to have it elsewhere."
                )


def _check_files(study: Mapping[str, Any]) -> None:
    """Raise a ValueError if two pages would write one file."""
    pages = [f"02_domain_generalization_{run}" for run in study["domain_generalization"]]
    pages += [*SINGLE, *OVERVIEWS, *study["methods"], *study["questions"], *study["recorded"]]
    try:
        # some file systems do not tell capitals from small letters
        each_once([name.casefold() for page in pages for name in (page, f"{page}_claims")])
    except ValueError as error:
        raise ValueError(f"{CONFIG}: the file results/{error}: rename a run.") from None


def _recorded_run(kinds: Mapping[str, type], run: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check a recorded run, whose settings are those of its notebook, one of `kinds`."""
    settings = {name: value for name, value in run.items() if name != "notebook"}
    notebook = str(run.get("notebook"))
    check_names([notebook], kinds, f"{where}: notebook")
    check_no_animals(settings, where)
    return {"notebook": notebook, **check_settings(kinds[notebook], settings, where)}


def _read_texts(value: Any) -> Any:
    """Read every text in a value as YAML."""
    if isinstance(value, Mapping):
        return {key: _read_texts(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_read_texts(one) for one in value]
    return read_yaml(value, "--config") if isinstance(value, str) else value


def _overlaid(values: Any, given: Any) -> Any:
    """Lay `given` over `values`, mapping by mapping."""
    if not isinstance(values, Mapping) or not isinstance(given, Mapping):
        return given
    return {**values, **{key: _overlaid(values.get(key), given[key]) for key in given}}
