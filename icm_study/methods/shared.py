"""What several methods compute once on the same sources, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any


class Shared:
    """Results by name, with their seconds; a run owns one for each of its sources.

    Parameters
    ----------
    of_images : Shared, optional
        Where results are kept that depend on the images and not on the pairs.
    """

    def __init__(self, of_images: Shared | None = None) -> None:
        self._of_images = of_images
        self._known: dict[Hashable, tuple[Any, float]] = {}
        self._latest: dict[str, Hashable] = {}
        self._borrowed: list[float] = []

    def once(
        self,
        key: Hashable,
        compute: Callable[[], Any],
        *,
        of_pairs: bool = True,
        latest: str | None = None,
    ) -> Any:
        """Give what is kept under a key, or compute and keep it.

        Parameters
        ----------
        key : hashable
        compute : callable
        of_pairs : bool
            Whether the result depends on which intervened copies may be used. If not, it
            serves the same sources without some of the copies too.
        latest : str, optional
            A name for results that take much memory: the latest of a name is kept alone.
        """
        keeper = self if of_pairs or self._of_images is None else self._of_images
        if key not in keeper._known:
            start, n_borrowed = time.perf_counter(), len(self._borrowed)
            value = compute()
            seconds = time.perf_counter() - start + sum(self._borrowed[n_borrowed:])
            if latest is not None:
                keeper._known.pop(keeper._latest.get(latest), None)
                keeper._latest[latest] = key
            keeper._known[key] = value, seconds
        else:
            self._borrowed.append(keeper._known[key][1])
        return keeper._known[key][0]

    def of_other_pairs(self) -> Shared:
        """Start anew for the same images with other pairs."""
        return Shared(self if self._of_images is None else self._of_images)

    def borrowed_seconds(self) -> float:
        """Seconds that results given again by :meth:`once` had taken, since the last call."""
        seconds = sum(self._borrowed)
        self._borrowed.clear()
        return seconds
