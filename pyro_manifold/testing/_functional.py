"""Does ``torch.func`` see the density that a loop and plain autograd see?"""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.func import hessian, jacfwd, jacrev, vmap

from ..constraints import manifold_of
from ..geometry import geometry
from ._tools import close, finite
from ._types import Make, Params


def _double(params: Params) -> Params:
    return {k: x.double() for k, x in params.items()}


def _log_prob(make: Make, params: Params) -> Callable[..., Tensor]:
    """log_prob as a function of the value and each parameter."""
    return lambda x, *values: make(**dict(zip(params, values, strict=True))).log_prob(x)


def _variants(make: Make, params: Params, n: int) -> dict[str, list[Tensor]]:
    """``n`` valid values of each parameter: draws for a point of the manifold, multiples of others where
    those are valid."""
    d = make(**params)
    out = {}
    for name, x in params.items():
        others = (
            list(d.sample((n,)))
            if name == "loc" and x.shape == d.event_shape
            else [x * (1 - 0.1 * i) for i in range(n)]
        )
        try:
            for y in others:
                make(**{**params, name: y})
        except ValueError:
            others = [x] * n
        out[name] = others
    return out


def mapping(make: Make, params: Params) -> None:
    """``torch.func.vmap`` of log_prob, over values and over parameters, is a loop; validation is on and sees
    all of them."""
    params, n = _double(params), 3
    with pyro.validation_enabled(True):
        log_prob, x = _log_prob(make, params), make(**params).sample((n,))
        fixed = list(params.values())
        close(
            vmap(lambda y: log_prob(y, *fixed))(x),
            torch.stack([log_prob(y, *fixed) for y in x]),
            "vmap over values",
        )
        variants = _variants(make, params, n)
        expected = (
            torch.stack([log_prob(x[0], *values) for values in zip(*variants.values(), strict=True)])
            if params
            else None
        )
        if expected is not None:
            stacked = [torch.stack(v) for v in variants.values()]
            close(vmap(lambda *p: log_prob(x[0], *p))(*stacked), expected, "vmap over parameters")
        x[1] = torch.nan
        try:
            vmap(lambda y: log_prob(y, *fixed))(x)
        except ValueError:
            return
        raise AssertionError("mapped over values, log_prob accepts one that is NaN")


def _path(make: Make, params: Params, name: str, at: Tensor) -> tuple[Tensor, Callable[[float], Tensor]]:
    """A direction in which one argument moves, and the curve: a geodesic for a point of the manifold, else a
    straight line."""
    step = (
        torch.linspace(0.5, 1.0, max(1, at.numel()), dtype=at.dtype, device=at.device).cos().reshape(at.shape)
    )
    d = make(**params)
    manifold = manifold_of(d.support)
    if manifold is None or name not in ("value", "loc") or at.shape != d.event_shape:
        return step, lambda h: at + h * step
    geo = geometry(manifold)
    v = step.reshape(-1)[: geo.dim(d.event_shape)]
    return geo.to_tangent(at, v), lambda h: geo.exp_frame(at, h * v)


def _along_a_geodesic(d: Any, x: Tensor) -> None:
    r"""Both derivatives in t of log_prob at :math:`\exp_x(tv)`, which no continuation off the manifold
    enters, against fourth-order differences of log_prob itself."""
    manifold = manifold_of(d.support)
    if manifold is None:
        return
    geo = geometry(manifold)
    v = torch.linspace(0.5, 1.0, geo.dim(d.event_shape), dtype=x.dtype, device=x.device).cos()
    v = v / v.norm()

    def line(t: Tensor) -> Tensor:
        return d.log_prob(geo.exp_frame(x, t * v))

    h, zero = 4e-3, x.new_zeros(())
    a, b, c, e, f = (line(x.new_tensor(i * h)) for i in (-2, -1, 0, 1, 2))
    first, second = (8 * (e - b) - (f - a)) / (12 * h), (16 * (b + e) - (a + f) - 30 * c) / (12 * h * h)
    for order, actual, expected in (
        ("first", jacrev(line)(zero), first),
        ("second", hessian(line)(zero), second),
    ):
        error = float((actual - expected).abs()) / (1 + float(expected.abs()))
        assert error < 1e-6, f"{order} derivative along a geodesic is off by {error:.1g}"


def derivatives(make: Make, params: Params) -> None:
    """``jacrev`` and ``jacfwd`` of log_prob are autograd's gradient, ``hessian`` is the slope of that
    gradient (central differences), and both are those along a geodesic; in the value and every parameter, in
    float64, validated."""
    params = _double(params)
    log_prob = _log_prob(make, params)
    draws = make(**params).sample((9,))
    x = draws[
        int(make(**params).log_prob(draws).median(0).indices)
    ]  # away from poles, where differences say nothing
    names, leaves = ["value", *params], [x, *params.values()]
    every = tuple(range(len(leaves)))

    def gradient(at: list[Tensor]) -> list[Tensor]:
        at = [t.detach().clone().requires_grad_() for t in at]
        lp = log_prob(*at)
        if not lp.requires_grad:  # constant: a uniform distribution
            return [torch.zeros_like(t) for t in at]
        return list(torch.autograd.grad(lp, at, materialize_grads=True))

    with pyro.validation_enabled(True):
        expected = gradient(leaves)
        for f in (jacrev, jacfwd):
            for name, g, e in zip(names, f(log_prob, every)(*leaves), expected, strict=True):
                close(g, e, f"{f.__name__} in {name}")
        second = [[block.detach() for block in row] for row in hessian(log_prob, every)(*leaves)]
    h = 1e-5
    with pyro.validation_enabled(False):  # a frame that moves along a line is none
        for i, (name, row) in enumerate(zip(names, zip(*second, strict=True), strict=True)):
            step, curve = _path(make, params, names[i], leaves[i])
            ahead, behind = (
                gradient([curve(s * h) if j == i else t for j, t in enumerate(leaves)]) for s in (1.0, -1.0)
            )
            for other, block, a, b in zip(names, row, ahead, behind, strict=True):
                finite(block, f"hessian in {other} and {name}")
                slope = (block * step).flatten(a.dim()).sum(-1) if step.dim() else block * step
                size = 1 + max(float(g.abs().max()) for g in (*ahead, block))
                error = float((slope - (a - b) / (2 * h)).abs().max()) / size
                assert error < 1e-6, f"hessian in {other} and {name} is off by {error:.1g} of the gradient"
        _along_a_geodesic(make(**params), x)
