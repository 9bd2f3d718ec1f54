r"""Tangents pushed through maps: the volume of an injective map layer by layer.

.. math::
    (x, T) \mapsto (f(x),\, J_f(x)\,T), \qquad \log\mathrm{vol}_f(u) = \tfrac12 \log\det J^TJ, \quad J =
    J_f(u)\,I_n

A map with a method ``jvp(x, T) -> (y, JT)`` is asked (a closed form, in which one coupling layer costs
little more than its value); any other torch or Pyro transform is differentiated in forward mode, all tangents
at once. Tangents are vectors with one more batch axis, shape ``batch + (k, dim)``: the rows of :math:`T^T`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import ComposeTransform, IndependentTransform, Transform
from torch.distributions.transforms import _InverseTransform

from ..ops.tracing import is_concrete

__all__ = [
    "evaluate",
    "evaluate_and_log_volume",
    "forward_mode_jvp",
    "half_log_det_gram",
    "invert",
    "invert_and_log_volume",
    "jvp",
]


def evaluate(transform: Transform, x: Tensor) -> Tensor:
    """Value of any transform of torch, Pyro or ours; a chain and an inverse too, whose ``_call`` is empty.
    Nothing is left in a cache, where tensors of a differentiation in progress would stay."""
    if isinstance(transform, ComposeTransform):
        for part in transform.parts:
            x = evaluate(part, x)
        return x
    if isinstance(transform, _InverseTransform):
        return invert(transform.inv, x)
    if isinstance(transform, IndependentTransform):
        return evaluate(transform.base_transform, x)
    return transform._call(x)


def invert(transform: Transform, y: Tensor) -> Tensor:
    """:func:`evaluate` of the inverse."""
    if isinstance(transform, ComposeTransform):
        for part in reversed(transform.parts):
            y = invert(part, y)
        return y
    if isinstance(transform, _InverseTransform):
        return evaluate(transform.inv, y)
    if isinstance(transform, IndependentTransform):
        return invert(transform.base_transform, y)
    return transform._inverse(y)


def evaluate_and_log_volume(transform: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Value and log-determinant of any bijection of vectors, shape ``x.shape[:-1]``; nothing is left in a
    cache of ours."""
    if hasattr(transform, "forward_and_log_volume"):
        return transform.forward_and_log_volume(x)
    if isinstance(transform, ComposeTransform):
        total = x.new_zeros(x.shape[:-1])
        for part in transform.parts:
            x, log_volume = evaluate_and_log_volume(part, x)
            total = total + log_volume
        return x, total
    if isinstance(transform, _InverseTransform):
        y, log_volume = invert_and_log_volume(transform.inv, x)
        return y, -log_volume
    if isinstance(transform, IndependentTransform):
        return evaluate_and_log_volume(transform.base_transform, x)
    y = transform._call(x)
    return y, _of_vectors(transform, transform.log_abs_det_jacobian(x, y))


def invert_and_log_volume(transform: Any, y: Tensor) -> tuple[Tensor, Tensor]:
    """The x that ``transform`` takes to ``y``, and its log-determinant there."""
    if hasattr(transform, "inverse_and_log_volume"):
        return transform.inverse_and_log_volume(y)
    if isinstance(transform, ComposeTransform):
        total = y.new_zeros(y.shape[:-1])
        for part in reversed(transform.parts):
            y, log_volume = invert_and_log_volume(part, y)
            total = total + log_volume
        return y, total
    if isinstance(transform, _InverseTransform):
        x, log_volume = evaluate_and_log_volume(transform.inv, y)
        return x, -log_volume
    if isinstance(transform, IndependentTransform):
        return invert_and_log_volume(transform.base_transform, y)
    x = transform._inverse(y)
    return x, _of_vectors(transform, transform.log_abs_det_jacobian(x, y))


def _of_vectors(transform: Transform, log_det: Tensor) -> Tensor:
    """An elementwise transform has one log-determinant for each coordinate."""
    return log_det if transform.domain.event_dim else log_det.sum(-1)


def jvp(transform: Any, x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Value of ``transform`` at ``x``, ``batch + (dim,)``, and its derivative along ``tangents``, shape
    ``batch + (k, dim)``.

    >>> from torch.distributions import ExpTransform
    >>> y, jt = jvp(ExpTransform(), torch.zeros(2), torch.eye(2))
    >>> y, torch.equal(jt, torch.eye(2))
    (tensor([1., 1.]), True)
    """
    if hasattr(transform, "jvp"):
        return transform.jvp(x, tangents)
    if isinstance(transform, ComposeTransform):
        for part in transform.parts:
            x, tangents = jvp(part, x, tangents)
        return x, tangents
    if isinstance(transform, IndependentTransform):
        return jvp(transform.base_transform, x, tangents)
    return forward_mode_jvp(lambda z: evaluate(transform, z), x, tangents)


def forward_mode_jvp(f: Callable[[Tensor], Tensor], x: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`jvp` of any function of vectors, by forward-mode differentiation, vectorised over tangents."""

    def along(t: Tensor) -> Tensor:
        return torch.func.jvp(f, (x,), (t,))[1]

    tangents = tangents.expand(x.shape[:-1] + tangents.shape[-2:])
    return f(x), torch.func.vmap(along, in_dims=-2, out_dims=-2)(tangents)


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
