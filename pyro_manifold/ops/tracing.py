"""What Python may do with a tensor that somebody may be tracing, compiling, mapping over or
differentiating."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["can_write_inplace", "is_concrete", "maybe_any"]


def is_concrete(x: Tensor) -> bool:
    """May Python branch on the values of ``x``? Not while they are traced, compiled or mapped over."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)


def can_write_inplace(x: Tensor) -> bool:
    """Is nobody differentiating or tracing? Then operators need not be recorded, and memory may be written
    over."""
    return not torch.is_grad_enabled() and forward_ad._current_level < 0 and is_concrete(x)


def maybe_any(mask: Tensor) -> bool:
    """Is ``mask`` true anywhere? Where asking would cost (a GPU, a trace) the answer is a cautious yes."""
    return mask.device.type != "cpu" or not is_concrete(mask) or bool(mask.any())
