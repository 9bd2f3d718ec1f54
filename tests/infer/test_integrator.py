"""The integrator as Mici tests its own: reversible, of order 2, volume preserving, on the manifold, without side effects."""

import geoopt
import pytest
import torch

from pyro_manifold.geometry import geometry
from pyro_manifold.infer.mcmc.integrators import geodesic_leapfrog
from pyro_manifold.infer.mcmc.systems import System

F64 = torch.float64
MANIFOLDS = {
    "sphere": (lambda: geoopt.Sphere(), 2),
    "sphere9": (lambda: geoopt.Sphere(), 9),
    "ball": (lambda: geoopt.PoincareBall(c=torch.tensor(0.7, dtype=F64)), 2),
    "hyperboloid": (lambda: geoopt.Lorentz(k=torch.tensor(1.3, dtype=F64)), 3),
    "product": (lambda: geoopt.ProductManifold((geoopt.Sphere(), 3), (geoopt.PoincareBall(), 2)), 4),
}


def make(name, chains=5, plate=2):
    """A system with a manifold site in a plate, a Euclidean site, unequal scales; and a start with momentum."""
    make_manifold, dim = MANIFOLDS[name]
    manifold = make_manifold()
    geo = geometry(manifold)
    torch.manual_seed(0)
    shape = geo.point_shape(dim)
    origin = geo.origin(dim, dtype=F64).expand((chains, plate) + shape)
    x = geo.exp_frame(origin, 0.5 * torch.randn(chains, plate, dim, dtype=F64))
    centre = geo.exp_frame(origin[0, 0], 0.4 * torch.ones(dim, dtype=F64))

    def potential(z):
        d2 = geo.dist(z["x"], centre.expand_as(z["x"])).square().sum(-1)
        return d2 * (1 + 0.3 * z["y"][:, 0]).square() + 0.5 * z["y"].square().sum(-1) + (z["y"][:, 0] * z["y"][:, 1])

    system = System(potential, {"x": geo}, {"x": x.shape[1:], "y": torch.Size([3])})
    system.scale["x"] = 0.7
    system.flat_scale = torch.linalg.cholesky(torch.tensor([[1.0, 0.3, 0], [0.3, 2.0, 0], [0, 0, 0.5]], dtype=F64))
    z = {"x": x, "y": torch.randn(chains, 3, dtype=F64)}
    return system, system.state(z, torch.randn(chains, system.dim, dtype=F64)), geo


def run(system, state, size, steps):
    step = torch.full((state.w.shape[0], 1), size, dtype=F64)
    for _ in range(steps):
        state = geodesic_leapfrog(system, state, step)
    return state


@pytest.mark.parametrize("name", MANIFOLDS)
class TestLeapfrog:
    def test_reversibility(self, name):
        system, start, _ = make(name)
        end = run(system, start, 0.1, 20)
        end.w = -end.w
        back = run(system, end, 0.1, 20)
        for k in start.z:
            assert (back.z[k] - start.z[k]).abs().max() < 1e-10
        assert (back.w + start.w).abs().max() < 1e-10

    def test_energy_error_is_of_order_two(self, name):
        system, start, _ = make(name)
        h = start.energy()
        errors = [float((run(system, start, 0.4 / n, n).energy() - h).abs().max()) for n in (4, 8, 16)]
        assert errors[0] > 1e-9  # the test would be empty if the dynamics were trivial
        for coarse, fine in zip(errors, errors[1:], strict=False):
            assert 3 < coarse / fine < 5.5

    def test_volume_preservation(self, name):
        """Determinant 1 of one step in frame coordinates at start and end, by central differences."""
        system, start, geo = make(name, chains=1, plate=1)
        n = system.dim
        d = n - 3  # tangent coordinates of x

        def step(y):  # (2n,) -> end state in coordinates about the unperturbed end
            dv, dy, w = y[:d], y[d:n], y[n:]
            z = {"x": geo.exp_frame(start.z["x"], dv.reshape(1, 1, d)), "y": start.z["y"] + dy}
            # momenta ride along the geodesic from the unperturbed point: for small dv, first-order parallel
            return geodesic_leapfrog(system, system.state(z, w.reshape(1, -1)), torch.full((1, 1), 0.2, dtype=F64))

        y0 = torch.cat([torch.zeros(n, dtype=F64), start.w[0]])
        end = step(y0)

        def coordinates(s):
            return torch.cat([geo.log_frame(end.z["x"], s.z["x"]).flatten(), s.z["y"].flatten() - end.z["y"].flatten(), s.w[0]])

        eps = 1e-5
        jac = torch.stack(
            [
                (coordinates(step(y0 + eps * e)) - coordinates(step(y0 - eps * e))) / (2 * eps)
                for e in torch.eye(2 * n, dtype=F64)
            ],
            1,
        )
        assert float(torch.linalg.det(jac)) == pytest.approx(1.0, abs=1e-6)

    def test_position_stays_on_the_manifold_and_speed_is_kept(self, name):
        system, start, geo = make(name)
        end = run(system, start, 0.2, 50)
        assert geo.contains(end.z["x"], 1e-9).all()
        z, w = system.drift(start.z, start.w, torch.full((5, 1), 0.3, dtype=F64))
        assert (w.norm(dim=-1) - start.w.norm(dim=-1)).abs().max() < 1e-10

    def test_no_mutation(self, name):
        system, start, _ = make(name)
        before = start.clone()
        run(system, start, 0.3, 3)
        assert all(torch.equal(before.z[k], start.z[k]) for k in start.z)
        assert torch.equal(before.w, start.w) and torch.equal(before.grad, start.grad)

    def test_gradient_against_differences_along_geodesics(self, name):
        system, start, geo = make(name)
        v = torch.zeros_like(start.w)
        for i in range(system.dim):
            v[:, i] = 1e-5
            up, down = (system._move(start.z, s * v, lambda g, x, d: g.exp_frame(x, d)) for s in (1, -1))
            diff = (system.potential(up) - system.potential(down)) / 2e-5
            assert (diff - start.grad[:, i]).abs().max() < 1e-7
            v[:, i] = 0
