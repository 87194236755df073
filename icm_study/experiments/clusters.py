"""Groups of images that belong together, in a table of results: how much they are worth."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

NUMBER = np.dtype("<u4")


def pack_groups(group: NDArray[np.integer]) -> bytes:
    """Write the number of each image's group into bytes, to be kept in a table."""
    return group.astype(NUMBER).tobytes()


def count_groups(packed: bytes) -> int:
    """Count the groups that :func:`pack_groups` wrote."""
    return len(np.unique(np.frombuffer(packed, NUMBER)))


def effective_size(runs: pd.DataFrame) -> NDArray[np.floating]:
    """Say how many images that do not belong together the tested ones of each run are worth.

    Each group counts as one image. Where groups are of unequal sizes the large ones make the
    mean, and it is fewer (Kish's effective sample size). Where a group is tested in several
    targets, all that are averaged are worth less, so that their mean is worth what it is.

    Parameters
    ----------
    runs : DataFrame
        Columns seed; group, a number for the runs that are averaged; and members, the groups
        of the tested images by :func:`pack_groups`.

    Returns
    -------
    ndarray of shape (n_runs,)
    """
    packed = [np.frombuffer(row, NUMBER) for row in runs["members"]]
    run = np.repeat(np.arange(len(runs)), [len(members) for members in packed])
    images = pd.DataFrame({"run": run, "member": np.concatenate(packed)})
    share = images.groupby("run")["member"].value_counts(normalize=True).rename("share")
    mean = runs[["group", "seed"]].reset_index(drop=True)
    shares = share.reset_index().join(mean, on="run")
    alone = shares["share"].pow(2).groupby(shares["run"]).sum()
    apart = alone.groupby([mean["group"], mean["seed"]]).sum()
    pooled = shares.groupby(["group", "seed", "member"])["share"].sum()
    together = pooled.pow(2).groupby(["group", "seed"]).sum()
    worth = mean.join((apart / together).rename("worth"), on=["group", "seed"])["worth"]
    return (worth / alone).to_numpy()
