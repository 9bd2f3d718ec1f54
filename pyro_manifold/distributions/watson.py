"""The Watson distribution of axes."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import geoopt
import torch
from pyro.distributions import constraints
from torch import Tensor

from ..constraints import check_membership, on
from ..geometry import geometry
from ..ops import bingham_sampler
from ..ops.arguments import checked
from ..ops.axis import squared_chord, tangent_normal_point
from ..ops.bingham import matrix_normalizer
from ..ops.checks import as_tensors, broadcast_shapes, check_all
from ..ops.fisher_bingham import FEW, relative_moments, relative_normalizer, uniform_divergence
from ..ops.numerics import norm
from ..ops.numpy_axial import watson as watson_density
from ..ops.numpy_contour import watson_normalizer
from ..ops.numpy_operator import by_numpy, numpy_operator
from ._quadratic_exponential import QuadraticExponential, direction
from ._repr import validates
from .bingham import in_own_axes
from .estimation.axes import watson
from .estimation.directions import unit
from .estimation.sample import gathered

__all__ = ["Watson"]

_SPHERE = geoopt.Sphere()


def _composed(x: Tensor, mu: Tensor, k: Tensor, c: Tensor) -> Tensor:
    x, mu = direction(x), direction(mu)
    across = squared_chord(x, mu) * squared_chord(x, -mu) / 4
    return torch.where(k < 0, k * (mu * x).sum(-1).square(), -k * across) - c


_OPERATOR = numpy_operator(watson_density, _composed, (1, 1, 0, 0))


def _parts(k: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\max(\kappa, 0)` and :math:`\max(-\kappa, 0)`."""
    bipolar = k >= 0
    return torch.where(bipolar, k, 0.0), torch.where(bipolar, 0.0, -k)


def _rates(k: Tensor, d: int) -> Tensor:
    r"""The differences of the largest eigenvalue of :math:`\kappa\mu\mu^\top` and all of them, for
    :math:`\kappa\ge0` with :math:`\mu` first, otherwise with :math:`\mu` last."""
    up, down = (t.unsqueeze(-1) for t in _parts(k))
    middle = up.expand(up.shape[:-1] + (d - 2,))
    return torch.cat([torch.zeros_like(up), middle, up + down], -1)


@lru_cache
def _normalizer(d: int) -> Callable[..., Tensor]:
    return numpy_operator(partial(watson_normalizer, d=d), lambda k: relative_normalizer(_rates(k, d)), (0,))


class Watson(QuadraticExponential):
    r"""The distribution of axes that is rotationally symmetric about one of them.

    .. math::
        p(x) = C(\kappa)^{-1}\, e^{\kappa (\mu\cdot x)^2}, \qquad
        C(\kappa) = |S^{d-1}|\; M\big(\tfrac12, \tfrac d2, \kappa\big)

    on :math:`S^{d-1}`, d >= 2, where M is Kummer's function. For :math:`\kappa > 0` the two modes are
    :math:`\pm\mu` (bipolar); for :math:`\kappa < 0` the mass lies about the great sphere orthogonal to
    :math:`\mu` (girdle); 0 gives the uniform distribution. It is the Bingham distribution of the matrix
    :math:`\kappa\mu\mu^\top`, without the cost of its eigenvectors. For large :math:`|\kappa|` the distance to
    the axis, or to the great sphere, has variance :math:`1/2|\kappa|` in each direction. Densities, moments
    and divergences are exact to rounding for a concentration of any size
    (:mod:`pyro_manifold.ops.fisher_bingham`). Draws are exact, by rejection, at any concentration and in any
    dimension. There is no ``rsample``: an accepted proposal jumps as :math:`\kappa` moves, and the height
    :math:`\mu\cdot x`, which could be had smoothly, has an incomplete Kummer function as its cdf, whose derivative in
    :math:`\kappa` is known here only by quadrature. Gradients of expectations go through the score
    (``Trace_ELBO`` does that by itself); a guide of axes with ``rsample`` is :class:`AngularCentralGaussian`.

    :param Tensor loc: the axis :math:`\mu`, unit vectors, shape ``batch + (d,)``; :math:`-\mu` gives the same
        distribution.
    :param Tensor concentration: :math:`\kappa` of either sign, a number or shape ``batch`` (no coordinate
        axis); dimensionless.
    :raises ValueError: for a ``loc`` that is not a unit vector, a ``concentration`` that is not finite.

    Base measure: surface area. Batch shape: broadcast of the parameters'; event shape ``(d,)``.

    References: Watson, Biometrika 52 (1965); Mardia & Jupp, Directional Statistics (2000), eq. 9.4.1 to 9.4.3;
    Kent, Ganeiber & Mardia, J. Comput. Graph. Stat. 27 (2018), sec. 3.

    >>> d = Watson(torch.tensor([0.0, 0.0, 1.0]), -2.0)
    >>> d.log_prob(torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.8, 0.0]]))
    tensor([-4.0171, -2.0171])
    >>> d.second_moment.diagonal()
    tensor([0.4033, 0.4033, 0.1934])
    """

    arg_constraints: dict[str, Any] = {"loc": on(_SPHERE), "concentration": constraints.real}
    _offset = 0.0
    _event_ranks = {"loc": 1, "concentration": 0}

    @checked
    def __init__(
        self, loc: Tensor, concentration: Tensor | float, *, validate_args: bool | None = None
    ) -> None:
        validate = validates(validate_args)
        loc, k = as_tensors(loc=loc, concentration=concentration)
        if loc.dim() < 1 or loc.shape[-1] < 2:
            raise ValueError(
                f"loc: got shape {tuple(loc.shape)}, expected batch + (d,) with d >= 2, points of the unit "
                "sphere in R^d. Add the coordinate axis."
            )
        if validate:
            remedy = "Normalise it: torch.nn.functional.normalize(loc, dim=-1)."
            check_membership(geometry(_SPHERE), "loc", loc, "unit vectors", remedy)
            check_all(
                k.isfinite(),
                "concentration",
                k,
                "finite numbers",
                "Check the computation that produced them.",
            )
        batch = broadcast_shapes(loc=loc.shape[:-1], concentration=k.shape)
        super().__init__({"loc": loc, "concentration": k}, batch, loc.shape[-1])
        self._validate_args = validate

    @classmethod
    @checked
    def fit(cls, x: Tensor, weights: Tensor | None = None) -> "Watson":
        r"""The distribution of greatest likelihood: about the first principal axis (:math:`\kappa>0`) or the last
        one (:math:`\kappa<0`) of the rows, whichever is the more likely.

        :param x: the rows of data, shape ``(n,) + batch + (d,)``: one distribution for each element of the batch.
        :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
        :raises ValueError: for rows off the sphere, or in a subspace of fewer than d dimensions (the likelihood
            has no maximum); for weights that are negative, all zero, or of another shape.

        Computed in float64 without gradients; standard errors by :func:`standard_errors`. Reference: Mardia &
        Jupp (2000), sec. 10.3.2.

        >>> x = Watson(torch.tensor([0.0, 0.0, 1.0]), -4.0).sample((2000,))
        >>> bool((Watson.fit(x).concentration + 4).abs() < 1)
        True
        """
        s, _ = gathered(_SPHERE, x, weights)
        loc, concentration = watson(s)
        return cls(unit(s.shaped(loc)), s.shaped(concentration))

    @property
    def loc(self) -> Tensor:
        r""":math:`\mu`, expanded to ``batch_shape + (d,)``."""
        return self._parameter("loc")

    @property
    def concentration(self) -> Tensor:
        r""":math:`\kappa`, expanded to ``batch_shape``."""
        return self._parameter("concentration")

    @staticmethod
    def infer_shapes(loc: Any, concentration: Any = ()) -> tuple[torch.Size, torch.Size]:  # type: ignore[override]
        loc = torch.Size(loc)
        return torch.broadcast_shapes(loc[:-1], torch.Size(concentration)), loc[-1:]

    def _axis(self) -> Tensor:
        mu = self._given["loc"].double()
        return mu / norm(mu, keepdim=True)

    def _rates(self) -> Tensor:
        return _rates(self._given["concentration"].double(), self.event_shape[0])

    def _form(self) -> tuple[Tensor, Tensor]:
        mu = self._axis()
        k = self._given["concentration"].double()[..., None, None]
        return in_own_axes(k * mu.unsqueeze(-1) * mu.unsqueeze(-2))

    def _log_density(self, x: Tensor) -> Tensor:
        r""":math:`-\kappa(1 - t^2) - S` or :math:`-|\kappa|t^2 - S` with :math:`t = \mu\cdot x`, and
        :math:`1 - t^2 = |x-\mu|^2|x+\mu|^2/4`."""
        mu, k = self._given["loc"], self._given["concentration"]
        if not by_numpy(x, mu, k):
            return _composed(x, mu, k, relative_normalizer(self._rates()))
        few = k.numel() <= FEW
        c = _normalizer(self.event_shape[0])(k.double()) if few else relative_normalizer(self._rates())
        return _OPERATOR(x, mu, k, c)

    def _normalizer(self, form: Tensor) -> Tensor:
        return relative_normalizer(self._rates())

    def _moments(self, form: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log, second = matrix_normalizer(-form)
        return log, second.new_zeros(second.shape[:-1]), second

    def _summary(self) -> tuple[Tensor, Tensor]:
        d, mu = self.event_shape[0], self._axis()
        moments = relative_moments(self._rates())[1]
        bipolar = self._given["concentration"] >= 0
        # E t^2 and E (1 - t^2) / (d - 1), each from the moment that is the smaller for a large concentration
        side = torch.where(bipolar, moments[..., -1], (1 - moments[..., -1]) / (d - 1))
        along = torch.where(bipolar, 1 - (d - 1) * moments[..., -1], moments[..., -1])
        outer = mu.unsqueeze(-1) * mu.unsqueeze(-2)
        eye = torch.eye(d, dtype=mu.dtype, device=mu.device)
        covariance = side[..., None, None] * (eye - outer) + along[..., None, None] * outer
        return covariance.new_zeros(covariance.shape[:-1]), covariance

    def _uniform_divergence(self) -> Tensor:
        return uniform_divergence(self._rates())

    def _draw(self, batch: torch.Size, n: int) -> Tensor:
        mu, rates = self._axis(), self._rates().to(self._dtype)
        d = mu.shape[-1]
        mu, rates = (t.expand(batch + (d,)) if batch else t.reshape(d) for t in (mu.to(self._dtype), rates))
        y = bingham_sampler.sample(rates, None, n)
        bipolar = self._given["concentration"] >= 0
        bipolar = bipolar.expand(batch) if batch else bipolar.reshape(())
        # the coordinate along the axis, and the squared length of the others
        t = torch.where(bipolar, y[..., 0], y[..., -1])
        rest = torch.where(bipolar, y[..., 1:].square().sum(-1), y[..., :-1].square().sum(-1))
        across = tangent_normal_point(mu, torch.ones_like(t))
        return t.unsqueeze(-1) * mu + rest.sqrt().unsqueeze(-1) * across

    @property
    def mode(self) -> Tensor:
        r""":math:`\mu` for :math:`\kappa\ge0` (the other mode is :math:`-\mu`); for :math:`\kappa<0` a point
        of the great sphere orthogonal to it."""
        mu = self._axis().detach()
        least = torch.nn.functional.one_hot(mu.abs().argmin(-1), mu.shape[-1]).to(mu)
        across = least - (least * mu).sum(-1, keepdim=True) * mu
        across = across / norm(across, keepdim=True)
        bipolar = (self._given["concentration"] >= 0).unsqueeze(-1)
        return self._out(torch.where(bipolar, self._axis(), across), 1)
