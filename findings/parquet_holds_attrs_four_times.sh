#!/usr/bin/env bash
# A Parquet file that pandas writes holds attrs four times, and compresses none of them.
#
# Version: pandas 3.1.1 with pyarrow 26.0.1, Python 3.11.
# Guess: attrs are kept once in the footer, as JSON.
# Seen: the same JSON stands under the key PANDAS_ATTRS, which pandas writes, and within the key
#   "pandas", where pyarrow keeps the table's attributes by itself. Both stand once more within
#   ARROW:schema, the whole schema in base64. The footer is never compressed: attrs of n bytes
#   make the file 2 n + 2 n * 4 / 3 larger, whatever compression is asked for. And
#   store_schema=False, which is to leave out the last two, leaves out all four: attrs are lost.
# Source: PyArrowImpl.write in pandas/io/parquet.py sets PANDAS_ATTRS; pyarrow's pandas_compat adds
#   "attributes"; the option store_schema of pyarrow.parquet.write_table tells of ARROW:schema.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check pandas==3.1.1 pyarrow==26.0.1
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import base64
import json
import os

import pandas as pd
import pyarrow.parquet as pq

table = pd.DataFrame({"a": [1.0]})
table.to_parquet("bare.parquet", compression="zstd")
table.attrs["note"] = "n" * 100_000
table.to_parquet("noted.parquet", compression="zstd")
table.to_parquet("short.parquet", compression="zstd", store_schema=False)
footer = pq.read_metadata("noted.parquet").metadata
own = json.loads(footer[b"PANDAS_ATTRS"])["note"]
other = json.loads(footer[b"pandas"])["attributes"]["note"]
again = base64.b64decode(footer[b"ARROW:schema"]).count(table.attrs["note"].encode())
grown = os.path.getsize("noted.parquet") - os.path.getsize("bare.parquet")
kept = pd.read_parquet("short.parquet").attrs
print("within ARROW:schema:", again, "file larger by:", grown, "without the schema:", kept)
assert own == other == table.attrs["note"], "attrs are no longer kept twice"
assert again == 2, "the schema no longer has both once more"
assert grown > 460_000, "the footer is smaller than four copies"
assert kept == {}, "without the schema attrs are kept now"
PYTHON
