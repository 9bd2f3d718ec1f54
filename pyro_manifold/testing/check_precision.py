"""At extreme parameters, is everything finite, and is float32 as good as its rounding?"""

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence

from ..constraints import manifold_of
from ..distributions import ManifoldUniform
from ._tools import finite
from ._types import Make, Params

__all__ = ["check_precision"]

_ROUNDINGS = 64  # the most roundings of float32 by which a summary may be off, in units of its own size
_SUMMARIES = ("entropy", "mean", "variance", "divergence")


def _uniform(d: TorchDistribution, dtype: torch.dtype) -> TorchDistribution | None:
    manifold = manifold_of(d.support)
    try:
        return None if manifold is None else ManifoldUniform(manifold, d.event_shape, dtype=dtype)
    except ValueError:  # of infinite volume
        return None


def _summary(d: TorchDistribution, name: str, dtype: torch.dtype) -> Tensor | None:
    """Entropy, mean, variance, or the divergence from the uniform distribution; None where the distribution
    has none."""
    try:
        if name == "divergence":
            uniform = _uniform(d, dtype)
            return None if uniform is None else kl_divergence(d, uniform)
        value = getattr(d, name)
        return value() if callable(value) else value
    except NotImplementedError:
        return None


def _near(single: Tensor, exact: Tensor, what: str, size: Tensor) -> None:
    error = (single.double() - exact).abs()
    allowed = (
        _ROUNDINGS * torch.finfo(torch.float32).eps * size + 100 * torch.finfo(torch.float32).smallest_normal
    )
    worst = _ROUNDINGS * float((error / allowed).max())
    assert worst <= _ROUNDINGS, f"{what} in float32 is off by {worst:.3g} roundings"


def check_precision(make: Make, params: Params) -> None:
    r"""Density and summaries in float32 against float64 at the *same* parameters, and finite gradients in
    both.

    Entropy, mean, variance and the Kullback-Leibler divergence from the uniform distribution, where the
    distribution has them, may be off by 64 roundings, relative to their own size; the divergence and
    variances must not be negative. The log density of draws may be off by 64 roundings of its own size and
    that of the log density at the mode.

    :param make: called with the parameters as keywords, returns the distribution.
    :param params: its tensors by name; they are rounded to float32 first, whose ends they may come near.
    :raises AssertionError: naming what is not finite, negative or off, and by how much.

    >>> from pyro_manifold.distributions import VonMisesFisher
    >>> loc = torch.tensor([1.0, 0.0, 0.0])
    >>> for k in (0.0, 1e-8, 1e19, 1e37):
    ...     check_precision(VonMisesFisher, dict(loc=loc, concentration=torch.tensor(k)))
    """
    rounded = {k: v.detach().float() for k, v in params.items()}
    with pyro.validation_enabled(
        False
    ):  # points that are rounded to float32 are not on the manifold in float64
        _compare(make, rounded)


def _compare(make: Make, rounded: Params) -> None:
    both: list[tuple[dict[str, Tensor], Tensor]] = []
    for dtype in (torch.float32, torch.float64):
        leaves = {k: v.to(dtype).requires_grad_() for k, v in rounded.items()}
        d = make(**leaves)
        x = (both[0][1].double() if both else d.sample((64,))).requires_grad_()
        lp = d.log_prob(x)
        finite(x, f"draws in {dtype}")
        finite(lp, f"log_prob of draws in {dtype}")
        outputs = {"log_prob": lp} | {n: s for n in _SUMMARIES if (s := _summary(d, n, dtype)) is not None}
        for name, value in outputs.items():
            finite(value, f"{name} in {dtype}")
            if (
                value.requires_grad and name != "variance"
            ):  # of a function of a first derivative there may be none
                grads = torch.autograd.grad(
                    value.sum(), [x, *leaves.values()], retain_graph=True, allow_unused=True
                )
                for what, g in zip(["value", *leaves], grads, strict=True):
                    if g is not None:
                        finite(g, f"gradient of {name} in {what}, {dtype}")
        both.append(({name: value.detach() for name, value in outputs.items()}, x.detach()))
    single, exact = both[0][0], both[1][0]
    for name, value in exact.items():
        if name in ("variance", "divergence"):
            for sign in (value, single[name]):
                assert bool((sign >= 0).all()), f"{name} is negative: {float(sign.min())}"
        size = value.abs().amax() if name != "log_prob" else value.abs() + value.amax().abs() + 1
        _near(single[name], value, name, size)
