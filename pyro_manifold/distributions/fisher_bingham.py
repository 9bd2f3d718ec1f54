"""The general Fisher-Bingham distribution of directions."""

from typing import Any

import geoopt
import torch
from pyro.distributions import constraints
from torch import Tensor

from ..constraints import check_membership, on
from ..geometry import geometry
from ..ops import fisher_bingham_sampler
from ..ops.arguments import checked
from ..ops.batched import apply_matrix
from ..ops.checks import as_tensors, broadcast_shapes, check_all, common_shape
from ..ops.fisher_bingham_general import general_divergence, general_moments, mode_of
from ..ops.numpy_fisher_bingham import density, modes, normalizer
from ..ops.numpy_operator import by_numpy, numpy_operator
from ._quadratic_exponential import QuadraticExponential, direction
from ._repr import validates
from .bingham import check_symmetric
from .estimation.directions import sphere_sample, unit, von_mises_fisher
from .von_mises_fisher import VonMisesFisher

__all__ = ["FisherBingham"]

_SPHERE = geoopt.Sphere()
_FEW = 64  # distributions up to which NumPy is faster


def _frame(b: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`_frame_at`."""
    own, rates, linear = _principal(b.detach(), a.detach())  # forward mode does not heed no_grad
    m, t = mode_of(rates, linear)
    rates = rates + t.unsqueeze(-1)
    return _frame_at(b, a, own, rates, m)


def _frame_at(b: Tensor, a: Tensor, own: Tensor, rates: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""The axes :math:`\Gamma` with the mode first, D, and the residual linear coefficient r, for
    :math:`b = \kappa\mu` and A, from the eigenvectors of A, the eigenvalues of :math:`\lambda I - A` and the mode m
    along them.

    For any constants :math:`\lambda` and m with D = :math:`\Gamma^\top(\lambda I - A)\Gamma`, the exponent is
    :math:`-y^\top Dy + r\cdot y` up to a constant, with :math:`r = \Gamma^\top b - 2De_1`. At the mode r is
    0, but it has derivatives: those of the mode, which itself is not differentiated (it jumps from one mode to
    the other)."""
    mode = apply_matrix(own, m)
    axes = _with_first_column(mode)
    turn = axes.mT @ own
    form = (turn * rates.unsqueeze(-2)) @ turn.mT - axes.mT @ (a - a.detach()) @ axes
    r = apply_matrix(axes.mT, b + 2 * apply_matrix(a, mode))
    return axes, form, r - r.detach()


@torch.no_grad()
def _principal(b: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The eigenvectors of A, that of the largest eigenvalue first, its differences to all eigenvalues, and the
    linear coefficients along them."""
    values, axes = torch.linalg.eigh(a)
    values, axes = values.flip(-1), axes.flip(-1)
    linear = apply_matrix(axes.mT, b)
    return axes, (values[..., :1] - values).expand(linear.shape), linear


def _composed_normalizer(b: Tensor, a: Tensor, own: Tensor, rates: Tensor, m: Tensor) -> Tensor:
    return general_moments(*_frame_at(b, a, own, rates, m)[1:])[0]


def _composed(x: Tensor, b: Tensor, a: Tensor, own: Tensor, rates: Tensor, mode: Tensor, s: Tensor) -> Tensor:
    y = direction(x) - mode
    r = b + 2 * apply_matrix(a, mode)
    changes = r - r.detach() + apply_matrix(a - a.detach(), y)  # 0, with derivatives
    return (y * changes).sum(-1) - (rates * apply_matrix(own.mT, y).square()).sum(-1) - s


_NORMALIZER = numpy_operator(normalizer, _composed_normalizer, (1, 2, 2, 1, 1))
_OPERATOR = numpy_operator(density, _composed, (1, 1, 2, 2, 1, 1, 0))


class FisherBingham(QuadraticExponential):
    r"""The exponential family on the sphere whose statistics are x and its quadratic products: a normal vector with
    any mean and covariance, conditioned to have length 1.

    .. math:: p(x) = C^{-1}\, e^{\kappa\,\mu\cdot x + x^\top Ax}, \qquad
        C = \int_{S^{d-1}} e^{\kappa\,\mu\cdot x + x^\top Ax}\,dS

    on :math:`S^{d-1}`, d >= 2. A = 0 gives the von Mises-Fisher distribution of :math:`\mu, \kappa`;
    :math:`\kappa = 0` the :class:`Bingham` distribution of A, :math:`A` with :math:`\mu` as an eigenvector and
    small enough others the :class:`Kent` distribution. It may have one mode or two. Where linear and quadratic part
    are along unrelated axes it describes skewed clouds of points. C and its derivatives are integrals along a contour,
    exact to rounding (:mod:`pyro_manifold.ops.fisher_bingham_general`), relative to the mode, so that nothing is of
    the order of the concentration. Draws are exact, by rejection. There is no ``rsample``: an accepted proposal
    jumps as the parameters move, and no smooth map from fixed noise is known, since the coordinates are not
    independent along any axes. Gradients of expectations go through the score (``Trace_ELBO`` does that by itself);
    guides with ``rsample`` are :class:`WrappedNormal` and :class:`ProjectedNormal`.

    :param Tensor loc: :math:`\mu`, unit vectors, shape ``batch + (d,)``.
    :param Tensor concentration: :math:`\kappa\ge0`, a number or shape ``batch``; dimensionless.
    :param Tensor matrix: A, symmetric (definite or not), shape ``batch + (d, d)``; A and A + cI are the same.
    :raises ValueError: for a ``loc`` that is not a unit vector, a negative ``concentration``, a ``matrix`` that is
        not symmetric or of another size.

    Base measure: surface area. Batch shape: broadcast of the parameters'; event shape ``(d,)``.

    References: Mardia & Jupp, Directional Statistics (2000), eq. 9.3.22; Kume & Wood, Biometrika 92 (2005), eq. 8;
    Kume & Sei, Stat. Comput. 28 (2018); Kent, Ganeiber & Mardia, J. Comput. Graph. Stat. 27 (2018), sec. 4.

    >>> d = FisherBingham(torch.tensor([0.0, 0.0, 1.0]), 2.0, torch.diag(torch.tensor([1.0, 0.0, 0.0])))
    >>> d.mean
    tensor([0.0000, 0.0000, 0.4834])
    """

    arg_constraints: dict[str, Any] = {
        "loc": on(_SPHERE),
        "concentration": constraints.nonnegative,
        "matrix": constraints.independent(constraints.real, 2),  # and symmetric
    }
    _offset = 1.0
    _event_ranks = {"loc": 1, "concentration": 0, "matrix": 2}

    @checked
    def __init__(
        self,
        loc: Tensor,
        concentration: Tensor | float,
        matrix: Tensor,
        *,
        validate_args: bool | None = None,
    ) -> None:
        validate = validates(validate_args)
        loc, k, matrix = as_tensors(loc=loc, concentration=concentration, matrix=matrix)
        d = loc.shape[-1] if loc.dim() else 0
        if d < 2:
            raise ValueError(
                f"loc: got shape {tuple(loc.shape)}, expected batch + (d,) with d >= 2, points of the unit "
                "sphere in R^d. Add the coordinate axis."
            )
        if matrix.dim() < 2 or matrix.shape[-2:] != (d, d):
            raise ValueError(
                f"matrix: got shape {tuple(matrix.shape)}, expected (..., {d}, {d}) for loc of shape "
                f"{tuple(loc.shape)}. Give square matrices of the size of loc."
            )
        if validate:
            remedy = "Normalise it: torch.nn.functional.normalize(loc, dim=-1)."
            check_membership(geometry(_SPHERE), "loc", loc, "unit vectors", remedy)
            check_all(
                (k >= 0) & k.isfinite(), "concentration", k, "finite numbers, zero or positive",
                "Use a positive constraint such as softplus; for the opposite direction negate loc.",
            )  # fmt: skip
            check_symmetric("matrix", matrix)
        batch = broadcast_shapes(loc=loc.shape[:-1], concentration=k.shape, matrix=matrix.shape[:-2])
        super().__init__(dict(loc=loc, concentration=k, matrix=matrix), batch, d)
        self._validate_args = validate

    @classmethod
    @checked
    def fit(cls, x: Tensor, weights: Tensor | None = None) -> "FisherBingham":
        r"""The distribution of greatest likelihood, by Newton's method; its mean and second moment are those of the
        rows. The trace of its ``matrix`` is 0.

        :param x: the rows of data, shape ``(n,) + batch + (d,)``: one distribution for each element of the batch.
        :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
        :raises ValueError: for rows off the sphere, all equal, or on a quadric (the likelihood has no maximum): there
            are d(d+3)/2 - 1 parameters; for weights that are negative, all zero, or of another shape.

        Computed in float64 without gradients; standard errors by :func:`standard_errors`.

        >>> d = FisherBingham(torch.tensor([0.0, 0.0, 1.0]), 4.0, torch.diag(torch.tensor([2.0, -1.0, -1.0])))
        >>> bool((FisherBingham.fit(d.sample((4000,))).matrix[0, 0] - 2).abs() < 0.5)
        True
        """
        from .estimation.fisher_bingham import fisher_bingham  # which imports this module

        s = sphere_sample(x, weights)
        loc, concentration = von_mises_fisher(s)
        found = fisher_bingham(s, VonMisesFisher(loc, concentration, validate_args=False))
        return cls(unit(s.shaped(found["loc"])), s.shaped(found["concentration"]), s.shaped(found["matrix"]))

    @property
    def loc(self) -> Tensor:
        r""":math:`\mu`, expanded to ``batch_shape + (d,)``."""
        return self._parameter("loc")

    @property
    def concentration(self) -> Tensor:
        r""":math:`\kappa`, expanded to ``batch_shape``."""
        return self._parameter("concentration")

    @property
    def matrix(self) -> Tensor:
        """A, expanded to ``batch_shape + (d, d)``."""
        return self._parameter("matrix")

    @staticmethod
    def infer_shapes(  # type: ignore[override]
        loc: Any, concentration: Any = (), matrix: Any = ()
    ) -> tuple[torch.Size, torch.Size]:
        loc, matrix = torch.Size(loc), torch.Size(matrix)
        return torch.broadcast_shapes(loc[:-1], torch.Size(concentration), matrix[:-2]), loc[-1:]

    def _coefficients(self) -> tuple[Tensor, Tensor]:
        r""":math:`\kappa\mu` and A."""
        a = self._given["matrix"].double()
        return self._given["concentration"].unsqueeze(-1) * direction(self._given["loc"]), 0.5 * (a + a.mT)

    def _form(self) -> tuple[Tensor, Tensor]:
        return _frame(*self._coefficients())[:2]

    def _tilt(self, mean: Tensor) -> Tensor:
        return (_frame(*self._coefficients())[2] * mean).sum(-1)

    def _log_density(self, x: Tensor) -> Tensor:
        b, a = self._coefficients()
        if common_shape(b.shape[:-1], a.shape[:-2]).numel() <= _FEW and by_numpy(b, a) and by_numpy(x):
            own, rates, m, mode = map(torch.from_numpy, modes(b.detach().numpy(), a.detach().numpy()))
            return _OPERATOR(x, b, a, own, rates, mode, _NORMALIZER(b, a, own, rates, m))
        axes, form, r = _frame(b, a)
        y = self._coordinates(axes, direction(x))
        return (y * (r - apply_matrix(form, y))).sum(-1) - general_moments(form, r)[0]

    def _normalizer(self, form: Tensor) -> Tensor:
        return general_moments(form, _frame(*self._coefficients())[2])[0]

    def _moments(self, form: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return general_moments(form, _frame(*self._coefficients())[2])

    def _uniform_divergence(self) -> Tensor:
        _, form, r = _frame(*self._coefficients())
        return general_divergence(form, r)

    def _draw(self, batch: torch.Size, n: int) -> Tensor:
        own, rates, linear = _principal(*self._coefficients())
        d = rates.shape[-1]
        if batch:
            own, rates, linear = (
                own.expand(batch + (d, d)),
                rates.expand(batch + (d,)),
                linear.expand(batch + (d,)),
            )
        else:
            own, rates, linear = own.reshape(d, d), rates.reshape(d), linear.reshape(d)
        return apply_matrix(own, fisher_bingham_sampler.sample(rates, linear, n)).to(self._dtype)

    @property
    def mode(self) -> Tensor:
        """The point of largest density, or one of two."""
        b, a = self._coefficients()
        own, rates, linear = _principal(b, a)
        return self._out(apply_matrix(own, mode_of(rates, linear)[0]), 1)


def _with_first_column(m: Tensor) -> Tensor:
    """Orthonormal axes the first of which is m: a reflection, of the sign with which it is far from the identity."""
    sign = torch.where(m[..., :1] < 0, -1.0, 1.0)
    w = torch.cat([m[..., :1] + sign, m[..., 1:]], -1)
    scale = 1 / (1 + m[..., :1].abs())
    eye = torch.eye(m.shape[-1], dtype=m.dtype, device=m.device)
    mirror = eye - (scale * w).unsqueeze(-1) * w.unsqueeze(-2)
    return torch.cat([-sign.unsqueeze(-1) * mirror[..., :1], mirror[..., 1:]], -1)
