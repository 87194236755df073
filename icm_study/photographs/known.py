"""What is known of the public data sets: domains, counts, words, source, licence, citation.

The facts stand in ``known.toml``; `CATALOG` gives them as objects. The check of a
folder compares what it finds with the counts, the prompts take their words from here,
and the downloads their addresses.

A folder's name is nearly its class's word; `class_word` makes it one ("alarm_clock" is
an alarm clock).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from icm_study.photographs.imagenet import imagenet_classes, imagenet_index


@dataclass(frozen=True)
class Hub:
    """Files in a data set repository of the Hugging Face hub, at one commit."""

    repo: str
    revision: str
    pattern: str


@dataclass(frozen=True)
class WebFile:
    """A file on a web server, with its size in bytes and its hashes where they are known."""

    url: str
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class KnownDataset:
    """One public data set.

    Attributes
    ----------
    name : str
        The folder's name: the one that DomainBed's download makes, or the variant's
        usual name.
    n_classes : int
    versions : tuple of mapping
        Images of each domain, for each version in circulation; the one that papers
        report comes first.
    size : str
        What is downloaded, for people.
    page, licence : str
        Where it is described, and what its licence is as far as is known.
    citation : str
        How to cite it: the key of an entry in ``reports/references.bib``.
    source : Hub or tuple of WebFile
        Where it is downloaded from; an empty tuple if there is no lasting public source.
    by_hand : str
        How to get it without the download.
    flat : bool
        Whether the layout is root/class/image, with no domains in it, as in ImageNet.
    class_words, domain_words : mapping
        The prompt's word for a folder, where the folder's name is not the word. A
        domain's word is None if it has none that a caption would use.
    """

    name: str
    n_classes: int
    versions: tuple[Mapping[str, int], ...]
    size: str
    page: str
    licence: str
    citation: str
    source: Hub | tuple[WebFile, ...] = ()
    by_hand: str = ""
    flat: bool = False
    class_words: Mapping[str, str] = field(default_factory=dict)
    domain_words: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of the domains' folders; the data set's own name if it is flat."""
        return tuple(self.versions[0])

    @property
    def n_images(self) -> int:
        """The number of images in the version that papers report."""
        return sum(self.versions[0].values())

    def differences(self, table: pd.DataFrame) -> tuple[str, ...]:
        """Say how the images that were found differ in number from what is known.

        Parameters
        ----------
        table : pandas.DataFrame
            One row for each image, with the columns *label* and *domain*.

        Returns
        -------
        tuple of str
            One sentence for each difference; empty if the folder is one of the known versions.
        """
        found = {self.name: len(table)} if self.flat else dict(table["domain"].value_counts())
        differences = []
        if table["label"].nunique() != self.n_classes:
            differences.append(
                f"{table['label'].nunique()} classes; {self.name} has {self.n_classes}"
            )
        for domain in sorted({*found, *self.domains}):
            expected = sorted({version.get(domain, 0) for version in self.versions}, reverse=True)
            if found.get(domain, 0) not in expected:
                numbers = " or ".join(f"{number:,}" for number in expected)
                differences.append(
                    f"{domain}: {found.get(domain, 0):,} images; {self.name} has {numbers}"
                )
        return tuple(differences)


def _read(name: str, facts: dict[str, Any]) -> KnownDataset:
    source = facts.get("source", ())
    words = facts.get("domain_words", {})
    return KnownDataset(
        name=name,
        **facts
        | {
            "versions": tuple(facts["versions"]),
            "source": Hub(**source)
            if isinstance(source, Mapping)
            else tuple(WebFile(**file) for file in source),
            "domain_words": {domain: words.get(domain) for domain in facts["versions"][0]},
        },
    )


#: Every known data set, by its folder's name.
CATALOG: dict[str, KnownDataset] = {
    name: _read(name, facts)
    for name, facts in tomllib.loads(
        resources.files("icm_study.photographs").joinpath("known.toml").read_text("utf-8")
    ).items()
}


def known_dataset(dataset: str) -> KnownDataset:
    """Look a data set up.

    Parameters
    ----------
    dataset : str
        A name in `CATALOG`.

    Returns
    -------
    KnownDataset

    Raises
    ------
    ValueError
        If there is no such data set.
    """
    if dataset not in CATALOG:
        raise ValueError(f"unknown data set {dataset!r}; the known ones are {', '.join(CATALOG)}.")
    return CATALOG[dataset]


def guess_dataset(root: str | os.PathLike[str]) -> str | None:
    """Tell which known data set a folder holds, by the folder's name.

    Parameters
    ----------
    root : path-like

    Returns
    -------
    str or None
        A name in `CATALOG`, or None.
    """
    name = Path(root).absolute().name
    return name if name in CATALOG else None


def class_word(name: str, overrides: Mapping[str, str] | None = None) -> str:
    """Make a prompt's word of a class folder's name.

    Underscores become spaces, and words become lower case unless they are written in capitals.

    Parameters
    ----------
    name : str
        The folder's name.
    overrides : mapping of str to str, optional
        Words for the names that need another.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If no word is left.

    Examples
    --------
    >>> class_word("alarm_clock")
    'alarm clock'
    >>> class_word("ToothBrush", {"ToothBrush": "toothbrush"})
    'toothbrush'
    """
    word = (overrides or {}).get(name)
    if word is None:
        words = name.replace("_", " ").split()
        word = " ".join(
            part if part.isupper() and len(part) > 1 else part.lower() for part in words
        )
    if not word.strip():
        raise ValueError(f"the class {name!r} gives no word for a prompt; rename the folder.")
    return word


def name_flaws(dataset: str | None, domains: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Say which folders' names give no word, or cannot be told apart.

    Parameters
    ----------
    dataset : str or None
        As in `class_words`.
    domains, classes : sequence of str
        The folders' names.

    Returns
    -------
    list of str
        A sentence for each class without a word and for each group of names that differ
        in case, blanks and underscores only: of classes, which are then one word in a
        prompt, and of domains, which are then likely one domain.
    """
    if dataset is not None and known_dataset(dataset).flat:
        return []
    overrides = known_dataset(dataset).class_words if dataset is not None else {}
    flaws = []
    words: dict[str, list[str]] = {}
    for name in classes:
        try:
            words.setdefault(class_word(name, overrides).lower(), []).append(name)
        except ValueError as error:
            flaws.append(str(error).removesuffix("."))
    places: dict[str, list[str]] = {}
    for name in domains:
        places.setdefault(" ".join(name.replace("_", " ").lower().split()), []).append(name)
    for what, alike in (("classes", words), ("domains", places)):
        flaws += [
            f"the {what} {', '.join(map(repr, names))} are one name but for case, blanks and '_'"
            for names in alike.values()
            if len(names) > 1
        ]
    return flaws


def class_words(dataset: str | None, names: Sequence[str]) -> list[str]:
    """Make prompt words of the class folders' names of a data set.

    Parameters
    ----------
    dataset : str or None
        A name in `CATALOG`, for its overrides (for ImageNet and its variants:
        open_clip's class names); None for any other data set.
    names : sequence of str
        The folders' names.

    Returns
    -------
    list of str
        One word for each name, in order.

    Raises
    ------
    ValueError
        If the data set is unknown, two names give the same word (but for ImageNet,
        whose usual class names have two such pairs), or a name is no ImageNet class.
    """
    if dataset is not None and known_dataset(dataset).flat:
        return imagenet_classes()["word"].iloc[imagenet_index(names)].tolist()
    overrides = known_dataset(dataset).class_words if dataset is not None else {}
    words = [class_word(name, overrides) for name in names]
    seen: dict[str, str] = {}
    for name, word in zip(names, words, strict=True):
        if seen.setdefault(word, name) != name:
            raise ValueError(
                f"the classes {seen[word]!r} and {name!r} are both {word!r} in a prompt; a "
                "zero-shot classifier cannot tell them apart. Rename one folder."
            )
    return words
