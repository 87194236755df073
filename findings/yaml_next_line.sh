#!/usr/bin/env bash
# A text with U+0085 (NEXT LINE) does not survive PyYAML, if Unicode is written as it is.
#
# Version: PyYAML 6.0.3, Python 3.11.
# Guess: what safe_dump writes, safe_load reads back; a character that YAML takes for a line
#   break is escaped in double quotes, as U+2028 would be expected to be.
# Seen: with allow_unicode=True the text is written within single quotes, the character as it is
#   and followed by blanks, and is read back with one blank in its place, without an error.
#   Without allow_unicode it is escaped and survives. Captions and class names that were copied
#   from old terminals or mainframes hold it.
# Source: YAML 1.1 counts U+0085 among its line breaks, YAML 1.2 does not (section 5.4); the
#   emitter of PyYAML takes it for printable.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q --disable-pip-version-check pyyaml==6.0.3
"$folder/env/bin/python" - <<'PYTHON'
import yaml

text = {"caption": "first\x85second"}
lossy = yaml.safe_load(yaml.safe_dump(text, allow_unicode=True, default_flow_style=True))
escaped = yaml.safe_load(yaml.safe_dump(text, default_flow_style=True))
print("as it is:", ascii(lossy), "escaped:", ascii(escaped))
assert lossy != text, "PyYAML reads back what it wrote now"
assert escaped == text
PYTHON
echo "seen as described"
