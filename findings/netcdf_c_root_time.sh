#!/usr/bin/env bash
# netCDF4 gives equal arrays equal files on a disk, and unequal ones in memory: there the time of
# creation stands in the root group.
#
# Version: netCDF4 1.7.5.1.post1 (netcdf-c 4.10.1, HDF5 2.2.0), Python 3.11.
# Guess: netcdf-c tracks no times, so a file is the same to the byte whenever and wherever it is
#   written.
# Seen: two files on a disk, written 1.5 seconds apart, are equal. Two that were written in memory
#   (memory=1024) as far apart have eight bytes that differ: four times of the root group (access,
#   modification, change, birth), and its header's checksum. Within one second they are equal, so
#   a quick test sees nothing. A cache that names what it holds by a hash, or that is compared
#   between two machines, sees two contents.
# Source: seen in the bytes: they follow the first object header, "OHDR", whose flags have
#   the bit 20 (hexadecimal), which says that times are stored; HDF5 file format specification,
#   IV.A.1.b.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check netCDF4==1.7.5.1.post1 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import time
from pathlib import Path

import netCDF4


def fill(file):
    file.createDimension("row", 20)
    file.createVariable("x", "f4", ("row",))[:] = 1


def on_disk():
    with netCDF4.Dataset("disk.nc", "w") as file:
        fill(file)
    return Path("disk.nc").read_bytes()


def in_memory():
    file = netCDF4.Dataset("memory.nc", "w", memory=1024)
    fill(file)
    return bytes(file.close())


print(netCDF4.__version__, netCDF4.__netcdf4libversion__, netCDF4.__hdf5libversion__)
differ = {}
for write in (on_disk, in_memory):
    first = write()
    time.sleep(1.5)
    second = write()
    assert len(first) == len(second)
    places = [i for i, (a, b) in enumerate(zip(first, second)) if a != b]
    differ[write.__name__] = places
    print(write.__name__, len(places), "bytes differ, at", places)
assert differ["on_disk"] == [], "files on a disk differ now"
assert 0 < len(differ["in_memory"]) <= 20, "files in memory are equal now"
header = first.index(b"OHDR")
assert header < differ["in_memory"][0] < header + 24, "other bytes differ now"
assert first[header + 5] & 0x20, "the root group says that it stores no times"
PYTHON
