r"""Volume of an injective map by random probes, for latent dimensions in which n tangents no longer fit.

.. math::
    \tfrac12\nabla\log\det J^TJ = \mathbb E_v\big[(J w)^T\,(\nabla J)\,v\big], \quad J^TJ\,w = v, \qquad
    \tfrac12\log\det J^TJ = \tfrac12\,\mathbb E_v\big[v^T\log(J^TJ)\,v\big], \quad \mathbb E\,vv^T = I_n

w is found by conjugate gradients, with one tangent and one cotangent a step and never a matrix. Their
coefficients are the Lanczos matrix T of v, so that the value, :math:`v^T\log(J^TJ)v = |v|^2(\log T)_{11}`,
costs nothing more.
References: [1] Caterini et al., *Rectangular flows for manifold learning*, NeurIPS 2021, sec. 4. [2] Ubaru,
Chen and Saad, *Fast estimation of tr(f(A)) via stochastic Lanczos quadrature*, SIAM J. Matrix Anal. Appl.
2017, sec. 3.
"""

import torch
from torch import Tensor

from ..ops.arguments import checked
from .injective import InjectiveTransform

__all__ = ["hutchinson_log_volume"]


@checked(max_steps=0)
def hutchinson_log_volume(
    transform: InjectiveTransform,
    u: Tensor,
    *,
    probes: int = 1,
    rtol: float = 1e-5,
    max_steps: int | None = None,
) -> Tensor:
    r"""A random estimate of :math:`\tfrac12\log\det J^TJ`, shape ``u.shape[:-1]``, whose value and gradient
    are both unbiased.

    It is for n so large that the ``d x n`` Jacobians of a batch do not fit into memory; where they do,
    ``transform.log_volume`` is exact and (measured for n up to 256) 2 to 11 times faster. Samplers that use
    gradients need the exact one. The gradient is of first order only.

    :param InjectiveTransform transform: g.
    :param Tensor u: latent coordinates, shape ``batch + (n,)``.
    :param int probes: probe vectors v of random signs, averaged over.
    :param float rtol: residual :math:`|v - J^TJw| / |v|` at which conjugate gradients stop; its bias.
    :param int max_steps: bound on their steps; 2n if omitted.
    :raises ValueError: where they do not converge within the bound, or meet a direction in which J vanishes.

    >>> from pyro_manifold.transforms import LinearEmbedding
    >>> g = LinearEmbedding(torch.tensor([[3.0, 0.0], [0.0, 2.0], [4.0, 0.0]]))
    >>> hutchinson_log_volume(g, torch.zeros(2), probes=4)  # log 10, whatever the signs: the columns are orthogonal
    tensor(2.3026)
    """
    if not (isinstance(probes, int) and probes >= 1) or not 0 < rtol < 1:
        raise ValueError(
            f"probes, rtol: got {probes!r}, {rtol!r}; expected a positive integer and a number in (0, 1)."
        )
    transform.forward_shape(u.shape)
    bound = 2 * transform.dim if max_steps is None else max_steps
    u = u.expand((probes,) + u.shape)
    v = torch.randint(2, u.shape, device=u.device).to(u) * 2 - 1
    w, value = _solve(transform, u.detach(), v, rtol, bound)
    with torch.no_grad():
        left = transform.jvp(u, w.unsqueeze(-2))[1].squeeze(-2)
    if torch.is_grad_enabled():
        slope = (left * transform.jvp(u, v.unsqueeze(-2))[1].squeeze(-2)).sum(-1)
        value = value + (slope - slope.detach())
    return value.mean(0)


def _solve(
    transform: InjectiveTransform, u: Tensor, v: Tensor, rtol: float, bound: int
) -> tuple[Tensor, Tensor]:
    """w with :math:`J^TJw = v`, and :math:`\\tfrac12 v^T\\log(J^TJ)v`, row by row; a row that has converged
    stays as it is."""
    at = u.clone().requires_grad_()
    with torch.enable_grad():
        x = transform._call(at)

    def gram(p: Tensor) -> Tensor:
        with torch.no_grad():
            moved = transform.jvp(u, p.unsqueeze(-2))[1].squeeze(-2)
        return torch.autograd.grad(x, at, moved, retain_graph=True)[0]

    with torch.no_grad():
        w, r, p = torch.zeros_like(v), v.clone(), v.clone()
        start = square = v.square().sum(-1)
        alive = torch.ones_like(square, dtype=torch.bool)
        last, old, diagonal, off = (
            torch.ones_like(square),
            torch.zeros_like(square),
            [],
            [],
        )  # steps and their ratios
        for _ in range(bound):
            ap = gram(p)
            curvature = (p * ap).sum(-1)
            flat = alive & ~(curvature > torch.finfo(u.dtype).eps ** 2 * p.square().sum(-1))
            if bool(flat.any()):
                raise ValueError(
                    f"transform: its derivative has no full rank ({transform.dim}), or NaN, at "
                    f"{int(flat.sum())} of {flat.numel()} probes: it has no density there. Use another chart "
                    "or fewer latent dimensions."
                )
            step = torch.where(alive, square / torch.where(alive, curvature, 1.0), 0.0)
            diagonal.append(
                torch.where(alive, curvature / square.clamp_min(torch.finfo(u.dtype).tiny) + old / last, 1.0)
            )
            w, r = w + step.unsqueeze(-1) * p, r - step.unsqueeze(-1) * ap
            new = torch.where(alive, r.square().sum(-1), square)
            still = alive & (new > rtol**2 * start)
            ratio = torch.where(still, new / square, 0.0)
            off.append(torch.where(still, ratio.sqrt() / torch.where(alive, step, 1.0), 0.0))
            p = r + ratio.unsqueeze(-1) * p
            last, old, square, alive = torch.where(alive, step, 1.0), ratio, new, still
            if not bool(alive.any()):
                break
        else:
            worst = float((square / start).amax().sqrt())
            raise ValueError(
                f"max_steps: conjugate gradients left a residual of {worst:.1e} after {bound} steps at "
                f"{int(alive.sum())} of {alive.numel()} probes; expected {rtol:.1e}. The map is badly "
                "conditioned there: allow more steps, work in float64, or use transform.log_volume, which "
                "is exact."
            )
        T = torch.diag_embed(torch.stack(diagonal, -1))
        if len(off) > 1:
            side = torch.stack(off[:-1], -1)
            T = T + torch.diag_embed(side, 1) + torch.diag_embed(side, -1)
        eigenvalues, vectors = torch.linalg.eigh(T.double())
        value = (
            0.5
            * start
            * (vectors[..., 0, :].square() * eigenvalues.clamp_min(torch.finfo(u.dtype).tiny).log())
            .sum(-1)
            .to(u)
        )
    return w, value
