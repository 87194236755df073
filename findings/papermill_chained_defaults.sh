#!/usr/bin/env bash
# papermill does not see a default that is given in a chained or an unpacking assignment.
#
# Version: papermill 2.6.0, Python 3.11.
# Guess: inspect_notebook lists every name that the parameters cell binds, since a value handed
#   over for any of them takes effect.
# Seen: of a cell with `a = b = 1`, `c, d = 2, 3` and `e = 4`, only e is listed; of the first line it
#   says that it could not be parsed, of the second nothing. Yet execute_notebook with b=5 does
#   set b, since the values go into a cell of their own; it only warns that the name is unknown.
#   A tool that refuses names which inspect_notebook does not list refuses good ones.
# Source: the translator for Python reads the cell by a regular expression, line by line
#   (papermill/translators.py), where the language's own parser would list all.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check papermill==2.6.0 ipykernel==6.29.5
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import json
import sys

import nbformat
import papermill

cells = [
    nbformat.v4.new_code_cell(
        "a = b = 1\nc, d = 2, 3\ne = 4", metadata={"tags": ["parameters"]}
    ),
    nbformat.v4.new_code_cell("print(a, b, c, d, e)"),
]
kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), "in.ipynb")
known = sorted(papermill.inspect_notebook("in.ipynb"))
done = papermill.execute_notebook("in.ipynb", "out.ipynb", {"b": 5}, progress_bar=False)
said = done.cells[-1].outputs[0]["text"].strip()
print("known:", known, "printed:", said)
assert known == ["e"], "papermill lists other names now"
assert said == "1 5 2 3 4", "a name that it does not list takes effect nevertheless"
PYTHON
echo "seen as described"
