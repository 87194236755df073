"""Know when a result is stale: a digest of the code that a step runs.

A step of the workflow is a script or a notebook. Its digest covers its own source and, through its imports,
every module of the library that it reaches: an edit anywhere in that chain runs the step again, an edit
elsewhere does not. For a notebook only the cells' sources count, so saving its outputs changes nothing.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
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
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
    return "\n".join("" if line.startswith(("%", "!")) else line for line in lines)


def imported_names(code: str, package: str) -> Iterator[str]:
    """Yield the dotted names that `code`, a part of `package`, imports."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, [package if node.level else "", node.module or ""]))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def source_files(entry: Path, root: Path) -> list[Path]:
    """List `entry` and every file of the library that it imports, directly or through others."""
    found: dict[Path, None] = {}
    waiting = [entry]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = None
        package = path.relative_to(root).parts[0]
        for name in imported_names(read_code(path), package):
            if name.split(".")[0] in PACKAGES:
                module = root.joinpath(*name.split("."))
                packages = [folder / "__init__.py" for folder in (module, *module.parents)]
                waiting += [file for file in (*packages, module.with_suffix(".py")) if file.is_file()]
    return sorted(found)


def digest(entry: str | Path, root: str | Path = ".", data: str | None = None) -> str:
    """Return a short digest of the code that `entry` runs.

    Parameters
    ----------
    entry : path
        A script or a notebook, relative to `root`.
    root : path
        The folder that holds the library.
    data : str, optional
        A glob below `root` of data files that count as code, such as the weights of an encoder.

    Returns
    -------
    str
        Sixteen hexadecimal digits; the same for the same sources, whatever their dates.
    """
    root = Path(root)
    total = hashlib.sha256()
    for path in source_files(root / entry, root):
        total.update(f"{path.relative_to(root)}\0{read_source(path)}\0".encode())
    for path in sorted(root.glob(data)) if data else ():
        total.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return total.hexdigest()[:16]
