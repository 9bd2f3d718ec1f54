"""The direction of a normal vector."""

import math
from collections.abc import Sequence
from typing import Any

import geoopt
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from ..constraints import on
from ..geometry import geometry
from ..ops.arguments import checked
from ..ops.checks import as_tensors, check_all
from ..ops.numerics import norm
from ..ops.numpy_axial import projected_normal as projected_normal_density
from ..ops.numpy_operator import by_numpy, numpy_operator
from ..ops.parabolic_cylinder import log_radial_integral
from ..ops.quadrature import legendre
from ._repr import ReprMixin, validates
from .estimation.directions import projected_normal, sphere_sample

__all__ = ["ProjectedNormal"]

_SPHERE = geoopt.Sphere()


def _composed(x: Tensor, mu: Tensor) -> Tensor:
    dtype, n = x.dtype, x.shape[-1]
    mu, x = mu.double(), x.double()
    # float32 unit vectors have lengths off by 1e-7, which would matter at a concentration of 1e4
    x = x / norm(x, keepdim=True)
    k = norm(mu, keepdim=True)
    # for long mu, use the chord between directions: mu - a x would lose digits by cancellation
    long = k > 1
    chord = mu / torch.where(long, k, 1.0) - x
    half = chord.square().sum(-1, keepdim=True) / 2
    a = torch.where(long, k * (1 - half), (mu * x).sum(-1, keepdim=True))
    rest = torch.where(a > 0, torch.where(long, k * (chord + half * x), mu - a * x), mu)
    out = log_radial_integral(a.squeeze(-1), n) - rest.square().sum(-1) / 2 - n / 2 * math.log(2 * math.pi)
    return out.to(dtype)


_OPERATOR = numpy_operator(projected_normal_density, _composed, (1, 1), widest=256)


class ProjectedNormal(ReprMixin, dist.ProjectedNormal):
    r"""Direction :math:`x = y/|y|` of a normal vector :math:`y \sim \mathcal N(\mu, I_n)`, in any dimension.

    .. math::
        p(x) = (2\pi)^{-n/2}\, e^{-|\mu|^2/2} \int_0^\infty r^{n-1} e^{ar - r^2/2}\,dr
             = (2\pi)^{-n/2}\, e^{-|\mu - a^+ x|^2/2 + F_n(a)}, \qquad a = \mu\cdot x

    Pyro's distribution of the same name has a ``log_prob`` only up to n = 4, which loses all digits far from
    the mean. This one computes the radial integral to machine precision
    (:mod:`pyro_manifold.ops.parabolic_cylinder`) for every n, concentration and x. It is a subclass of Pyro's,
    so that :class:`~pyro.infer.reparam.ProjectedNormalReparam` (which HMC and autoguides use) accepts it. Draws
    are reparametrised; ``log_prob`` is twice differentiable.

    :param Tensor concentration: :math:`\mu`, shape ``batch + (n,)``: its direction is the mode, its length
        the concentration (0 is the uniform distribution). Dimensionless.
    :raises ValueError: for n < 2, or a ``concentration`` that is not finite.

    Base measure: surface area. Batch shape: ``batch``; event shape: ``(n,)``.

    References: Mardia & Jupp, Directional Statistics (2000), sec. 9.3.3; Hernandez-Stumpfhauser, Breidt & van
    der Woerd, Bayesian Anal. 12 (2017), eq. 1.

    >>> d = ProjectedNormal(torch.tensor([0.0, 0.0, 0.0, 0.0, 2.0]))
    >>> d.log_prob(torch.tensor([0.0, 0.0, 0.0, 0.0, -1.0]))
    tensor(-8.7244)
    """

    # Not a TransformedDistribution: y -> y/|y| is not injective, and the density integrates over each ray.

    arg_constraints: dict[str, Any] = {"concentration": constraints.real_vector}
    support = on(_SPHERE)
    manifold = _SPHERE

    @checked
    def __init__(self, concentration: Tensor, *, validate_args: bool | None = None) -> None:
        validate = validates(validate_args)
        (concentration,) = as_tensors(concentration=concentration)
        if concentration.dim() < 1 or concentration.shape[-1] < 2:
            raise ValueError(
                f"concentration: got shape {tuple(concentration.shape)}, expected batch + (n,) with n >= 2, "
                "a vector whose direction is the mode. Add the coordinate axis."
            )
        if validate:
            ok = concentration.isfinite().all(-1)
            check_all(ok, "concentration", concentration, "finite vectors", "Check what produced it.")
        # without validation, since torch's own check of a vector fails on an empty batch
        super().__init__(concentration, validate_args=False)
        self._validate_args = validate

    @classmethod
    @checked
    def fit(cls, x: Tensor, weights: Tensor | None = None) -> "ProjectedNormal":
        r"""The distribution of greatest likelihood, by Newton's method.

        :param x: the rows of data, shape ``(n,) + batch + (n,)``: one distribution for each element of the batch.
        :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
        :raises ValueError: as :meth:`VonMisesFisher.fit`.

        Computed in float64 without gradients; standard errors by :func:`standard_errors`.

        >>> x = ProjectedNormal(torch.tensor([0.0, 0.0, 3.0])).sample((1000,))
        >>> bool((ProjectedNormal.fit(x).concentration - torch.tensor([0.0, 0.0, 3.0])).norm() < 0.4)
        True
        """
        s = sphere_sample(x, weights)
        return cls(s.shaped(projected_normal(s, cls)))

    def expand(
        self, batch_shape: Sequence[int], _instance: "ProjectedNormal | None" = None
    ) -> "ProjectedNormal":
        return super().expand(batch_shape, _instance=self._get_checked_instance(ProjectedNormal, _instance))

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        # Override: in float32 Pyro's norm overflows from a length of 2e19 on, and its draws are then 0.
        shape = self._extended_shape(torch.Size(sample_shape))
        y = self.concentration + torch.randn(
            shape, dtype=self.concentration.dtype, device=self.concentration.device
        )
        return y / norm(y, keepdim=True)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        mu = self.concentration
        return _OPERATOR(value, mu) if by_numpy(value, mu) else _composed(value, mu)

    @property
    def loc(self) -> Tensor:
        """Direction of the concentration vector (the first axis for a zero vector)."""
        return geometry(_SPHERE).project(self.concentration)

    @property
    def mode(self) -> Tensor:
        """The direction of ``concentration`` (the first axis for a zero vector, where every point is a
        mode)."""
        return self.loc

    @property
    def frechet_mean(self) -> Tensor:
        """The direction of ``concentration``: the density is symmetric about it and decreases with distance."""
        return self.loc

    @property
    def mean(self) -> Tensor:
        r"""Ambient expectation, a point inside the ball (Pyro's ``mean`` is our :attr:`frechet_mean`):

        .. math:: \mathrm E[x] = \mu\,\mathrm E[1/\chi_{n+2}(|\mu|)]
                  = \mu \sqrt{\tfrac2\pi} \int_0^{\pi/2} \cos^n\!\varphi\;
                  e^{-|\mu|^2\sin^2\!\varphi/2}\,d\varphi
        """
        n, mu = self.event_shape[0], self.concentration.double()
        k = norm(mu)
        nodes, weights = (t.squeeze(-1) for t in legendre(64, mu.device))
        # beyond this angle the integrand is negligible
        width = 9 / torch.hypot(k, torch.full_like(k, math.sqrt(n)))
        width = width.clamp_max(math.pi / 2).unsqueeze(-1)
        phi = width * nodes
        log_f = n * phi.cos().log() - (k.unsqueeze(-1) * phi.sin()).square() / 2
        factor = math.sqrt(2 / math.pi) * (weights * width * log_f.exp()).sum(-1)
        return (factor.unsqueeze(-1) * mu).to(self.concentration.dtype)
