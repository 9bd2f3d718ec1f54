"""Independent distributions on the factors of a product manifold."""

from collections.abc import Callable, Sequence
from typing import Any

import geoopt
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from ..constraints import check_point, on
from ..ops.arguments import checked
from ..ops.checks import broadcast_shapes
from ._repr import ReprMixin, expanded, validates

__all__ = ["ProductDistribution"]


class ProductDistribution(ReprMixin, TorchDistribution):
    r"""A distribution on each factor of a product of manifolds, independent of one another: one distribution of
    points of the product.

    .. math:: p(x_1, \dots, x_m) = \prod_{i=1}^m p_i(x_i), \qquad x = (x_1, \dots, x_m) \in M_1\times\dots\times M_m

    Each factor may be of another family; a normal distribution whose factors are correlated is a
    :class:`WrappedNormal` on the product. Divergences between two products are the sums of their factors'.

    :param geoopt.ProductManifold manifold: the product; a point is its factors' points in one vector.
    :param parts: a distribution for each factor, in order. Its event shape is that of the factor's points. (Of
        nested products each inner factor counts, and scalars or arrays of a flat factor are vectors.)
    :raises ValueError: for another number of distributions, or one whose event shape is not that of its factor.

    Base measure: Riemannian volume of the product, the product of the factors'. Batch shape: that of the parts,
    broadcast; event shape: ``(manifold.n_elements,)``.

    >>> from pyro_manifold.distributions import ManifoldUniform, WrappedNormal
    >>> manifold = geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.PoincareBall(), 2))
    >>> parts = [ManifoldUniform(geoopt.Sphere(), 3), WrappedNormal(geoopt.PoincareBall(), torch.zeros(2), 1.0)]
    >>> ProductDistribution(manifold, parts).sample((4,)).shape
    torch.Size([4, 5])
    """

    arg_constraints: dict[str, Any] = {}

    @checked
    def __init__(
        self,
        manifold: geoopt.ProductManifold,
        parts: Sequence[torch.distributions.Distribution],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.manifold = manifold
        self._support = on(manifold)
        geo = self._support.geometry
        event_shape = torch.Size([manifold.n_elements])
        shapes = geo.factor_shapes(event_shape)
        seen = [p.event_shape for p in parts]
        if seen != shapes:
            raise ValueError(
                f"parts: got distributions of event shapes {[tuple(s) for s in seen]}; expected one for each "
                f"factor of {manifold.name}, of shapes {[tuple(s) for s in shapes]}."
            )
        batch = broadcast_shapes(**{f"parts[{i}]": p.batch_shape for i, p in enumerate(parts)})
        self.parts: tuple[Any, ...] = tuple(p if p.batch_shape == batch else p.expand(batch) for p in parts)
        super().__init__(batch, event_shape, validate_args=False)
        self._validate_args = validates(validate_args)

    @classmethod
    @checked
    def fit(
        cls,
        manifold: geoopt.ProductManifold,
        x: Tensor,
        fits: Sequence[Callable[..., Any]],
        weights: Tensor | None = None,
    ) -> "ProductDistribution":
        r"""Each factor fitted on its own, which is the maximum of the likelihood where each of the fits is.

        :param manifold: the product.
        :param x: the rows of data, shape ``(n,) + batch + (manifold.n_elements,)``: one distribution for each
            element of the batch.
        :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
        :param fits: for each factor, in order, a function of its rows and the weights, e.g.
            ``VonMisesFisher.fit`` or ``functools.partial(WrappedNormal.fit, geoopt.PoincareBall())``.
        :raises ValueError: for another number of functions; rows off the manifold; and what the fits raise.

        Standard errors by :func:`standard_errors`.

        >>> from functools import partial
        >>> from pyro_manifold.distributions import RiemannianNormal, VonMisesFisher
        >>> manifold = geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.Euclidean(ndim=1), 2))
        >>> x = torch.cat([torch.eye(3)[[0, 1, 0]], torch.eye(3)[:, :2]], -1)
        >>> normal = partial(RiemannianNormal.fit, geoopt.Euclidean(ndim=1))
        >>> ProductDistribution.fit(manifold, x, [VonMisesFisher.fit, normal]).parts[1].loc
        tensor([0.3333, 0.3333])
        """
        geo = on(manifold).geometry
        if len(fits) != len(geo.factors):
            raise ValueError(
                f"fits: got {len(fits)} functions; expected one for each of the {len(geo.factors)} factors of "
                f"{manifold.name}."
            )
        check_point(manifold, "x", x)
        parts = [fit(rows, weights) for fit, rows in zip(fits, geo.split(x), strict=True)]
        return cls(manifold, parts)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Have draws of all parts a gradient?"""
        return all(p.has_rsample for p in self.parts)

    @property
    def support(self) -> on:  # type: ignore[override]
        return self._support

    def split(self, x: Tensor) -> list[Tensor]:
        """The factors' points, each in its own shape."""
        return self._support.geometry.split(x)

    def expand(
        self, batch_shape: Sequence[int], _instance: "ProductDistribution | None" = None
    ) -> "ProductDistribution":
        new = expanded(self, ProductDistribution, batch_shape, _instance, ["manifold", "_support"])
        new.parts = tuple(p.expand(torch.Size(batch_shape)) for p in self.parts)
        return new

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        return self._support.geometry.pack([p.rsample(torch.Size(sample_shape)) for p in self.parts])

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        with torch.no_grad():
            return self._support.geometry.pack([p.sample(torch.Size(sample_shape)) for p in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        logs = [p.log_prob(x) for p, x in zip(self.parts, self.split(value), strict=True)]
        return torch.stack(torch.broadcast_tensors(*logs)).sum(0)

    @property
    def mean(self) -> Tensor:
        """Those of the parts, side by side."""
        return self._support.geometry.pack([p.mean for p in self.parts])

    def entropy(self) -> Tensor:
        """The sum of the parts'."""
        return torch.stack([p.entropy() for p in self.parts]).sum(0)
