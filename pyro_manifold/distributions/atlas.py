r"""Distributions on a manifold that several charts cover.

.. math::
    p(x) = \sum_k w_k\, \frac{p_k(x)\, 1[x \in M_k \cap U_k]}{Z_k}, \qquad M_k = g_k(D_k), \quad
    Z_k = P_{u \sim q_k}\big(u \in D_k,\ g_k(u) \in U_k\big)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ..ops.arguments import checked
from ..ops.checks import as_tensors, broadcast_shapes, check_all
from ..ops.memo import Memo
from ..ops.tracing import is_concrete
from ._charts_in_regions import ChartsInRegions
from ._repr import Explained
from .masked_rows import MaskedRows, fills_dropped_rows
from .pushforward import Pushforward, without_gaps
from .regions import Regions

__all__ = ["Atlas"]


class _Union(constraints.Constraint):
    """The union of several constraints."""

    event_dim = 1

    def __init__(self, parts: Sequence[Any], regions: Regions | None = None) -> None:
        self.parts, self.regions = list(parts), regions
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        on = torch.stack([p.check(value) for p in self.parts], -1)
        return (on if self.regions is None else on & self.regions(value)).any(-1)


class _Seen(NamedTuple):
    """A value as the charts see it."""

    value: Tensor  # with rows that are not finite replaced
    us: list[Tensor]  # its coordinates in each chart
    gaps: list[Tensor]  # the value less its projection
    error: Tensor  # their lengths; infinite for charts whose region does not contain the value
    finite: Tensor | None  # the rows that are finite, None for all


class Atlas(ChartsInRegions, MaskedRows, Explained, dist.TorchDistribution):
    r"""A mixture of pushforwards of the same dimension n, each on the part of its image that lies in its region: a
    distribution on a manifold in pieces, or on one that no single chart covers.

    .. math:: \log p(x) = \log\sum_{k:\, x \in M_k \cap U_k} w_k\, \frac{q_k(u_k)}{Z_k}
        \det\!\big(J_k^TJ_k\big)^{-1/2}, \quad u_k = g_k^{-1}(x)

    Base measure: the n-dimensional Hausdorff measure of the union of the pieces :math:`M_k \cap U_k`. Draws of
    chart k are repeated until they fall into its region, and its density is divided by the probability
    :math:`Z_k` that they do, so that the total mass is 1. :math:`Z_k` is the share of ``draws`` fixed draws; its
    standard error :math:`\sqrt{Z_k(1 - Z_k)/\mathrm{draws}}` is in :meth:`acceptance`. (Where the base is normal, or
    transformed normal, the draws are points of a Sobol sequence, and the error is smaller.) Only the charts whose
    region contains a value are evaluated for it.

    Without ``regions``, each chart covers its whole image.

    **Where several charts contain a value**, ``overlap="nearest"`` assigns it to the nearest image, and also to
    every other that contains it to within rounding (at most the square root of the machine precision, relative to
    1 + its length); the densities of these charts are added. So the total mass is 1 however close images come to
    each other, provided :math:`g_k^{-1}` is the exact inverse and not an encoder network. But where the regions
    overlap and learned images nearly coincide, each has its own part of the probability.
    ``overlap="add"`` takes the images to be one manifold there, as Sidheekh et al. do: the densities of all charts
    whose region contains the value and whose coordinates reach it are added, at its projections (where none does, the
    nearest end of a chart counts). The total mass is then 1 up to how well lengths or areas of the images agree;
    :meth:`mass` estimates it.

    A value off the manifold is scored as the components' ``off_manifold`` says: with ``"project"`` as its
    projection by the charts whose regions contain it, with ``"reject"`` and ``"error"`` only within ``atol``
    (1 + its length). A union of images is not the image of a vector space under a bijection: for a latent site,
    sample the chart from a ``Categorical`` and enumerate it. Rows that are not finite, or that a mask drops, are
    treated as by :class:`Pushforward`. The gradient of :math:`\log Z_k` with respect to the parameters of the base
    :math:`q_k` is exact in expectation; that with respect to the map and the regions is not computed.

    **Draws have a gradient** (``has_rsample``) only for one chart without regions, where they are those of its
    :class:`Pushforward`. In general there is none to be had. With :math:`p_k` the density on piece k,

    .. math:: \nabla_\theta\,\mathbb E\,h(x) = \sum_k (\nabla_\theta w_k)\,\mathbb E_{p_k} h
        + \sum_k w_k\,\nabla_\theta\,\mathbb E_{p_k} h,

    and a draw :math:`x_\theta(\varepsilon)` that moves continuously with :math:`\theta` stays on its piece, where
    pieces do not meet: the probability of a piece is then the same for all :math:`\theta`, and the derivative of the
    draw, whatever it is, has no part of the first sum. In the second, where draws outside of a region are rejected,
    derivatives of those that are kept leave out the probability that crosses its border. Both are derivatives of
    the probabilities of a discrete choice. What to do: let Pyro's ``Trace_ELBO`` use the score function,
    :math:`\mathbb E[h\,\nabla_\theta\log p]`, which it does by itself for such sites; or sample the chart from a
    ``Categorical`` of the weights, then a point of its :class:`Pushforward`, and sum over the charts
    (``TraceEnum_ELBO`` with ``infer={"enumerate": "parallel"}``, or ``infer_discrete`` afterwards).

    :param Tensor weights: :math:`w`, shape ``batch + (K,)``, on the simplex.
    :param components: K :class:`Pushforward` distributions with the same dimensions and ``off_manifold``.
    :param regions: a module whose value at points of shape ``batch + (d,)`` says whether each :math:`U_k`
        contains them, shape ``batch + (K,)``, such as :class:`~pyro_manifold.nn.NeighbourRegions`; its methods
        ``domain`` and ``clip`` give the :math:`D_k`.
    :param str overlap: ``"nearest"`` or ``"add"``.
    :param acceptance: the :math:`Z_k`, shape ``batch + (K,)``, where they are known, or a function without arguments
        that computes them, which is called whenever they are needed.
    :param int draws: draws of each chart for the estimate of :math:`Z_k`.
    :param float atol: tolerance for ``off_manifold="reject"`` and ``"error"``; default: the square root of the
        machine precision. For learned charts give the reconstruction error of the data.
    :raises ValueError: for components with different dimensions or ``off_manifold``, weights of another size, an
        unknown ``overlap``, regions of another number of charts, a chart whose draws never fall into its region;
        for values off the manifold under ``off_manifold="error"``, and rows that are not finite.

    Reference: Sidheekh, Dock, Jain, Balan and Singh, *VQ-flows: vector quantized local normalizing flows*, UAI
    2022.

    >>> from pyro_manifold.transforms import LinearEmbedding
    >>> lines = [LinearEmbedding(torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, h])) for h in (0.0, 5.0)]
    >>> normal = dist.Normal(torch.zeros(1), 1.0).to_event(1)
    >>> d = Atlas(torch.tensor([0.25, 0.75]), [Pushforward(normal, line) for line in lines])
    >>> d.log_prob(torch.tensor([0.0, 5.0])).exp()  # 0.75 / sqrt(2 pi)
    tensor(0.2992)
    """

    arg_constraints = {"weights": constraints.simplex}

    @checked(draws=1)
    def __init__(
        self,
        weights: Tensor,
        components: Sequence[Pushforward],
        *,
        regions: Regions | None = None,
        overlap: str = "nearest",
        acceptance: Tensor | Callable[[], Tensor] | None = None,
        draws: int = 16384,
        atol: float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        (self.weights,) = as_tensors(weights=weights)
        self.components, self.atol = list(components), atol
        self.regions, self.overlap, self.draws = regions, overlap, draws
        self._given, self._source, self._memo = acceptance, self, Memo()
        kinds = {
            f"{c.transform.dim} -> {c.transform.codomain_dim}, {c.off_manifold!r}"
            if isinstance(c, Pushforward)
            else repr(c)
            for c in self.components
        }
        if len(kinds) != 1 or not isinstance(self.components[0], Pushforward):
            raise ValueError(
                f"components: got {'; '.join(sorted(kinds)) or 'none'}; expected Pushforward distributions "
                "that have one latent dimension, one event shape and one off_manifold, since densities of "
                "different dimensions have no common base measure."
            )
        if self.weights.dim() < 1 or self.weights.shape[-1] != len(self.components):
            raise ValueError(
                f"weights: got shape {tuple(self.weights.shape)}; expected {len(self.components)} on the "
                f"last axis."
            )
        if overlap not in ("nearest", "add"):
            raise ValueError(f"overlap: got {overlap!r}; expected 'nearest' or 'add'.")
        if isinstance(acceptance, Tensor) and (
            regions is None
            or acceptance.shape[-1:] != self.weights.shape[-1:]
            or (is_concrete(acceptance) and not bool(((acceptance > 0) & (acceptance <= 1)).all()))
        ):
            raise ValueError(
                f"acceptance: got shape {tuple(acceptance.shape)}, regions {regions!r}; expected a probability above "
                f"0 for each of the {len(self.components)} charts, and regions. Leave it out to have it estimated."
            )
        shapes = {f"components[{i}]": c.batch_shape for i, c in enumerate(self.components)}
        if isinstance(acceptance, Tensor):
            shapes["acceptance"] = acceptance.shape[:-1]
        batch = broadcast_shapes(weights=self.weights.shape[:-1], **shapes)
        self.weights = self.weights.expand(batch + self.weights.shape[-1:])
        self.components = [c if c.batch_shape == batch else c.expand(batch) for c in self.components]
        super().__init__(batch, self.components[0].event_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> Any:
        return _Union([c.support for c in self.components], self.regions)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Have draws a gradient? Those of one chart without regions have that of its base."""
        return len(self.components) == 1 and self.regions is None and self.components[0].has_rsample

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a gradient.

        :raises NotImplementedError: unless :attr:`has_rsample`.
        """
        if not self.has_rsample:
            raise self._lacks(
                "draws with a gradient for several charts or charts in regions, since a point cannot move from one "
                "to another",
                "use sample, and log_prob for score-function estimates as Pyro's Trace_ELBO does, or sample the chart "
                "from a Categorical and enumerate it",
            )
        return self.components[0].rsample(torch.Size(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Atlas":
        new = self._get_checked_instance(Atlas, _instance)
        batch = torch.Size(batch_shape)
        for name in ("atol", "regions", "overlap", "draws", "_given", "_source"):
            setattr(new, name, getattr(self, name))
        new._memo, new.weights = Memo(), self.weights.expand(batch + self.weights.shape[-1:])
        new.components = [c.expand(batch) for c in self.components]
        super(Atlas, new).__init__(batch, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def _one(self) -> "Atlas | None":
        """The single distribution that this batch was expanded from, if it was."""
        source: Any = self._source
        same = source._validate_args == self._validate_args
        return source if source is not self and not source.batch_shape and same else None

    # --- densities --------------------------------------------------------------------------------------------
    def _seen(self, value: Tensor) -> _Seen:
        """Charts are asked only about the rows that their regions contain, where the batch has no axes of its
        own."""
        transforms = [c.transform for c in self.components]
        transforms[0].check_input(value, transforms[0].inverse_shape)
        value, finite = without_gaps(value, transforms[0], bool(self._validate_args))
        regions, shape = self.regions, value.shape[:-1]
        inside = None if regions is None else self._inside(regions, value)
        gather = inside is not None and not self.batch_shape and is_concrete(value)
        clips = regions is not None and self.components[0].off_manifold == "project"
        us, gaps, own = [], [], []
        for k, g in enumerate(transforms):
            rows, x = None, value
            if gather and inside is not None:
                rows = inside[..., k].reshape(-1).nonzero().squeeze(-1)
                x = value.reshape(-1, value.shape[-1])[rows]
            u = g._inverse(x)
            if clips and regions is not None:
                if self.overlap == "add":
                    with torch.no_grad():
                        used = regions.domain(u, k).unsqueeze(-1)
                    own.append(used if rows is None else _scattered(used, rows, shape))
                u = regions.clip(u, k)
            with torch.no_grad():
                gap = x - g._call(u)
            us.append(u if rows is None else _scattered(u, rows, shape))
            gaps.append(gap if rows is None else _scattered(gap, rows, shape))
        with torch.no_grad():
            error = torch.linalg.vector_norm(torch.stack(gaps, -2), dim=-1).nan_to_num(torch.inf)
            if regions is not None and inside is not None:
                if not clips:
                    inside = inside & torch.stack([regions.domain(u, k) for k, u in enumerate(us)], -1)
                elif self.overlap == "add":  # a chart adds nothing to others that go on where it ends
                    used, off = inside & torch.cat(own, -1), torch.where(inside, error, torch.inf)
                    nearest = inside & (off == off.amin(-1, keepdim=True))
                    inside = torch.where(used.any(-1, keepdim=True), used, nearest)
                error = torch.where(inside, error, torch.inf)
        return _Seen(value, us, gaps, error, finite)

    def _on(self, seen: _Seen) -> Tensor:
        """Which charts contain the value, shape ``batch + (K,)``."""
        value, error = seen.value, seen.error
        eps = torch.finfo(value.dtype).eps ** 0.5
        size = (1 + torch.linalg.vector_norm(value, dim=-1)).unsqueeze(-1)
        nearest = error.amin(-1, keepdim=True)
        near = error if self.overlap == "add" else nearest
        near = near <= size * (eps if self.atol is None else self.atol)
        off = self.components[0].off_manifold
        if off == "error":
            check_all(
                near.any(-1), "value", value, "points of the image of one of the charts",
                "Project them onto the nearest, widen atol, or use off_manifold='project'.",
            )  # fmt: skip
        on = error.isfinite()
        if self.overlap == "nearest":
            on = on & (error <= torch.maximum(self._rounding(seen, eps * size), nearest))
        return on if off == "project" else on & near

    @torch.no_grad()
    def _rounding(self, seen: _Seen, most: Tensor) -> Tensor:
        """The largest distance between a point of an image and its projection that rounding can explain: 64
        times that distance, measured at the projection of ``value`` to the image, and at most ``most``. A
        fixed tolerance would be wrong: images of learned charts come closer than that without meeting, and
        the total mass would exceed 1 if the densities of both were added there."""
        if is_concrete(seen.error) and not bool(((seen.error <= most).sum(-1) > 1).any()):
            return most
        own = [seen.value - gap for gap in seen.gaps]
        again = [p - c.transform.project(p) for p, c in zip(own, self.components, strict=True)]
        off = torch.linalg.vector_norm(torch.stack(again, -2), dim=-1).nan_to_num(torch.inf)
        return torch.minimum(64 * (torch.finfo(most.dtype).eps ** 0.5 * most + off), most)

    def _part(self, component: Pushforward, u: Tensor, on: Tensor) -> Tensor:
        r"""log p_k where ``on``, :math:`-\infty` elsewhere. The chart's derivative may lose rank at points
        off its image, so only its own points are evaluated; in a batch with axes of its own, the coordinates of
        others are replaced by those of one of these."""
        if is_concrete(on) and not bool(on.any()):
            return torch.full(torch.broadcast_shapes(on.shape, component.batch_shape), -torch.inf).to(u)
        if is_concrete(on) and not self.batch_shape:
            rows = on.reshape(-1).nonzero().squeeze(-1)
            own = component.latent_log_prob(u.reshape(-1, u.shape[-1])[rows])
            out = own.new_full((on.numel(),), -torch.inf)
            return out.index_put((rows,), own).reshape(on.shape)
        first = on.reshape(-1).to(torch.uint8).argmax(0, keepdim=True)
        own = u.detach().reshape(-1, u.shape[-1]).index_select(0, first)[0]
        return torch.where(on, component.latent_log_prob(torch.where(on.unsqueeze(-1), u, own)), -torch.inf)

    def log_joint(self, value: Tensor) -> Tensor:
        r""":math:`\log w_k\,p_k(x) / Z_k` for each chart, on the last axis; :math:`-\infty` for charts that do
        not contain ``value``."""
        one = self._one
        if one is not None:  # copies of one distribution: it gathers rows by chart, which a batch cannot
            joint = one.log_joint(value)
            return joint.expand(torch.broadcast_shapes(joint.shape[:-1], self.batch_shape) + joint.shape[-1:])
        return self._log_joint(self._seen(value))

    def _log_joint(self, seen: _Seen) -> Tensor:
        on = self._on(seen)
        parts = [
            self._part(c, u, on[..., k])
            for k, (c, u) in enumerate(zip(self.components, seen.us, strict=True))
        ]
        joint = self.weights.log() + torch.stack(parts, -1)
        if self.regions is not None:
            joint = joint - self.acceptance().mean.log()
        return joint if seen.finite is None else torch.where(seen.finite.unsqueeze(-1), joint, -torch.inf)

    @fills_dropped_rows
    def log_prob(self, value: Tensor) -> Tensor:
        joint = self.log_joint(value)
        on = (joint > -torch.inf).any(-1)
        return torch.where(on, torch.where(on.unsqueeze(-1), joint, 0.0).logsumexp(-1), -torch.inf)

    # --- what the charts say of a value -----------------------------------------------------------------------
    def responsibilities(self, value: Tensor) -> Tensor:
        r"""The probabilities :math:`p(k \mid x)` of the charts, shape ``batch + (K,)``; zeros off the
        manifold."""
        joint = self.log_joint(value)
        on = (joint > -torch.inf).any(-1, keepdim=True)
        return torch.where(on, torch.where(on, joint, 0.0).softmax(-1), 0.0)

    def expected_coordinates(self, value: Tensor) -> Tensor:
        r"""Deterministic inference, :math:`\mathbb E[g_k^{-1}(x)] = \sum_k p(k \mid x)\,g_k^{-1}(x)`, shape
        ``batch + (n,)``. Where one chart contains ``value`` these are its coordinates there."""
        seen = self._seen(value)
        joint = self._log_joint(seen)
        on = (joint > -torch.inf).any(-1, keepdim=True)
        share = torch.where(on, torch.where(on, joint, 0.0).softmax(-1), 0.0)
        return (share.unsqueeze(-1) * torch.stack(seen.us, -2)).sum(-2)

    def project(self, value: Tensor) -> Tensor:
        """The projection of ``value`` by the chart that comes nearest, of those whose region contains it."""
        seen = self._seen(value)
        which = seen.error.argmin(-1)
        if self.batch_shape or not is_concrete(which):
            points = torch.stack(
                [c.transform._call(u) for c, u in zip(self.components, seen.us, strict=True)], -2
            )
            index = which[..., None, None]
            return points.gather(-2, index.expand(index.shape[:-1] + self.event_shape)).squeeze(-2)
        out = value.new_zeros(which.numel(), self.event_shape[0])
        for k in which.unique().tolist():
            rows = (which.reshape(-1) == k).nonzero().squeeze(-1)
            u = seen.us[k].reshape(-1, seen.us[k].shape[-1])[rows]
            out = out.index_put((rows,), self.components[k].transform._call(u))
        return out.reshape(value.shape)

    @torch.no_grad()
    def mass(self, n: int = 10_000) -> tuple[float, float]:
        r"""An estimate of the total mass and its standard error, from n draws of each chart before they are rejected.

        .. math:: \sum_k \mathbb E_{u \sim q_k}\Big[1[u \in D_k,\ x \in V_k]\,p(x)\,
            \frac{\det(J_k^TJ_k)^{1/2}}{q_k(u)}\Big], \qquad x = g_k(u)

        With ``overlap="nearest"``, :math:`V_k = U_k`: the pieces of all charts, and the mass is 1 up to the error of
        the :math:`Z_k`. With ``"add"``, :math:`V_k` are the points counted for chart k
        (:meth:`~pyro_manifold.nn.NeighbourRegions.first`), so that each point of the manifold counts once.

        :raises ValueError: for a batch of distributions.
        """
        if self.batch_shape:
            raise ValueError(
                f"n: the mass is that of one distribution, and this is a batch of {self.batch_shape}."
            )
        total, variance = 0.0, 0.0
        for k, c in enumerate(self.components):
            u = c.base_dist.sample((n,))
            ok, x = self._accepted(u, k)
            if self.overlap == "add" and self.regions is not None:
                ok = ok & (self.regions.first(x) == k)
            x, u = x[ok], u[ok]
            joint = self.log_joint(x)
            often = 1 if self.overlap == "add" else (joint > -torch.inf).sum(-1).clamp_min(1)
            ratio = u.new_zeros(n)
            ratio[: len(u)] = (joint.logsumexp(-1) - c.latent_log_prob(u)).exp() / often
            total, variance = total + float(ratio.mean()), variance + float(ratio.var()) / n
        return total, variance**0.5


def _scattered(rows_of: Tensor, rows: Tensor, shape: torch.Size) -> Tensor:
    """A tensor of ``shape + (size,)`` with these rows, and zeros in the others."""
    out = rows_of.new_zeros(shape.numel(), rows_of.shape[-1])
    return out.index_put((rows,), rows_of).reshape(shape + rows_of.shape[-1:])
