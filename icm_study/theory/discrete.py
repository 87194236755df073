"""Which predictions carry over to another environment: exact experiments on discrete models.

Everything here is enumerated with :class:`icm_study.theory.discrete.DiscreteSCM`, so
differences between environments and risks are exact and carry no sampling error. The
propositions are those of the CLIP-ICM paper, arXiv 2405.15289.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

WORLDS = ("shortcut", "cause", "concept shift")


def random_world(world: str, rng: np.random.Generator) -> DiscreteSCM:
    """Draw the tables of a small causal model with two environments.

    Parameters
    ----------
    world : {"shortcut", "cause", "concept shift"}
        In every world z_inv causes y, and the environment e shifts z_var. In
        "shortcut", z_var is caused by y; in "cause", z_var causes y; in "concept
        shift", the environment also changes how y follows from z_inv.
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
        return DiscreteSCM(
            {**roots, "y": (("z_inv",), table(3, 2)), "z_var": (("e", "y"), table(2, 2, 3))}
        )
    if world == "cause":
        return DiscreteSCM(
            {**roots, "z_var": (("e",), table(2, 3)), "y": (("z_inv", "z_var"), table(3, 3, 2))}
        )
    if world == "concept shift":
        return DiscreteSCM(
            {**roots, "y": (("e", "z_inv"), table(2, 3, 2)), "z_var": (("e", "y"), table(2, 2, 3))}
        )
    raise ValueError(f"world is {world!r}; expected one of {', '.join(map(repr, WORLDS))}.")


def change_between_environments(
    scm: DiscreteSCM, condition_on: Sequence[str], *, intervene: bool
) -> float:
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

    The label follows from z_inv (its parity) with a given reliability; z_var equals y
    with probability ``(1 + ρ) / 2``, ρ the environment's shortcut strength; the code,
    which stands for what the representation keeps of z_inv, equals z_inv with
    probability `information_kept` and is uniform otherwise.

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
    shortcut = [
        [[(1 + rho) / 2, (1 - rho) / 2], [(1 - rho) / 2, (1 + rho) / 2]] for rho in (source, target)
    ]
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
    """Test T5.6: the risk in a shifted environment of predictors that are best in the source.

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
        Columns target, information (``I(z_inv; code)`` in bits), invariant and
        standard: the risks of the predictor that sees the code, and of the one that
        sees the code and z_var.
    """
    rows = []
    for target, kept in itertools.product(targets, np.linspace(0, 1, n_steps)):
        scm = observed_world(kept, reliability=reliability, source=source, target=target)
        risk = {
            name: scm.bayes_risk("y", features, source={"e": 0}, target={"e": 1})
            for name, features in {"invariant": ["code"], "standard": ["code", "z_var"]}.items()
        }
        rows.append(
            {"target": target, "information": scm.mutual_information("z_inv", "code"), **risk}
        )
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
        c in bits; infinite if the invariant predictor does not have the lower risk even
        with all the information.
    """
    ordered = risks.sort_values("information")
    not_lower = ordered["information"][~(ordered["invariant"] < ordered["standard"] - 1e-12)]
    if len(not_lower) == 0:
        return 0.0
    return (
        float(not_lower.max()) if not_lower.max() < ordered["information"].max() else float("inf")
    )


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
        Columns model, information (the entropy of z_inv, which is ``I(z_inv; z)``, in
        bits), invariant and standard: the risks in the target.
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


class DiscreteSCM:
    """A structural causal model of a few discrete variables, enumerated exactly.

    Parameters
    ----------
    tables : mapping of str to (sequence of str, array-like)
        For each variable, in causal order, its parents and its table ``P(variable |
        parents)``: one axis for each parent in the order given, and the variable's own
        axis last, along which the table sums to one.

    Raises
    ------
    ValueError
        If a parent is not an earlier variable, or a table has the wrong shape or is no probability.

    Examples
    --------
    Rain makes the grass wet; wetting the grass does not make it rain.

    >>> scm = DiscreteSCM({"rain": ((), [0.8, 0.2]), "wet": (("rain",), [[0.9, 0.1], [0.1, 0.9]])})
    >>> scm.probability("rain", given={"wet": 1}).round(2)
    array([0.31, 0.69])
    >>> scm.probability("rain", do={"wet": 1})
    array([0.8, 0.2])
    """

    def __init__(self, tables: Mapping[str, tuple[Sequence[str], ArrayLike]]) -> None:
        self.tables: dict[str, tuple[tuple[str, ...], NDArray[np.float64]]] = {}
        for name, (parents, values) in tables.items():
            table = np.asarray(values, dtype=np.float64)
            unknown = [parent for parent in parents if parent not in self.tables]
            if unknown:
                raise ValueError(
                    f"{name!r} has parents {unknown}, which are not earlier variables. List "
                    f"causes first."
                )
            expected = tuple(self.n_states(parent) for parent in parents)
            if table.ndim != len(expected) + 1 or table.shape[:-1] != expected:
                raise ValueError(
                    f"The table of {name!r} has shape {table.shape}; expected "
                    f"{(*expected, 'n_states')}: an "
                    "axis for each parent and the variable's own last."
                )
            if not (table >= 0).all() or not np.allclose(table.sum(axis=-1), 1):
                raise ValueError(
                    f"The table of {name!r} is no probability; expected non-negative values "
                    f"that sum to one "
                    "along the last axis."
                )
            self.tables[name] = (tuple(parents), table)

    def n_states(self, variable: str) -> int:
        """Return the number of states of a variable."""
        self._check([variable])
        return self.tables[variable][1].shape[-1]

    def probability(
        self,
        *variables: str,
        given: Mapping[str, int] | None = None,
        do: Mapping[str, int] | None = None,
    ) -> NDArray[np.float64]:
        """Distribution of some variables, exactly: ``P(variables | given, do(...))``.

        Parameters
        ----------
        *variables : str
            What the distribution is of.
        given : mapping of str to int, optional
            States that are observed (after the intervention).
        do : mapping of str to int, optional
            States that are set by an intervention, whatever the causes of these variables.

        Returns
        -------
        ndarray
            One axis for each variable, in the order given. NaN if what is given has
            probability zero.

        Raises
        ------
        ValueError
            If a variable is unknown, is asked for twice or a state is out of range.
        """
        given, do = dict(given or {}), dict(do or {})
        self._check([*variables, *given, *do])
        if len({*variables, *given}) < len(variables) + len(given):
            raise ValueError(
                f"Got variables {variables} given {sorted(given)}; expected each at most once."
            )
        axes = {name: axis for axis, name in enumerate(self.tables)}
        operands: list = []
        for name, (parents, table) in self.tables.items():
            if name in do:
                parents, table = (), self._point(name, do[name])
            operands += [table, [axes[parent] for parent in parents] + [axes[name]]]
        for name, state in given.items():
            operands += [self._point(name, state), [axes[name]]]
        joint = np.einsum(*operands, [axes[name] for name in variables])
        with np.errstate(invalid="ignore"):
            return joint / joint.sum()

    def mutual_information(
        self, a: str, b: str, *, given: Mapping[str, int] | None = None
    ) -> float:
        """Mutual information of two variables in bits.

        Parameters
        ----------
        a, b : str
            The variables.
        given : mapping of str to int, optional
            States that are observed, for example the environment.

        Returns
        -------
        float
        """
        joint = self.probability(a, b, given=given)
        independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
        used = joint > 0
        return float(np.sum(joint[used] * np.log2(joint[used] / independent[used])))

    def bayes_risk(
        self,
        label: str,
        features: Sequence[str],
        *,
        source: Mapping[str, int],
        target: Mapping[str, int],
    ) -> float:
        """Probability of a wrong label in one environment under the best predictor of another.

        The predictor chooses the most probable label given the features in the source
        (the first of several; for features that never occur in the source, the most
        probable label there). It is then used in the target.

        Parameters
        ----------
        label : str
            The variable to predict.
        features : sequence of str
            The variables that the predictor sees.
        source, target : mapping of str to int
            The environments, as observed states.

        Returns
        -------
        float
        """
        learnt = self.probability(*features, label, given=source)
        marginal = learnt.reshape(-1, learnt.shape[-1]).sum(axis=0)
        seen = learnt.sum(axis=-1, keepdims=True) > 0
        choice = np.where(seen, learnt, marginal).argmax(axis=-1)
        met = self.probability(*features, label, given=target)
        return float(1 - np.take_along_axis(met, choice[..., None], axis=-1).sum())

    def _point(self, variable: str, state: int) -> NDArray[np.float64]:
        n_states = self.n_states(variable)
        if not 0 <= state < n_states:
            raise ValueError(
                f"State {state} of {variable!r} is out of range; expected 0 to {n_states - 1}."
            )
        return np.eye(n_states)[state]

    def _check(self, variables: Sequence[str]) -> None:
        unknown = [name for name in variables if name not in self.tables]
        if unknown:
            raise ValueError(f"Unknown variables {unknown}; expected {', '.join(self.tables)}.")
