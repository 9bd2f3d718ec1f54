"""What a distribution says of itself: its parameters as torch prints them (one number by value, more by
shape), and what to do about a quantity that it has not."""

import inspect
from typing import Any

import geoopt
from torch import Tensor

from ..constraints import check_membership, manifold_of
from ..geometry import geometry
from ..ops.checks import check_all, check_dtype, held
from ..ops.precision import FullPrecision
from .masked_rows import MaskedRows

__all__ = ["Explained", "ReprMixin"]


class Explained:
    """Mixin: quantities without a formula raise a ``NotImplementedError`` with a message, where torch's is
    empty."""

    def _lacks(self, what: str, remedy: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} on {self.support} has no {what}; {remedy}.")  # type: ignore[attr-defined]

    @property
    def mean(self) -> Tensor:
        raise self._lacks(
            "closed form for the mean", "take that of draws, or pyro_manifold.infer.frechet_mean of them"
        )

    @property
    def variance(self) -> Tensor:
        raise self._lacks("closed form for the variance", "take that of draws")

    def entropy(self) -> Tensor:
        raise self._lacks("closed form for the entropy", "estimate it by -d.log_prob(d.sample((n,))).mean(0)")

    def cdf(self, value: Tensor) -> Tensor:
        raise self._lacks(
            "cdf, since its points have no order", "compare a coordinate or a distance with that of draws"
        )

    def icdf(self, value: Tensor) -> Tensor:
        raise self._lacks(
            "icdf, since its points have no order", "take quantiles of a coordinate or a distance of draws"
        )

    def enumerate_support(self, expand: bool = True) -> Tensor:
        raise self._lacks("support to enumerate", "it is continuous; enumerate discrete sites only")


class ReprMixin(MaskedRows, Explained, FullPrecision):
    """Mixin: prints the arguments of ``__init__``, also where torch looks in vain in ``__dict__``; checks the
    dtype of values.

    >>> import torch
    >>> from pyro_manifold.distributions import VonMisesFisher
    >>> VonMisesFisher(torch.tensor([0.0, 1.0]), 3.0)
    VonMisesFisher(loc: torch.Size([2]), concentration: 3.0)
    """

    event_shape: Any
    support: Any
    _exact = (
        "__init__",
        "sample",
        "rsample",
        "log_prob",
        "entropy",
        "mean",
        "mode",
        "variance",
        "covariance_matrix",
        "second_moment",
    )

    def _validate_sample(self, value: Any) -> None:
        check_dtype("value", value)
        mapped = isinstance(value, Tensor) and held(value) is not value
        if mapped and value.shape[value.dim() - len(self.event_shape) :] == self.event_shape:
            # torch would print what is mapped over, and cannot
            check_all(
                self.support.check(value),
                "value",
                value,
                f"within {self.support}",
                "Look at what is mapped over.",
            )
        try:
            super()._validate_sample(value)  # type: ignore[misc]
        except ValueError:
            manifold = manifold_of(self.support)
            if (
                manifold is not None
                and value.shape[value.dim() - len(self.event_shape) :] == self.event_shape
            ):
                remedy = (
                    "Project it first: pyro_manifold.geometry.geometry(d.support.manifold).project(value)."
                )
                check_membership(geometry(manifold), "value", value, f"points of {manifold.name}", remedy)
            raise

    def __repr__(self) -> str:
        shown: dict[str, Any] = {}
        for name in inspect.signature(type(self)).parameters:
            value = getattr(self, name, None)
            if isinstance(value, geoopt.Manifold):
                shown[name] = value.name
            elif isinstance(value, Tensor):
                shown[name] = value.item() if value.numel() == 1 else value.shape
        return f"{type(self).__name__}({', '.join(f'{name}: {value}' for name, value in shown.items())})"
