"""A cache in a JSONL file: answers that cost time or money are kept as they come.

A caption made by a large model, or an edit bought from a server, should be asked for
once. `JsonlCache` is a dictionary whose entries are appended to a text file, one JSON
object a line, and are on the disk before the next one is asked for. A run that is
killed loses nothing but the answer under way. The file can be read, copied along with a
study, and merged with another by putting the two together.
"""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path


class JsonlCache:
    """Texts under flat keys, in memory and in a JSONL file.

    Parameters
    ----------
    path : path-like
        The file. It is made, with its folder, when the first entry is put. Where a key
        occurs twice, the later line counts. A line that is broken, as a kill leaves
        behind, is reported and passed over.

    Raises
    ------
    ValueError
        If `path` is a folder.

    Warns
    -----
    UserWarning
        If the file has broken lines; their entries are made again.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        if self.path.is_dir():
            raise ValueError(f"the cache {str(path)!r} is a folder; give the path of a JSONL file.")
        self._entries: dict[str, str] = {}
        text = self.path.read_bytes() if self.path.exists() else b""
        self._ends_in_line = text == b"" or text.endswith(b"\n")
        broken = [
            number for number, line in enumerate(text.split(b"\n"), 1) if not self._read(line)
        ]
        if broken:
            warnings.warn(
                f"the cache {str(path)!r} has {len(broken)} broken line(s), the first is line "
                f"{broken[0]}. They are passed over, and their entries are made again.",
                stacklevel=2,
            )

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Mapping[str, str | int]) -> str | None:
        """Return the text under a key, or None."""
        return self._entries.get(_canonical(key))

    def put(self, key: Mapping[str, str | int], text: str) -> None:
        """Keep a text under a key; it is on the disk when this returns.

        Parameters
        ----------
        key : mapping of str to str or int
            All that the text depends on. The order of its entries is irrelevant.
        text : str

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": dict(key), "text": text}) + "\n"
        with open(
            self.path, "ab"
        ) as file:  # one write of one line, so that concurrent writers do not mix
            file.write((line if self._ends_in_line else "\n" + line).encode())
            file.flush()
            os.fsync(file.fileno())
        self._ends_in_line = True
        self._entries[_canonical(key)] = text

    def _read(self, line: bytes) -> bool:
        """Take one line of the file; say whether it is whole."""
        if not line.strip():
            return True
        try:
            entry = json.loads(line)
        except ValueError:
            return False
        match entry:
            case {"key": dict(key), "text": str(text)}:
                self._entries[_canonical(key)] = text
                return True
        return False


def _canonical(key: Mapping[str, str | int]) -> str:
    return json.dumps(dict(key), sort_keys=True)
