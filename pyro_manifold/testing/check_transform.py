"""Does a transform keep torch's contract, with the Riemannian volume change as its log-determinant?"""

import pickle
from collections.abc import Callable, Collection
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform

from ..constraints import manifold_of
from ._autocast import autocast_of_map
from ._changes import moved, same, tensors_behind
from ._tools import batch_jacobian, close, finite, frame, log_volume_change
from .not_applicable import NotApplicable, run_checks

__all__ = ["TRANSFORM_CHECKS", "check_transform"]


def _has_inverse(t: Transform) -> bool:
    """A bijection, or an injective map with a left inverse."""
    return bool(t.bijective) or hasattr(t, "inverse_and_log_volume")


def _log_volume(t: Any, x: Tensor, y: Tensor) -> Tensor:
    """The log-determinant of a bijection; the log-volume of an injective map, which has none that torch may
    add up."""
    return t.log_abs_det_jacobian(x, y) if t.bijective else t.log_volume(x)


def _expected_volume(t: Transform, x: Tensor) -> Tensor:
    """By autodiff, in orthonormal frames; half logdet of the Gram matrix if dimension rises."""
    known = manifold_of(t.codomain) is not None or x[0].shape == t(x)[0].shape
    return log_volume_change(t, t.domain, t.codomain if known else None, x)


def _shapes(t: Transform, x: Tensor) -> None:
    """``forward_shape`` and ``inverse_shape``, event dimensions, values in the codomain, dtype kept."""
    y = t(x)
    assert y.dtype == x.dtype and y.device == x.device and type(y) is Tensor
    assert y.shape == t.forward_shape(x.shape), (
        f"forward_shape says {t.forward_shape(x.shape)}, the value has {y.shape}"
    )
    batch = x.shape[: x.dim() - t.domain.event_dim]
    assert bool(t.codomain.check(y).all()), f"values outside {t.codomain}"
    assert _log_volume(t, x, y).shape == batch
    more = t(x.unsqueeze(0).expand((3,) + x.shape))
    close(more, y.expand(more.shape), "a further batch axis changes the result")
    for lead in (torch.Size(), x.shape[:1], more.shape[:2]):  # no batch axis, one and two
        before, after = lead + x.shape[1:], lead + y.shape[1:]
        assert t.forward_shape(before) == after, (
            f"forward_shape of {before} is {t.forward_shape(before)}, not {after}"
        )
        if _has_inverse(t):
            assert t.inverse_shape(after) == before, (
                f"inverse_shape of {after} is {t.inverse_shape(after)}, not {before}"
            )


def _inverse(t: Transform, x: Tensor) -> None:
    """``inv`` undoes the map, with a cache and without; both directions have opposite log-determinants."""
    if not _has_inverse(t):
        raise NotApplicable("the map has no inverse")
    cached = t.with_cache()
    assert cached == t, "a transform with a cache is not equal to itself without"
    close(t.inv(t(x).clone()), x, "the inverse does not undo the map", 100)
    close(cached.inv(cached(x)), x, "the inverse with a cache does not undo the map", 100)
    if t.bijective:
        y = t(x)
        close(
            t.inv.log_abs_det_jacobian(y, x),
            -t.log_abs_det_jacobian(x, y),
            "log-determinants of map and inverse",
            100,
        )


def _volume_change(t: Transform, x: Tensor) -> None:
    """The log-determinant is autodiff's, of tensors from anywhere and of the very pair that the map or its
    inverse has just made (and may remember), each asked for twice."""
    tolerance = 1 if x.dtype == torch.float64 else 30
    expected = beyond = _expected_volume(t, x)
    at = x
    close(_log_volume(t, x, t(x).clone()), expected, "log-determinant", tolerance)
    for s in (t, t.with_cache(1)) if _has_inverse(t) else ():
        y = s(x)
        for _ in range(2):
            what = "log-determinant of the pair that the map made"
            close(_log_volume(s, x, y), expected, what, tolerance)
        z = y.clone()
        back = s.inv(z)
        if not torch.equal(back, at):  # a second Jacobian only where rounding has moved the point
            at, beyond = back.detach(), _expected_volume(t, back.detach())
        for _ in range(2):
            what = "log-determinant of the pair that the inverse made"
            close(_log_volume(s, back, z), beyond, what, tolerance)


def _jvp(t: Any, x: Tensor) -> None:
    """``jvp`` gives the value, and along tangent vectors of the domain, one more than its dimension and none along
    an axis, the derivative that autodiff gives."""
    if not hasattr(t, "jvp"):
        raise NotApplicable("the map has no jvp of its own")
    axes = frame(t.domain, x)
    generator = torch.Generator().manual_seed(0)
    shape = (len(x), axes.shape[1] + 1, axes.shape[1])
    vectors = torch.randn(shape, generator=generator, dtype=torch.float64).to(axes) @ axes
    y, moved = t.jvp(x, vectors.reshape(vectors.shape[:2] + x.shape[1:]))
    close(y, t(x), "the value that jvp gives")
    expected = vectors @ batch_jacobian(t, x).mT
    close(moved.flatten(2), expected, "the derivative along tangent vectors", 10)


def _changed_values(t: Transform, x: Tensor) -> None:
    """The inverse and the log-determinant of a pair that the map made are those of copies of it, whichever
    tensor behind it (x, y, a parameter; at most eight of these, evenly spaced) has changed in place since; so
    are gradients in the parameters where the pair was made without."""
    if not _has_inverse(t):
        raise NotApplicable("the map has no inverse")
    agree = same if getattr(t, "exact", True) else close  # map and inverse are solved for apart
    t = t.with_cache(1)
    parameters = list(tensors_behind(t))
    for name in ["x", "y", *(name for name, _ in parameters[:: 1 + len(parameters) // 8])]:
        with torch.no_grad():
            z = x.clone()
            y = t(z)
            tensor = {"x": z, "y": y, **dict(parameters)}[name]
            with moved(tensor):
                back = t.inv(y)
                volume = _log_volume(t, back, y)
                agree(back, t.inv(y.clone()), f"the inverse after {name} changed in place")
                what = f"the log-determinant after {name} changed in place"
                agree(volume, _log_volume(t, back.clone(), y.clone()), what)
    leaves = [p for _, p in parameters if p.requires_grad]
    if not leaves:
        return
    with torch.no_grad():
        y = t(x)
    values = [t.inv(value).sum() for value in (y, y.clone())]
    grads = [torch.autograd.grad(v, leaves, materialize_grads=True) for v in values if v.requires_grad]
    assert len(grads) in (0, 2), (
        "the inverse of a value made without a graph has no gradient in the parameters"
    )
    for ours, wanted in zip(*grads, strict=True) if grads else ():
        close(ours, wanted, "the gradient of the inverse in a parameter", 100)


def _gradients(t: Transform, x: Tensor) -> None:
    """Gradients of value and log-determinant are finite, the one in each element depending on that element
    alone."""
    x = x.detach().requires_grad_()
    y = t(x)
    (g,) = torch.autograd.grad(y.sum() + _log_volume(t, x, y).sum(), x, retain_graph=True)
    finite(g, "gradient")
    (g,) = torch.autograd.grad(y[0].sum(), x)
    assert not bool(g[1:].any()), "elements of the batch are mixed"


def _pickling(t: Transform, x: Tensor) -> None:
    """A pickled transform comes back and gives the same values."""
    close(pickle.loads(pickle.dumps(t))(x), t(x), "the value after pickling")


def _composition(t: Transform, x: Tensor) -> None:
    """Inside a ``TransformedDistribution`` a bijection gives the base's density less autodiff's
    log-determinant; an injective map refuses to, since torch would add it to other layers', and its inverse
    shape leads back."""
    if not _has_inverse(t) or t.domain is not dist.constraints.real_vector:
        raise NotApplicable("not a map of real vectors with an inverse")
    base = dist.Normal(torch.zeros_like(x[0]), 0.1).to_event(x.dim() - 1)
    d = dist.TransformedDistribution(base, [t])
    assert d.event_shape == t(x).shape[1:]
    z = base.sample((5,))
    y = t(z).detach()
    assert d.sample((5,)).shape == y.shape
    if t.bijective:
        expected = base.log_prob(z) - _expected_volume(t, z)
        close(
            d.log_prob(y),
            expected,
            "log_prob of a transformed distribution",
            10 if x.dtype == torch.float64 else 100,
        )
        return
    for chain in ([t], [t, torch.distributions.ExpTransform()]):
        try:
            dist.TransformedDistribution(base, chain).log_prob(y.exp())
        except ValueError:
            continue
        raise AssertionError(
            "log_prob of a chain with an injective map is a number: the volume of the map was added up"
        )


TRANSFORM_CHECKS: dict[str, Callable[[Transform, Tensor], None]] = {
    f.__name__.strip("_"): f
    for f in (
        _shapes,
        _inverse,
        _volume_change,
        _jvp,
        _changed_values,
        _gradients,
        _pickling,
        _composition,
        autocast_of_map,
    )
}


def check_transform(transform: Transform, x: Tensor, skip: Collection[str] = ()) -> dict[str, str]:
    """Run every check of :data:`TRANSFORM_CHECKS`.

    :param Transform transform: without batch parameters.
    :param Tensor x: points of its domain, shape ``(n,) + event``, n >= 2.
    :param skip: names of checks to leave out.
    :returns: the checks that do not apply, each with its reason.
    :raises AssertionError: naming what does not hold and by how much.

    >>> from pyro_manifold.transforms import ExpMap
    >>> check_transform(ExpMap(geoopt.Sphere(), torch.eye(3)[0]), 0.5 * torch.randn(4, 2))
    {}
    """
    return run_checks(TRANSFORM_CHECKS, skip, transform, x)
