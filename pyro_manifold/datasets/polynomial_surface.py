"""The polynomial surface of the M-flow paper, with what the paper lacks: its exact density and orthogonal
distances."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.arguments import checked
from .known_manifold import check_points

__all__ = ["PolynomialSurface"]

_COEFFICIENTS = (
    -1.21685866,
    1.52221851,
    -1.21371848,
    0.0565082878,
    -0.0238915801,
    -0.0466790086,
    -0.0556848662,
    -0.00767494636,
    -0.0571792899,
    -0.0516948423,
    0.0137135698,
    0.00019578321,
    -0.00708568474,
    -0.00662611590,
    0.00333050257,
    -0.00832319399,
    -0.0109518626,
    0.00408106786,
    -0.00464777968,
    -0.0088060082,
    0.0121157044,
)
_ROTATION = (
    (0.973887216, -0.226860567, -0.00883026976),
    (0.227031938, 0.973073894, 0.0397956792),
    (-0.000435565375, -0.0407612565, 0.999168820),
)
_POWERS = [(d - j, j) for d in range(6) for j in range(d + 1)]  # 1, z0, z1, z0^2, z0 z1, z1^2, ...
_DECAY, _NEWTON_STEPS = 0.1, 60


class _Jet(NamedTuple):
    value: Tensor
    gradient: Tensor
    hessian: Tensor


class PolynomialSurface:
    r"""A mixture of two Gaussians on a bumpy surface in three dimensions; theta is the width of one of them.

    .. math::
        x = R\,(z_0, z_1, f(z))^T, \qquad f(z) = e^{-|z|^2/10}\sum_{|\alpha|\le5}c_\alpha z^\alpha, \\
        z \sim 0.6\,N\big((1,-1), 4I\big) + 0.4\,N\big((-1,1), s(\theta)^2I\big), \qquad s = 0.2 +
        0.4(1+\theta), \quad \theta \sim U(-1, 1), \\
        p(x\mid\theta) = p(z\mid\theta)\big/\sqrt{1+|\nabla f(z)|^2}

    The constants are the published ones (R is made orthogonal to float64; it moves by 1e-9). Training and
    test data have no noise; out-of-distribution points are points at theta = 0 plus N(0, 0.01 I_3).

    Base measure: area of the surface.

    Reference: J. Brehmer, K. Cranmer, NeurIPS 2020 (arXiv:2003.13913), section 4 and appendix; the constants
    are in its repository (``power/manifold.npz``).

    >>> surface = PolynomialSurface()
    >>> x = surface.sample(1000, theta=0.0, seed=0)
    >>> float(surface.vertical_distance(x).max()) < 1e-12, bool(surface.log_prob(x, 0.0).isfinite().all())
    (True, True)
    """

    def __init__(self) -> None:
        u, _, v = torch.linalg.svd(torch.tensor(_ROTATION, dtype=torch.float64))
        self.rotation = u @ v
        self.coefficients = torch.tensor(_COEFFICIENTS, dtype=torch.float64)

    def _jet(self, z: Tensor) -> _Jet:
        """f, its gradient (..., 2) and Hessian (..., 2, 2)."""
        c, z = self.coefficients.to(z.device), z.to(torch.float64)

        def table(t: Tensor) -> list[list[Tensor]]:  # the powers 0 to 5 of t and their first two derivatives
            p = [torch.ones_like(t)]
            for _ in range(5):
                p.append(p[-1] * t)
            zero = torch.zeros_like(t)
            first = [i * p[i - 1] if i else zero for i in range(6)]
            return [p, first, [i * (i - 1) * p[i - 2] if i > 1 else zero for i in range(6)]]

        a, b = table(z[..., 0]), table(z[..., 1])

        def poly(da: int, db: int) -> Tensor:
            return sum(
                (c[k] * a[da][i] * b[db][j] for k, (i, j) in enumerate(_POWERS)),
                start=torch.zeros_like(z[..., 0]),
            )

        p, dp = poly(0, 0), torch.stack([poly(1, 0), poly(0, 1)], -1)
        mixed = poly(1, 1)
        hp = torch.stack([torch.stack([poly(2, 0), mixed], -1), torch.stack([mixed, poly(0, 2)], -1)], -2)
        e = (-_DECAY * z.square().sum(-1)).exp()
        cross, eye, k = (
            z.unsqueeze(-1) * dp.unsqueeze(-2),
            torch.eye(2, dtype=z.dtype, device=z.device),
            2 * _DECAY,
        )
        p_ = p[..., None, None]
        hessian = (
            hp - k * (cross + cross.mT) - k * p_ * eye + k * k * p_ * (z.unsqueeze(-1) * z.unsqueeze(-2))
        )
        return _Jet(e * p, e[..., None] * (dp - k * z * p[..., None]), e[..., None, None] * hessian)

    def embed(self, z: Tensor) -> Tensor:
        """x of the chart coordinates z: (..., 2) to (..., 3), float64."""
        z = z.to(torch.float64)
        return torch.cat([z, self._jet(z).value.unsqueeze(-1)], -1) @ self.rotation.to(z.device).T

    def chart(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z and the height of x along the rotated third axis, on the surface or not."""
        check_points(x, 3)
        local = x.to(torch.float64) @ self.rotation.to(x.device)
        return local[..., :2], local[..., 2]

    @checked(n=0, seed=0)
    def sample(self, n: int, theta: float | Tensor = 0.0, *, seed: int = 0) -> Tensor:
        """n points on the surface, (n, 3), float64.

        :param theta: a number or a tensor of shape (n,), in [-1, 1].
        """
        s = self._width(theta).cpu()
        gen = torch.Generator().manual_seed(seed)
        wide = torch.rand(n, generator=gen, dtype=torch.float64) < 0.6
        e = torch.randn(n, 2, generator=gen, dtype=torch.float64)
        centre = e.new_tensor([1.0, -1.0])
        return self.embed(torch.where(wide[:, None], centre + 2 * e, -centre + s.reshape(-1, 1) * e))

    @checked(n=0, seed=0)
    def prior(self, n: int, *, seed: int = 0) -> Tensor:
        """n draws of theta from U(-1, 1)."""
        return 2 * torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1

    @checked(n=0, seed=0)
    def out_of_distribution(self, n: int, *, seed: int = 0) -> Tensor:
        """n points at theta = 0 with noise of standard deviation 0.1 in every direction."""
        noise = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
        return self.sample(n, seed=seed) + 0.1 * noise

    @staticmethod
    def _width(theta: float | Tensor) -> Tensor:
        theta = torch.as_tensor(theta, dtype=torch.float64)
        if not bool(((theta >= -1) & (theta <= 1)).all()):
            raise ValueError(
                "theta: got a value outside [-1, 1], or NaN; expected the support of its prior, U(-1, 1)."
            )
        return 0.2 + 0.4 * (1 + theta)

    def log_prob(self, x: Tensor, theta: float | Tensor, *, tolerance: float = 1e-5) -> Tensor:
        """log p(x | theta) with respect to area; -inf where x is further than ``tolerance`` above or below
        the surface.

        :param x: (..., 3).
        :param theta: broadcasts against the batch shape of x.
        """
        z, height = self.chart(x)
        jet = self._jet(z)
        out = (
            self._log_planar(z, self._width(theta).to(x.device)) - 0.5 * jet.gradient.square().sum(-1).log1p()
        )
        return torch.where((height - jet.value).abs() > tolerance, -math.inf, out)  # NaN stays NaN

    @staticmethod
    def _log_planar(z: Tensor, s: Tensor) -> Tensor:
        centre = z.new_tensor([1.0, -1.0])
        wide = -0.125 * (z - centre).square().sum(-1) + math.log(0.6 / (8 * math.pi))
        narrow = (
            -0.5 * (z + centre).square().sum(-1) / s.square() - 2 * s.log() + math.log(0.4 / (2 * math.pi))
        )
        return torch.logaddexp(wide, narrow)

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """Sum over the points x, (n, 3), of log p(x | theta), for each theta of shape (m,): (m,)."""
        return self.log_prob(x, theta.unsqueeze(-1)).sum(-1)

    @staticmethod
    def posterior(log_likelihood: Callable[[Tensor], Tensor], *, size: int = 401) -> tuple[Tensor, Tensor]:
        """Posterior of theta under U(-1, 1) on a grid: theta (size,) and probabilities (size,).

        :param log_likelihood: from theta (m,) to (m,); exact, or learned.
        """
        theta = torch.linspace(-1, 1, size, dtype=torch.float64)
        log_weight = log_likelihood(theta)
        if bool(log_weight.isnan().any()):
            raise ValueError("log_likelihood: got NaN; expected a number, or -inf, at every theta.")
        return theta, log_weight.softmax(0)

    def kl(
        self, log_prob: Callable[[Tensor], Tensor], theta: float = 0.0, *, n: int = 10_000, seed: int = 0
    ) -> tuple[float, float]:
        """Monte Carlo estimate of KL(p(. | theta) || model), in nats, and its standard error.

        :param log_prob: the model's log density with respect to area of *its* surface at points of this one.
        """
        x = self.sample(n, theta, seed=seed)
        gap = self.log_prob(x, theta) - log_prob(x).to(torch.float64)
        return float(gap.mean()), float(gap.std() / n**0.5)

    def vertical_distance(self, x: Tensor) -> Tensor:
        """Absolute value of height - f(z): the paper's distance from the manifold (which it caps at 10 and
        averages)."""
        z, height = self.chart(x)
        return (height - self._jet(z).value).abs()

    def distance(self, x: Tensor) -> Tensor:
        """Orthogonal distance to the surface, by Newton's method in z from the vertical foot point.

        Steps that do not descend are halved; where the Hessian is not positive its Gauss-Newton part is
        taken. Of several foot points the one in the starting point's valley is found, which for points near
        the surface is the nearest.
        """
        target, height = self.chart(x)

        def parts(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            jet = self._jet(z)
            gap, g = jet.value - height, jet.gradient
            square = gap.square() + (z - target).square().sum(-1)
            plain = torch.eye(2, dtype=z.dtype, device=z.device) + g.unsqueeze(-1) * g.unsqueeze(-2)
            full = plain + gap[..., None, None] * jet.hessian
            convex = (torch.linalg.det(full) > 1e-3) & (full.diagonal(dim1=-2, dim2=-1).sum(-1) > 0)
            step = torch.linalg.solve(
                torch.where(convex[..., None, None], full, plain), z - target + gap.unsqueeze(-1) * g
            )
            return square, step, gap

        z, rate = target, torch.ones_like(height)
        square, step, _ = parts(z)
        for _ in range(_NEWTON_STEPS):
            new = z - rate.unsqueeze(-1) * step
            new_square, new_step, _ = parts(new)
            better = new_square <= square
            z, step = (torch.where(better[..., None], b, a) for a, b in ((z, new), (step, new_step)))
            square = torch.where(better, new_square, square)
            rate = torch.where(better, torch.ones_like(rate), rate / 2)
        return square.sqrt()
