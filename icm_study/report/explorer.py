"""The grid of K and λ as a page lets a reader turn it; ``reports/explorer.js`` draws it."""

from __future__ import annotations

import json

import pandas as pd
from IPython.display import HTML

from icm_study.report.style import said

KEYS = ("predictor", "condition", "intervention")


def explorer(cells: pd.DataFrame, plain: pd.DataFrame) -> HTML:
    """Hand a page every cell of a grid, with the accuracy that its gain is over.

    Parameters
    ----------
    cells : DataFrame
        Rows of :func:`~icm_study.experiments.grids.mean_cells`.
    plain : DataFrame
        Columns predictor, condition and value: the plain predictors.

    Returns
    -------
    HTML
        Data only. Where no script runs, the figures of the page show the same grid.

    Raises
    ------
    ValueError
        If a predictor of the cells has no plain one under a condition.
    """
    means = plain.groupby(["predictor", "condition"])["value"].mean().rename("plain")
    joined = cells.join(means, on=["predictor", "condition"])
    if joined["plain"].isna().any():
        missing = joined.loc[joined["plain"].isna(), ["predictor", "condition"]].iloc[0].tolist()
        raise ValueError(f"Got cells of {missing} without a plain predictor; give its accuracy.")
    grids = [
        {
            "predictor": predictor, "condition": said(condition), "intervention": intervention,
            "plain": round(float(part["plain"].iloc[0]), 1),
            "cells": [
                [int(K), float(weight), round(float(value), 1)]
                for K, weight, value in part[["K", "consistency_weight", "value"]].to_numpy()
            ],
        }
        for (predictor, condition, intervention), part in joined.groupby(list(KEYS), sort=False)
    ]  # fmt: skip
    data = json.dumps(grids, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return HTML(f'<div class="explorer"><script type="application/json">{data}</script></div>')
