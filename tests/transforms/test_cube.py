"""Maps from the cube carry uniform to uniform, invert at seams and poles, and stay finite at every face. The
generic checks run from cases.py."""

import math

import pytest
import scipy.stats
import torch

from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.transforms import CubeToRotations, CubeToSphere, CubeToTorus, LeftMultiplication

D = torch.float64
MAPS = {
    "circle": CubeToSphere(1),
    "S2": CubeToSphere(2),
    "S3": CubeToSphere(3),
    "S6": CubeToSphere(6),
    "T2": CubeToTorus(2),
    "SO3": CubeToRotations(),
}
maps = pytest.mark.parametrize("phi", MAPS.values(), ids=MAPS)


def rotations(*batch: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return geometry(SpecialOrthogonal(3)).uniform_sample(batch, (3, 3), dtype=dtype)


@maps
def test_uniform_becomes_uniform(phi) -> None:
    """Kolmogorov-Smirnov of the distances from one point, against draws of the manifold's own sampler, for three
    points: false alarms below 3e-6 each (p < 1e-6), at a fixed seed."""
    torch.manual_seed(0)
    geo = phi.codomain.geometry
    n = 4000
    pushed = phi(torch.rand(n, phi.dim, dtype=D))
    assert geo.contains(pushed).all()
    own = geo.uniform_sample((n,), phi.point_shape, dtype=D)
    for centre in geo.uniform_sample((3,), phi.point_shape, dtype=D):
        distances = [geo.dist(centre.expand_as(points), points).numpy() for points in (pushed, own)]
        assert scipy.stats.ks_2samp(*distances).pvalue > 1e-6


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_moments_of_the_sphere_by_quadrature(dim) -> None:
    """The integral over the cube of x_i x_j is the mean over the sphere, delta_ij / (d + 1). Gauss-Legendre in the
    heights (in powers of which the moments are smooth enough), the midpoint rule in the angles."""
    phi = CubeToSphere(dim)
    nodes, weights = (torch.as_tensor(a) for a in scipy.special.roots_legendre(12))
    height = ((nodes + 1) / 2, weights / 2)
    angle = ((torch.arange(6, dtype=D) + 0.5) / 6, torch.full((6,), 1 / 6, dtype=D))
    # heights stand at positions 0, 2, ..., except that the last axis of an odd sphere is an angle
    axes = [height if i % 2 == 0 and not (i == dim - 1) else angle for i in range(dim)]
    t = torch.cartesian_prod(*[a for a, _ in axes])
    w = torch.cartesian_prod(*[b for _, b in axes]).prod(-1)
    x = phi(t)
    second = torch.einsum("n,ni,nj->ij", w, x, x)
    expected = torch.eye(dim + 1, dtype=D) / (dim + 1)
    # s^2 = t^(2 / (d - 1)) is no polynomial beyond S^3: 12 nodes give 1e-3
    torch.testing.assert_close(second, expected, rtol=0, atol=1e-12 if dim < 4 else 1e-3)


@maps
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_faces_and_corners(phi, dtype) -> None:
    """Values, inverses and gradients are finite there, and the inverse gives a point that is sent to the same."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=dtype)] * phi.dim).reshape(-1, phi.dim)
    faces = torch.rand(20, phi.dim, dtype=dtype)
    faces[torch.arange(20), torch.arange(20) % phi.dim] = torch.tensor([0.0, 1.0], dtype=dtype).repeat(10)
    t = torch.cat([corners, faces]).requires_grad_()
    y = phi(t)
    (g,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), t)
    assert y.isfinite().all() and g.isfinite().all()
    y = y.detach().requires_grad_()
    back = phi.inv(y)
    assert ((back >= 0) & (back <= 1)).all()
    (g,) = torch.autograd.grad((back * torch.randn_like(back)).sum(), y)
    assert g.isfinite().all()
    geo = phi.codomain.geometry
    assert geo.dist(phi(back.detach()), y.detach()).max() < 20 * torch.finfo(dtype).eps ** (
        0.5 if phi.dim > 2 else 1
    )


@maps
def test_seams_are_glued(phi) -> None:
    """Where an angle begins and ends the images are the same point."""
    seams = {"S2": [1], "S3": [1, 2], "S6": [1, 3, 5], "T2": [0, 1], "SO3": [1, 2], "circle": [0]}
    (name,) = [k for k, v in MAPS.items() if v is phi]
    t = torch.rand(10, phi.dim, dtype=D)
    for axis in seams[name]:
        ends = []
        for value in (0.0, 1.0):
            u = t.clone()
            u[:, axis] = value
            ends.append(phi(u))
        assert phi.codomain.geometry.dist(*ends).max() < 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("dim", [64, 1024])
def test_many_dimensions(dim, dtype) -> None:
    torch.manual_seed(0)
    phi = CubeToSphere(dim)
    y = phi(torch.rand(50, dim, dtype=dtype))
    eps = torch.finfo(dtype).eps
    assert (y.norm(dim=-1) - 1).abs().max() < 20 * eps
    torch.testing.assert_close(phi(phi.inv(y)), y, rtol=0, atol=20 * eps)
    # a coordinate of a uniform point has mean square 1 / (dim + 1)
    assert abs(float(phi(torch.rand(2000, dim, dtype=dtype)).square()[:, ::7].mean()) * (dim + 1) - 1) < 0.05


def test_left_multiplication_is_the_group() -> None:
    a, b, c = rotations(3, dtype=D)
    torch.testing.assert_close(LeftMultiplication(a)(LeftMultiplication(b)(c)), LeftMultiplication(a @ b)(c))
    geo = geometry(LeftMultiplication(a).domain.manifold)
    torch.testing.assert_close(geo.dist(LeftMultiplication(a)(b), LeftMultiplication(a)(c)), geo.dist(b, c))


def test_empty_batch_and_batch_of_matrices() -> None:
    for phi in MAPS.values():
        y = phi(torch.zeros(0, phi.dim))
        assert y.shape == (0, *phi.point_shape) and phi.inv(y).shape == (0, phi.dim)
        assert phi.log_volume(torch.zeros(0, phi.dim)).shape == (0,)
    action = LeftMultiplication(rotations(4, 1))
    assert action(rotations(5)).shape == (4, 5, 3, 3) == action.forward_shape(torch.Size([5, 3, 3]))


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: CubeToSphere(0), "dim: got 0"),
        (lambda: CubeToSphere(2)(torch.tensor([1.5, 0.0])), r"value: got 1.5.*\[0, 1\].*Clamp"),
        (lambda: CubeToSphere(2)(torch.tensor([math.nan, 0.0])), r"value: got nan"),
        (lambda: CubeToTorus(2)(torch.zeros(3)), r"value: got shape \(3,\); expected points of the cube, 2"),
        (
            lambda: CubeToRotations().inv(torch.zeros(3)),
            r"value: got shape \(3,\); expected points of SO\(3\)",
        ),
        (lambda: LeftMultiplication(-torch.eye(3)), "matrix: .*determinant 1.*sign of one column"),
        (lambda: LeftMultiplication(torch.ones(3, 3)), "matrix: .*orthogonal"),
    ],
)
def test_bad_input(call, match) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_reflections_are_no_rotations() -> None:
    """However their determinant is rounded."""
    for _ in range(20):
        r = rotations(1)[0]
        with pytest.raises(ValueError, match="determinant 1"):
            LeftMultiplication(torch.cat([-r[:, :1], r[:, 1:]], -1))
