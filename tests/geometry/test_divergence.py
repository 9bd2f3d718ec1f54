"""Divergences and generators of isometries, on every geometry of the registry."""

import pytest
import torch
from cases import GEOMETRIES, GeometryCase
from torch import Tensor

from pyro_manifold.geometry import Geometry, geometry
from pyro_manifold.testing._tools import batch_jacobian
from pyro_manifold.transforms.divergence import divergence, probe, stretching
from pyro_manifold.transforms.jvp import forward_mode_jvp

D = torch.float64


def points(geo: Geometry, case: GeometryCase, n: int = 5) -> Tensor:
    torch.manual_seed(0)
    return geo.scatter((n,), case.event_shape(), dtype=D)


def wavy(geo: Geometry, case: GeometryCase):  # type: ignore[no-untyped-def]
    """A smooth tangent field without symmetry."""
    size = case.event_shape().numel()
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(size, size, generator=generator, dtype=D)

    def field(x: Tensor) -> Tensor:
        y = (0.7 * x.flatten(x.dim() - geo.event_dim) @ weight).sin() + 0.3
        return geo.project_tangent(x, y.reshape(x.shape))

    return field


def frames(geo: Geometry, x: Tensor) -> tuple[Tensor, Tensor]:
    dim = geo.dim(geo.event_shape(x))
    eye = torch.eye(dim, dtype=D)
    frame = torch.stack([geo.to_tangent(x, e.expand(len(x), dim)) for e in eye], 1)
    return frame, frame.flatten(2)


@pytest.mark.parametrize("case", GEOMETRIES, ids=lambda c: c.name)
def test_divergence_is_the_rate_at_which_volume_grows(case: GeometryCase) -> None:
    """Against the log-determinant, in orthonormal frames at both ends, of a short step of the field that is
    projected, differentiated in the length of the step by central differences."""
    geo = geometry(case.manifold())
    x, field = points(geo, case), wavy(geo, case)
    frame, flat = frames(geo, x)
    v, moved = forward_mode_jvp(field, x, frame, geo.event_dim, geo.event_dim)
    ours = divergence(geo, x, v, frame, moved)

    def log_volume(step: float) -> Tensor:
        move = lambda y: geo.project(y + step * field(y))  # noqa: E731
        y = move(x).detach()
        columns = batch_jacobian(move, x) @ flat.mT
        to = torch.stack([geo.from_tangent(y, c.reshape(y.shape)) for c in columns.unbind(-1)], -1)
        return torch.linalg.slogdet(to).logabsdet

    h = 1e-4
    slope = (8 * (log_volume(h) - log_volume(-h)) - (log_volume(2 * h) - log_volume(-2 * h))) / (12 * h)
    torch.testing.assert_close(ours, slope, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("case", GEOMETRIES, ids=lambda c: c.name)
def test_probes_have_the_identity_as_second_moment(case: GeometryCase) -> None:
    """Over all signs of the noise where they can be listed, exactly."""
    geo = geometry(case.manifold())
    x, size = points(geo, case, 3), case.event_shape().numel()
    noise = (size**0.5 * torch.eye(size, dtype=D)).reshape(
        size, *case.event_shape()
    )  # as an average over signs
    t = probe(geo, x, noise.expand(3, *noise.shape))
    z = torch.stack([geo.from_tangent(x, u) for u in t.unbind(1)], 1)
    expected = torch.eye(z.shape[-1], dtype=D).expand(3, -1, -1)
    torch.testing.assert_close(z.mT @ z / size, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("case", GEOMETRIES, ids=lambda c: c.name)
def test_probes_of_no_length_have_a_gradient(case: GeometryCase) -> None:
    """Noise of signs is along the normal now and then: at each second point of SO(2), whatever the point."""
    geo = geometry(case.manifold())
    x = points(geo, case, 3)
    for noise in (torch.zeros_like(x), x, torch.ones_like(x)):
        leaf = x.clone().requires_grad_()
        t = probe(geo, leaf, noise.detach().unsqueeze(1))
        assert t.isfinite().all()
        if t.requires_grad:
            assert torch.autograd.grad(t.square().sum() + t.sum(), leaf)[0].isfinite().all()


@pytest.mark.parametrize("case", GEOMETRIES, ids=lambda c: c.name)
def test_one_point_is_as_exact_as_many(case: GeometryCase) -> None:
    """Exponential map, its volume and its logarithm of one point, along vectors of any length up to 1, against those of
    a batch: torch's exponential of a single matrix has an error of 1e-10 in float64, see ops/matrix_exp.py."""
    geo = geometry(case.manifold())
    x = points(geo, case)
    v = torch.randn(len(x), geo.dim(case.event_shape()), dtype=D)
    for length in (0.01, 0.03, 0.05, 0.1, 0.3, 1.0):
        w = length * v / v.norm(dim=-1, keepdim=True)
        y = geo.exp_frame(x, w)
        one = torch.stack([geo.exp_frame(a, b) for a, b in zip(x, w, strict=True)])
        torch.testing.assert_close(one, y, rtol=1e-12, atol=1e-12)
        if geo.has_log:
            ours = torch.stack([geo.log_det_exp(a, b) for a, b in zip(x, w, strict=True)])
            torch.testing.assert_close(ours, geo.log_det_exp(x, w), rtol=1e-12, atol=1e-12)
            back = torch.stack([geo.log_frame(a, b) for a, b in zip(x, y, strict=True)])
            torch.testing.assert_close(back, geo.log_frame(x, y), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("case", GEOMETRIES, ids=lambda c: c.name)
def test_killing_fields_are_isometric_and_span_the_tangent_space(case: GeometryCase) -> None:
    """Their flow stretches no vector, so that they have no divergence."""
    geo = geometry(case.manifold())
    x = points(geo, case)
    fields = geo.killing_fields(x)
    if fields is None:
        pytest.skip("a manifold without known isometries")
    torch.testing.assert_close(
        geo.project_tangent(x.unsqueeze(1).expand_as(fields), fields), fields, rtol=1e-9, atol=1e-9
    )
    coordinates = torch.stack([geo.from_tangent(x, k) for k in fields.unbind(1)], 1)
    assert float(torch.linalg.svdvals(coordinates)[..., coordinates.shape[-1] - 1].min()) > 1e-3
    t = geo.random_tangent(x).unsqueeze(1)
    for i in range(0, fields.shape[1], 1 + fields.shape[1] // 4):
        v, moved = forward_mode_jvp(lambda y: geo.killing_fields(y)[:, i], x, t, geo.event_dim, geo.event_dim)  # type: ignore[index] # noqa: B023
        torch.testing.assert_close(
            stretching(geo, x, v, t, moved), torch.zeros(len(x), 1, dtype=D), rtol=0, atol=1e-8
        )
