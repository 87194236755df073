#!/usr/bin/env bash
# A TIFF file says in its tag PhotometricInterpretation what its zero is: 0 is white in a negative
# (scanned film, radiographs), 1 black. Pillow heeds it in images of 8 bits and not in those of 16.
#
# Version: Pillow 13.0.0 with numpy 2.4.6, Python 3.11.
# Guess: both are turned over, as the tag says, or neither is.
# Seen: WhiteIsZero 0, 200 of 8 bits is read as 255, 55; WhiteIsZero 0, 60000 of 16 bits as
#   0, 60000: the negative of the picture. The mode is that of any 16-bit image, and only `tag_v2`
#   tells the difference.
# Source: src/PIL/TiffImagePlugin.py, OPEN_INFO: (II, 0, (1,), 1, (8,), ()) has the raw mode "L;I",
#   (II, 0, (1,), 1, (16,), ()) has "I;16" as for BlackIsZero.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -W error - <<'PYTHON'
import io
import struct

import numpy as np
from PIL import Image


def read(values, photometric):
    """Write a TIFF of one row by Pillow, set the tag, and read the row back."""
    file = io.BytesIO()
    Image.fromarray(np.array([values])).save(file, "TIFF")
    entry = struct.pack("<HHI", 262, 3, 1)
    black, asked = (entry + struct.pack("<I", zero) for zero in (1, photometric))
    assert file.getvalue().count(black) == 1
    image = Image.open(io.BytesIO(file.getvalue().replace(black, asked)))
    assert image.tag_v2[262] == photometric
    return np.asarray(image)[0].tolist()


for dtype, values in (("uint8", [0, 200]), ("uint16", [0, 60000])):
    row = np.array(values, dtype)
    got = {name: read(row, zero) for name, zero in (("BlackIsZero", 1), ("WhiteIsZero", 0))}
    print(dtype, values, "->", got)
    assert got["BlackIsZero"] == values
    turned = [int(np.iinfo(dtype).max) - value for value in values]
    expected = turned if dtype == "uint8" else values
    assert got["WhiteIsZero"] == expected, "the tag is heeded in another way now"
PYTHON
