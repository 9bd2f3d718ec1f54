r"""Tangents pushed through maps: the volume of an injective map layer by layer.

.. math::
    (x, T) \mapsto (f(x),\, J_f(x)\,T), \qquad \log\mathrm{vol}_f(u) = \tfrac12 \log\det J^TJ, \quad J = J_f(u)\,I_n

A map with a method ``push(x, T) -> (y, JT)`` is asked (a closed form, in which one coupling layer costs little more than its
value); any other torch or Pyro transform is differentiated in forward mode, all tangents at once. Tangents are vectors with
one more batch axis, shape ``batch + (k, dim)``: the rows of :math:`T^T`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..ops.numerics import concrete

__all__ = ["forward_push", "half_log_det_gram", "push"]


def push(transform: Any, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Value of ``transform`` at ``x``, ``batch + (dim,)``, and its derivative along ``tangents``, shape ``batch + (k, dim)``.

    >>> from torch.distributions import ExpTransform
    >>> y, jt = push(ExpTransform(), torch.zeros(2), torch.eye(2))
    >>> y, torch.equal(jt, torch.eye(2))
    (tensor([1., 1.]), True)
    """
    if hasattr(transform, "push"):
        return transform.push(x, tangents)
    # _call, not __call__: a cache would keep the tracers of functorch
    return forward_push(transform._call, x, tangents)


def forward_push(f: Callable[[Tensor], Tensor], x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`push` of any function of vectors, by forward-mode differentiation, vectorised over tangents."""

    def along(t: Tensor) -> Tensor:
        return torch.func.jvp(f, (x,), (t,))[1]

    tangents = tangents.expand(x.shape[:-1] + tangents.shape[-2:])
    return f(x), torch.func.vmap(along, in_dims=-2, out_dims=-2)(tangents)


def half_log_det_gram(columns: Tensor) -> Tensor:
    r""":math:`\tfrac12\log\det J^TJ` from the columns of J, shape ``batch + (n, d)``, n <= d; the Gram matrix in float64.

    :raises ValueError: where they are linearly dependent to rounding, or not finite.

    >>> half_log_det_gram(torch.tensor([[3.0, 0.0, 4.0], [0.0, 2.0, 0.0]]))  # log 10
    tensor(2.3026)
    """
    J = columns.double()
    factor, info = torch.linalg.cholesky_ex(J @ J.mT)
    if concrete(info) and bool((info != 0).any()):
        raise ValueError(
            f"transform: its derivative has no full rank ({J.shape[-2]}) at {int((info != 0).sum())} of {info.numel()} points: "
            "it is not injective there and has no density. Use another chart or fewer latent dimensions; look for NaN."
        )
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1).to(columns)
