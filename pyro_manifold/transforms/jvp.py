r"""Derivatives along tangents, and the volume of an injective map from them.

.. math::
    (x, T) \mapsto (f(x),\, J_f(x)\,T), \qquad \log\mathrm{vol}_f(u) = \tfrac12 \log\det J^TJ, \quad J =
    J_f(u)\,I_n

Tangents are events with one more batch axis, shape ``batch + (k,) + event``; for vectors, the rows of
:math:`T^T`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..ops.tracing import is_concrete

__all__ = ["forward_mode_jvp", "half_log_det_gram"]


def forward_mode_jvp(
    f: Callable[[Tensor], Tensor], x: Tensor, tangents: Tensor, event_dim: int = 1, out_event_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """f(x) and its derivative along ``tangents`` for any function, by forward-mode differentiation,
    vectorised over the tangents.

    :param int event_dim: how many trailing axes of x are one event.
    :param int out_event_dim: how many of f(x) are.

    >>> y, jt = forward_mode_jvp(torch.exp, torch.zeros(2), torch.eye(2))
    >>> y, torch.equal(jt, torch.eye(2))
    (tensor([1., 1.]), True)
    """

    def along(t: Tensor) -> Tensor:
        # the sum lets torch map over the derivative of a constant too, which it cannot (it crashes)
        return torch.func.jvp(f, (x,), (t,))[1] + torch.zeros_like(t).sum()

    batch, axis = x.shape[: x.dim() - event_dim], -1 - event_dim
    tangents = tangents.expand(batch + tangents.shape[tangents.dim() + axis :])
    y = f(x)
    # torch promotes the tangents of numbers (tensors without axes) that f multiplies by Python's
    return y, torch.func.vmap(along, in_dims=axis, out_dims=-1 - out_event_dim)(tangents).to(y.dtype)


def half_log_det_gram(columns: Tensor) -> Tensor:
    r""":math:`\tfrac12\log\det J^TJ` from the columns of J, shape ``batch + (n, d)``, n <= d; the Gram matrix
    in float64.

    :raises ValueError: where they are linearly dependent to rounding, or not finite.

    >>> half_log_det_gram(torch.tensor([[3.0, 0.0, 4.0], [0.0, 2.0, 0.0]]))  # log 10
    tensor(2.3026)
    """
    J = columns.double()
    factor, info = torch.linalg.cholesky_ex(J @ J.mT)
    if is_concrete(info) and bool((info != 0).any()):
        raise ValueError(
            f"transform: its derivative has no full rank ({J.shape[-2]}) at {int((info != 0).sum())} of "
            f"{info.numel()} points: it is not injective there and has no density. Use another chart or "
            "fewer latent dimensions; look for NaN."
        )
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1).to(columns)
