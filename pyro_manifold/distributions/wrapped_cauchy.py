"""The wrapped Cauchy distribution of the circle."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import register_kl

from ..constraints import circular
from ..ops.arguments import checked
from ..ops.checks import as_tensors, broadcast_shapes, check_all
from ..ops.circular import difference, short, wrap
from ._circle import check_probability
from ._repr import ReprMixin, validates
from .estimation.circle import wrapped_cauchy
from .estimation.sample import gathered

__all__ = ["WrappedCauchy"]


class WrappedCauchy(ReprMixin, TorchDistribution):
    r"""A Cauchy distribution wrapped around the circle. Equivalently, the image of a uniform angle under a
    Möbius map, which is how it is drawn.

    .. math::
        p(x) = \frac{1}{2\pi}\,\frac{1 - \rho^2}{(1-\rho)^2 + 4\rho\sin^2\frac{x-\mu}{2}}, \qquad
        x = \mu + 2\arctan\Big(\frac{1-\rho}{1+\rho}\tan\frac{u}{2}\Big), \quad u \sim \mathrm U(-\pi,\pi)

    It has heavier tails than :class:`~pyro.distributions.VonMises` and closed-form moments,
    :math:`\mathrm E e^{ikx} = \rho^{|k|}e^{ik\mu}`. Draws are reparametrised in both parameters.

    :param Tensor loc: mean direction :math:`\mu`, any shape, in radians (modulo :math:`2\pi`).
    :param Tensor concentration: mean resultant length :math:`\rho`, in [0, 1); 0 is uniform.
    :raises ValueError: for a concentration outside [0, 1), a ``loc`` that is not finite, shapes that do not
        broadcast.

    Base measure: arc length. Draws are in :math:`[-\pi,\pi)`; ``log_prob`` accepts any real angle.

    References: Mardia & Jupp, *Directional Statistics* (2000), sec. 3.5.7; McCullagh, Biometrika 83 (1996),
    for the Möbius group.

    >>> WrappedCauchy(0.0, 0.5).log_prob(torch.tensor([0.0, 2 * torch.pi])).exp()  # 3 / 2 pi
    tensor([0.4775, 0.4775])
    """

    arg_constraints: dict[str, Any] = {}  # checked in __init__, with messages that name the remedy
    support = circular
    has_rsample = True

    @checked
    def __init__(
        self, loc: Tensor | float, concentration: Tensor | float, *, validate_args: bool | None = None
    ) -> None:
        loc, concentration = as_tensors(loc=loc, concentration=concentration)
        batch = broadcast_shapes(loc=loc.shape, concentration=concentration.shape)
        if validates(validate_args):
            remedy = "Check the computation that produced it."
            check_all(loc.isfinite(), "loc", loc, "a finite angle in radians", remedy)
            ok = (concentration >= 0) & (concentration < 1)
            remedy = "Use a sigmoid, or constraints.unit_interval."
            check_all(ok, "concentration", concentration, "a number in [0, 1)", remedy)
        self.loc, self.concentration = loc.expand(batch), concentration.expand(batch)
        super().__init__(batch, validate_args=validate_args)

    @classmethod
    @checked
    def fit(cls, x: Tensor, weights: Tensor | None = None) -> "WrappedCauchy":
        r"""The distribution of greatest likelihood, which is unique: the Möbius map that takes
        :math:`\hat\rho e^{i\hat\mu}` to 0 makes the mean of the rows 0.

        :param x: the rows of data, angles in radians, shape ``(n,) + batch``: one distribution for each element
            of the batch.
        :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
        :raises ValueError: for angles that are not finite, or one that has half of the weight or more (the
            concentration tends to 1); for weights that are negative, all zero, or of another shape.

        Computed in float64 without gradients; standard errors by :func:`standard_errors`. Reference: Kent &
        Tyler, J. Appl. Stat. 15 (1988).

        >>> x = WrappedCauchy(3.0, 0.8).sample((1000,))
        >>> bool((WrappedCauchy.fit(x).concentration - 0.8).abs() < 0.05)
        True
        """
        s, _ = gathered(None, x, weights)
        loc, concentration = wrapped_cauchy(s)
        return cls(wrap(s.shaped(loc)), s.shaped(concentration).clamp_max(1 - torch.finfo(s.dtype).eps / 2))

    def expand(self, batch_shape: Sequence[int], _instance: "WrappedCauchy | None" = None) -> "WrappedCauchy":
        new = self._get_checked_instance(WrappedCauchy, _instance)
        shape = torch.Size(batch_shape)
        new.loc, new.concentration = self.loc.expand(shape), self.concentration.expand(shape)
        super(WrappedCauchy, new).__init__(shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @staticmethod
    def infer_shapes(
        loc: Sequence[int] = (), concentration: Sequence[int] = ()
    ) -> tuple[torch.Size, torch.Size]:
        return torch.broadcast_shapes(torch.Size(loc), torch.Size(concentration)), torch.Size()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        rho, half_chord = self.concentration, torch.sin(difference(value, self.loc) / 2)
        square = (1 - rho) ** 2 + 4 * rho * half_chord**2
        return torch.log1p(-rho) + torch.log1p(rho) - square.log() - math.log(2 * math.pi)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        half = math.pi * (torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device) - 0.5)
        rho = self.concentration
        return wrap(short(self.loc) + 2 * torch.atan2((1 - rho) * half.sin(), (1 + rho) * half.cos()))

    def cdf(self, value: Tensor) -> Tensor:
        r"""The probability of the arc from :math:`\mu - \pi` to ``value``, counterclockwise: 1/2 at the mean
        direction; whole turns change nothing."""
        if self._validate_args:
            self._validate_sample(value)
        rho, half = self.concentration, wrap(difference(value, self.loc)) / 2
        return 0.5 + torch.atan2((1 + rho) * half.sin(), (1 - rho) * half.cos()) / math.pi

    def icdf(self, value: Tensor) -> Tensor:
        r"""The angle in :math:`[-\pi,\pi)` where :meth:`cdf` is ``value``."""
        if self._validate_args:
            check_probability(value)
        rho, half = self.concentration, math.pi * (value - 0.5)
        return wrap(short(self.loc) + 2 * torch.atan2((1 - rho) * half.sin(), (1 + rho) * half.cos()))

    @property
    def mean(self) -> Tensor:
        r"""Mean direction, in :math:`[-\pi,\pi)`."""
        return wrap(self.loc)

    mode = mean

    @property
    def variance(self) -> Tensor:
        r"""Circular variance :math:`1 - \rho`."""
        return 1 - self.concentration

    def entropy(self) -> Tensor:
        r""":math:`\log 2\pi(1-\rho^2)`."""
        return math.log(2 * math.pi) + torch.log1p(-self.concentration) + torch.log1p(self.concentration)


@register_kl(WrappedCauchy, WrappedCauchy)
def _kl_wrapped_cauchy(p: WrappedCauchy, q: WrappedCauchy) -> Tensor:
    r""":math:`\log\frac{|1-\rho_p\rho_q e^{i(\mu_p-\mu_q)}|^2}{(1-\rho_p^2)(1-\rho_q^2)}`, since log|1 - z|^2
    is harmonic. Computed as ``log1p`` of the fraction minus 1, whose numerator is
    :math:`(\rho_p-\rho_q)^2 + 4\rho_p\rho_q\sin^2\frac{\mu_p-\mu_q}2`."""
    a, b = p.concentration, q.concentration
    apart = (a - b) ** 2 + 4 * a * b * torch.sin(difference(p.loc, q.loc) / 2) ** 2
    return torch.log1p(apart / ((1 - a) * (1 + a) * (1 - b) * (1 + b)))
