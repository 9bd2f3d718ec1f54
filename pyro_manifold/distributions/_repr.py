"""Mixins of all distributions: ``repr``, checks of values, and errors that say what to do where a quantity has
no formula."""

import inspect
from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..constraints import check_membership, manifold_of
from ..geometry import geometry
from ..ops.checks import check_all, check_dtype, check_expansion, held
from ..ops.precision import FullPrecision
from .masked_rows import MaskedRows

__all__ = ["Explained", "ReprMixin", "expanded", "validates"]


def validates(validate_args: bool | None) -> bool:
    """Whether to validate: ``validate_args``, or torch's global default where it is ``None``."""
    return Distribution._validate_args if validate_args is None else validate_args


def expanded(
    d: Any, owner: type, batch_shape: Sequence[int], instance: Any, attributes: Sequence[str] = ()
) -> Any:
    """``d.expand(batch_shape, instance)`` for a class ``owner`` that keeps its parameters unexpanded: the copy
    has the same ``attributes`` and another ``batch_shape``.

    :raises RuntimeError: if the batch shape of ``d`` does not broadcast to ``batch_shape``.
    """
    check_expansion(d.batch_shape, batch_shape)
    new = d._get_checked_instance(owner, instance)
    for name in attributes:
        setattr(new, name, getattr(d, name))
    Distribution.__init__(new, torch.Size(batch_shape), d.event_shape, validate_args=False)
    new._validate_args = d._validate_args
    return new


class Explained:
    """Mixin: a quantity without a formula raises a ``NotImplementedError`` that says what to do instead
    (torch's has no message)."""

    def _lacks(self, what: str, remedy: str) -> NotImplementedError:
        return NotImplementedError(f"{type(self).__name__} on {self.support} has no {what}; {remedy}.")  # type: ignore[attr-defined]

    @property
    def mean(self) -> Tensor:
        raise self._lacks(
            "closed form for the mean",
            "average draws, or use pyro_manifold.infer.frechet_mean of them",
        )

    @property
    def variance(self) -> Tensor:
        raise self._lacks("closed form for the variance", "use the variance of draws")

    def entropy(self) -> Tensor:
        raise self._lacks("closed form for the entropy", "estimate it by -d.log_prob(d.sample((n,))).mean(0)")

    def cdf(self, value: Tensor) -> Tensor:
        raise self._lacks(
            "cdf, since its points have no order",
            "draw samples and use the empirical cdf of a coordinate or a distance",
        )

    def icdf(self, value: Tensor) -> Tensor:
        raise self._lacks(
            "icdf, since its points have no order",
            "draw samples and use the quantiles of a coordinate or a distance",
        )

    def enumerate_support(self, expand: bool = True) -> Tensor:
        raise self._lacks("support to enumerate", "it is continuous; enumerate only discrete sites")


class ReprMixin(MaskedRows, Explained, FullPrecision):
    """Mixin of every distribution on a manifold.

    ``repr`` prints the arguments of ``__init__`` (a single number by value, other tensors by shape), also
    those that are properties, which torch's ``repr`` leaves out. ``log_prob`` rejects values that are not
    floating. The methods named in ``_exact`` run with autocast switched off.

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
            # torch's own error message would print the mapped values, which it cannot do inside vmap
            check_all(
                self.support.check(value),
                "value",
                value,
                f"within {self.support}",
                "Check the tensor that vmap maps over.",
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
