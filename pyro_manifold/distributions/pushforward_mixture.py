r"""Mixtures of pushforwards: a distribution on a manifold that several charts cover.

.. math::
    p(x) = \sum_k w_k\, p_k(x)\, 1[x \in M_k], \qquad M_k = g_k(\mathbb R^n)
"""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ..ops.arguments import checked
from ..ops.checks import as_tensors, broadcast_shapes, check_all
from ..ops.tracing import is_concrete
from ._repr import Explained
from .masked_rows import MaskedRows, fills_dropped_rows
from .pushforward import Pushforward, without_gaps

__all__ = ["PushforwardMixture"]


class _Union(constraints.Constraint):
    """The union of several constraints."""

    event_dim = 1

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = list(parts)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return torch.stack([p.check(value) for p in self.parts]).any(0)


class PushforwardMixture(MaskedRows, Explained, dist.TorchDistribution):
    r"""A mixture of pushforwards of the same dimension n, on the union of their images, which may be disjoint.

    .. math:: \log p(x) = \log\sum_{k:\, x \in M_k} w_k\, p_U^{(k)}(u_k)\det\!\big(J_k^TJ_k\big)^{-1/2}, \quad
        u_k = g_k^{-1}(x)

    Base measure: the n-dimensional Hausdorff measure of the union. A value is assigned to the nearest image
    :math:`M_k`, and also to every other image that contains it to within rounding (at most the square root of
    the machine precision, relative to 1 + its length); the densities of these charts are added. So the total
    mass is 1 however close the images come to each other, provided :math:`g_k^{-1}` is the exact inverse and
    not an encoder network. A value farther than ``atol`` (1 + its length) from every image is off the
    manifold and is scored as the components' ``off_manifold`` says. A union of images is not the image of a
    vector space under a bijection: for a latent site, sample the chart from a ``Categorical`` and enumerate
    it. Rows that are not finite, or that a mask drops, are treated as by :class:`Pushforward`.

    :param Tensor weights: :math:`w`, shape ``batch + (k,)``, on the simplex.
    :param components: k :class:`Pushforward` distributions with the same dimensions and ``off_manifold``.
    :param float atol: tolerance for ``off_manifold="reject"`` and ``"error"``; default: the square root of the
        machine precision. For learned charts give the reconstruction error of the data.
    :raises ValueError: for components with different dimensions or ``off_manifold``, weights of another size;
        for values off the manifold under ``off_manifold="error"``, and rows that are not finite.

    >>> from pyro_manifold.transforms import LinearEmbedding
    >>> lines = [LinearEmbedding(torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, h])) for h in (0.0, 5.0)]
    >>> normal = dist.Normal(torch.zeros(1), 1.0).to_event(1)
    >>> d = PushforwardMixture(torch.tensor([0.25, 0.75]), [Pushforward(normal, line) for line in lines])
    >>> d.log_prob(torch.tensor([0.0, 5.0])).exp()  # 0.75 / sqrt(2 pi)
    tensor(0.2992)
    """

    arg_constraints = {"weights": constraints.simplex}
    has_rsample = False

    @checked
    def __init__(
        self,
        weights: Tensor,
        components: Sequence[Pushforward],
        *,
        atol: float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        (self.weights,) = as_tensors(weights=weights)
        self.components, self.atol = list(components), atol
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
        shapes = {f"components[{i}]": c.batch_shape for i, c in enumerate(self.components)}
        batch = broadcast_shapes(weights=self.weights.shape[:-1], **shapes)
        self.weights = self.weights.expand(batch + self.weights.shape[-1:])
        self.components = [c if c.batch_shape == batch else c.expand(batch) for c in self.components]
        super().__init__(batch, self.components[0].event_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> Any:
        return _Union([c.support for c in self.components])

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PushforwardMixture":
        new = self._get_checked_instance(PushforwardMixture, _instance)
        batch = torch.Size(batch_shape)
        new.atol, new.weights = self.atol, self.weights.expand(batch + self.weights.shape[-1:])
        new.components = [c.expand(batch) for c in self.components]
        super(PushforwardMixture, new).__init__(batch, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            shape = torch.Size(sample_shape)
            if (shape + self.batch_shape).numel() == 0:  # torch's multinomial draws at least one
                return self.weights.new_empty(shape + self.batch_shape + self.event_shape)
            which = dist.Categorical(self.weights).sample(shape)[..., None, None]
            draws = torch.stack([c.sample(shape) for c in self.components], -2)
            return draws.gather(-2, which.expand(which.shape[:-1] + self.event_shape)).squeeze(-2)

    def log_joint(self, value: Tensor) -> Tensor:
        r""":math:`\log w_k\,p_k(x)` for each chart, on the last axis; :math:`-\infty` for charts whose image
        does not contain ``value``."""
        transforms = [c.transform for c in self.components]
        transforms[0].check_input(value, transforms[0].inverse_shape)
        value, finite = without_gaps(value, transforms[0], bool(self._validate_args))
        eps = torch.finfo(value.dtype).eps ** 0.5
        size = (1 + torch.linalg.vector_norm(value, dim=-1)).unsqueeze(-1)
        us = [g._inverse(value) for g in transforms]
        with torch.no_grad():
            gaps = [value - g._call(u) for g, u in zip(transforms, us, strict=True)]
            error = torch.linalg.vector_norm(torch.stack(gaps, -2), dim=-1).nan_to_num(torch.inf)
        nearest = error.amin(-1, keepdim=True)
        off = self.components[0].off_manifold
        near = nearest <= size * (eps if self.atol is None else self.atol)
        if off == "error":
            check_all(
                near.squeeze(-1), "value", value, "points of the image of one of the charts",
                "Project them onto the nearest, widen atol, or use off_manifold='project'.",
            )  # fmt: skip
        on = error <= torch.maximum(self._rounding(value, gaps, error, eps * size), nearest)
        if off != "project":
            on = on & near
        parts = [
            self._part(c, u, on[..., k]) for k, (c, u) in enumerate(zip(self.components, us, strict=True))
        ]
        joint = self.weights.log() + torch.stack(parts, -1)
        return joint if finite is None else torch.where(finite.unsqueeze(-1), joint, -torch.inf)

    @torch.no_grad()
    def _rounding(self, value: Tensor, gaps: Sequence[Tensor], error: Tensor, most: Tensor) -> Tensor:
        """The largest distance between a point of an image and its projection that rounding can explain: 64
        times that distance, measured at the projection of ``value`` to the image, and at most ``most``. A
        fixed tolerance would be wrong: images of learned charts come closer than that without meeting, and
        the total mass would exceed 1 if the densities of both were added there."""
        if is_concrete(error) and not bool(((error <= most).sum(-1) > 1).any()):
            return most
        own = [value - gap for gap in gaps]
        again = [p - c.transform.project(p) for p, c in zip(own, self.components, strict=True)]
        off = torch.linalg.vector_norm(torch.stack(again, -2), dim=-1).nan_to_num(torch.inf)
        return torch.minimum(64 * (torch.finfo(value.dtype).eps ** 0.5 * most + off), most)

    @staticmethod
    def _part(component: Pushforward, u: Tensor, on: Tensor) -> Tensor:
        """log p_k where ``on``, :math:`-\\infty` elsewhere. The chart's derivative may lose rank at points
        off its image, so the coordinates of those are replaced by those of a point on it before the
        evaluation."""
        if is_concrete(on) and not bool(on.any()):
            return torch.full(torch.broadcast_shapes(on.shape, component.batch_shape), -torch.inf).to(u)
        first = on.reshape(-1).to(torch.uint8).argmax(0, keepdim=True)
        own = u.detach().reshape(-1, u.shape[-1]).index_select(0, first)[0]
        return torch.where(on, component.latent_log_prob(torch.where(on.unsqueeze(-1), u, own)), -torch.inf)

    @fills_dropped_rows
    def log_prob(self, value: Tensor) -> Tensor:
        joint = self.log_joint(value)
        on = (joint > -torch.inf).any(-1)
        return torch.where(on, torch.where(on.unsqueeze(-1), joint, 0.0).logsumexp(-1), -torch.inf)
