"""Are texts diverse enough for condition 5.2? What the differences of their embeddings span.

P5.3 needs D + 1 texts whose embeddings differ in all D directions: with fewer, A is not
determined. :func:`diversity` measures what texts at hand span, whatever encoder embedded
them. That the rank is full is not all: where directions are spanned by a hair's breadth, the
condition number is large, and the effective rank says how many directions carry the differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from icm_study.photographs.known import CATALOG

#: Roundings that add up on the way through an encoder; to half precision the last is the largest.
_FORWARD = 16


@dataclass(frozen=True)
class Diversity:
    """What the differences of n text embeddings span.

    Attributes
    ----------
    n_texts : int
    dimension : int
        D.
    rank : int
        Directions in which the texts differ by more than the rounding of their numbers
        explains. At most n_texts - 1.
    effective_rank : float
        The exponential of the entropy of the shares of variance: as many directions of equal
        variance are as uneven (Roy and Vetterli 2007).
    condition_number : float
        The largest spread of the texts over the smallest among the `rank` directions: how
        much an inverse of A enlarges errors.
    largest_coordinate : float
        The largest share of the squared length of the embeddings that one coordinate holds.
    """

    n_texts: int
    dimension: int
    rank: int
    effective_rank: float
    condition_number: float
    largest_coordinate: float

    @property
    def is_enough(self) -> bool:
        """Whether condition 5.2 holds: the differences span all D directions."""
        return self.rank == self.dimension

    @property
    def words(self) -> str:
        """The same in a sentence."""
        verdict = "holds" if self.is_enough else "fails"
        return (
            f"Condition 5.2 {verdict}: the differences of {self.n_texts:,} texts span {self.rank} "
            f"of {self.dimension} directions; {self.effective_rank:.0f} carry most of them, and "
            f"the condition number is {self.condition_number:.3g}."
        )


def diversity(texts: ArrayLike) -> Diversity:
    """Measure what the differences of text embeddings span.

    Parameters
    ----------
    texts : array-like of shape (n, D)
        Embeddings, such as ``encoder.encode_text(prompts)``. Half precision as it is: the
        rank depends on the precision in which they were computed.

    Returns
    -------
    Diversity

    Raises
    ------
    ValueError
        If there are fewer than two texts, all are the same, or one is not finite.

    Examples
    --------
    >>> diversity(np.eye(3)[[0, 1, 2, 0]]).rank
    2
    """
    rows, precision = _checked(texts)
    spread, directions = _directions(rows)
    rank = int((spread > _rounding(rows, directions, precision)).sum())
    if not rank:
        raise ValueError("All texts have the same embedding; expected texts that differ.")
    shares = spread**2 / np.square(spread).sum()
    entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
    squares = np.square(rows).sum(axis=0)
    return Diversity(
        len(rows),
        rows.shape[1],
        rank,
        float(np.exp(entropy)),
        float(spread[0] / spread[rank - 1]),
        float(squares.max() / squares.sum()),
    )


def text_span(texts: ArrayLike) -> NDArray[np.floating]:
    """Orthonormal rows that span the differences of text embeddings, shape (rank, D)."""
    rows, _ = _checked(texts)
    return _directions(rows)[1][: diversity(texts).rank]


def by_number_of_texts(texts: NDArray, numbers: Sequence[int], n_draws: int) -> pd.DataFrame:
    """Measure random choices of the texts.

    Returns
    -------
    DataFrame
        Columns draw, and those of :class:`Diversity`; numbers above the texts that there
        are are left out, and all texts come last.
    """
    told = [
        {"draw": draw, **asdict(diversity(texts[chosen]))}
        for n in [n for n in numbers if n < len(texts)]
        for draw in range(n_draws)
        for chosen in [np.random.default_rng([n, draw]).permutation(len(texts))[:n]]
    ]
    return pd.DataFrame([*told, {"draw": 0, **asdict(diversity(texts))}])


def benchmark_sizes() -> dict[str, int]:
    """Map each known data set to the number of its classes: as many prompts, one a class."""
    return {name: known.n_classes for name, known in CATALOG.items()}


def narrow_towers() -> pd.DataFrame:
    """List the models of open_clip whose text tower is narrower than the embedding.

    Their last layer is linear, so texts span at most as many directions as the tower is wide.

    Returns
    -------
    DataFrame
        Columns model, dimension and width.
    """
    import open_clip

    rows = []
    for model in open_clip.list_models():
        config = open_clip.get_model_config(model)
        width = config["text_cfg"].get("width")
        own = width is not None and "hf_model_name" not in config["text_cfg"]
        if own and width < config["embed_dim"]:
            rows.append({"model": model, "dimension": config["embed_dim"], "width": width})
    return pd.DataFrame(rows, columns=["model", "dimension", "width"])


def _checked(texts: ArrayLike) -> tuple[NDArray[np.float64], float]:
    given = np.asarray(texts)
    precision = float(np.finfo(given.dtype).eps) if given.dtype.kind == "f" else 0.0
    precision *= 1 / np.sqrt(12) if given.dtype == np.float16 else _FORWARD
    rows = given.astype(np.float64)
    if rows.ndim != 2 or len(rows) < 2 or not np.isfinite(rows).all():
        raise ValueError(
            f"Got texts of shape {rows.shape}, finite: {np.isfinite(rows).all()}; expected (n, D) "
            "with two finite embeddings or more."
        )
    return rows, precision


def _directions(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Singular values and directions of the texts about their mean, the largest first."""
    _, spread, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    return spread, directions


def _rounding(
    rows: NDArray[np.float64], directions: NDArray[np.float64], precision: float
) -> NDArray[np.float64]:
    """Spread in each direction that rounding alone can make.

    Errors of a size relative to their entries have a largest singular value of √n + √D times
    that, for n rows of D.
    """
    size = precision * np.sqrt(np.square(rows).mean(axis=0))
    along = np.sqrt(np.square(directions) @ np.square(size))
    floor = np.finfo(np.float64).eps * np.linalg.norm(rows)
    return (np.sqrt(len(rows)) + np.sqrt(rows.shape[1])) * along + floor
