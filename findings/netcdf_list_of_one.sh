#!/usr/bin/env bash
# xarray gives an attribute that is a list of one text back as that text: a loop then runs over its
# letters. An empty list comes back as an array of no numbers.
#
# Version: xarray 2026.9.0 with h5netcdf 1.8.2 and h5py 3.16.0, Python 3.11.
# Guess: to_netcdf keeps a list of texts as a list, whatever its length, or refuses it.
# Seen: ["invert", "blur"] comes back as a list of two texts, ["invert"] as the text "invert", []
#   as a float64 array; of numbers a list of one becomes a scalar. Nothing is said. What is one
#   entry long on one run only (interventions, names of domains) changes its type on that run.
# Source: netCDF's attributes are one-dimensional, and one of length one is a scalar to h5netcdf;
#   xarray/backends/h5netcdf_.py, _read_attributes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check \
  xarray==2026.9.0 h5netcdf==1.8.2 h5py==3.16.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
import xarray as xr

written = {"two": ["invert", "blur"], "one": ["invert"], "none": [], "number": [3]}
data = xr.Dataset({"x": ("row", [1.0, 2.0])}, attrs=written)
data.to_netcdf("data.nc", engine="h5netcdf")
read = xr.load_dataset("data.nc", engine="h5netcdf").attrs
print({name: (value, type(value).__name__) for name, value in read.items()})
assert list(read["two"]) == written["two"]
assert read["one"] == "invert", "a list of one text stays a list now"
assert list(read["one"])[0] == "i"
assert np.asarray(read["none"]).dtype == float, "an empty list stays one now"
assert np.ndim(read["number"]) == 0, "a list of one number stays a list now"
PYTHON
