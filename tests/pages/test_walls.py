"""The walls of the house: who may import whom, how large the core is, and no state in modules."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT, run

#: Rooms of the study, in the order in which data flow. A room imports only rooms before it.
ROOMS = (
    "fingerprint", "facts", "parquet", "plain_yaml", "cores", "animals", "photographs", "encoders",
    "text", "embedding", "testbeds", "methods", "experiments", "theory", "report", "command",
)  # fmt: skip
WIDTH = 100
MOST_PARAMETERS = 7
FILES = sorted(path for name in ("icm_core", "icm_study") for path in (ROOT / name).rglob("*.py"))
NAMES = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}
NAMES = {path: name.removesuffix(".__init__") for path, name in NAMES.items()}


def each(paths: list[Path]) -> pytest.MarkDecorator:
    """Test each file."""
    return pytest.mark.parametrize("path", paths, ids=[ids(path) for path in paths])


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_for_types(node: ast.AST) -> bool:
    """Say whether a statement is ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path: Path, *, types: bool = True, functions: bool = True) -> set[str]:
    """Name the modules of this project that a file imports, wherever in it.

    With ``types=False`` without those under ``if TYPE_CHECKING``, with ``functions=False``
    without those inside of functions.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import in line {node.lineno}"
            for alias in node.names:  # a name may be a module itself
                module = f"{node.module}.{alias.name}"
                found.add(module if module in NAMES.values() else str(node.module))
        inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if (inner and not functions) or (is_for_types(node) and not types):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree(path))
    return {name for name in found if name.split(".")[0] in ("icm_core", "icm_study")}


def room(module: str) -> str | None:
    package, *rest = module.split(".")
    return rest[0] if package == "icm_study" and rest else None


@pytest.mark.parametrize("path", [p for p in FILES if "icm_core" in p.parts], ids=ids)
def test_the_core_knows_nothing_of_the_study(path):
    assert not [name for name in imports(path) if name.startswith("icm_study")]


def test_every_file_of_the_study_is_in_a_room():
    rooms = {room(name) for name in NAMES.values() if name.startswith("icm_study.")}
    assert rooms == set(ROOMS)


@each([p for p in FILES if room(NAMES[p])])
def test_a_room_imports_only_rooms_before_it(path):
    own = ROOMS.index(room(NAMES[path]))
    others = {room(name) for name in imports(path)} - {None}
    later = {name for name in others if ROOMS.index(name) > own}
    assert not later, f"{NAMES[path]} imports {later}"


@pytest.mark.parametrize("path", [p for p in FILES if room(NAMES[p]) == "theory"], ids=ids)
def test_theory_stands_on_the_core_alone(path):
    assert {room(name) for name in imports(path)} <= {None, "theory"}


@each([p for p in FILES if room(NAMES[p]) not in ("report", "command")])
def test_nothing_but_pages_imports_the_report(path):
    assert "report" not in {room(name) for name in imports(path)}


def test_the_map_of_the_rooms_has_every_module():
    said = re.findall(
        r"^\| `(icm_[\w/]+)/` \| (.+?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M
    )
    rooms = [f"icm_study/{name}" for name in ROOMS if (ROOT / "icm_study" / name).is_dir()]
    assert [folder for folder, _ in said] == ["icm_core", *rooms]
    for folder, names in said:
        known = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
        listed = names.split(", ")
        assert set(listed) - {"…"} <= known, folder
        assert "…" in listed or set(listed) == known, folder


def test_files_import_each_other_in_no_circle():
    graph = {name: imports(path, types=False) & set(NAMES.values()) for path, name in NAMES.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import circle: {' <- '.join(error.args[1])}")


#: Modules about pixels or models; others import them, and torch, where they need one of these.
WITH_TORCH = {
    "icm_core.deploy",
    "icm_study.animals.rendering", "icm_study.embedding.files", "icm_study.text.captioner",
    "icm_study.encoders.animal_pretraining", "icm_study.encoders.lite0_minilm",
    "icm_study.methods.contexts", "icm_study.methods.tuning", "icm_study.photographs.colours",
}  # fmt: skip


@pytest.mark.slow
def test_what_needs_no_pixel_and_no_model_does_not_wait_for_torch():
    assert set(NAMES.values()) >= WITH_TORCH
    code = (
        f"import importlib, sys\n"
        f"for name in {sorted(set(NAMES.values()) - WITH_TORCH)}:\n"
        f"    importlib.import_module(name)\n"
        f"    slow = {{'torch', 'torchvision', 'open_clip', 'transformers'}} & set(sys.modules)\n"
        f"    assert not slow, f'{{name}} imports {{slow}}'\n"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


def test_the_core_is_small():
    assert len(list((ROOT / "icm_core").rglob("*.py"))) <= 9


# State

MUTABLE = {"dict", "list", "set", "defaultdict", "deque", "OrderedDict", "Counter"}
MUTABLE |= {"WeakKeyDictionary", "WeakValueDictionary"}
CACHES = {"cache", "lru_cache"}


def called(node: ast.expr) -> str:
    """Name what is called, without the module that it comes from."""
    named = node.func if isinstance(node, ast.Call) else node
    return named.attr if isinstance(named, ast.Attribute) else getattr(named, "id", "")


def is_empty_container(node: ast.expr | None) -> bool:
    """Say whether a value is an empty container, which only makes sense if it is written to."""
    if isinstance(node, ast.Dict):
        return not node.keys
    if isinstance(node, ast.List | ast.Set):
        return not node.elts
    if not isinstance(node, ast.Call) or called(node) not in MUTABLE:
        return False
    is_filled = called(node) in ("dict", "list", "set") and (node.args or node.keywords)
    return not is_filled


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_no_module_keeps_state(path):
    """No empty container and no `global` in a module, and nothing that writes to its names."""
    module, bound, bad = tree(path), set(), []
    for node in module.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound |= {target.id for target in targets if isinstance(target, ast.Name)}
            if is_empty_container(node.value):
                bad.append(node)
    changing = {"append", "add", "update", "setdefault", "pop", "clear", "extend", "insert"}
    for function in ast.walk(module):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        own = {a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg)}
        own |= {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and not is_read(n)}
        for node in ast.walk(function):
            if isinstance(node, ast.Global):
                bad.append(node)
            written = None
            if isinstance(node, ast.Subscript) and not is_read(node):
                written = node.value
            elif isinstance(node, ast.Call) and called(node) in changing:
                written = getattr(node.func, "value", None)
            if isinstance(written, ast.Name) and written.id in bound - own:
                bad.append(node)
    assert not bad, "\n".join(f"{ids(path)}:{node.lineno} {ast.unparse(node)}" for node in bad)


def is_read(node: ast.Name | ast.Subscript) -> bool:
    return isinstance(node.ctx, ast.Load)


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_a_module_remembers_no_mutable_results(path):
    """A cached function takes no arguments, so that what it keeps is bounded."""
    bad = [
        f"{ids(path)}:{node.lineno} {node.name}"
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef)
        and any(called(decorator) in CACHES for decorator in node.decorator_list)
        and (node.args.args or node.args.kwonlyargs or node.args.vararg)
    ]
    assert not bad


# Size


@each(FILES)
def test_no_function_has_too_many_parameters(path):
    """The parameters of an estimator are its hyperparameters: its `__init__` may have more."""
    bad = []
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name == "__init__" and ("icm_core" in path.parts or "methods" in path.parts):
            continue
        given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        names = [one.arg for one in given if one.arg not in ("self", "cls")]
        names += [one.arg for one in (node.args.vararg, node.args.kwarg) if one]
        if len(names) > MOST_PARAMETERS:
            bad.append(f"{ids(path)}:{node.lineno} {node.name} has {len(names)}: {names}")
    assert not bad, "\n".join(bad)


def lines(path: Path) -> list[str]:
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8").splitlines()
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells).splitlines()


PAGES = sorted(path for folder in ("notebooks", "reports") for path in (ROOT / folder).rglob("*"))
CODE = [
    *FILES,
    *sorted(p for f in ("tests", "workflow", "benchmarks") for p in (ROOT / f).rglob("*.py")),
    *(path for path in PAGES if path.suffix in (".ipynb", ".qmd", ".py")),
]


@each(CODE)
def test_lines_are_not_too_wide(path):
    # a row of a table, or a command, cannot be wrapped in Markdown
    rows = ("|", "  -y ") if path.suffix == ".qmd" else ()
    numbered = [
        (n, line) for n, line in enumerate(lines(path), 1) if not (rows and line.startswith(rows))
    ]
    wide = [f"{n}: {line}" for n, line in numbered if len(line) > WIDTH]
    assert not wide, f"{ids(path)}\n" + "\n".join(wide)
