"""Learned embeddings: volumes, training and its resumption, and the report, which tells exact from approximate."""

import copy
import math

import geoopt
import pytest
import torch

from pyro_manifold.evaluation import embedding_report, mmd2
from pyro_manifold.flows import LearnedEmbedding
from pyro_manifold.geometry import SpecialOrthogonal, Torus, geometry
from pyro_manifold.ops.mmd import gaussian_mmd2
from pyro_manifold.testing._tools import log_volume_change
from pyro_manifold.training import fit_embedding
from pyro_manifold.transforms import CubeToRotations, CubeToSphere, CubeToTorus

D = torch.float64


def make(manifold: geoopt.Manifold, dim: int, **options) -> LearnedEmbedding:
    torch.manual_seed(0)
    return LearnedEmbedding(manifold, dim, (16,), **options).to(D)


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize(
    "manifold, dim", [(geoopt.Sphere(), 1), (geoopt.Sphere(), 2), (Torus(), 2), (SpecialOrthogonal(3), 3)]
)
def test_values_and_volumes(manifold, dim, project) -> None:
    phi = make(manifold, dim, project=project)
    t = torch.rand(5, dim, dtype=D)
    x = phi(t)
    assert x.shape == (5, *phi.point_shape) and phi.inv(x).shape == (5, dim)
    assert bool(geometry(manifold).contains(x).all()) or not project
    expected = log_volume_change(phi, phi.domain, phi.codomain if project else None, t)
    torch.testing.assert_close(phi.log_volume(t), expected)
    assert phi(torch.zeros(2, 0, dim, dtype=D)).shape == (2, 0, *phi.point_shape)


def test_training_improves_freezes_and_resumes(tmp_path) -> None:
    """The loss falls, an interrupted run gives the weights of one in one piece, and uniform becomes more uniform."""
    options = dict(points=1000, batch_size=100, disable_progbar=True)
    phi, twin = make(geoopt.Sphere(), 1), make(geoopt.Sphere(), 1)
    before = embedding_report(phi, draws=500)
    history = fit_embedding(phi, epochs=20, **options)
    assert history.losses["embedding"][-1] < 0.3 * history.start["embedding"]
    assert not any(p.requires_grad for p in phi.parameters())
    after = embedding_report(phi, draws=500)
    assert (
        after.mmd2 < 0.2 * before.mmd2 and after.ks < before.ks and after.inverse_error < before.inverse_error
    )
    assert after.seams[0] > 0.02 and after.volume_sd > 0.01  # no continuous map does better than nearly

    path = tmp_path / "phi.pt"
    calls = iter(range(12))

    def stop() -> float:
        next(calls)  # ends the run with StopIteration
        return 0.0

    with pytest.raises(StopIteration):
        fit_embedding(twin, epochs=20, checkpoint=path, clock=stop, **options)
    fit_embedding(twin, epochs=20, checkpoint=path, **options)
    t = torch.rand(5, 1, dtype=D)
    assert torch.equal(phi(t), twin(t))


def test_training_on_points_of_the_user() -> None:
    """Points of half the circle: the images stay there."""
    angle = math.pi * torch.rand(500, 1, dtype=D)
    phi = make(geoopt.Sphere(), 1)
    fit_embedding(
        phi, torch.cat([angle.cos(), angle.sin()], -1), epochs=30, batch_size=50, disable_progbar=True
    )
    assert phi(torch.rand(200, 1, dtype=D))[:, 1].min() > -0.2


@pytest.mark.parametrize(
    "phi", [CubeToSphere(1), CubeToSphere(2), CubeToTorus(2), CubeToRotations()], ids=repr
)
def test_report_of_exact_embeddings(phi) -> None:
    """At the floor: the discrepancy and the distance of distributions are those of two uniform samples (fixed seed)."""
    report = embedding_report(phi, draws=600)
    assert report.ks < 1.7 * report.ks_floor and report.mmd2 < abs(report.mmd2_floor) + 3e-3
    assert report.volume_sd < 1e-5 and report.inverse_error < 1e-5
    angles = [
        s
        for i, s in enumerate(report.seams)
        if not (i == 0 and phi.dim > 1 and len(phi.point_shape) + phi.dim > 2)
    ]
    if isinstance(phi, CubeToTorus | CubeToSphere) and phi.dim < 2 or isinstance(phi, CubeToTorus):
        angles = list(report.seams)
    assert max(angles) < 1e-3


def test_report_sees_a_gap_and_a_density() -> None:
    """A circle of which the map covers nine tenths, and one that it covers unevenly."""

    class Part(CubeToSphere):
        def _call(self, x: torch.Tensor) -> torch.Tensor:
            return super()._call(0.9 * x)

    class Uneven(CubeToSphere):
        def _call(self, x: torch.Tensor) -> torch.Tensor:
            return super()._call(x.square())

    part, uneven = (embedding_report(kind(1), draws=1000) for kind in (Part, Uneven))
    assert part.seams[0] == pytest.approx(0.2 * math.pi, abs=1e-5)
    assert part.ks > 1.5 * part.ks_floor and uneven.mmd2 > 0.02 and uneven.seams[0] < 1e-6
    assert part.inverse_error == pytest.approx(0.05, abs=0.01)


def test_report_leaves_the_generator_as_it_was_and_repeats() -> None:
    state = torch.get_rng_state()
    assert embedding_report(CubeToSphere(1), draws=50) == embedding_report(CubeToSphere(1), draws=50)
    assert torch.equal(state, torch.get_rng_state())


def test_discrepancy_by_a_loop_and_its_gradient() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(7, 2, dtype=D, requires_grad=True), torch.randn(5, 2, dtype=D)

    def k(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        d = (a - b).square().sum()
        return (torch.exp(-d / (2 * 0.3**2)) + torch.exp(-d / 2)) / 2

    within = [
        sum(k(s[i], s[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        for s, n in ((x, 7), (y, 5))
    ]
    expected = within[0] + within[1] - 2 * sum(k(a, b) for a in x for b in y) / 35
    value = gaussian_mmd2(x, y, [0.3, 1.0])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], torch.autograd.grad(expected, x)[0])
    x = x.detach()
    assert float(gaussian_mmd2(x, y, [0.7])) == pytest.approx(mmd2(x, y, scale=0.7), abs=1e-12)
    same = torch.zeros(3, 2, dtype=D, requires_grad=True)
    assert torch.autograd.grad(gaussian_mmd2(same, same.detach(), [1.0]), same)[0].isfinite().all()


def test_copies_are_independent() -> None:
    phi = make(geoopt.Sphere(), 1).freeze()
    twin = copy.deepcopy(phi)
    twin.load_state_dict({k: v + 1 for k, v in phi.state_dict().items()})
    t = torch.rand(3, 1, dtype=D)
    assert not torch.equal(phi(t), twin(t))


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: LearnedEmbedding(geoopt.Sphere(), 0), "dim: got 0"),
        (lambda: LearnedEmbedding(geoopt.PoincareBall(), 2), "manifold: .*no ambient coordinates"),
        (lambda: make(geoopt.Sphere(), 2)(torch.zeros(3, 4, dtype=D)), r"value: got shape \(3, 4\).*size 2"),
        (lambda: fit_embedding(make(geoopt.Sphere(), 1).freeze()), "embedding: none of its parameters"),
        (
            lambda: fit_embedding(make(geoopt.Sphere(), 1), torch.ones(5, 2, dtype=D)),
            r"data: got shape \(5, 2\).*on it",
        ),
        (lambda: fit_embedding(make(geoopt.Euclidean(1), 1)), "data: .*uniform"),
        (
            lambda: embedding_report(torch.nn.Linear(1, 2)),
            "embedding: got Linear, which has no manifold, dim, point_shape",
        ),
    ],
)
def test_bad_input(call, match) -> None:
    with pytest.raises(ValueError, match=match):
        call()
