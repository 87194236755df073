#!/usr/bin/env bash
# Pillow's convert("RGB") of a 16-bit gray image cuts every value above 255 to white, where one
# expects it to scale; of a 16-bit color PNG it keeps the upper byte, without a word in its mode.
#
# Version: Pillow 13.0.0 with numpy 2.4.6, Python 3.11.
# Guess: a conversion to 8 bits divides by 257, or by 256, as that of other readers does.
# Seen: gray 0, 100, 300, 4095, 65535 becomes 0, 100, 255, 255, 255: a radiograph or a scan from a
#   microscope is a white page. The transforms of CLIP and of open_clip begin with this call, so such
#   images all have about one embedding. 16-bit color 300, 4095, 65535 becomes 1, 15, 255, and
#   the mode says RGB as if the file had 8 bits.
# Source: src/libImaging/Convert.c (I;16 to L clips), src/PIL/PngImagePlugin.py (RGB;16B).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/env/bin/python" -W error - <<'PYTHON'
import io
import struct
import zlib

import numpy as np
from PIL import Image

values = [0, 100, 300, 4095, 65535]
file = io.BytesIO()
Image.fromarray(np.array([values], np.uint16)).save(file, "PNG")
gray = Image.open(file)
got = np.asarray(gray.convert("RGB"))[0, :, 0].tolist()
print(gray.mode, values, "->", got)
assert got == [0, 100, 255, 255, 255], "16-bit gray is no longer cut"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


head = struct.pack(">IIBBBBB", len(values), 1, 16, 2, 0, 0, 0)
row = b"\0" + np.repeat(np.array(values, ">u2"), 3).tobytes()
png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row))
color = Image.open(io.BytesIO(png + chunk(b"IEND", b"")))
got = np.asarray(color)[0, :, 0].tolist()
print(color.mode, values, "->", got)
assert color.mode == "RGB"
assert got == [0, 0, 1, 15, 255], "16-bit color is read in another way now"
PYTHON
