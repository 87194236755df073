#!/usr/bin/env bash
# Selecting rows or columns of a pandas table copies everything in its attrs, however large.
#
# Version: pandas 3.1.1, Python 3.11.
# Guess: attrs are metadata that a selection hands on by reference, as NumPy and xarray hand on
#   theirs, or at most copies flat: what a selection costs depends on what is selected.
# Seen: one column taken from a table (table["a"]) makes one deep copy of attrs, one filter makes two
#   or more, and a groupby with a mean several. A table whose record of a run (200,000 bytes as
#   JSON) travels in attrs takes hundreds of times as long to select from as the same table without.
# Source: NDFrame.__finalize__ in pandas/core/generic.py calls deepcopy on attrs, and runs in nearly
#   every method. The documentation calls attrs experimental and says nothing of the cost.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check pandas==3.1.1
"$folder/env/bin/python" - <<'PYTHON'
import pandas as pd


class Counted:
    """A value in attrs that counts how often it is deep-copied."""

    copies = 0

    def __deepcopy__(self, memo):
        Counted.copies += 1
        return self

    def __eq__(self, other):
        return self is other


def copies_of(action):
    Counted.copies = 0
    action()
    return Counted.copies


table = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["x", "y", "x"]})
table.attrs["record"] = Counted()
found = {
    "a column": copies_of(lambda: table["a"]),
    "a filter": copies_of(lambda: table[table["a"] > 1]),
    "a mean by group": copies_of(lambda: table.groupby("b")["a"].mean()),
}
print(found)
assert found["a column"] == 1, "a column no longer copies attrs once"
assert found["a filter"] >= 2, "a filter no longer copies attrs"
assert found["a mean by group"] >= 2, "grouping no longer copies attrs"
PYTHON
