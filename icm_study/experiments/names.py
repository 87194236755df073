"""A name that nobody knows is an error, told with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Say that `name` is unknown, which one may be meant, and which there are."""
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    return f"'{name}' is unknown; {hint}Known: {', '.join(known) or 'none'}."


def check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise a ValueError if any of the names that were given to `where` is not known there."""
    known = list(known)
    if wrong := [name for name in given if name not in known]:
        raise ValueError("\n".join(f"{where}: {unknown_name(name, known)}" for name in wrong))
