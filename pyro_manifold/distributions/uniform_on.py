r"""The uniform distribution on a piece of an embedded or learned surface.

.. math:: p(x) = \frac1V, \qquad V = \int_B \det\!\big(J_g(u)^TJ_g(u)\big)^{1/2}\,du, \qquad x \in g(B)
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from ..geometry import EmbeddedManifold
from ..ops.arguments import checked
from ..ops.checks import as_tensors, check_all, check_expansion
from ..ops.memo import Memo
from ..ops.quadrature import legendre
from ..ops.rejection import redraw
from ..ops.tracing import is_concrete
from ..transforms.injective import InjectiveTransform
from ._repr import validates
from .pushforward import Pushforward, composed

__all__ = ["UniformOn"]

_NODES = {1: 128, 2: 48, 3: 20}  # for each axis, by dimension
_MAX_ROUNDS = 10_000
_MARGIN = 1.1  # the bound of rejection sampling, over the largest stretch at the nodes
_RESTARTS = 20
_TRIES = 64  # proposals at once for a draw


class _VolumeOfBox(TorchDistribution):
    r"""The coordinates u in a box, with a density proportional to :math:`\det(J^TJ)^{1/2}`."""

    arg_constraints: dict[str, Any] = {}
    has_rsample = False

    def __init__(
        self,
        transform: InjectiveTransform,
        low: Tensor,
        high: Tensor,
        nodes: int,
        batch: Sequence[int] = (),
        *,
        validate: bool = False,
    ) -> None:
        self.transform, self.low, self.high, self.nodes = transform, low, high, nodes
        self._validate = validate
        self._known = Memo()
        super().__init__(torch.Size(batch), low.shape, validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.independent(constraints.interval(self.low, self.high), 1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "_VolumeOfBox":
        return _VolumeOfBox(
            self.transform, self.low, self.high, self.nodes, batch_shape, validate=self._validate
        )

    @property
    def box(self) -> tuple[Tensor, Tensor]:
        """The corners."""
        return self.low, self.high

    def _rule(self, nodes: int) -> tuple[Tensor, Tensor]:
        """Points of the box, and the logs of their weights."""
        x, weight = (t.squeeze(-1).to(self.low) for t in legendre(nodes, self.low.device))
        index = torch.cartesian_prod(*[torch.arange(nodes, device=x.device)] * len(self.low)).reshape(
            -1, len(self.low)
        )
        span = self.high - self.low
        return self.low + span * x[index], weight.log()[index].sum(-1) + span.log().sum()

    def volume(self, nodes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log V; and the nodes, the logs of their shares, and the largest log stretch."""
        u, log_weight = self._rule(nodes)
        stretch = self.transform.log_volume(u)
        log = torch.logsumexp(stretch + log_weight, 0)
        return log, u, stretch + log_weight - log, stretch.detach().max()

    def log_total(self) -> Tensor:
        """log V, remembered while the map does not change and needs no gradient."""
        depends = self.transform.depends() if is_concrete(self.low) else None
        seen = self._known.get([self.low, self.high], depends)
        if seen is not None:
            return seen[0]
        log = self.volume(self.nodes)[0]
        if is_concrete(log) and not log.requires_grad:
            self._known.put([self.low, self.high], depends, [log])
        return log

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate:
            remedy = "Look at the value, or mask such rows."
            check_all(value.isfinite().all(-1), "value", value, "a point with finite coordinates", remedy)
        slack = torch.finfo(value.dtype).eps ** 0.5 * (1 + self.high - self.low)
        inside = ((value >= self.low - slack) & (value <= self.high + slack)).all(-1)
        out = self.transform.log_volume(value) - self.log_total()
        return torch.where(inside, out, -math.inf).expand(torch.broadcast_shapes(out.shape, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        log, _, _, top = self.volume(self.nodes)
        for _ in range(_RESTARTS):
            bound = float(top) + math.log(_MARGIN)
            proposals = bound + float((self.high - self.low).log().sum() - log)  # for a draw, in logs
            tries = math.ceil(math.exp(min(proposals, math.log(_TRIES))))
            out, top = self._rejected(shape[:-1].numel(), bound, tries)
            if not bool(top > bound):
                return out.reshape(shape)
        raise RuntimeError(
            "surface: proposals kept exceeding the largest stretch seen so far; is the map unbounded in the box?"
        )

    def _rejected(self, n: int, bound: float, tries: int) -> tuple[Tensor, Tensor]:
        """n draws from a log stretch that is at most ``bound``, and the largest that the proposals met."""
        span = self.high - self.low
        largest = span.new_full((), -math.inf)

        def propose(lanes: Tensor) -> tuple[Tensor, Tensor]:
            u = torch.rand(tries, len(lanes), len(span), dtype=span.dtype, device=span.device)
            u = self.low + span * u
            stretch = self.transform.log_volume(u)
            largest.copy_(torch.maximum(largest, stretch.max()))
            return u, torch.rand_like(stretch).log() < stretch - bound

        hint = "the map stretches a small part of the box alone; give a smaller box."
        lanes = torch.arange(n, device=span.device)
        return redraw(span.new_empty(n, len(span)), lanes, propose, _MAX_ROUNDS, hint), largest


class UniformOn(Pushforward):
    r"""The uniform distribution with respect to Riemannian volume on the image of a box of coordinates.

    .. math:: p(x) = \frac1V \text{ on } g(B), \qquad V = \int_B \det\!\big(J_g(u)^TJ_g(u)\big)^{1/2}\,du, \qquad
        B = \prod_i [a_i, b_i]

    V is a product Gauss-Legendre rule, :attr:`log_volume`; :attr:`volume_error` estimates its relative error by
    comparison with a rule of two thirds of the nodes (for smooth maps it is near rounding, for networks with kinks
    about 1e-3). The derivative of ``log_prob`` in the parameters of a learned map is that of -log V. Draws are by
    rejection from the uniform distribution of the box, with a bound of 1.1 times the largest stretch at the nodes; if
    a proposal exceeds it, the bound is raised and all are drawn anew, so that draws are exact unless the map has a
    spike that neither the nodes nor any proposal meets. There is no ``rsample``.

    :param surface: g, an injective map, a list ``[embedding, *layers]`` as for :class:`Pushforward`, or an
        :class:`~pyro_manifold.geometry.EmbeddedManifold`; of dimension n at most 3. It must be injective inside the
        box; a closed surface may meet itself at its faces.
    :param Tensor low: a, a number or shape ``(n,)``, in the units of the coordinates.
    :param Tensor high: b, of that shape.
    :param int nodes: nodes of the rule for each axis; 128, 48 or 20 for n = 1, 2 or 3 if omitted.
    :param str off_manifold: how values off the image are scored, as for :class:`Pushforward`.
    :param float atol: when a value is off the image, as for :class:`Pushforward`.
    :raises ValueError: for more than 3 dimensions, a ``low`` that is not below ``high``, an unknown
        ``off_manifold``; where the derivative of g loses rank at a node.

    Base measure: the n-dimensional Hausdorff measure of the image, which is its Riemannian volume. Batch shape: none;
    event shape ``(d,)``.

    Reference: Diaconis, Holmes & Shahshahani, *Sampling from a manifold* (2013), sec. 2.

    >>> from pyro_manifold.transforms import Chart
    >>> circle = Chart(lambda u: torch.cat([u.cos(), u.sin()], -1), lambda x: torch.atan2(x[..., 1:], x[..., :1]), 1, 2)
    >>> half = UniformOn(circle, 0.0, torch.pi)
    >>> half.log_prob(torch.tensor([[0.0, 1.0], [0.0, -1.0]]))  # -log pi, and outside
    tensor([-1.1447,    -inf])
    """

    @checked(nodes=2)
    def __init__(
        self,
        surface: InjectiveTransform | EmbeddedManifold | Sequence[Any],
        low: Tensor | float,
        high: Tensor | float,
        *,
        nodes: int | None = None,
        off_manifold: str = "project",
        atol: float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        transform = composed(surface.transform if isinstance(surface, EmbeddedManifold) else surface)
        n = transform.dim
        if n not in _NODES:
            raise ValueError(
                f"surface: got a map of {n} coordinates, expected at most {max(_NODES)}, beyond which a product rule "
                "has too many nodes. Use Pushforward with a base of your own."
            )
        if not isinstance(low, Tensor) and not isinstance(high, Tensor):
            like = next((p for p in (*transform.parameters(), *transform.buffers())), torch.empty(0))
            low = torch.full((), low, dtype=like.dtype, device=like.device)
        low, high = as_tensors(low=low, high=high)
        for name, x in (("low", low), ("high", high)):
            if x.shape not in ((), (n,)):
                raise ValueError(
                    f"{name}: got shape {tuple(x.shape)}, expected a number or ({n},), one for each coordinate of "
                    "surface. The box has no batch axes."
                )
        low, high = low.expand(n), high.expand(n)
        if validates(validate_args):
            for name, x in (("low", low), ("high", high)):
                check_all(x.isfinite(), name, x, "finite numbers", "They are corners of a box.")
            check_all(
                low < high, "low", low, "finite numbers below high", "Give the lower corner of the box first."
            )
        validate = validates(validate_args)
        base = _VolumeOfBox(transform, low, high, nodes or _NODES[n], validate=validate)
        super().__init__(base, transform, off_manifold=off_manifold, atol=atol, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "UniformOn":
        check_expansion(self.batch_shape, batch_shape)
        return super().expand(batch_shape, _instance=self._get_checked_instance(UniformOn, _instance))

    @property
    def low(self) -> Tensor:
        """a, shape ``(n,)``."""
        return self._box.low

    @property
    def high(self) -> Tensor:
        """b, shape ``(n,)``."""
        return self._box.high

    @property
    def _box(self) -> _VolumeOfBox:
        return self.base_dist

    @property
    def log_volume(self) -> Tensor:
        """log V, differentiable in the parameters of the map."""
        return self._box.log_total()

    @property
    def volume_error(self) -> float:
        """An estimate of the relative error of V: how far a rule with two thirds of the nodes is from it."""
        with torch.no_grad():
            coarse = self._box.volume(max(2, 2 * self._box.nodes // 3))[0]
            return abs(math.expm1(float(coarse - self._box.volume(self._box.nodes)[0])))

    @property
    def mean(self) -> Tensor:
        """The centre of mass of the surface in the ambient space, by the rule for V."""
        return self._moments()[0].expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The variance of each ambient coordinate, by the rule for V."""
        return self._moments()[1].expand(self.batch_shape + self.event_shape)

    def _moments(self) -> tuple[Tensor, Tensor]:
        _, u, log_share, _ = self._box.volume(self._box.nodes)
        x, share = self.transform(u), log_share.exp().unsqueeze(-1)
        mean = (share * x).sum(0)
        return mean, (share * (x - mean).square()).sum(0)

    def entropy(self) -> Tensor:
        """log V."""
        return self.log_volume.expand(self.batch_shape)
