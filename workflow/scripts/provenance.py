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


def module_files(name: str, importer: Path, root: Path) -> list[Path]:
    """List the files that run when `importer` imports `name`, if it is of the project."""
    first, *others = name.split(".")
    folders = [root.joinpath(first, *others[:i]) for i in range(len(others) + 1)]
    if first in PACKAGES:
        files = [*(folder / "__init__.py" for folder in folders), folders[-1].with_suffix(".py")]
    elif importer.relative_to(root).parts[0] not in PACKAGES:
        files = [importer.parent / f"{first}.py"]  # a script sees its neighbours
    else:
        files = []
    return [file for file in files if file.is_file()]


def source_files(entry: Path, root: Path) -> list[Path]:
    """List `entry` and every file of the project that it imports, directly or through others."""
    found: dict[Path, None] = {}
    waiting = [entry]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = None
        package = path.relative_to(root).parent.parts
        for name in imported_names(read_code(path), package):
            waiting += module_files(name, path, root)
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
    files = {path for entry in entries for path in source_files(root / entry, root)}
    for path in sorted(files):
        total.update(f"{path.relative_to(root)}\0{read_source(path)}\0".encode())
    for path in sorted(root.glob(data)) if data else ():
        total.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return total.hexdigest()[:16]
