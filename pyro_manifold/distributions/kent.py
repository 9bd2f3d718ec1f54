"""The Kent distribution of directions, in any dimension."""

from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from ..ops import kent_sampler
from ..ops.arguments import checked
from ..ops.batched import apply_matrix
from ..ops.checks import as_tensors, broadcast_shapes, check_all, common_shape
from ..ops.fisher_bingham import FEW, relative_moments, relative_normalizer, uniform_divergence
from ..ops.numpy_axial import kent as kent_density
from ..ops.numpy_contour import kent_normalizer
from ..ops.numpy_operator import by_numpy, numpy_operator
from ._quadratic_exponential import QuadraticExponential, direction
from ._repr import validates
from .estimation.directions import sphere_sample
from .estimation.kent import kent, orthonormal

__all__ = ["Kent"]


def _rates(k: Tensor, betas: Tensor) -> Tensor:
    r""":math:`c = (\kappa/2, \kappa/2 - \beta_2, \dots)`: the log density is
    :math:`-c_1(1-x_1)^2 - \sum_jc_jx_j^2 - S`."""
    return (k.double() / 2).unsqueeze(-1) - torch.nn.functional.pad(betas.double(), (1, 0))


def _composed_normalizer(k: Tensor, betas: Tensor) -> Tensor:
    return relative_normalizer(_rates(k, betas))


def _composed(x: Tensor, axes: Tensor, k: Tensor, betas: Tensor, c: Tensor) -> Tensor:
    chord = direction(x) - axes[..., 0]
    y = apply_matrix(axes[..., 1:].mT, chord)
    rates = _rates(k, betas)
    first = 0.25 * rates[..., 0] * chord.square().sum(-1).square()
    return -first - (rates[..., 1:] * y.square()).sum(-1) - c


_NORMALIZER = numpy_operator(kent_normalizer, _composed_normalizer, (0, 1))
_OPERATOR = numpy_operator(kent_density, _composed, (1, 2, 0, 1, 0))


class Kent(QuadraticExponential):
    r"""The analogue on the sphere of a normal distribution with elliptical contours (FB5 on :math:`S^2`), in
    any dimension.

    .. math::
        p(x) = C^{-1} \exp\Big\{\kappa\,\gamma_1\cdot x + \sum_{j=2}^d \beta_j (\gamma_j\cdot x)^2\Big\},
        \qquad \sum_j\beta_j = 0,\; 2\beta_j\le\kappa

    On :math:`S^2`, :math:`\beta_2 = \beta = -\beta_3`. :math:`\gamma_1` is the mean direction and the only
    mode, :math:`\gamma_2` the major axis; :math:`\beta = 0` gives the von Mises-Fisher distribution. For large
    concentration the distribution is close to a normal in the tangent space with variances
    :math:`1/(\kappa - 2\beta_j)`. The condition :math:`2\beta_j\le\kappa` makes the mode unique; to learn an
    ovalness, write :math:`\beta = \tfrac\kappa2\,\mathrm{sigmoid}(\cdot)`. Draws are exact, by rejection;
    there is no ``rsample``.

    :param Tensor frame: orthonormal axes :math:`(\gamma_1, \dots, \gamma_d)` in its columns, shape
        ``batch + (d, d)``, d >= 3.
    :param Tensor concentration: :math:`\kappa\ge0`, a number or shape ``batch``; dimensionless.
    :param Tensor ovalness: :math:`\beta\in[0,\kappa/2]`, a number or shape ``batch``:
        :math:`\beta_2 = \beta`, :math:`\beta_d = -\beta`, and 0 along the axes between.
    :param Tensor axis_ovalness: all of :math:`\beta_2, \dots, \beta_d`, shape ``batch + (d - 1,)``. Give
        exactly one of ``ovalness`` and ``axis_ovalness``.
    :raises ValueError: for a ``frame`` that is not orthonormal, a negative ``concentration``, an ovalness
        above half of it, or an ``axis_ovalness`` that does not add up to 0.

    Base measure: surface area. Batch shape: broadcast of the parameters'; event shape ``(d,)``.

    References: Kent, J. R. Stat. Soc. B 44 (1982), eq. 1.2; Mardia & Jupp, Directional Statistics (2000),
    sec. 9.3.3.

    >>> d = Kent(torch.eye(3), 10.0, 4.0)
    >>> d.mean
    tensor([0.8541, 0.0000, 0.0000])
    """

    arg_constraints: dict[str, Any] = {
        "frame": constraints.independent(constraints.real, 2),  # __init__ checks that it is orthonormal
        "concentration": constraints.nonnegative,
    }
    _offset = 1.0
    _event_ranks = {"frame": 2, "concentration": 0, "axis_ovalness": 1}

    @checked
    def __init__(
        self,
        frame: Tensor,
        concentration: Tensor | float,
        ovalness: Tensor | float | None = None,
        *,
        axis_ovalness: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if (ovalness is None) == (axis_ovalness is None):
            seen = "neither" if ovalness is None else "both"
            raise ValueError(
                f"ovalness: got {seen} of ovalness and axis_ovalness; expected exactly one. Give one of them."
            )
        validate = validates(validate_args)
        frame, k, beta, betas = as_tensors(
            frame=frame, concentration=concentration, ovalness=ovalness, axis_ovalness=axis_ovalness
        )
        d = frame.shape[-1] if frame.dim() else 0
        if frame.dim() < 2 or frame.shape[-2] != d or d < 3:
            raise ValueError(
                f"frame: got shape {tuple(frame.shape)}, expected (..., d, d) with d >= 3. Give the axes as "
                "columns of a square matrix."
            )
        if betas is not None and (betas.dim() < 1 or betas.shape[-1] != d - 1):
            raise ValueError(
                f"axis_ovalness: got shape {tuple(betas.shape)}, expected (..., {d - 1}). Give one number for "
                "each axis but the first."
            )
        if validate:
            _check(frame, k, beta, betas)
        if betas is None:
            betas = torch.cat(
                [beta.unsqueeze(-1), beta.new_zeros(beta.shape + (d - 3,)), -beta.unsqueeze(-1)], -1
            )
        batch = broadcast_shapes(frame=frame.shape[:-2], concentration=k.shape, ovalness=betas.shape[:-1])
        super().__init__(dict(frame=frame, concentration=k, axis_ovalness=betas), batch, d)
        self._validate_args = validate

    @classmethod
    @checked
    def fit(cls, x: Tensor, weights: Tensor | None = None) -> "Kent":
        r"""The distribution of greatest likelihood under the condition of one mode, :math:`2\beta_j\le\kappa`, by
        Newton's method from Kent's moment estimate. The axes are in the order of their ovalness.

        :param x: the rows of data, shape ``(n,) + batch + (d,)``: one distribution for each element of the batch.
        :param weights: how often each row was seen, shape ``(n,)`` or ``(n,) + batch``; ones by default.
        :raises ValueError: for rows off the sphere, all equal, without spread along some axis, or on a circle
            (d = 2); for weights that are negative, all zero, or of another shape.

        Computed in float64 without gradients; standard errors by :func:`standard_errors`. The frame has
        d(d-1)/2 coordinates, so that many second derivatives are taken in each step. Reference: Kent, J. R.
        Stat. Soc. B 44 (1982), sec. 4.

        >>> x = Kent(torch.eye(3), 50.0, 15.0).sample((2000,))
        >>> fit = Kent.fit(x)
        >>> bool((fit.concentration - 50).abs() < 5 and (fit.axis_ovalness[0] - 15).abs() < 3)
        True
        """
        s = sphere_sample(x, weights)
        if x.shape[-1] < 3:
            raise ValueError(
                f"x: got shape {tuple(x.shape)}, expected directions in 3 dimensions or more; on the circle fit "
                "VonMisesFisher."
            )
        frame, concentration, ovalness = (s.shaped(p) for p in kent(s, cls))
        return cls(orthonormal(frame), concentration, axis_ovalness=ovalness)

    @property
    def frame(self) -> Tensor:
        """The axes, expanded to ``batch_shape + (d, d)``."""
        return self._parameter("frame")

    @property
    def concentration(self) -> Tensor:
        r""":math:`\kappa`, expanded to ``batch_shape``."""
        return self._parameter("concentration")

    @property
    def axis_ovalness(self) -> Tensor:
        r""":math:`\beta_2, \dots, \beta_d`, expanded to ``batch_shape + (d - 1,)``."""
        return self._parameter("axis_ovalness")

    @staticmethod
    def infer_shapes(  # type: ignore[override]
        frame: Any, concentration: Any = (), ovalness: Any = (), axis_ovalness: Any = None
    ) -> tuple[torch.Size, torch.Size]:
        spread = torch.Size(ovalness) if axis_ovalness is None else torch.Size(axis_ovalness)[:-1]
        batch = torch.broadcast_shapes(torch.Size(frame)[:-2], torch.Size(concentration), spread)
        return batch, torch.Size(frame)[-1:]

    def _axes(self) -> Tensor:
        """The frame in float64, after one Newton step towards orthonormality, since a float32 frame is off by
        1e-7."""
        f = self._given["frame"].double()
        return 1.5 * f - 0.5 * f @ (f.mT @ f)

    def _rates(self) -> Tensor:
        return _rates(self._given["concentration"], self._given["axis_ovalness"])

    def _form(self) -> tuple[Tensor, Tensor]:
        return self._axes(), torch.diag_embed(self._rates())

    def _log_density(self, x: Tensor) -> Tensor:
        """As in the base class, for a diagonal D: no matrix is formed."""
        axes, k, betas = self._axes(), self._given["concentration"], self._given["axis_ovalness"]
        wide = k.double(), betas.double()
        numeric = by_numpy(x) and by_numpy(axes, *wide)
        few = numeric and common_shape(k.shape, betas.shape[:-1]).numel() <= FEW
        c = _NORMALIZER(*wide) if few else _composed_normalizer(*wide)
        return (_OPERATOR if numeric else _composed)(x, axes, *wide, c)

    def _normalizer(self, form: Tensor) -> Tensor:
        return relative_normalizer(form.diagonal(dim1=-2, dim2=-1))

    def _moments(self, form: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log, moments = relative_moments(form.diagonal(dim1=-2, dim2=-1))
        fall = 0.5 * moments.sum(-1, keepdim=True)  # 2 (1 - x_1) = (1 - x_1)^2 + x_2^2 + ...
        return log, torch.nn.functional.pad(-fall, (0, moments.shape[-1] - 1)), torch.diag_embed(moments)

    def _uniform_divergence(self) -> Tensor:
        return uniform_divergence(self._rates())

    def _draw(self, batch: torch.Size, n: int) -> Tensor:
        axes = self._axes().to(self._dtype)
        k = self._given["concentration"]
        betas = self._given["axis_ovalness"]
        d = axes.shape[-1]
        if batch:
            axes, k, betas = axes.expand(batch + (d, d)), k.expand(batch), betas.expand(batch + (d - 1,))
        else:
            axes, k, betas = axes.reshape(d, d), k.reshape(()), betas.reshape(d - 1)
        return apply_matrix(axes, kent_sampler.sample(k, betas, n))

    @property
    def mode(self) -> Tensor:
        r""":math:`\gamma_1`."""
        return self.frame[..., 0]


def _check(frame: Tensor, k: Tensor, beta: Tensor | None, betas: Tensor | None) -> None:
    eps = torch.finfo(frame.dtype).eps ** 0.5
    gram = frame.mT @ frame - torch.eye(frame.shape[-1], dtype=frame.dtype, device=frame.device)
    check_all(
        gram.abs().amax((-1, -2)) <= eps, "frame", frame, "orthonormal columns",
        "Orthonormalise it (also after a cast to a wider dtype): torch.linalg.qr(frame).Q; or learn it as a "
        "point of SpecialOrthogonal(d).",
    )  # fmt: skip
    for name, x in (("ovalness", beta), ("axis_ovalness", betas)):
        if x is not None:
            finite = x.isfinite() if name == "ovalness" else x.isfinite().all(-1)
            check_all(finite, name, x, "finite numbers", "Check the computation that produced them.")
    check_all(
        (k >= 0) & k.isfinite(), "concentration", k, "nonnegative numbers", "Negate the first axis instead."
    )
    if beta is not None:
        _check_oval("ovalness", beta, beta, k, eps)
        check_all(
            beta >= 0, "ovalness", beta, "nonnegative numbers", "Swap the second and the last axis instead."
        )
    else:
        assert betas is not None
        ok = betas.isfinite().all(-1) & (betas.sum(-1).abs() <= 10 * eps * (1 + betas.abs().amax(-1)))
        check_all(
            ok,
            "axis_ovalness",
            betas,
            "numbers that add up to 0",
            "Subtract their mean: b - b.mean(-1, keepdim=True).",
        )
        _check_oval("axis_ovalness", betas, betas.amax(-1), k, eps)


def _check_oval(name: str, value: Tensor, largest: Tensor, k: Tensor, eps: float) -> None:
    broadcast_shapes(concentration=k.shape, **{name: largest.shape})
    check_all(
        2 * largest <= k * (1 + eps) + eps, name, value, "at most half of concentration",
        "Write it as concentration / 2 * sigmoid(...); for two modes use Bingham.",
    )  # fmt: skip
