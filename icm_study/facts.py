"""What takes long to find out and little to write down, such as a hash: kept on disk.

A page that only opens stored embeddings needs the keys of these, and not the model or the
renderer that the keys are computed with. A fact is kept under all that it depends on:
inputs, the project's own source files, and the versions of the packages that compute it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from icm_study.fingerprint import fingerprint


class Facts:
    """A folder of facts.

    Parameters
    ----------
    root : path-like
        Made when the first fact is written.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def recall(self, of: Mapping[str, Any], find: Callable[[], str]) -> str:
        """Read a fact, or find it out and keep it.

        Parameters
        ----------
        of : mapping of str to JSON value
            All that the fact depends on.
        find : callable
            Called, without arguments, only where the fact is not known.

        Returns
        -------
        str
        """
        what = json.dumps(of, sort_keys=True)
        path = self.root / f"{fingerprint(what)}.json"
        try:
            kept = json.loads(path.read_text())
            if kept["check"] == fingerprint(what, kept["fact"]):
                return kept["fact"]
        except (OSError, ValueError, LookupError, TypeError):  # not there, or damaged
            pass
        fact = find()
        told = {"of": of, "fact": fact, "check": fingerprint(what, fact)}
        aside = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(told, indent=1) + "\n")
            os.replace(aside, path)
        except OSError:  # it is only not kept; a store that must be written says so
            pass
        return fact


def made_by(paths: Iterable[Path], packages: Iterable[str]) -> str:
    """Hash files, such as the source that a fact is computed by, and the versions of packages.

    Parameters
    ----------
    paths : iterable of Path
        Files, and folders whose Python files count.
    packages : iterable of str
    """
    files = [
        file for path in paths for file in (sorted(path.glob("*.py")) if path.is_dir() else [path])
    ]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return fingerprint(
        *versions, *(part for file in files for part in (file.name, file.read_bytes()))
    )
