"""Know when a result is stale: a digest of the code that a step runs.

A step of the workflow is a script or a notebook. Its digest covers its own source and,
through its imports, every module of the project that it reaches: an edit anywhere in
that chain runs the step again, an edit elsewhere does not. For a notebook only the
cells' sources count, so saving its outputs changes nothing.
"""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from itertools import accumulate
from pathlib import Path

PACKAGES = ("icm_core", "icm_study")


def read_source(path: Path) -> str:
    """Return the source of a script, or of a notebook's cells, one JSON text."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return json.dumps([(cell["cell_type"], "".join(cell["source"])) for cell in cells])


def read_code(path: Path) -> str:
    """Return the Python code of a script or a notebook, without IPython's own commands."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    lines = "\n".join(code).splitlines()
    return "\n".join("" if line.startswith(("%", "!")) else line for line in lines)


@cache
def imported_names(code: str, package: tuple[str, ...]) -> list[str]:
    """List the dotted names that `code`, a module of `package`, imports."""
    names = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return names


def modules(root: Path) -> dict[str, Path]:
    """Give the files of the packages by the dotted names of their modules."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py"), reverse=True):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def source_files(*entries: Path, root: Path) -> list[Path]:
    """List `entries` and every file of the project that they import, or what they import does."""
    known = modules(root)
    found: set[Path] = set()
    waiting = list(entries)
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        folders = path.relative_to(root).parent.parts
        for name in imported_names(read_code(path), folders):
            first, *others = name.split(".")
            if first in PACKAGES:  # the packages that it is in run too
                names = accumulate([first, *others], "{}.{}".format)
                waiting += [known[one] for one in names if one in known]
            elif folders[:1] not in [(package,) for package in PACKAGES]:
                beside = path.parent / f"{first}.py"  # a script sees its neighbours
                waiting += [beside] if beside.is_file() else []
    return sorted(found)


def digest(*entries: str | Path, root: str | Path = ".", data: str | None = None) -> str:
    """Return a short digest of the code that a step runs.

    Parameters
    ----------
    *entries : path
        Scripts and notebooks, relative to `root`.
    root : path
        The folder that holds the packages.
    data : str, optional
        A glob below `root` of data files that count as code, such as the weights of an
        encoder.

    Returns
    -------
    str
        Sixteen hexadecimal digits; the same for the same sources, whatever their dates.
    """
    root = Path(root)
    total = hashlib.sha256()
    for path in source_files(*(root / entry for entry in entries), root=root):
        total.update(f"{path.relative_to(root)}\0{read_source(path)}\0".encode())
    for path in sorted(root.glob(data)) if data else ():
        total.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return total.hexdigest()[:16]
