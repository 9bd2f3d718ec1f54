"""Batch shapes: a distribution with parameters of any batch shapes is the loop over its elements, of which
there may be none."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ._protocol import batched
from ._tools import close
from ._types import Make, Params

_FULL = (3, 2)
_BATCHES = {(): (slice(1), slice(1)), (2,): (slice(1), slice(2)), (3, 1): (slice(3), slice(1))}


def _made(make: Make, params: Params) -> Any:
    """The distribution, of which a network may be part: with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(**params)


def _several(make: Make, params: Params) -> Params:
    """3 x 2 different values of every parameter, ``(3, 2) + its shape``, if such can be guessed."""
    out = {}
    for name, x in params.items():
        d = _made(make, params)
        ones = x.new_ones(_FULL + (1,) * x.dim())
        steps = torch.linspace(0.92, 1.08, 6, dtype=x.dtype, device=x.device).reshape(ones.shape)
        signs = torch.where(torch.arange(6, device=x.device).reshape(ones.shape) % 2 == 0, ones, -ones)
        candidates = [x * steps, x * signs, x * ones]
        if name == "loc" and x.shape == d.event_shape:
            candidates = [d.sample(_FULL), x * ones]
        for values in candidates:
            try:
                for y in values.flatten(0, 1):
                    _made(make, {**params, name: y})
            except ValueError:  # not a value of this parameter: a point elsewhere, a frame that is none
                continue
            out[name] = values
            break
    return out


def _part(values: Tensor, batch: tuple[int, ...]) -> Tensor:
    rows, columns = _BATCHES[batch]
    part = values[rows, columns]
    return part.reshape(torch.Size(batch) + part.shape[2:])


def _index(batch: tuple[int, ...], i: int, j: int) -> tuple[int, int]:
    return (i if batch == (3, 1) else 0), (j if batch == (2,) else 0)


def _assignments(n: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Batch shapes of n things: all nine pairs for any two of them, by an orthogonal array where there are
    more."""
    shapes = list(_BATCHES)
    if n > 4:
        yield from itertools.product(shapes, repeat=n)
        return
    for a, b in itertools.product(range(3), repeat=2) if n > 1 else ((a, 0) for a in range(3)):
        yield tuple(shapes[i] for i in (a, b, (a + b) % 3, (a + 2 * b) % 3)[:n])


def broadcasting(make: Make, params: Params) -> None:
    """log_prob is the loop over batch elements, for every pair of batch shapes that any two of parameters and
    value may have, and after ``expand``."""
    values = _several(make, params)
    x = _made(make, params).sample(_FULL)
    known: dict[tuple[tuple[int, int], ...], Tensor] = {}
    for batches in _assignments(len(params) + 1):
        *of_params, of_x = batches
        some = {k: _part(v, b) for (k, v), b in zip(values.items(), of_params, strict=True)}
        full = torch.broadcast_shapes(*batches)
        d = _made(make, some)
        assert d.batch_shape == torch.broadcast_shapes(*of_params), (
            f"batch_shape {d.batch_shape} of parameters with {of_params}"
        )
        expected = x.new_empty(full)
        for at in itertools.product(*(range(n) for n in full)):
            i, j = ((0,) * (2 - len(at)) + at) if len(full) < 2 else at
            key = tuple(_index(b, i, j) for b in batches)
            if key not in known:
                one = _made(make, {k: v[a] for (k, v), a in zip(values.items(), key, strict=False)})
                known[key] = one.log_prob(x[key[-1]])
                assert known[key].shape == (), "log_prob of one value under one set of parameters has a batch"
            expected[at] = known[key]
        what = f"log_prob with batches {dict(zip(params, of_params, strict=True))} and value {of_x}"
        close(d.log_prob(_part(x, of_x)), expected, what, 10)
        if d.batch_shape != full:
            close(d.expand(full).log_prob(_part(x, of_x)), expected, f"expand to {tuple(full)}: {what}", 10)


def empty_batches(make: Make, params: Params) -> None:
    """No parameters or no values: draws, densities, gradients and moments, where there are any, have no
    elements."""
    for batch in ((0,), (2, 0)) if params else ():
        leaves = {k: v.detach().clone().requires_grad_() for k, v in batched(params, *batch).items()}
        d = _made(make, leaves)
        assert d.batch_shape == torch.Size(batch)
        for sample_shape in ((), (3,)):
            x = d.rsample(sample_shape) if d.has_rsample else d.sample(sample_shape)
            assert x.shape == torch.Size(sample_shape) + d.shape() and d.sample(sample_shape).shape == x.shape
            for y in (x, x.detach().clone()):
                lp = d.log_prob(y)
                assert lp.shape == torch.Size(sample_shape) + d.batch_shape
                if lp.requires_grad:
                    torch.autograd.grad(lp.sum(), list(leaves.values()), allow_unused=True)
        for name in ("entropy", "mean", "variance", "mode", "frechet_mean"):
            try:
                moment = getattr(d, name, None)
                moment = moment() if callable(moment) else moment
            except NotImplementedError:
                continue
            assert moment is None or moment.shape[: len(batch)] == torch.Size(batch), (
                f"{name}: shape {tuple(moment.shape)}"
            )
    d = _made(make, params)
    x = d.sample((0,))
    assert x.shape == (0,) + d.shape() and d.log_prob(x).shape == (0,) + d.batch_shape
    assert d.log_prob(x.clone()).shape == (0,) + d.batch_shape
