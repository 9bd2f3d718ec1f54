"""Custom gradients that are of the last order implemented."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["first_order"]


class _FirstOrder(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, *depends: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Any:
        raise NotImplementedError("this derivative is of the last order implemented; detach its arguments to use it as a number.")


def first_order(value: Tensor, *depends: Tensor) -> Tensor:
    """``value``, the result of a backward pass, such that differentiating it again in what it depends on raises.

    torch's ``once_differentiable`` does not do: ``torch.autograd.grad(..., inputs)`` prunes its error and is silently wrong.

    >>> x = torch.ones(1, requires_grad=True)
    >>> first_order(x.detach() * 2, x).requires_grad
    True
    """
    return _FirstOrder.apply(value.detach(), *depends) if torch.is_grad_enabled() else value
