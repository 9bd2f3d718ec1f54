"""VQ-flows: mass by chords and triangles that know no Jacobian, draws against the density, a truth in two components,
ends, resumption, files, bad input."""

import copy
import math
from pathlib import Path
from typing import Any

import geoopt
import pytest
import torch
from torch import Tensor

from pyro_manifold.datasets import Helix, InterlockedCircles, SphereMixture, TorusOfRevolution, TrefoilKnot
from pyro_manifold.datasets.known_manifold import KnownManifold
from pyro_manifold.flows import InjectiveFlow, LatentFlow
from pyro_manifold.models import VQFlow
from pyro_manifold.testing import two_sample_test
from pyro_manifold.training import fit_vq

SMALL: dict[str, Any] = dict(depth=1, hidden=(32,), latent_hidden=(16,), code_hidden=(16,), latent_depth=2)
QUIET: dict[str, Any] = dict(disable_progbar=True)
pytestmark = pytest.mark.filterwarnings(
    "ignore::pyro_manifold.training.TrainingWarning"
)  # few passes are meant


def fitted_to(
    truth: KnownManifold, charts: int, epochs: Any, rows: int = 2000, lr: Any = 1e-2, **kwargs: Any
) -> VQFlow:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = truth.sample(rows, seed=0).float()
        flow = VQFlow.from_data(x, truth.dim, charts, **{**SMALL, **kwargs})
        fit_vq(flow, x, epochs=epochs, lr=lr, batch_size=100, **QUIET)
    return flow.requires_grad_(False)


@pytest.fixture(scope="module")
def circles() -> VQFlow:
    return fitted_to(InterlockedCircles(), 16, (2, 40, 12))


def pieces(flow: VQFlow, size: int = 400) -> list[tuple[Tensor, Tensor]]:
    """For each chart, middles of the chords (triangles) of a fine mesh of its image, and their lengths (areas), those
    in its region."""
    d, found = flow.condition(), []
    for k, c in enumerate(d.components):
        draws = c.base_dist.sample((4000,))
        low, high = 1.2 * draws.amin(0) - 0.2 * draws.amax(0), 1.2 * draws.amax(0) - 0.2 * draws.amin(0)
        grids = [torch.linspace(float(a), float(b), size) for a, b in zip(low, high, strict=True)]
        if len(grids) == 1:
            u = torch.cartesian_prod(*grids).unsqueeze(-1)
            x, middle = c.transform(u), (u[1:] + u[:-1]) / 2
            measure = (x[1:] - x[:-1]).norm(dim=-1)
        else:
            u = torch.stack(torch.meshgrid(*grids, indexing="ij"), -1)
            x, middle = c.transform(u), (u[1:, 1:] + u[:-1, :-1]) / 2
            a, b, e, f = x[:-1, :-1], x[1:, :-1], x[:-1, 1:], x[1:, 1:]
            measure = sum(
                torch.linalg.cross(p - o, q - o).norm(dim=-1) / 2 for o, p, q in ((a, b, e), (f, b, e))
            )
            middle, measure = middle.flatten(0, 1), measure.flatten()
        ok, points = d._accepted(middle, k)
        found.append((points[ok], measure[ok]))
    return found


def mass(flow: VQFlow, size: int = 400) -> float:
    d = flow.condition()
    return sum(float((d.log_prob(x).exp() * m).sum()) for x, m in pieces(flow, size))


def test_mass_of_two_circles(circles: VQFlow) -> None:
    """Cells are cut to the step of the mesh, 1/400 of a chart."""
    assert mass(circles) == pytest.approx(1, abs=5e-3)


def test_draws_have_the_density(circles: VQFlow) -> None:
    """Draws against points of the meshes chosen by their probability: an exact test, false alarm 1e-3."""
    torch.manual_seed(0)
    d = circles.condition()
    x, m = (torch.cat(part) for part in zip(*pieces(circles), strict=True))
    y = x[torch.multinomial(d.log_prob(x).exp() * m, 600, replacement=True)]
    assert two_sample_test(geoopt.Euclidean(ndim=1), d.sample((600,)), y, permutations=999) > 1e-3


def test_learns_two_circles(circles: VQFlow) -> None:
    """Both components and their shares, nothing between them, nearly the density of the truth."""
    torch.manual_seed(0)
    truth = InterlockedCircles()
    y = truth.sample(2000, seed=1)
    x = circles.sample((4000,))
    assert float(circles.ood_score(y.float()).square().mean().sqrt()) < 0.02
    assert float(truth.distance(x).max()) < 0.1  # half way between the circles it is 0.5
    assert float((truth.component(x) == 0).double().mean()) == pytest.approx(0.4, abs=0.06)
    gap = truth.log_prob(y) - circles.log_prob(y.float())
    assert float(gap.mean()) == pytest.approx(0, abs=0.05)
    assert int(circles.autoencoder.usage(y.float()).counts.min()) > 0


@pytest.mark.slow
def test_overlapping_regions_add_up(circles: VQFlow) -> None:
    """The same charts with regions that overlap: mass 1 to within how well images agree, densities nearly those of
    the cells, responsibilities shared near borders."""
    torch.manual_seed(0)
    both = copy.deepcopy(circles)
    before = both._acceptance()
    both.overlap = True
    assert bool((both._acceptance() > before).all())  # nothing is remembered of the smaller regions
    y = InterlockedCircles().sample(1000, seed=1).float()
    both.fit_weights(InterlockedCircles().sample(2000, seed=0).float())
    d = both.condition()
    estimate, error = d.mass(2000)
    assert estimate == pytest.approx(1, abs=5 * error + 0.02)
    shared = (d.responsibilities(y) > 0).sum(-1)
    assert shared.min() == 1 and 1.05 < float(shared.float().mean()) < 2
    assert float((d.log_prob(y) - circles.log_prob(y)).mean()) == pytest.approx(0, abs=0.03)


@pytest.mark.slow
def test_ends_of_a_helix() -> None:
    """No draw is beyond the ends by more than the distance of rows, and the mass is 1."""
    torch.manual_seed(0)
    truth = Helix()
    flow = fitted_to(truth, 12, (1, 20, 8))
    x = flow.sample((3000,)).double()
    end = torch.tensor([1.0, 0.0, 2 * math.pi / 6], dtype=torch.float64)
    tangent = torch.tensor([0.0, 1.0, 1 / 6], dtype=torch.float64)
    beyond = [
        ((x - s * end * torch.tensor([s, 1.0, 1.0])) @ (s * tangent))[(x[:, 2] * s) > 1.0]
        for s in (1.0, -1.0)
    ]
    assert max(float(b.max()) for b in beyond) < 0.02
    assert mass(flow) == pytest.approx(1, abs=5e-3)


@pytest.mark.slow
def test_conformal_charts_of_a_sphere() -> None:
    """Pieces of spheres fit a sphere: all charts have equal scales along all axes, and come closer than planes do."""
    truth = SphereMixture()
    flow = fitted_to(truth, 10, (0, 25, 0), kind="conformal")
    flat = fitted_to(truth, 10, (0, 0, 0), kind="conformal")
    y = truth.sample(1000, seed=1).float()
    off, off_flat = (float(f.ood_score(y).square().mean().sqrt()) for f in (flow, flat))
    assert off < 0.25 * off_flat
    for c in flow.condition().components:
        u = c.base_dist.sample((5,))
        J = torch.func.vmap(torch.func.jacfwd(c.transform._call))(u)
        gram = J.mT @ J
        torch.testing.assert_close(gram, gram[:, :1, :1] * torch.eye(2), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["affine", pytest.param("autoregressive", marks=pytest.mark.slow)])
def test_other_densities(kind: str) -> None:
    """A bent density on a plane in space, which affine layers fit and its normal approximation does not; the exact
    density is known."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 1500)
    x = torch.stack([a, 0.7 * a.square() + 0.3 * b, 0 * a], -1)
    exact = -0.5 * (a.square() + b.square()) - math.log(2 * math.pi * 0.3)
    flow = VQFlow.from_data(x, 2, 1, latent_kind=kind, **{**SMALL, "latent_depth": 4})
    before = float((exact - flow.log_prob(x).detach()).mean())
    fit_vq(flow, x, epochs=(0, 0, 12), lr=2e-2, batch_size=50, **QUIET)
    after = float((exact - flow.log_prob(x).detach()).mean())
    assert before > 0.5 and after < 0.45


@pytest.mark.slow
@pytest.mark.parametrize(
    "truth, charts", [(SphereMixture(), 12), (TorusOfRevolution(), 24), (TrefoilKnot(), 24)],
    ids=["sphere", "torus", "knot"],
)  # fmt: skip
def test_mass_of_learned_manifolds(truth: KnownManifold, charts: int) -> None:
    flow = fitted_to(truth, charts, (2, 20, 15), rows=6000)
    assert mass(flow, 250) == pytest.approx(1, abs=0.02)  # cells are cut to the step of the mesh
    torch.manual_seed(0)
    d = flow.condition()
    x, m = (torch.cat(part) for part in zip(*pieces(flow, 250), strict=True))
    y = x[torch.multinomial(d.log_prob(x).exp() * m, 600, replacement=True)]
    assert two_sample_test(geoopt.Euclidean(ndim=1), d.sample((600,)), y, permutations=999) > 1e-3
    z = truth.sample(2000, seed=1)
    assert float((truth.log_prob(z) - flow.log_prob(z.float())).mean()) < 0.1


X = InterlockedCircles().sample(300, seed=0).float()


def test_resumes_and_is_saved(tmp_path: Path) -> None:
    """A run killed in its second phase goes on to the same flow; files carry it over."""

    def train(path: Path | None, kill: bool) -> VQFlow:
        torch.manual_seed(0)
        flow = VQFlow.from_data(X, 1, 4, **SMALL)
        calls = 0
        original = InjectiveFlow._call

        def stop(self: InjectiveFlow, u: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if kill and calls == 15:
                raise KeyboardInterrupt
            return original(self, u)

        monkey = pytest.MonkeyPatch()
        monkey.setattr(InjectiveFlow, "_call", stop)
        try:
            fit_vq(flow, X, epochs=4, batch_size=50, checkpoint=path, **QUIET)
        finally:
            monkey.undo()
        return flow

    whole = train(None, False)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", True)
    assert (tmp_path / "run.M").exists() and not (tmp_path / "run.D").exists()
    resumed = train(tmp_path / "run", False)
    with torch.no_grad():
        expected = whole.log_prob(X)
        torch.testing.assert_close(resumed.log_prob(X), expected, rtol=0, atol=0)
        whole.save(tmp_path / "flow.pt")
        other = VQFlow.from_data(X + 1, 1, 4, **SMALL).load(tmp_path / "flow.pt")
        torch.testing.assert_close(other.log_prob(X), expected, rtol=0, atol=0)
        with pytest.raises(ValueError, match="does not fit this model"):
            VQFlow.from_data(X, 1, 4, **SMALL, eps=0.1).load(tmp_path / "flow.pt")


def test_double_precision_and_gradients() -> None:
    flow = VQFlow.from_data(X.double(), 1, 3, **SMALL)
    fit_vq(flow, X.double(), epochs=2, **QUIET)
    lp = flow.log_prob(X.double())
    assert lp.dtype == torch.float64 and flow.sample((3,)).dtype == torch.float64
    lp.mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in flow.density_parameters() if p.grad is not None)
    assert any(bool(p.grad.any()) for p in flow.density_parameters() if p.grad is not None)


def test_codes_with_few_rows_are_given_up() -> None:
    """Three lonely rows get a code of their own, which no chart can be made of."""
    x = torch.cat([X, torch.full((3, 3), 50.0) + torch.randn(3, 3)])
    flow = VQFlow.from_data(x, 1, 4, **SMALL)
    assert int(flow.autoencoder.quantizer.active.sum()) == 3 and len(flow.condition().components) == 3
    assert flow.log_prob(x).isfinite().all() and flow.sample((10,)).shape == (10, 3)


def mixed() -> VQFlow:
    flow = VQFlow.from_data(X, 1, 2, **SMALL)
    return VQFlow(flow.autoencoder, flow.transform, LatentFlow(2, [], 3))


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: VQFlow.from_data(X, 3, 4), "dim: got 3 for x of shape .300, 3."),
        (lambda: VQFlow.from_data(X[0], 1, 4), r"dim: got 1 for x of shape \(3,\)"),
        (lambda: VQFlow.from_data(X, 1, 4, latent_kind="cubic"), "latent_kind: got 'cubic'"),
        (lambda: VQFlow.from_data(X, 1, 301), "codes: got 301 for rows of shape .300, 3."),
        (lambda: VQFlow.from_data(X * math.nan, 1, 2), "x: got nan"),
        (lambda: VQFlow.from_data(X[:5], 2, 1), "z: got 5 rows; expected at least 6"),
        (
            lambda: VQFlow.from_data(X[:, :1] * torch.ones(3), 2, 2),
            "x: the rows of chart 0 span 1 dimensions",
        ),
        (lambda: VQFlow.from_data(X, 1, 2, code_dim=4), "x, code_dim: got rows of shape"),
        (lambda: VQFlow.from_data(X, 1, 2, off_manifold="no"), "off_manifold: got 'no'"),
        (mixed, "latent, transform: got dimensions 2 and 1"),
        (lambda: VQFlow.from_data(X, 1, 2, **SMALL).condition(torch.zeros(3)), "context: got shape"),
        (lambda: fit_vq(VQFlow.from_data(X, 1, 2, **SMALL), X[:, :2]), r"x: got shape \(300, 2\)"),
        (lambda: fit_vq(VQFlow.from_data(X, 1, 3, **SMALL), X[:2]), "at least 3 rows"),
        (lambda: fit_vq(VQFlow.from_data(X, 1, 2, **SMALL), X.double()), "x: got torch.float64"),
        (
            lambda: fit_vq(VQFlow.from_data(X, 1, 2, **SMALL), X, epochs=(1, 2)),
            "epochs: got .1, 2., expected",
        ),
        (lambda: fit_vq(VQFlow.from_data(X, 1, 2, **SMALL), X / 0), "x: got"),
        (lambda: VQFlow.from_data(X, 1, 2, **SMALL).log_prob(X[:, :2]), "value: got shape"),
    ],
)
def test_bad_input(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
