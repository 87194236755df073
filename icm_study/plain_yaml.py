"""Plain values as YAML: read strictly, and written so that they come back as they were.

Plain values are texts, numbers, truth values, None, and lists and mappings of them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml


class _PlainLoader(yaml.SafeLoader):
    """Reads YAML 1.1, without dates; refuses a key that is given twice, and 010 and 1:30.

    These are the numbers 8 and 90 here, and other ones, or texts, to readers of YAML 1.2.
    """

    yaml_implicit_resolvers: ClassVar = {  # type: ignore[misc]
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"'{key.value}' is given twice, first in line {seen[key.value]}",
                        problem_mark=key.start_mark,
                    )
                seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        is_whole = node.tag.endswith(":int")
        value = (self.construct_yaml_int if is_whole else self.construct_yaml_float)(node)
        if ":" in node.value or (is_whole and re.match(r"[-+]?0[0-9_]", node.value)):
            raise yaml.constructor.ConstructorError(
                problem=f"{node.value!r} is {value} in YAML 1.1, and something else in YAML 1.2; "
                f"write {value}, or another number, or quotes if it is a text",
                problem_mark=node.start_mark,
            )
        return value


for _tag in ("int", "float"):
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _PlainLoader.construct_number)


def read_yaml(text: str, source: str) -> Any:
    """Return the plain values in `text`.

    Raises
    ------
    ValueError
        If the text is no YAML, gives a key twice, or has a number such as 010 or 1:30;
        names `source`, the line and the column.
    """
    try:
        return yaml.load(text, _PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{source}{place}: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{source}: {error}.") from None


def read_parameters(texts: list[str], files: list[Path]) -> dict[str, Any]:
    """Read parameters from files and texts in YAML; what comes later counts.

    Raises
    ------
    ValueError
        If one of them is no mapping of names.
    """
    sources = [(file.read_text(encoding="utf-8"), str(file)) for file in files]
    given: dict[str, Any] = {}
    for text, source in [*sources, *((text, "--yaml") for text in texts)]:
        parameters = read_yaml(text, source) or {}
        if not isinstance(parameters, dict):
            raise ValueError(
                f"{source}: got {parameters!r}; expected names and values, 'seeds: [0]'."
            )
        given |= parameters
    return given


def write_yaml(value: Any) -> str:
    """Return `value` as YAML 1.1, in ASCII; ValueError or TypeError if not plain or not finite."""
    json.dumps(value, allow_nan=False)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")
