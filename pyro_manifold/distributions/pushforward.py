r"""Distributions on the image of an injective map: a flow, a chart or an embedding.

.. math::
    x = g(u),\; u \sim p_U, \qquad p(x) = p_U(u)\,\det\!\big(J_g(u)^TJ_g(u)\big)^{-1/2}, \quad u = g^{-1}(x)
"""

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.conditional import ConditionalDistribution, ConditionalTransform
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ..constraints import image
from ..ops.arguments import checked
from ..ops.checks import check_all
from ..ops.tracing import first_row, is_concrete, on_host
from ..transforms.cache import CopiesWithoutCaches
from ..transforms.injective import InjectiveTransform
from ..transforms.injective_flow import InjectiveFlow
from ..transforms.module import submodules
from ._repr import Explained
from .masked_rows import MaskedRows, fills_dropped_rows

__all__ = ["ConditionalPushforward", "Pushforward"]

_OFF = ("project", "reject", "error")


class Pushforward(MaskedRows, Explained, CopiesWithoutCaches, dist.TransformedDistribution):
    r"""The distribution of g(u) for u drawn from ``base``, on the n-dimensional manifold
    :math:`g(\mathbb R^n) \subset \mathbb R^d`.

    .. math:: \log p(x) = \log p_U(u) - \tfrac12\log\det J_g(u)^TJ_g(u), \qquad u = g^{-1}(x)

    Base measure: the n-dimensional Hausdorff measure of the image. If the same tensor is scored repeatedly and
    neither it nor the map has changed, the inverse is computed only once. Pyro's NUTS and autoguides use u as
    the unconstrained coordinates of a latent site of this distribution, with the exact density.

    :param base: a distribution of vectors of size n.
    :param InjectiveTransform transform: g; a list ``[embedding, *layers]`` is the
        :class:`~pyro_manifold.flows.InjectiveFlow` of them.
    :param str off_manifold: how a value off the image is scored: ``"project"`` scores its projection
        :math:`g(g^{-1}(x))` (learned manifolds never fit data exactly), ``"reject"`` gives :math:`-\infty`,
        ``"error"`` raises.
    :param float atol: a value counts as off the image if its distance from it exceeds ``atol`` (1 + the length
        of x); default: the square root of the machine precision.
    :raises ValueError: for a base of another event shape, an unknown ``off_manifold``; for values off the
        manifold under ``"error"``, and rows that are not finite; where the derivative of g loses rank.

    Rows that ``mask``, ``poutine.mask`` or ``obs_mask`` drop may hold any values, also NaN. Any other row
    that is not finite is an error with validation; without it, its log density is :math:`-\infty` with no
    gradient.

    Reference: Brehmer and Cranmer, *Flows for simultaneous manifold learning and density estimation*, NeurIPS
    2020, eq. 7.

    >>> from pyro_manifold.transforms import LinearEmbedding
    >>> line = LinearEmbedding(torch.tensor([[3.0], [4.0]]))
    >>> d = Pushforward(dist.Normal(0.0, 1.0).expand([1]).to_event(1), line)
    >>> d.log_prob(torch.tensor([0.0, 0.0]))  # -log(5 sqrt(2 pi))
    tensor(-2.5284)
    >>> scale = torch.distributions.AffineTransform(0.0, 2.0)
    >>> Pushforward(d.base_dist, [line, scale]).log_prob(torch.tensor([0.0, 0.0]))  # -log(10 sqrt(2 pi))
    tensor(-3.2215)
    """

    @checked
    def __init__(
        self,
        base: Distribution,
        transform: InjectiveTransform | Sequence[Any],
        *,
        off_manifold: str = "project",
        atol: float | None = None,
        validate_args: bool | None = None,
    ) -> None:
        transform = composed(transform)
        if base.event_shape != (transform.dim,):
            raise ValueError(
                f"base: got event shape {tuple(base.event_shape)}; expected ({transform.dim},), that of "
                "transform's domain. Use .to_event(1) if the coordinates are a batch."
            )
        if off_manifold not in _OFF:
            raise ValueError(
                f"off_manifold: got {off_manifold!r}; expected one of {', '.join(map(repr, _OFF))}."
            )
        self.off_manifold, self.atol = off_manifold, atol
        super().__init__(base, [transform.with_cache()], validate_args=validate_args)

    @property
    def transform(self) -> InjectiveTransform:
        """g."""
        return self.transforms[0]

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> image:  # type: ignore[override]
        return image(self.transform, math.inf if self.off_manifold == "project" else self.atol)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "Pushforward":
        new = self._get_checked_instance(Pushforward, _instance)
        new.off_manifold, new.atol = self.off_manifold, self.atol
        return super().expand(batch_shape, _instance=new)

    def latent_coordinates(self, value: Tensor) -> Tensor:
        """u of shape ``value.shape[:-1] + (n,)``."""
        return self.transform.inverse_and_log_volume(value)[0]

    @fills_dropped_rows
    def log_prob(self, value: Tensor) -> Tensor:
        # Override: values may lie off the image, and the inverse of an observed tensor is cached
        self.transform.check_input(value, self.transform.inverse_shape)
        value, finite = without_gaps(value, self.transform, bool(self._validate_args))
        u, log_volume = self.transform.inverse_and_log_volume(value)
        out = self._base_log_prob(u) - log_volume
        if finite is not None:
            out = torch.where(finite, out, -math.inf)
        if self.off_manifold == "project":
            return out
        on_image = image(self.transform, self.atol).check(value)
        if self.off_manifold == "error":
            check_all(
                on_image, "value", value, "points of the image of transform",
                "Project them (transform.project), widen atol, or use off_manifold='project'.",
            )  # fmt: skip
        return torch.where(on_image, out, -math.inf)

    def latent_log_prob(self, u: Tensor) -> Tensor:
        """log p(g(u)) for latent coordinates ``u``; the inverse of g is not evaluated."""
        return self._base_log_prob(u) - self.transform.log_volume(u)

    def _base_log_prob(self, u: Tensor) -> Tensor:
        """The log density of the base; also on an empty batch, where torch's ``Independent`` fails."""
        shape = torch.broadcast_shapes(u.shape[:-1], self.base_dist.batch_shape)
        return self.base_dist.log_prob(u) if math.prod(shape) else u.sum(-1).expand(shape)


def composed(transform: Any) -> InjectiveTransform:
    """``transform`` itself, or the :class:`InjectiveFlow` of a list ``[embedding, *layers]``.

    :raises ValueError: for anything else.
    """
    parts = list(transform) if isinstance(transform, (list, tuple)) else [transform]
    if not parts or not isinstance(parts[0], InjectiveTransform):
        seen = ", ".join(type(part).__name__ for part in parts) or "an empty list"
        raise ValueError(
            f"transform: got {seen}; expected an InjectiveTransform, such as Chart(g, inverse, n, d), or a "
            "list that starts with one and continues with layers, [Pad(n, d), *layers]."
        )
    return InjectiveFlow(parts[0], parts[1:]) if len(parts) > 1 else parts[0]


def without_gaps(
    value: Tensor, transform: InjectiveTransform, validate: bool
) -> tuple[Tensor, Tensor | None]:
    """``value`` with rows that are not finite replaced by a finite row, and a mask of the finite rows
    (``None`` if all are finite). So no NaN enters the computation, and the values and gradients of the other
    rows are right.

    :raises ValueError: if ``validate`` and a row is not finite.
    """
    if not is_concrete(value):
        return value, None
    finite = value.isfinite().all(-1)
    if (on_host(value) or validate) and bool(finite.all()):
        return value, None
    if validate:
        check_all(
            finite,
            "value",
            value,
            "finite numbers",
            "Remove such rows, or mask them: d.mask(x.isfinite().all(-1)).",
        )
    with torch.no_grad():
        rows = value.reshape(-1, value.shape[-1])
        if on_host(value) or not len(rows):
            good = rows[finite.reshape(-1)]
            point = good[0] if len(good) else transform(value.new_zeros(transform.dim))
        else:
            point = first_row(rows, finite.reshape(-1)).nan_to_num(0.0, 0.0, 0.0)
    return torch.where(finite.unsqueeze(-1), value, point), finite


class ConditionalPushforward(CopiesWithoutCaches, ConditionalDistribution, nn.Module):
    """A :class:`Pushforward` whose base distribution, manifold, or both depend on a context.

    :param base: a distribution of vectors of size n, or a Pyro ``ConditionalDistribution`` of them, such as
        ``ConditionalTransformedDistribution``.
    :param transform: g as for :class:`Pushforward`, or a
        :class:`~pyro_manifold.flows.Conditional` injective flow.

    Base measure: the Hausdorff measure of the image. ``condition(context)`` is a :class:`Pushforward` and
    raises the same errors. If g does not depend on the context, all of them share one cache of inverses.

    >>> from pyro_manifold.flows import Conditional, Coupling
    >>> from pyro_manifold.transforms import Pad
    >>> normal = dist.Normal(torch.zeros(1), 1.0).to_event(1)
    >>> base = dist.ConditionalTransformedDistribution(normal, [Conditional(Coupling(1, [0]), context_dim=2)])
    >>> ConditionalPushforward(base, Pad(1, 3)).condition(torch.zeros(2)).event_shape
    torch.Size([3])
    """

    @checked
    def __init__(
        self,
        base: ConditionalDistribution | Distribution,
        transform: InjectiveTransform | ConditionalTransform | Sequence[Any],
        **kwargs: Any,
    ) -> None:
        nn.Module.__init__(self)
        fixed = not isinstance(transform, ConditionalTransform)
        self.transform: Any = composed(transform).with_cache() if fixed else transform
        self.base, self.kwargs = base, kwargs
        # Pyro's conditional distributions are not modules, but their transforms are: register them here
        self._submodules = submodules((base, *getattr(base, "transforms", ())))

    def condition(self, context: Tensor) -> Pushforward:
        base, g = self.base, self.transform
        if isinstance(base, ConditionalDistribution):
            base = base.condition(context)
        if isinstance(g, ConditionalTransform):
            g = g.condition(context)
            base = base.expand(torch.broadcast_shapes(base.batch_shape, context.shape[:-1]))
        return Pushforward(base, g, **self.kwargs)

    def clear_cache(self) -> None:
        """Drop the cached values of the last draw."""
        for part in (self.base, self.transform):
            if hasattr(part, "clear_cache"):
                part.clear_cache()
