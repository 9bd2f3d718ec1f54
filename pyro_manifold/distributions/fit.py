r"""Mixtures fitted to points on spheres and tori, by expectation maximisation.

.. math::
    p(x) = \sum_{k=1}^K w_k\,p(x\mid\theta_k) + w_0/\mathrm{vol}(M), \qquad
    r_{nk}\propto w_k\,p(x_n\mid\theta_k), \quad w_k = \frac1N\sum_n r_{nk}, \quad
    \theta_k = \arg\max_\theta\sum_n r_{nk}\log p(x_n\mid\theta)

References: Dempster, Laird & Rubin, J. R. Stat. Soc. B 39 (1977); Banerjee et al., J. Mach. Learn. Res. 6
(2005); Peel, Whiten & McLachlan, J. Am. Stat. Assoc. 96 (2001) (Kent mixtures with a uniform component);
Arthur & Vassilvitskii, SODA 2007 (k-means++).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.chunks import slices
from ._components import (
    Components,
    KentComponents,
    Parameters,
    VonMisesComponents,
    VonMisesFisherComponents,
    log_sum,
)
from ._indexed_mixture import IndexedMixture
from ._wrapped_components import DiagonalWrappedComponents, WrappedComponents

__all__ = ["HIGHEST", "components_of", "fit_mixture", "joined", "points_like"]

_ELEMENTS = 1 << 17  # points x components at a time
_FAMILIES = ("von_mises_fisher", "kent", "von_mises", "wrapped_normal")
_CARRIED_ON, _TRIAL = 3, 10  # starts whose EM runs to its end, and steps by which they are chosen
HIGHEST = 1e10  # concentrations beyond leave a density in float64 fewer than 5 digits


class _State(NamedTuple):
    weights: Tensor
    parameters: Parameters


def components_of(family: str, covariance: str, most: float) -> Components:
    """The components that the arguments of :func:`fit_mixture` mean."""
    if family not in _FAMILIES:
        raise ValueError(f"family: got {family!r}; expected one of {', '.join(map(repr, _FAMILIES))}.")
    if covariance not in ("full", "diagonal"):
        raise ValueError(f"covariance: got {covariance!r}; expected 'full' or 'diagonal'.")
    if not 0 < most <= HIGHEST:
        raise ValueError(
            f"max_concentration: got {most}; expected a number in (0, {HIGHEST:.0e}], e.g. 1e4 (0.57 degrees)."
        )
    if family == "wrapped_normal":
        return WrappedComponents(most) if covariance == "full" else DiagonalWrappedComponents(most)
    kinds: dict[str, Callable[[float], Components]] = {
        "von_mises_fisher": VonMisesFisherComponents,
        "kent": KentComponents,
        "von_mises": VonMisesComponents,
    }
    return kinds[family](most)


def _seeds(c: Components, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means++: each centre a point, with probability proportional to its squared distance from the centres
    so far."""
    first = int(torch.randint(len(x), (1,), generator=generator))
    chosen, distance = [first], c.squared_distance(x, x[first : first + 1]).squeeze(-1)
    while len(chosen) < k:
        p = distance.cpu() if bool((distance > 1e-24).any()) else torch.ones(len(x))
        chosen.append(int(torch.multinomial(p, 1, generator=generator)))
        distance = torch.minimum(distance, c.squared_distance(x, x[chosen[-1:]]).squeeze(-1))
    return x[chosen]


def joined(p: Parameters, q: Parameters) -> Parameters:
    """The components of both."""
    return {name: torch.cat([v, q[name]]) for name, v in p.items()}


def _start(c: Components, x: Tensor, k: int, uniform: bool, generator: torch.Generator) -> _State:
    """Each component from the points nearest to its centre."""
    centre = _seeds(c, x, k, generator)
    nearest = torch.cat(
        [c.squared_distance(x[part], centre).argmin(-1) for part in slices(len(x), k, _ELEMENTS)]
    )
    r = torch.nn.functional.one_hot(nearest, k).to(x)
    p = c.at(centre)
    p = c.maximum(p, c.statistics(p, x, r))
    weights = (r.sum(0) + 1) / (len(x) + k)
    if not uniform:
        return _State(weights, p)
    return _State(torch.cat([0.95 * weights, weights.new_tensor([0.05])]), joined(p, c.uniform(x)))


def _log_likelihood(c: Components, state: _State, x: Tensor) -> float:
    """Mean over points."""
    total = 0.0
    p = c.with_norm(state.parameters)
    for part in slices(len(x), len(state.weights), _ELEMENTS):
        log = c.log_density(p, x[part]) + state.weights.log()
        total += float(log_sum(log).sum())
    return total / len(x)


def _steps(c: Components, x: Tensor, state: _State, uniform: bool) -> Iterator[tuple[_State, float]]:
    """The states of EM, each with its mean log likelihood, without end. The last component, if it is the
    uniform one, keeps its parameters."""
    while True:
        total = 0.0
        s: Parameters = {}
        p = c.with_norm(state.parameters)
        for part in slices(len(x), len(state.weights), _ELEMENTS):
            log = c.log_density(p, x[part]) + state.weights.log()
            evidence = log_sum(log).unsqueeze(-1)
            total += float(evidence.sum())
            new = c.statistics(state.parameters, x[part], (log - evidence).clamp_min(-600).exp())
            s = {name: s[name] + v for name, v in new.items()} if s else new
        yield state, total / len(x)
        p = c.maximum(state.parameters, s)
        if uniform:
            p = {name: torch.cat([v[:-1], state.parameters[name][-1:]]) for name, v in p.items()}
        state = _State(s["n"] / s["n"].sum(), p)


def _run(
    c: Components, x: Tensor, valid: Tensor | None, state: _State, uniform: bool, steps: int, tolerance: float
) -> tuple[float, _State]:
    """The state of best validation (else training) log likelihood until it no longer rises."""
    best, kept, before = -math.inf, state, -math.inf
    for i, (now, fit) in enumerate(_steps(c, x, state, uniform)):
        score = fit if valid is None else _log_likelihood(c, now, valid)
        if score > best:
            best, kept = score, now
        if i >= steps or fit - before < tolerance:
            break
        before = fit
    return best, kept


def _score(run: tuple[float, _State]) -> float:
    return run[0]


@torch.no_grad()
@checked(restarts=1, steps=0, tolerance=0.0)
def fit_mixture(
    data: Tensor,
    components: int | Sequence[int],
    *,
    family: str = "von_mises_fisher",
    covariance: str = "full",
    uniform: bool = True,
    validation: Tensor | None = None,
    criterion: str = "bic",
    max_concentration: float = 1e4,
    restarts: int = 10,
    steps: int = 200,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> IndexedMixture:
    r"""A mixture of greatest likelihood, by EM from several k-means++ starts, in float64.

    ==================== ============ ==========================================================
    family               manifold     components
    ==================== ============ ==========================================================
    "von_mises_fisher"   sphere S^d   :class:`VonMisesFisher`
    "kent"               sphere S^2   :class:`Kent`; the frame is Kent's moment estimate
    "wrapped_normal"     torus T^d    :class:`WrappedNormal`; ``covariance`` "full" (d <= 3) or
                                      "diagonal"
    "von_mises"          torus T^d    Pyro's ``VonMises``, independent angles
    ==================== ============ ==========================================================

    A likelihood has no upper bound where a component may shrink onto one point: ``max_concentration`` says
    how far it may (radians: ``max_concentration ** -0.5``). A wrapped normal's standard deviations are at
    most 2.

    :param data: points, shape (n, d + 1) on the sphere and (n, d), angles in radians, on the torus.
    :param components: K, or several to choose from, by the likelihood of ``validation`` or by ``criterion``.
    :param uniform: one more component, uniform on the manifold (concentration 0; for wrapped normals a
        standard deviation of 10), so that no region has density 0.
    :param validation: points like ``data``. Given these, the best K, start and number of steps are those of
        the greatest likelihood of these points; else the best start is that of the training likelihood.
    :param criterion: by which K is chosen of several without ``validation``: "bic", the least
        :math:`-2\ell + k\log n` for the log likelihood :math:`\ell` of n points and k free parameters, or
        "aic", the least :math:`-2\ell + 2k`, which prefers more components.
    :param restarts: starts for each K. Of more than three, the best three after ten steps are carried on [1]: in many
        dimensions most starts miss a small group, and all rows are about as far from the centres of others.
    :param steps: of EM, at most, for each start.
    :param tolerance: EM ends when a step adds less to the mean log likelihood, nats.
    :param seed: of the starts; torch's global generator is not touched.
    :return: a ``MixtureSameFamily`` in the dtype of ``data``; ``component_distribution`` and
        ``mixture_distribution`` hold what was found, the uniform component last. Its draws do not depend on
        the number of components in time, and it is no function of parameters with a gradient. ``scores`` has
        for each K the criterion (or the mean log likelihood of ``validation``) of its best start.
        ``start()`` gives weights and parameters by name, the uniform component left out: values to start a Pyro
        model of a mixture from, ``init_to_value(values=fit_mixture(x, 3).start())``.
    :raises ValueError: for points off the manifold, fewer than 2 of them, more components than points, an
        unknown family or criterion.

    Base measure: Riemannian volume.

    [1] Biernacki, Celeux & Govaert, Comput. Stat. Data Anal. 41 (2003), sec. 3.2 (short runs of EM).

    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <...>
    >>> from pyro_manifold.distributions import VonMisesFisher
    >>> x = torch.cat([VonMisesFisher(m, 100.0).sample((200,)) for m in torch.eye(3)])
    >>> fit_mixture(x, 3).component_distribution.loc[:3].round().abs().sum(0)  # one along each axis
    tensor([1., 1., 1.])
    """
    numbers = [components] if isinstance(components, int) else list(components)
    if not numbers or min(numbers) < 1:
        raise ValueError(f"components: got {components}; expected one or more positive integers, e.g. 10.")
    if criterion not in ("bic", "aic"):
        raise ValueError(f"criterion: got {criterion!r}; expected 'bic' or 'aic'.")
    c = components_of(family, covariance, max_concentration)
    x = c.prepare("data", data)
    valid = None if validation is None else points_like(c, data, validation)
    if max(numbers) > len(x):
        raise ValueError(
            f"components: got {max(numbers)} for {len(x)} points; expected at most as many as points."
        )
    generator = torch.Generator().manual_seed(seed)
    best: dict[int, tuple[float, _State]] = {}
    for k in dict.fromkeys(numbers):
        starts = [_start(c, x, k, uniform, generator) for _ in range(restarts)]
        if restarts > _CARRIED_ON:
            trials = [_run(c, x, valid, start, uniform, min(steps, _TRIAL), tolerance) for start in starts]
            starts = [state for _, state in sorted(trials, key=_score, reverse=True)[:_CARRIED_ON]]
        fit, state = max((_run(c, x, valid, s, uniform, steps, tolerance) for s in starts), key=_score)
        if valid is None:
            free = k * c.free(x.shape[-1]) + k - 1 + uniform
            penalty = math.log(len(x)) if criterion == "bic" else 2.0
            fit = -2 * len(x) * fit + penalty * free
        best[k] = fit, state
    scores = {k: score for k, (score, _) in best.items()}
    chosen = min(scores, key=scores.__getitem__) if valid is None else max(scores, key=scores.__getitem__)
    weights, parameters = best[chosen][1]
    return IndexedMixture(c, weights, parameters, data.dtype, uniform=uniform, scores=scores)


def points_like(c: Components, data: Tensor, validation: Tensor) -> Tensor:
    """Validation points, checked."""
    if validation.shape[1:] != data.shape[1:]:
        raise ValueError(
            f"validation: got shape {tuple(validation.shape)} for data of shape {tuple(data.shape)}; expected "
            "points of the same manifold."
        )
    return c.prepare("validation", validation)
