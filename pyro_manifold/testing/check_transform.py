"""Does a transform keep torch's contract, with the Riemannian volume change as its log-determinant?"""

import pickle
from collections.abc import Callable, Collection

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Transform

from ..constraints import manifold_of
from ._tools import close, finite, log_volume_change
from .not_applicable import NotApplicable, run_checks

__all__ = ["TRANSFORM_CHECKS", "check_transform"]


def _shapes(t: Transform, x: Tensor) -> None:
    """``forward_shape`` and ``inverse_shape``, event dimensions, values in the codomain, dtype kept."""
    y = t(x)
    assert y.dtype == x.dtype and y.device == x.device and type(y) is Tensor
    assert y.shape == t.forward_shape(x.shape), f"forward_shape says {t.forward_shape(x.shape)}, the value has {y.shape}"
    batch = x.shape[: x.dim() - t.domain.event_dim]
    assert bool(t.codomain.check(y).all()), f"values outside {t.codomain}"
    assert t.log_abs_det_jacobian(x, y).shape == batch
    more = t(x.unsqueeze(0).expand((3,) + x.shape))
    close(more, y.expand(more.shape), "a further batch axis changes the result")
    if t.bijective:
        assert t.inverse_shape(y.shape) == x.shape


def _inverse(t: Transform, x: Tensor) -> None:
    """``inv`` undoes the map; both directions have opposite log-determinants; the cache returns the very tensor."""
    if not t.bijective:
        raise NotApplicable("the map has no inverse")
    y = t(x)
    close(t.inv(y), x, "the inverse does not undo the map", 100)
    close(t.inv.log_abs_det_jacobian(y, x), -t.log_abs_det_jacobian(x, y), "log-determinants of map and inverse", 100)
    cached = t.with_cache(1)
    assert cached.inv(cached(x)) is x, "with_cache(1) does not cache"
    assert cached == t, "a transform with a cache is not equal to itself without"


def _volume_change(t: Transform, x: Tensor) -> None:
    """``log_abs_det_jacobian`` against autodiff in orthonormal frames; half logdet of the Gram matrix if dimension rises."""
    known = manifold_of(t.codomain) is not None or x[0].shape == t(x)[0].shape
    expected = log_volume_change(t, t.domain, t.codomain if known else None, x)
    close(t.log_abs_det_jacobian(x, t(x)), expected, "log_abs_det_jacobian", 1 if x.dtype == torch.float64 else 30)


def _gradients(t: Transform, x: Tensor) -> None:
    """Gradients of value and log-determinant are finite, the one in each element depending on that element alone."""
    x = x.detach().requires_grad_()
    y = t(x)
    (g,) = torch.autograd.grad(y.sum() + t.log_abs_det_jacobian(x, y).sum(), x, retain_graph=True)
    finite(g, "gradient")
    (g,) = torch.autograd.grad(y[0].sum(), x)
    assert not bool(g[1:].any()), "elements of the batch are mixed"


def _pickling(t: Transform, x: Tensor) -> None:
    """A pickled transform comes back and gives the same values."""
    close(pickle.loads(pickle.dumps(t))(x), t(x), "the value after pickling")


def _composition(t: Transform, x: Tensor) -> None:
    """It works inside a ``TransformedDistribution`` over a law on its domain."""
    if not t.bijective or t.domain is not dist.constraints.real_vector:
        raise NotApplicable("not a bijection from real vectors")
    base = dist.Normal(torch.zeros_like(x[0]), 0.1).to_event(x.dim() - 1)
    d = dist.TransformedDistribution(base, [t])
    assert d.event_shape == t(x).shape[1:]
    y = d.sample((5,))
    finite(d.log_prob(y), "log_prob of a transformed distribution")


TRANSFORM_CHECKS: dict[str, Callable[[Transform, Tensor], None]] = {
    f.__name__.strip("_"): f for f in (_shapes, _inverse, _volume_change, _gradients, _pickling, _composition)
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
