"""What a docstring promises as a number, against one found in another way: starts, guards, summaries, radii,
adaptation."""

import itertools
import math

import geoopt
import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from pyro_manifold.flows import Affine
from pyro_manifold.geometry import geometry
from pyro_manifold.infer import geodesic_ess, manifold_summary
from pyro_manifold.infer.mcmc.adapters import StepSizeAdapter, TrajectoryLengthAdapter
from pyro_manifold.infer.reparam.circular import draw_turns
from pyro_manifold.infer.sbc.uniformity import bins_for, chi_square, ecdf_band, ecdf_test
from pyro_manifold.transforms import ConformalEmbedding, LinearEmbedding, hutchinson_log_volume

F64 = torch.float64
SPHERE = geoopt.Sphere()


# --- rank tests ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("counts", [[20, 12, 18, 14], [5, 5, 5, 9], [1, 40], [7, 9, 8, 8, 6, 10, 8, 8]])
def test_chi_square_is_scipys(counts: list[int]) -> None:
    ranks = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    expected = scipy.stats.chisquare(counts).pvalue
    assert chi_square(ranks, len(counts) - 1, len(counts)) == pytest.approx(expected, rel=1e-10)
    # the same counts in bins of three ranks each
    assert chi_square(3 * ranks + 1, 3 * len(counts) - 1, len(counts)) == pytest.approx(expected, rel=1e-10)


def test_bins_hold_five_each() -> None:
    """The largest divisor of the number of ranks up to 32 that leaves 5 simulations in each bin, by trying
    them all."""
    for simulations, draws in itertools.product((3, 10, 64, 100, 512), (1, 4, 9, 31, 63, 99)):
        fits = [b for b in range(1, 33) if (draws + 1) % b == 0 and (b <= 2 or simulations / b >= 5)]
        assert bins_for(simulations, draws) == max(fits), (simulations, draws)


def test_ecdf_test_and_band_by_enumeration() -> None:
    """Two ranks of {0, 1, 2}: nine equally likely pairs; the null distribution and the band's probability can
    be written down.

    The simulated p-value is off by at most 5 standard errors of its trials (false alarm 6e-7 each)."""
    pairs = list(itertools.product(range(3), repeat=2))

    def smallest(pair: tuple[int, ...]) -> float:
        tails = []
        for level in (1, 2):
            seen, distribution = sum(r < level for r in pair), scipy.stats.binom(2, level / 3)
            tails.append(min(1.0, 2 * min(distribution.cdf(seen), distribution.sf(seen - 1))))
        return min(tails)

    for pair in pairs:
        exact = np.mean([smallest(other) <= smallest(pair) + 1e-12 for other in pairs])
        assert ecdf_test(torch.tensor(pair), 2) == pytest.approx(exact, abs=5 * 0.5 / math.sqrt(4000))
    assert ecdf_test(torch.arange(64) % 8, 7) == 1.0  # nothing is less extreme than equal counts
    assert ecdf_test(torch.zeros(64, dtype=torch.long), 7) == pytest.approx(
        1 / 10_001, rel=1e-6
    )  # the least p-value
    band = ecdf_band(2, 2, prob=0.5)
    steps = torch.tensor(
        [[sum(r < level for r in pair) / 2 for level in (1, 2)] for pair in pairs], dtype=F64
    )
    inside = ((steps >= band.lower) & (steps <= band.upper)).all(-1)
    assert inside.double().mean() >= 0.5 and torch.equal(band.points, torch.tensor([1 / 3, 2 / 3], dtype=F64))
    wide = ecdf_band(200, 9, prob=0.95)
    draws = torch.randint(10, (4000, 200), generator=torch.Generator().manual_seed(1))
    steps = torch.stack([(draws < level).double().mean(-1) for level in range(1, 10)], -1)
    share = float(((steps >= wide.lower) & (steps <= wide.upper)).all(-1).double().mean())
    assert (
        abs(share - 0.95) < 0.025
    )  # 5 standard errors, of these draws and of the simulated null distribution


# --- turns --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", [0.2, 0.5, 2.0, 9.0])
def test_turns_have_their_probabilities(scale: float) -> None:
    """Of N(0, scale^2) given an angle near the seam: each within 5 standard errors of scipy's weights."""
    n, angle = 20_000, 3.1
    y = draw_turns(torch.full((n,), angle, dtype=F64), scale)
    k = ((y - angle) / (2 * math.pi)).round().long()
    torch.testing.assert_close(y, angle + 2 * math.pi * k.double())
    logs = scipy.stats.norm(0, scale).logpdf(angle + 2 * math.pi * np.arange(-30, 31))
    p = np.exp(logs - np.logaddexp.reduce(logs))
    seen = torch.bincount(k + 30, minlength=61).double().numpy() / n
    assert np.all(np.abs(seen - p) < 5 * np.sqrt(p * (1 - p) / n) + 5 / n)


# --- guards -------------------------------------------------------------------------------------------------
class Counted(LinearEmbedding):
    """A map that counts the products with its Jacobian: one for each conjugate gradient, one for the
    result."""

    def jvp(self, u: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
        self.pushed = getattr(self, "pushed", 0) + 1
        return super().jvp(u, tangents)


@pytest.mark.parametrize("rtol", [1e-1, 1e-3, 1e-6])
def test_hutchinson_stops_at_rtol(rtol: float) -> None:
    """As many steps as numpy's conjugate gradients take to a residual of ``rtol``."""
    gram = np.diag(np.linspace(1.0, 50.0, 20))
    steps, x, r = 0, np.zeros(20), np.ones(20)  # with a diagonal matrix the signs of the probe play no part
    p, start = r.copy(), np.linalg.norm(r)
    while np.linalg.norm(r) > rtol * start:
        a = (r @ r) / (p @ gram @ p)
        x, old, r = x + a * p, r @ r, r - a * gram @ p
        p, steps = r + (r @ r) / old * p, steps + 1
    g = Counted(torch.from_numpy(np.sqrt(gram)))
    with torch.no_grad():
        hutchinson_log_volume(g, torch.zeros(20, dtype=F64), rtol=rtol)
    assert g.pushed == steps + 1


# --- starting values ----------------------------------------------------------------------------------------
def rows() -> Tensor:
    z = torch.randn(400, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    return z @ torch.diag(torch.tensor([3.0, 2.0, 0.5, 0.1], dtype=F64)) @ torch.linalg.qr(
        z[:4]
    ).Q + torch.arange(4.0)


def test_conformal_embedding_starts_as_the_principal_plane() -> None:
    """Without its bend: the plane through the mean along two axes, at one scale, the root mean square of
    their two."""
    x = rows()
    variance, axes = np.linalg.eigh(np.cov(x.numpy().T))
    g = ConformalEmbedding.from_pca(x, 2)
    with torch.no_grad():
        assert float(g.pull.norm()) < 0.2 / x.std()  # a slight bend
        g.pull.zero_()
        torch.testing.assert_close(g(torch.zeros(2, dtype=F64)), x.mean(0))
        scale = math.sqrt(variance[-2:].mean())
        torch.testing.assert_close(
            g.log_volume(torch.zeros(2, dtype=F64)), torch.tensor(2 * math.log(scale), dtype=F64)
        )
        span = (g(torch.eye(2, dtype=F64)) - x.mean(0)) / scale
    plane = torch.from_numpy(axes[:, -2:] @ axes[:, -2:].T)
    torch.testing.assert_close(span.mT @ span, plane)


def test_affine_starts_with_mean_and_covariance() -> None:
    x = rows()
    layer = Affine.from_pca(x)
    with torch.no_grad():
        b = layer(torch.zeros(4, dtype=F64))
        A = (layer(torch.eye(4, dtype=F64)) - b).mT
    torch.testing.assert_close(b, x.mean(0))
    torch.testing.assert_close(A @ A.mT, torch.from_numpy(np.cov(x.numpy().T)))
    variance = A.square().sum(0)
    assert bool((variance[:-1] > variance[1:]).all())  # most variance first
    flat = torch.cat([x[:, :2], torch.zeros(400, 1, dtype=F64)], -1)  # an axis of no variance
    thin = Affine.from_pca(flat)
    with torch.no_grad():
        thickness = float((thin(torch.eye(3, dtype=F64)[2]) - thin(torch.zeros(3, dtype=F64))).norm())
    least = math.sqrt(np.linalg.eigvalsh(np.cov(flat[:, :2].numpy().T))[0])
    assert thickness == pytest.approx(1e-3 * least, rel=1e-6)


# --- radii --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("s", [0.25, 0.5, 2.0, 4.0])
def test_scaled_preimages_up_to_the_radius(s: float) -> None:
    """On a circle of radius s: v + 2 pi s k, all that are no longer than 20, and none beyond another turn or
    two."""
    geo = geometry(geoopt.Scaled(SPHERE, s))
    v = torch.tensor([[0.7 * s]], dtype=F64)
    found = geo.preimages(torch.tensor([[0.6, 0.8]], dtype=F64), v, 20.0).flatten()
    turns = 0.7 * s + 2 * math.pi * s * torch.arange(-100, 101, dtype=F64)
    wanted = turns[turns.abs() <= 20.0]
    assert all(bool((found - w).abs().min() < 1e-9) for w in wanted)
    assert float(found.abs().max()) <= 20.0 + 4 * math.pi * s


@pytest.mark.parametrize(
    "n, p, canonical, expected",
    # spheres and, with p >= n - 1, rotations: the great circle, and the turn by pi, of squared length pi^2 =
    # |A|^2 / 2
    [
        (4, 1, True, math.pi), (3, 2, True, math.pi), (3, 3, True, math.pi), (4, 1, False, math.pi),
        (4, 2, True, 2.8099258924162904), (5, 3, True, 2.8099258924162904),  # pi sqrt(4/5), a bound
        # the turn, of length pi sqrt 2
        (4, 2, False, math.pi), (3, 2, False, math.pi), (3, 3, False, 4.442882938158366),
    ],
)  # fmt: skip
def test_injectivity_radius_of_frames(n: int, p: int, canonical: bool, expected: float) -> None:
    manifold = geoopt.Stiefel(canonical=canonical)
    assert geometry(manifold).injectivity_radius((n, p)) == pytest.approx(expected, rel=1e-12)


# --- summaries ----------------------------------------------------------------------------------------------
def test_summary_numbers() -> None:
    """Mean, scale, effective size and R-hat of independent draws about a point, within 5 standard errors."""
    geo, p = geometry(SPHERE), torch.tensor([0.0, 0.6, 0.8], dtype=F64)
    v = 0.3 * torch.randn(4, 1000, 2, dtype=F64)
    x = geo.exp_frame(p.expand(4, 1000, 3), v)
    told = manifold_summary({"x": x}, {"x": SPHERE})["x"]
    assert float(geo.dist(told["mean"], p)) < 5 * 0.3 * math.sqrt(2 / 4000)
    assert float(told["scale"]) == pytest.approx(0.3, abs=5 * 0.3 / math.sqrt(2 * 8000))
    assert 2000 < float(told["n_eff"]) < 8000 and abs(float(told["r_hat"]) - 1) < 0.01
    flat = torch.randn(4, 500, 3, dtype=F64) * torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    told = manifold_summary({"x": flat}, {"x": geoopt.Euclidean(ndim=1)})["x"]
    torch.testing.assert_close(told["mean"], flat.mean((0, 1)))
    torch.testing.assert_close(told["scale"], flat.flatten(0, 1).var(0, correction=0).mean().sqrt())


def test_effective_size_is_the_least_over_statistics() -> None:
    """Coordinates that move at unlike speeds: the slowest counts. AR(1) of coefficient .9 has n (1 - .9)/(1 +
    .9)."""
    noise = torch.randn(4, 2000, 2, dtype=F64)
    slow = noise.clone()
    for t in range(1, 2000):
        slow[:, t] = 0.9 * slow[:, t - 1] + math.sqrt(1 - 0.81) * noise[:, t]
    x = torch.stack([slow[..., 0], noise[..., 1]], -1)
    ess = float(geodesic_ess(geoopt.Euclidean(ndim=1), x, torch.zeros(2, dtype=F64)))
    assert ess == pytest.approx(8000 * 0.1 / 1.9, rel=0.3)


# --- adaptation ---------------------------------------------------------------------------------------------
def test_step_sizes_follow_robbins_and_monro() -> None:
    """The recursion of the docstring, summed by hand, for acceptance that varies."""
    accept = [0.9, 0.2, 1.0, 0.75, 0.0, 0.8]
    adapter = StepSizeAdapter(0.5, 0.8)
    log, average = math.log(0.5), 0.0
    for t, a in enumerate(accept, 1):
        adapter.update(a)
        log += 2.5 * (t + 3) ** -0.75 * (a - 0.8)
        average = (1 - t**-0.75) * average + t**-0.75 * log
        assert adapter.size == pytest.approx(math.exp(log), rel=1e-12)
        assert adapter.mean == pytest.approx(math.exp(average), rel=1e-12)


def test_jittered_trajectories_have_the_given_length() -> None:
    """Uniform on L (1 -+ 1/2): mean L, and the extremes, in steps; while learning, one in five from half of the
    longest to the longest."""
    given = TrajectoryLengthAdapter(2.0)
    counts = torch.tensor([float(given.count(0.01, warm=False)) for _ in range(2000)])
    assert abs(float(counts.mean()) - 200) < 5 * 100 / math.sqrt(3 * 2000)
    assert 100 <= float(counts.min()) < 105 and 295 < float(counts.max()) <= 300
    learning = TrajectoryLengthAdapter()
    first = [learning.count(0.1, warm=True) for _ in range(20)]
    assert (
        min(first) >= 2 and max(first) <= 5 and len(set(first)) > 2
    )  # few steps while the scales are unknown
    counts = torch.tensor([learning.count(0.1, warm=True) for _ in range(1000)]).reshape(200, 5)
    assert counts[:, 0].min() == 5 and counts[:, 0].max() == 10  # of unknown length: ten steps at most
    assert counts[:, 1:].min() == 8 and counts[:, 1:].max() == 24  # pi / 2, jittered
    assert (
        TrajectoryLengthAdapter(1e9).count(1e-3, warm=False) == 1024
        and TrajectoryLengthAdapter(1e-9).count(1.0, warm=False) == 1
    )
