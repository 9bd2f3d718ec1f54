"""A Gaussian bent around the unit circle: the smallest learned manifold."""

import math

import torch
from torch import Tensor

from ..ops.arguments import checked
from .known_manifold import check_points

__all__ = ["GaussianOnCircle"]


class GaussianOnCircle:
    r"""Points around a circle with a wrapped normal angle and a little radial noise.

    .. math::
        z \sim N(\pi/2, (\pi/4)^2) \bmod 2\pi, \quad r \sim N(1, \sigma^2), \quad x = r(\cos z, \sin z),
        \qquad p(x) = \frac{1}{r}\,N(r; 1, \sigma^2)\sum_k N(z + 2\pi k; \pi/2, (\pi/4)^2)

    Base measure: area in the plane; for ``noise=0`` the distribution lives on the circle and the density,
    without the factors of r, is with respect to arc length.

    :param noise: :math:`\sigma`; 0.01 in the reference.
    :raises ValueError: for a negative ``noise`` or one above 0.2, where a negative radius is no longer out of
        reach.

    Reference: J. Brehmer, K. Cranmer, NeurIPS 2020 (arXiv:2003.13913), the toy example of section 2.

    >>> distribution = GaussianOnCircle()
    >>> x = distribution.sample(1000, seed=0)
    >>> tuple(x.shape), bool(distribution.log_prob(x).isfinite().all())
    ((1000, 2), True)
    """

    @checked
    def __init__(self, noise: float = 0.01) -> None:
        if not 0 <= noise <= 0.2:
            raise ValueError(f"noise: got {noise!r}; expected a standard deviation from 0 to 0.2.")
        self.noise = noise

    @checked(n=0, seed=0)
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """n points, (n, 2), in torch's default dtype."""
        e = torch.randn(2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        z, r = math.pi / 2 + math.pi / 4 * e[0], 1 + self.noise * e[1]
        return (r * torch.stack([z.cos(), z.sin()])).T.to(torch.get_default_dtype())

    @checked
    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of x, (..., 2); without noise x is taken to lie on the circle."""
        check_points(x, 2)
        z, r = torch.atan2(x[..., 1], x[..., 0]), x.norm(dim=-1)
        turns = 2 * math.pi * torch.arange(-2, 3, dtype=x.dtype, device=x.device)
        scaled = (z.unsqueeze(-1) + turns - math.pi / 2) / (math.pi / 4)
        out = (-0.5 * scaled.square()).logsumexp(-1) - 0.5 * math.log(2 * math.pi) - math.log(math.pi / 4)
        if self.noise > 0:
            out = (
                out
                - r.log()
                - 0.5 * ((r - 1) / self.noise).square()
                - math.log(self.noise)
                - 0.5 * math.log(2 * math.pi)
            )
        return out
