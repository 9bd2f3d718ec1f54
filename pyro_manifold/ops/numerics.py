"""Norms, square roots and vectors that neither overflow nor have infinite gradients."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .components import extremes
from .tracing import can_write_inplace, is_concrete, maybe_any

__all__ = [
    "LONGEST",
    "cut_short",
    "fewer_turns",
    "horner",
    "long_vectors",
    "norm",
    "safe_sqrt",
    "scalar",
    "within",
]

# squares of numbers up to this size can be added without overflow; for other dtypes, up to 100
LONGEST = {torch.float64: 1e150, torch.float32: 1e15, torch.bfloat16: 1e15}


def norm(x: Tensor, dim: int = -1, keepdim: bool = False) -> Tensor:
    """Euclidean norm. Its gradient at 0 is 0, not NaN, and squares neither underflow nor overflow."""
    if x.device.type == "cpu" and x.dtype in LONGEST and is_concrete(x) and x.numel():
        if x.stride(dim) == 1:
            r = torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim)
        else:  # 25 times as fast as torch's norm here
            r = x.square().sum(dim, keepdim=keepdim).sqrt()
        low, high = extremes(r)
        if low >= 1 / LONGEST[x.dtype] and high <= LONGEST[x.dtype]:
            return r
    scale = x.detach().abs().amax(dim, keepdim=True)
    zero = scale == 0
    scale = torch.where(zero, torch.ones_like(scale), scale)
    q = (x / scale).square().sum(dim, keepdim=True)
    r = torch.where(zero, torch.zeros_like(q), torch.where(zero, 1.0, q).sqrt() * scale)
    return r if keepdim else r.squeeze(dim)


def scalar(value: float, like: Tensor) -> Tensor:
    """A constant in the dtype and on the device of ``like``. Unlike ``like.new_full`` it is not mapped over
    inside vmap."""
    return torch.full((), value, dtype=like.dtype, device=like.device)


def long_vectors(v: Tensor) -> Tensor | None:
    """A mask, ``batch + (1,)``, of the vectors (last axis) whose squared length may overflow; ``None`` if
    there are none."""
    limit = LONGEST.get(v.dtype, 1e2)
    if v.numel() and v.device.type == "cpu" and is_concrete(v):
        low, high = extremes(v)
        if high <= limit and low >= -limit:
            return None
    long = v.detach().abs().amax(-1, keepdim=True) > limit
    return long if v.numel() and maybe_any(long) else None


def fewer_turns(v: Tensor, half_turn: Tensor | float = math.pi) -> Tensor:
    """``v``, where from vectors whose squared length would overflow whole turns (multiples of
    ``2 * half_turn`` along the vector) are subtracted."""
    long = long_vectors(v)
    if long is None:
        return v
    far = torch.where(long, v, 1.0)
    far = far / far.detach().abs().amax(-1, keepdim=True)
    axis = far / norm(far, keepdim=True)
    r = (torch.where(long, v, 1.0) * axis.detach()).sum(
        -1, keepdim=True
    )  # the length; its gradient is the axis
    angle = r * (math.pi / half_turn)
    # sine and cosine reduce the angle with the exact pi; remainder() would use a rounded one
    rest = torch.atan2(angle.sin(), angle.cos())
    return torch.where(long, axis * (rest * (half_turn / math.pi)), v)


def cut_short(v: Tensor) -> Tensor:
    """``v``, where vectors whose squared length would overflow are shortened to about the greatest length whose
    square does not."""
    long = long_vectors(v)
    if long is None:
        return v
    far = torch.where(long, v, 1.0)
    return torch.where(long, far / far.detach().abs().amax(-1, keepdim=True) * LONGEST.get(v.dtype, 1e2), v)


def safe_sqrt(s: Tensor) -> Tensor:
    """Square root whose derivatives of every order are 0, not infinite, at 0."""
    zero = s <= 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, s).sqrt())


def within(x: Tensor, low: float, high: float = math.inf) -> Tensor:
    """``x.clamp(low, high)`` with the derivative 1 *at* the bounds, for values that may be there but for rounding.
    That of torch's is 1 up to torch 2.13 and 0 in later versions."""
    x = torch.where(x < low, low, x)
    return x if high == math.inf else torch.where(x > high, high, x)


_FEW = 256  # numbers up to which NumPy, whose calls cost less, evaluates a polynomial
_NUMPY = (torch.float64, torch.float32)  # in these dtypes


def horner(coefficients: Sequence[float], s: Any) -> Any:
    """The polynomial with these coefficients, lowest power first, of a tensor or a NumPy array."""
    if len(coefficients) == 1:
        return (np if isinstance(s, np.ndarray) else torch).full_like(s, coefficients[0])
    if isinstance(s, Tensor) and can_write_inplace(s):
        if s.numel() <= _FEW and s.device.type == "cpu" and s.dtype in _NUMPY and type(s) is Tensor:
            with np.errstate(all="ignore"):
                return torch.from_numpy(horner(coefficients, s.numpy().reshape(-1))).reshape(s.shape)
    elif not isinstance(s, np.ndarray):
        out = coefficients[-1] * s + coefficients[-2]
        for c in reversed(coefficients[:-2]):
            out = out * s + c
        return out
    out = coefficients[-1] * s
    out += coefficients[-2]
    for c in reversed(coefficients[:-2]):
        out *= s
        out += c
    return out
