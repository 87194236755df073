#!/usr/bin/env bash
# Importing nbformat beside JupyterLab compiles grammars of internet addresses, which it never uses.
#
# Version: nbformat 5.11.1, jsonschema 4.26.0, rfc3987-syntax 1.1.0, lark 1.3.1, jupyter-events
#   0.12.1, Python 3.11.
# Guess: nbformat checks a notebook against a schema with no format in it, so importing it takes
#   as long as importing jsonschema, some 0.2 seconds.
# Seen: jsonschema registers a check for each format whose package it finds when it is imported,
#   and rfc3987-syntax, for the formats "iri" and "iri-reference", builds its parsers with lark
#   when it is imported. JupyterLab has it installed: jupyter-events asks for
#   jsonschema[format-nongpl]. So beside JupyterLab each process that imports nbformat, each
#   papermill among them, computes for 1.7 seconds instead of 0.2, and no notebook is ever checked
#   for a format. Where the name is barred from import, jsonschema goes without that check.
# Source: jsonschema/_format.py, `from rfc3987_syntax import is_valid_syntax` in a try at the top.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
install() { "$folder/env/bin/pip" install -q --disable-pip-version-check "$@"; }
brought() {
  "$folder/env/bin/python" - "$@" <<'PYTHON'
import sys

for name in sys.argv[1:]:
    sys.modules[name] = None
import nbformat

print(*[name for name in ("jsonschema", "rfc3987_syntax", "lark") if sys.modules.get(name)])
PYTHON
}
install nbformat==5.11.1 jsonschema==4.26.0
alone=$(brought)
install jupyter-events==0.12.1 jsonschema==4.26.0 rfc3987-syntax==1.1.0 lark==1.3.1
beside=$(brought)
barred=$(brought rfc3987_syntax)
echo "alone: $alone; beside jupyter-events: $beside; with the name barred: $barred"
test "$alone" = "jsonschema"
test "$beside" = "jsonschema rfc3987_syntax lark" # else the grammars no longer come along
test "$barred" = "jsonschema"
"$folder/env/bin/python" - <<'PYTHON'
import json
from pathlib import Path

import nbformat

schema = json.loads((Path(nbformat.__file__).parent / "v4/nbformat.v4.5.schema.json").read_text())


def formats(value):
    """Give every format that a schema asks for."""
    if isinstance(value, dict):
        if isinstance(value.get("format"), str):
            yield value["format"]
        value = list(value.values())
    for one in value if isinstance(value, list) else []:
        yield from formats(one)


assert not list(formats(schema)), "the schema of notebooks asks for a format now"
PYTHON
echo "seen as described"
