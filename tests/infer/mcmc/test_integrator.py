"""The integrator as Mici tests its own: reversible, of order 2, volume preserving, on the manifold, without
side effects."""

import geoopt
import pytest
import torch
from cases import INFERENCE_GEOMETRIES
from leapfrog import check_no_mutation, check_order_two, check_reversibility, run

from pyro_manifold.geometry import geometry
from pyro_manifold.infer.mcmc.integrators import geodesic_leapfrog
from pyro_manifold.infer.mcmc.momentum import momentum_coordinates
from pyro_manifold.infer.mcmc.systems import System
from pyro_manifold.infer.mcmc.transitions import nuts

F64 = torch.float64


def make(name, chains=5, plate=2):
    """A system with a manifold site in a plate, a Euclidean site, unequal scales; and a start with
    momentum."""
    case = INFERENCE_GEOMETRIES[name]
    geo, shape, dim = geometry(case.manifold()), case.event_shape(), case.dim
    torch.manual_seed(0)
    origin = geo.base_point(shape, dtype=F64).expand((chains, plate) + shape)
    x = geo.exp_frame(origin, 0.4 * torch.randn(chains, plate, dim, dtype=F64))
    centre = geo.exp_frame(origin[0, 0], 0.3 * torch.ones(dim, dtype=F64))

    def potential(z):
        d2 = 2 * (z["x"] - centre).square().reshape(len(z["x"]), -1).sum(-1)
        return (
            d2 * (1 + 0.3 * z["y"][:, 0]).square()
            + 0.5 * z["y"].square().sum(-1)
            + (z["y"][:, 0] * z["y"][:, 1])
        )

    system = System(potential, {"x": geo}, {"x": x.shape[1:], "y": torch.Size([3])})
    factor = torch.linalg.cholesky(torch.tensor([[1.0, 0.3, 0], [0.3, 2.0, 0], [0, 0, 0.5]], dtype=F64))
    system.rescale({"x": 0.7}, factor)
    z = {"x": x, "y": torch.randn(chains, 3, dtype=F64)}
    return system, system.state(z, system.draw(z)), geo


def basis(system, z):
    """For each chain the embedding of an orthonormal frame of momenta, shape (chains, degrees of freedom,
    numbers)."""
    site, x = system.sites[0], z["x"]
    n, d = len(x), site.dim // site.points.numel()
    rows = []
    for point in range(site.points.numel()):
        for i in range(d):
            v = x.new_zeros(x.shape[:2] + (d,))
            v[:, point, i] = 1
            ambient = site.momentum.size(x.shape[2:]) == x.shape[2:].numel() != d
            c = site.geometry.embed_tangent(x, v) if ambient else v
            rows.append(torch.cat([c.reshape(n, -1), x.new_zeros(n, 3)], -1))
    eye = torch.eye(3, dtype=F64).expand(n, 3, 3)
    return torch.cat([torch.stack(rows, 1), torch.cat([x.new_zeros(n, 3, site.size), eye], -1)], 1)


@pytest.mark.parametrize("name", INFERENCE_GEOMETRIES)
class TestLeapfrog:
    def test_reversibility(self, name):
        system, start, _ = make(name)
        check_reversibility(system, start, 0.1, 20)

    def test_energy_error_is_of_order_two(self, name):
        system, start, _ = make(name)
        check_order_two(system, start, 0.4)

    def test_volume_preservation(self, name):
        """Determinant 1 of one step in frame coordinates at start and end, by central differences."""
        system, start, geo = make(name, chains=1, plate=1)
        n = system.sites[0].dim + 3
        d = n - 3  # tangent coordinates of x

        def step(
            y,
        ):  # (2n,) -> end state; momenta ride along the geodesic: their frame is transported to first order
            z = {"x": geo.exp_frame(start.z["x"], y[:d].reshape(1, 1, d)), "y": start.z["y"] + y[d:n]}
            w = torch.einsum("bij,i->bj", basis(system, z), y[n:])
            return geodesic_leapfrog(system, system.state(z, w), torch.full((1, 1), 0.2, dtype=F64))

        y0 = torch.cat(
            [torch.zeros(n, dtype=F64), torch.einsum("bij,bj->i", basis(system, start.z), start.w)]
        )
        end = step(y0)

        def coordinates(s):
            move = [geo.log_frame(end.z["x"], s.z["x"]).flatten(), s.z["y"].flatten() - end.z["y"].flatten()]
            return torch.cat([*move, torch.einsum("bij,bj->i", basis(system, s.z), s.w)])

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
        check_no_mutation(system, start, 0.3)

    def test_gradient_against_differences_along_geodesics(self, name):
        system, start, _ = make(name)
        frame, rest = basis(system, start.z), torch.zeros_like(start.w)
        for i in range(frame.shape[1]):
            ends = []
            for sign in (1, -1):  # the flow multiplies by the scales, which the gradient does not know
                v = rest + sign * frame[:, i]
                w = torch.linalg.solve(system.flat_scale, v[:, -3:].mT).mT
                v = torch.cat([v[:, :-3] / 0.7, w], -1)
                ends.append(
                    system.potential(system.drift(start.z, v, torch.full((5, 1), 1e-5, dtype=F64))[0])
                )
            diff = (ends[0] - ends[1]) / 2e-5
            assert (diff - (frame[:, i] * start.grad).sum(-1)).abs().max() < 1e-6

    def test_momenta_are_tangent_and_standard_normal(self, name):
        """Drawn momenta lie in the span of the frame (as do transported ones), with the identity as
        covariance there.

        False-alarm rate: at most 55 entries at 5 standard errors, 4e-5 a manifold; the seed is fixed."""
        system, start, _ = make(name)
        end = run(system, start, 0.2, 10)
        frame = basis(system, end.z)
        assert (
            torch.einsum("bij,bkj->bik", frame, frame) - torch.eye(frame.shape[1], dtype=F64)
        ).abs().max() < 1e-9
        back = torch.einsum("bij,bi->bj", frame, torch.einsum("bij,bj->bi", frame, end.w))
        assert (back - end.w).abs().max() < 1e-9
        z = {k: v[:1].expand((4000,) + v.shape[1:]) for k, v in end.z.items()}
        u = torch.einsum("ij,bj->bi", frame[0], system.draw(z))
        assert ((u.T @ u / 4000 - torch.eye(u.shape[1], dtype=F64)).abs() < 5 * (2 / 4000) ** 0.5).all()


@pytest.mark.parametrize("name", ["ball-3-c2", "lorentz-3-k2"])
def test_directions_on_hyperbolic_space_are_velocities_in_normal_coordinates(name):
    """At the most central of the points that a kernel has seen, against finite differences of the logarithm
    there."""
    case = INFERENCE_GEOMETRIES[name]
    geo, d = geometry(case.manifold()), case.dim
    torch.manual_seed(3)
    centre = geo.exp_frame(geo.origin(d, dtype=F64), torch.full((d,), 1.5, dtype=F64))
    x = geo.exp_frame(centre, 1.5 * torch.randn(9, d, dtype=F64))
    move = momentum_coordinates(geo)
    move.centre(torch.cat([x[:4], centre.unsqueeze(0), x[4:]]))
    assert torch.equal(move.base, centre)
    c = torch.randn(9, d, dtype=F64)

    def log(t):
        return geo.log_frame(centre.expand_as(x), geo.exp_frame(x, t * c))

    assert torch.allclose(move.direction(x, c), (log(1e-6) - log(-1e-6)) / 2e-6, atol=1e-7)
    assert torch.allclose(move.direction(centre.unsqueeze(0), c[:1]), c[:1])


def test_trees_are_short_where_paths_circle_the_centre():
    """A wide distribution on hyperbolic 5-space: where velocities are compared as long as they are, U-turns
    come late."""
    geo = geometry(geoopt.Lorentz())
    torch.manual_seed(0)
    o = geo.origin(5, dtype=F64)
    z = geo.exp_frame(o.expand(32, 6), 1.5 * torch.randn(32, 5, dtype=F64))

    def potential(z):  # that of a wrapped normal of scale 1.5
        r = torch.asinh(z["x"][:, 1:].norm(dim=-1))
        return r.square() / 4.5 + 4 * (torch.sinh(r) / r).log()

    system = System(potential, {"x": geo}, {"x": torch.Size([6])})
    steps = []
    for base in (o, None):  # None: transported frames, as on manifolds whose motion has no centre
        system.sites[0].momentum.base = base
        out = nuts(system, system.state({"x": z}), 0.45, max_depth=7)
        assert not out.diverging.any()
        steps.append(float(out.steps.double().mean()))
    assert steps[0] < 16 and steps[1] > 3 * steps[0], steps


def test_paths_that_end_early_are_shorter_and_leave_the_density_alone():
    """Harmonic motion in many dimensions turns after half a period; the criterion with c = a / tan a ends a path of an
    angle of 2 a. Moments of a von Mises-Fisher distribution after 40 such transitions, to 4 standard errors of 512 independent chains."""
    flat = System(lambda z: 0.5 * z["x"].square().sum(-1), {}, {"x": torch.Size([50])})
    steps = []
    for angle in (torch.pi / 2, torch.pi / 8):
        torch.manual_seed(0)
        start = flat.state({"x": torch.randn(64, 50, dtype=F64)})
        early = angle / torch.tan(torch.tensor(angle, dtype=F64)).item()
        out = nuts(flat, start, 0.02, 10, early if angle < 1.5 else 0.0)
        steps.append(float(out.steps.double().mean()))
    assert 3 < steps[0] / steps[1] < 8  # less than a half, as trees double and random phases end some sooner

    geo = geometry(geoopt.Sphere())
    system = System(lambda z: -5 * z["x"][:, 2], {"x": geo}, {"x": torch.Size([3])})
    state = system.state({"x": geo.uniform_sample((512,), (3,), dtype=F64)})
    for _ in range(40):
        state = nuts(system, state, 0.3, early=0.8).state
    x = state.z["x"][:, 2]
    mean = 1 / torch.tanh(torch.tensor(5.0)) - 1 / 5
    assert float(x.mean()) == pytest.approx(float(mean), abs=4 * float(x.std()) / 512**0.5)
    assert float(x.square().mean()) == pytest.approx(
        1 - 2 * float(mean) / 5, abs=4 * float(x.square().std()) / 512**0.5
    )
