"""Which predictions carry over to another environment: exact experiments on discrete models.

Everything here is enumerated with :class:`icm_core.theory.scm.DiscreteSCM`, so differences between environments
and risks are exact and carry no sampling error. The propositions are those of the CLIP-ICM paper, arXiv
2405.15289.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from icm_core.theory.scm import DiscreteSCM

WORLDS = ("shortcut", "cause", "concept shift")


def random_world(world: str, rng: np.random.Generator) -> DiscreteSCM:
    """Draw the tables of a small causal model with two environments.

    Parameters
    ----------
    world : {"shortcut", "cause", "concept shift"}
        In every world z_inv causes y, and the environment e shifts z_var. In "shortcut", z_var is caused
        by y; in "cause", z_var causes y; in "concept shift", the environment also changes how y follows
        from z_inv.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    DiscreteSCM
        Variables e (2 states), z_inv (3), y (2) and z_var (3).

    Raises
    ------
    ValueError
        If the world is unknown.
    """

    def table(*shape: int) -> NDArray[np.float64]:
        return rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])

    roots: dict[str, tuple[tuple[str, ...], NDArray[np.float64]]] = {
        "e": ((), np.array([0.5, 0.5])),
        "z_inv": ((), table(3)),
    }
    if world == "shortcut":
        return DiscreteSCM({**roots, "y": (("z_inv",), table(3, 2)), "z_var": (("e", "y"), table(2, 2, 3))})
    if world == "cause":
        return DiscreteSCM(
            {**roots, "z_var": (("e",), table(2, 3)), "y": (("z_inv", "z_var"), table(3, 3, 2))}
        )
    if world == "concept shift":
        return DiscreteSCM(
            {**roots, "y": (("e", "z_inv"), table(2, 3, 2)), "z_var": (("e", "y"), table(2, 2, 3))}
        )
    raise ValueError(f"world is {world!r}; expected one of {', '.join(map(repr, WORLDS))}.")


def change_between_environments(scm: DiscreteSCM, condition_on: Sequence[str], *, intervene: bool) -> float:
    """How much the distribution of y changes from environment 0 to environment 1.

    Parameters
    ----------
    scm : DiscreteSCM
        A model with variables e and y.
    condition_on : sequence of str
        Variables whose states are fixed.
    intervene : bool
        Whether they are set by do(...) or observed.

    Returns
    -------
    float
        The largest total variation distance over all their states, in [0, 1].
    """
    largest = 0.0
    for states in itertools.product(*(range(scm.n_states(name)) for name in condition_on)):
        fixed = dict(zip(condition_on, states, strict=True))
        first, second = (
            scm.probability("y", given={"e": e}, do=fixed)
            if intervene
            else scm.probability("y", given={"e": e, **fixed})
            for e in (0, 1)
        )
        largest = max(largest, 0.5 * float(np.abs(first - second).sum()))
    return largest


def invariance(worlds: Sequence[str] = WORLDS, *, n_models: int, seed: int) -> pd.DataFrame:
    """Test P5.1: which distributions of y are the same in both environments.

    Parameters
    ----------
    worlds : sequence of str
        Kinds of :func:`random_world`.
    n_models : int
        Models of each kind.
    seed : int
        Seed for their tables.

    Returns
    -------
    DataFrame
        Columns world, model, quantity and change (total variation, exact).
    """
    quantities = {
        "P(y | do(z_inv))": (("z_inv",), True),
        "P(y | z_inv)": (("z_inv",), False),
        "P(y | do(z_inv, z_var))": (("z_inv", "z_var"), True),
        "P(y | z_inv, z_var)": (("z_inv", "z_var"), False),
    }
    rng = np.random.default_rng(seed)
    rows = []
    for world, model in itertools.product(worlds, range(n_models)):
        scm = random_world(world, rng)
        for quantity, (variables, intervene) in quantities.items():
            change = change_between_environments(scm, variables, intervene=intervene)
            rows.append({"world": world, "model": model, "quantity": quantity, "change": change})
    return pd.DataFrame(rows)


def observed_world(
    information_kept: float, *, reliability: float, source: float, target: float, n_states: int = 4
) -> DiscreteSCM:
    """Build a shortcut world in which z_inv is seen through a noisy code.

    The label follows from z_inv (its parity) with a given reliability; z_var equals y with probability
    ``(1 + ρ) / 2``, ρ the environment's shortcut strength; the code, which stands for what the
    representation keeps of z_inv, equals z_inv with probability `information_kept` and is uniform
    otherwise.

    Parameters
    ----------
    information_kept : float
        In [0, 1].
    reliability : float
        ``P(y = parity of z_inv)``.
    source, target : float
        Shortcut strength in environments 0 and 1.
    n_states : int
        Number of states of z_inv, which is uniform.

    Returns
    -------
    DiscreteSCM
        Variables e, z_inv, y, z_var and code.
    """
    parity = np.arange(n_states) % 2
    label = np.where(parity[:, None] == [0, 1], reliability, 1 - reliability)
    shortcut = [[[(1 + rho) / 2, (1 - rho) / 2], [(1 - rho) / 2, (1 + rho) / 2]] for rho in (source, target)]
    code = information_kept * np.eye(n_states) + (1 - information_kept) / n_states
    return DiscreteSCM(
        {
            "e": ((), [0.5, 0.5]),
            "z_inv": ((), np.full(n_states, 1 / n_states)),
            "y": (("z_inv",), label),
            "z_var": (("e", "y"), shortcut),
            "code": (("z_inv",), code),
        }
    )


def ood_risk(
    targets: Sequence[float], *, source: float, reliability: float, n_steps: int = 41
) -> pd.DataFrame:
    """Test T5.6: the risk in a shifted environment of predictors that are the best ones in the source.

    Parameters
    ----------
    targets : sequence of float
        Shortcut strengths of the target environment.
    source : float
        Shortcut strength of the source.
    reliability : float
        How often y follows from z_inv.
    n_steps : int
        Number of values of the information that the code keeps of z_inv.

    Returns
    -------
    DataFrame
        Columns target, information (``I(z_inv; code)`` in bits), invariant and standard: the risks of the
        predictor that sees the code, and of the one that sees the code and z_var.
    """
    rows = []
    for target, kept in itertools.product(targets, np.linspace(0, 1, n_steps)):
        scm = observed_world(kept, reliability=reliability, source=source, target=target)
        risk = {
            name: scm.bayes_risk("y", features, source={"e": 0}, target={"e": 1})
            for name, features in {"invariant": ["code"], "standard": ["code", "z_var"]}.items()
        }
        rows.append({"target": target, "information": scm.mutual_information("z_inv", "code"), **risk})
    return pd.DataFrame(rows)


def information_threshold(risks: pd.DataFrame) -> float:
    """Smallest information above which the invariant predictor has the lower risk throughout.

    Parameters
    ----------
    risks : DataFrame
        Rows of :func:`ood_risk` for one target.

    Returns
    -------
    float
        c in bits; infinite if the invariant predictor does not have the lower risk even with all the
        information.
    """
    ordered = risks.sort_values("information")
    not_lower = ordered["information"][~(ordered["invariant"] < ordered["standard"] - 1e-12)]
    if len(not_lower) == 0:
        return 0.0
    return float(not_lower.max()) if not_lower.max() < ordered["information"].max() else float("inf")


def random_ood_risk(*, n_models: int, seed: int) -> pd.DataFrame:
    """Compare the two predictors in random shortcut worlds, with z_inv itself as the code.

    Parameters
    ----------
    n_models : int
        Number of models.
    seed : int
        Seed for their tables.

    Returns
    -------
    DataFrame
        Columns model, information (the entropy of z_inv, which is ``I(z_inv; z)``, in bits), invariant
        and standard: the risks in the target.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for model in range(n_models):
        scm = random_world("shortcut", rng)
        prior = scm.probability("z_inv")
        risk = {
            name: scm.bayes_risk("y", features, source={"e": 0}, target={"e": 1})
            for name, features in {"invariant": ["z_inv"], "standard": ["z_inv", "z_var"]}.items()
        }
        rows.append({"model": model, "information": float(stats.entropy(prior, base=2)), **risk})
    return pd.DataFrame(rows)
