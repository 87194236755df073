#!/usr/bin/env bash
# safetensors.numpy writes an array in Fortran order, and reads back another array of that shape.
#
# Version: safetensors 0.8.0 with numpy 2.4.6, Python 3.11.
# Guess: save_file makes arrays contiguous, or refuses those that are not, as it does for torch.
# Seen: a transposed matrix is written by its bytes as they lie in memory, with the shape of the
#   array. What is read back has the right shape, and its numbers in another order. Nothing is
#   said. np.ascontiguousarray before saving mends it.
# Source: safetensors/numpy.py, _tobytes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import load_file, save_file

rows = np.arange(6.0).reshape(2, 3)
save_file({"rows": rows, "columns": rows.T}, "arrays.safetensors")
read = load_file("arrays.safetensors")
print("saved:", rows.T.tolist(), "read back:", read["columns"].tolist())
assert (read["rows"] == rows).all()
assert read["columns"].shape == rows.T.shape, "the shape is another one now"
assert (read["columns"] != rows.T).any(), "a transposed array is read back as it was now"
PYTHON
