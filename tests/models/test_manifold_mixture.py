"""Mixtures of manifold flows on two curves with a known density; the scan over dimensions of known
manifolds."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_manifold.flows import LatentFlow
from pyro_manifold.models import ManifoldFlow, ManifoldMixture, VQFlow
from pyro_manifold.training import fit_charts, fit_vq, scan_dimension
from pyro_manifold.training.dimension import DimensionScan
from pyro_manifold.transforms import Pad

pytestmark = pytest.mark.filterwarnings(
    "ignore::pyro_manifold.training.TrainingWarning"
)  # too few passes, on purpose


def two_curves(n: int) -> tuple[Tensor, Tensor]:
    """Rows on a parabola (three quarters) and a sine wave 8 above it, and their exact log density by arc
    length."""
    t, low = torch.randn(n), torch.rand(n) < 0.75
    y = torch.where(low, 0.3 * t.square(), 8 + t.sin())
    slope = torch.where(low, 0.6 * t, t.cos())
    log_p = (
        dist.Normal(0.0, 1.0).log_prob(t) + torch.where(low, 0.75, 0.25).log() - 0.5 * slope.square().log1p()
    )
    return torch.stack([t, y], -1), log_p


@pytest.fixture(scope="module")
def fitted() -> tuple[ManifoldMixture, float]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, _ = two_curves(2000)
        mixture = ManifoldMixture.from_data(x, 1, 2, depth=3, hidden=(32, 32), latent_depth=2)
        before = mixture.ood_score(x).mean().item()
        fit_charts(mixture, x, epochs=(8, 8), lr=(1e-2, 2e-2), batch_size=100, disable_progbar=True)
    return mixture, before


def test_learns_two_curves(fitted: tuple[ManifoldMixture, float]) -> None:
    mixture, before = fitted
    y, exact = two_curves(1000)
    assert mixture.ood_score(y).mean() < 0.1 * before
    assert sorted(mixture.weights.tolist()) == pytest.approx([0.25, 0.75], abs=0.05)  # 5 standard errors
    chart = mixture.assign(y)
    own = chart == chart[y[:, 1] < 5].mode().values
    assert (
        (y[:, 1] < 5) == own
    ).float().mean() > 0.99  # images that go on beyond their data take a row now and then
    assert (mixture.log_prob(y) - exact).detach().abs().median() < 0.2  # nats
    noise = y + 0.3 * torch.randn_like(y)
    assert mixture.ood_score(noise).median() > 5 * mixture.ood_score(y).median()
    assert mixture.ood_score(mixture.denoise(noise)).max() < 1e-3


def test_mass_of_the_learned_union(fitted: tuple[ManifoldMixture, float]) -> None:
    """Arc length by chords along the images of both charts, over twice the range of the draws of their
    coordinates."""
    mixture, _ = fitted
    total = 0.0
    for f in mixture.flows:
        draws = f.latent.condition(None).sample((2000,))
        low, high = float(draws.min()), float(draws.max())
        u = torch.linspace(1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low, 8001).unsqueeze(-1)
        x = f.transform(u).detach()
        p = mixture.log_prob(x).detach().exp()
        total += float((0.5 * (p[1:] + p[:-1]) * (x[1:] - x[:-1]).norm(dim=-1)).sum())
    assert total == pytest.approx(1, abs=2e-3)  # second order in the step


def test_one_chart_is_a_manifold_flow() -> None:
    x, _ = two_curves(200)
    mixture = ManifoldMixture.from_data(x, 1, 1, hidden=(8,))
    flow = mixture.flows[0]
    torch.testing.assert_close(mixture.log_prob(x), flow.log_prob(x))
    torch.testing.assert_close(mixture.ood_score(x), flow.ood_score(x))
    torch.testing.assert_close(mixture.denoise(x), flow.denoise(x))


def test_functions_that_train_several_flows_go_on_from_their_checkpoints(tmp_path: Path) -> None:
    """Each flow has a file; a second call with the same files, which trains nothing, ends where the first did."""
    x, _ = two_curves(200)
    calls: dict[str, Any] = {
        "scan": lambda **k: scan_dimension(torch.cat([x, x.sin()], -1), [1, 2], epochs=1, **k).errors,
        "charts": lambda **k: [h.losses for h in fit_charts(mixture(), x, rounds=1, epochs=1, **k)],
        "codes": lambda **k: fit_vq(codes(), x, epochs=1, **k).losses,
    }
    quick: dict[str, Any] = {"depth": 1, "hidden": (8,), "latent_hidden": (8,)}

    def mixture() -> ManifoldMixture:
        torch.manual_seed(0)
        return ManifoldMixture.from_data(x, 1, 2, **quick)

    def codes() -> VQFlow:
        torch.manual_seed(0)
        return VQFlow.from_data(x, 1, 2, **quick)

    files = {"scan": ["1", "2"], "charts": ["0.0", "0.1"], "codes": ["AE", "D", "M"]}
    for name, call in calls.items():
        first, state = call(checkpoint=tmp_path / name, disable_progbar=True), torch.get_rng_state()
        assert sorted(p.name for p in tmp_path.glob(f"{name}*")) == [f"{name}.{f}" for f in files[name]]
        seen: list[float] = []
        again = call(checkpoint=tmp_path / name, disable_progbar=True, clock=lambda: seen.append(0.0) or 0.0)  # noqa: B023
        assert again == first and len(seen) <= 4 * len(files[name])  # looks at the clock: of no pass
        assert name != "scan" or torch.equal(state, torch.get_rng_state())


def test_charts_of_conditional_flows() -> None:
    """Each chart is trained on the contexts, joint scores and ratios of its own rows: a loss that sees those of others
    would be NaN here."""
    torch.manual_seed(0)
    x, _ = two_curves(300)
    context = torch.randn(300, 1)
    score, other, log_ratio = -context, torch.randn(300, 2, 1), torch.randn(300, 2)
    mixture = ManifoldMixture.from_data(x, 1, 2, context_dim=1, depth=1, hidden=(8,), latent_hidden=(8,))
    rows = torch.cdist(x, mixture.centres).argmin(-1)
    for flow, k in zip(mixture.flows, range(2), strict=True):
        plain, own = flow.relative_log_prob, set(context[rows == k].flatten().tolist())

        def watched(u: Tensor, theta: Tensor, plain: Any = plain, own: set[float] = own) -> Tensor:
            first = theta[0] if theta.dim() == 3 else theta
            assert set(first.flatten().tolist()) <= own
            return plain(u, theta)

        flow.relative_log_prob = watched  # type: ignore[assignment]
    known: dict[str, Any] = {"score": score, "ratio": (other, log_ratio), "disable_progbar": True}
    histories = fit_charts(mixture, x, context, rounds=1, epochs=1, **known)
    assert all(math.isfinite(h.losses["D"][0]) for h in histories)
    assert mixture.log_prob(x, context).shape == (300,)


def test_elbow_of_a_known_surface() -> None:
    """A surface in R^5: two dimensions, whichever the scan's others are."""
    torch.manual_seed(0)
    z = torch.randn(600, 2)
    bent = torch.stack([z[:, 0], z[:, 1], z[:, 0] * z[:, 1] / 2, z[:, 0].sin(), 0.3 * z[:, 1].square()], -1)
    x = bent @ torch.linalg.qr(torch.randn(5, 5))[0]
    scan = scan_dimension(x, [1, 2, 3], epochs=8, lr=5e-3, batch_size=100, disable_progbar=True)
    assert scan.dims == [0, 1, 2, 3] and scan.elbow == 2
    assert scan.errors[0] == pytest.approx(bent.var(0).sum().sqrt().item(), rel=0.15)
    assert scan.errors[2] < 0.3 * scan.errors[1]


def test_elbow_by_factor_per_dimension() -> None:
    assert DimensionScan([0, 1, 4, 5], [1.0, 0.5, 0.1, 0.01]).elbow == 5
    assert DimensionScan([0, 2, 4], [1.0, 0.1, 0.05]).elbow == 2
    assert DimensionScan([0, 1], [1.0, 0.0]).elbow == 1


X, _ = two_curves(40)
conditional = partial(ManifoldMixture.from_data, X, 1, 1, context_dim=2)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: ManifoldMixture.from_data(X, 1, 30), "charts: got 30, of which one has"),
        (lambda: ManifoldMixture.from_data(X, 1, 41), "x, charts: got shape .40, 2. and 41"),
        (lambda: ManifoldMixture.from_data(X * math.nan, 1, 1), "x: got nan"),
        (
            lambda: ManifoldMixture([ManifoldFlow(Pad(1, 2), LatentFlow(1, []))], torch.zeros(2, 2)),
            r"flows, centres: got flows of dimensions \[\(1, 2\)\] and centres of shape \(2, 2\)",
        ),
        (lambda: fit_charts(ManifoldMixture.from_data(X, 1, 1), X, rounds=0), "rounds: got 0"),
        (
            lambda: fit_charts(ManifoldMixture.from_data(X, 1, 2), X[X[:, 1] > 5], epochs=1),
            "chart . is left with 0 rows",
        ),
        (lambda: fit_charts(conditional(), X), r"context: got none; expected \(40, 2\)"),
        (lambda: fit_charts(ManifoldMixture.from_data(X, 1, 1), X, X), r"context: got .*; expected none"),
        (lambda: fit_charts(conditional(), X, X[:3]), r"context: got shape \(3, 2\); expected \(40, size\)"),
        (lambda: fit_charts(ManifoldMixture.from_data(X, 1, 1), X, validation=X), "validation: got a tensor"),
        (lambda: ManifoldMixture.from_data(X * math.nan, 1, 2), "x: got nan"),
        (lambda: scan_dimension(X, [1, 2]), r"dims: got \[1, 2\] for x of shape \(40, 2\)"),
        (lambda: scan_dimension(X, []), r"dims: got \[\]"),
        (lambda: scan_dimension(X, [1], held_out=1.0), "held_out: got 1.0 of 40 rows"),
    ],
)
def test_bad_input(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
