r"""A shear for each code of a codebook that bends the plane of its chart to a quadric.

.. math:: (u, v) \mapsto (u,\ v + C_k\,\phi(u)), \qquad \phi(u) = (1,\ u_i,\ u_iu_j)_{i \le j}, \qquad \det J = 1
"""

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.checks import as_tensors
from .of_codes import OfCodes

__all__ = ["LocalQuadrics", "quadric_of"]


def monomials(u: Tensor) -> Tensor:
    """1, :math:`u_i` and :math:`u_iu_j` for i <= j, on the last axis."""
    i, j = torch.triu_indices(u.shape[-1], u.shape[-1], device=u.device)
    return torch.cat([torch.ones_like(u[..., :1]), u, u[..., i] * u[..., j]], -1)


class LocalQuadrics(OfCodes):
    r"""Fixed quadratic shears, one for each code, as buffers; the context is a code, and picks its shear.

    .. math:: (u, v) \mapsto (u,\ v + C_k\,\phi(u)), \qquad \phi(u) = (1,\ u_i,\ u_iu_j)_{i \le j}

    In an atlas, before :class:`LocalFrames`, chart k is then a quadric over its principal axes, with the curvature of
    its rows before anything is learned. The volume is 1.

    :param Tensor codes: :math:`v_k`, shape ``(K, c)``.
    :param Tensor coefficients: :math:`C_k`, shape ``(K, d - n, 1 + n + n (n + 1) / 2)``.
    :param int dim: n, the size of u.
    :raises ValueError: for shapes that do not fit, coefficients that are not finite; for a context of another size.

    >>> from pyro_manifold.flows import Conditional
    >>> codes = torch.tensor([[0.0], [1.0]])
    >>> bowl = LocalQuadrics(codes, torch.tensor([[[0.0, 0.0, 0.5]], [[1.0, 0.0, 0.0]]]), dim=1)
    >>> Conditional(bowl, context_dim=1).condition(codes)(torch.tensor([2.0, 0.0]))
    tensor([[2., 2.],
            [2., 1.]])
    """

    coefficients: Tensor

    @checked(dim=1)
    def __init__(self, codes: Tensor, coefficients: Tensor, dim: int, *, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        codes, coefficients = as_tensors(codes=codes, coefficients=coefficients)
        many = 1 + dim + dim * (dim + 1) // 2
        if codes.dim() != 2 or coefficients.dim() != 3 or coefficients.shape[::2] != (len(codes), many):
            raise ValueError(
                f"codes, coefficients: got shapes {tuple(codes.shape)} and {tuple(coefficients.shape)}; expected "
                f"(K, c) and (K, d - {dim}, {many}): {many} monomials of {dim} coordinates up to the second degree."
            )
        self.along, self.context_dim = dim, codes.shape[1]
        self.dim = self.codomain_dim = dim + coefficients.shape[1]
        for name, t in (("codes", codes), ("coefficients", coefficients)):
            self.register_buffer(name, t.detach().clone())
        self.place(codes, coefficients)

    @torch.no_grad()
    def place(self, codes: Tensor, coefficients: Tensor) -> None:
        """Replace codes and coefficients by others of the same shapes."""
        if not bool(coefficients.isfinite().all()):
            k = int((~coefficients.isfinite()).flatten(1).any(-1).nonzero()[0])
            raise ValueError(f"coefficients: those of chart {k} are not finite; expected finite ones.")
        self.codes.copy_(codes)
        self.coefficients.copy_(coefficients)

    def _shear(self, x: Tensor, sign: float) -> tuple[Tensor, Tensor]:
        u, v = x.split([self.along, self.dim - self.along], -1)
        height = self._apply_matrix(self.coefficients, self._chart(), monomials(u))
        u = u.expand(height.shape[:-1] + u.shape[-1:])
        return torch.cat([u, v + sign * height], -1), torch.zeros_like(height[..., 0])

    def forward_and_log_volume(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._shear(x, 1.0)

    def inverse_and_log_volume(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._shear(y, -1.0)

    def jvp(self, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        """The value at ``x`` and the derivative along ``tangents``, shape ``batch + (k, d)``."""
        u, t = x[..., : self.along].unsqueeze(-2), tangents[..., : self.along]
        i, j = torch.triu_indices(self.along, self.along, device=x.device)
        square = u[..., i] * t[..., j] + t[..., i] * u[..., j]
        linear = t.expand(square.shape[:-1] + t.shape[-1:])
        slope = torch.cat([torch.zeros_like(linear[..., :1]), linear, square], -1)
        rise = slope @ self.coefficients[self._chart()].mT
        still = torch.zeros_like(rise[..., :1]).expand(rise.shape[:-1] + (self.along,))
        return self._shear(x, 1.0)[0], tangents + torch.cat([still, rise], -1)


@torch.no_grad()
def quadric_of(u: Tensor, v: Tensor) -> Tensor:
    """The coefficients of the least squares quadric of heights ``v`` over coordinates ``u``, shape
    ``(d - n, monomials)``; zeros where it does not predict rows that are left out better than a plane does."""
    errors, n = [], u.shape[-1]
    phi, v64 = monomials(u.double()), v.double()
    for features in (phi[:, : n + 1], phi):
        q = torch.linalg.qr(features).Q
        leverage = q.square().sum(-1, keepdim=True)
        if len(u) <= features.shape[1] or not bool((leverage < 1 - 1e-6).all()):
            errors.append(float("inf"))
            continue
        residual = (v64 - q @ (q.mT @ v64)) / (1 - leverage)  # of each row by the fit without it
        errors.append(float(residual.square().sum()))
    best = torch.linalg.lstsq(phi, v64, driver="gelsd").solution.mT if errors[1] < errors[0] else None
    return v.new_zeros(v.shape[-1], phi.shape[-1]) if best is None else best.to(v)
