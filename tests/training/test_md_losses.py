"""Score and ratios of a simulator in the density phase, on interfering amplitudes whose distribution is
known."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_manifold.contrib.lhc import MorphingHead
from pyro_manifold.flows import LatentFlow, coupling_chain
from pyro_manifold.models import AmbientFlow, ManifoldFlow
from pyro_manifold.training import fit_md
from pyro_manifold.training.md_losses import density_loss, reconstruction_loss, whitener
from pyro_manifold.transforms import Pad

pytestmark = pytest.mark.filterwarnings(
    "ignore::pyro_manifold.training.TrainingWarning"
)  # too few passes, on purpose

# p(u | theta) = N(u; 0, 1) [1 + (1 + theta.u)^2 / (1 + |theta|^2)] / 2: the latent z says which of the two
# terms an event is of


def form(u: Tensor, theta: Tensor, z: Tensor | None = None) -> Tensor:
    signal = (1 + (theta * u).sum(-1)).square() / (1 + theta.square().sum(-1))
    return (1 + signal) / 2 if z is None else torch.where(z, signal, torch.ones_like(signal))


def simulate(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """theta, u, z of n events."""
    theta, u = torch.randn(n, 2), torch.empty(n, 2)
    z, todo = torch.rand(n) < 0.5, torch.arange(n)
    for _ in range(
        1000
    ):  # signal <= 1 + |u|^2, so proposals of density N(u) (1 + |u|^2) / 3 are accepted in one of three
        if not len(todo):
            return theta, u, z
        u_ = torch.randn(len(todo), 2)
        far = torch.rand(len(todo)) < 2 / 3  # N(u) |u|^2 / 2: the squared radius is Gamma(2) twice
        radius = (-2 * torch.rand(len(todo), 2).log().sum(-1)).sqrt()
        u_ = torch.where(far.unsqueeze(-1), u_ / u_.norm(dim=-1, keepdim=True) * radius.unsqueeze(-1), u_)
        keep = torch.rand(len(todo)) * (1 + u_.square().sum(-1)) < form(u_, theta[todo], z[todo])
        u[todo[keep]] = u_[keep]
        todo = todo[~keep]
    raise RuntimeError("simulate")


@pytest.fixture(scope="module")
def data() -> dict[str, Tensor]:
    torch.manual_seed(0)
    theta, u, z = simulate(4000)
    other = torch.randn(4000, 3, 2)
    t = theta.clone().requires_grad_()
    (score,) = torch.autograd.grad(form(u, t, z).log().sum(), t)
    ratio = (form(u, theta, z).unsqueeze(1) / form(u.unsqueeze(1), other, z.unsqueeze(1))).log()
    kept = (ratio.abs().amax(-1) < 9) & (
        score.norm(dim=-1) < 9
    )  # the signal has zeros, at which both diverge
    return {
        "theta": theta[kept],
        "u": u[kept],
        "score": score[kept],
        "other": other[kept],
        "ratio": ratio[kept],
    }


def head(theta: Tensor) -> ManifoldFlow:
    torch.manual_seed(0)
    base = LatentFlow(2, coupling_chain(2, 2, hidden=(16,)))
    return ManifoldFlow(Pad(2, 2), MorphingHead(base, torch.eye(3), theta, hidden=(32, 32)))


@torch.no_grad()
def error(log_ratio: Any) -> float:
    """Root mean square error of log p(u | theta) / p(u | 0) over fresh events and theta."""
    torch.manual_seed(5)
    theta, u, _ = simulate(2000)
    other = torch.randn(2000, 2)
    want = form(u, theta).log() - form(u, other).log()
    return float((log_ratio(u, theta) - log_ratio(u, other) - want).square().mean().sqrt())


@pytest.mark.parametrize("use", ["likelihood", "score", "ratio"])
def test_each_term_finds_the_distribution(use: str, data: dict[str, Tensor]) -> None:
    flow = head(data["theta"])
    start = error(flow.latent_log_prob)
    given: dict[str, Any] = {
        "score": {"score": data["score"]},
        "ratio": {"ratio": (data["other"], data["ratio"])},
    }.get(use, {})
    before = {n: p.clone() for n, p in flow.latent.base.named_parameters()}
    flow.latent.base.requires_grad_(False)
    history = fit_md(
        flow, data["u"], data["theta"], epochs=12, batch_size=100, lr=5e-3, disable_progbar=True, **given
    )  # fmt: skip
    assert all(
        torch.equal(before[n], p) for n, p in flow.latent.base.named_parameters()
    )  # a frozen base stays
    assert history.losses["D"][-1] < history.losses["D"][0]
    # measured over 3 seeds: 0.29-0.33, 0.20-0.24 and 0.10-0.15 of the start
    assert error(flow.latent_log_prob) < {"likelihood": 0.45, "score": 0.33, "ratio": 0.22}[use] * start


def test_ratio_trains_a_conditional_spline_and_an_ambient_flow(data: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    for flow in (
        ManifoldFlow(Pad(2, 2), LatentFlow(2, coupling_chain(2, 2, 2, hidden=(16,)), 2)),
        AmbientFlow.from_data(data["u"], 2, 2, depth=1, hidden=(8,), latent_depth=2),
    ):
        u, theta, score, other, ratio = (data[k][:1500] for k in ("u", "theta", "score", "other", "ratio"))
        alternative = (other[:, 0], ratio[:, 0])  # one, without its axis
        history = fit_md(flow, u, theta, ratio=alternative, score=score, epochs=2, disable_progbar=True)
        assert history.losses["D"][-1] < history.losses["D"][0]


def test_terms_are_least_at_the_truth(data: dict[str, Tensor]) -> None:
    """With the true density each term is the noise of z alone; any change of the density raises it (4000
    events, same noise)."""

    def log_prob(power: float, swap: float = 0.0) -> Any:
        return lambda u, theta: power * form(u, theta).log() + swap * theta[..., 0] * u[..., 1]

    rows = (data["u"], data["theta"], data["score"], data["other"], data["ratio"])
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        term = density_loss(log_prob(1.0), *weights)
        nll = -form(data["u"], data["theta"]).log().mean()
        best = float((term(*rows) - nll).detach())
        for p, s in ((0.7, 0.0), (1.3, 0.0), (1.0, 0.2), (1.0, -0.2)):
            worse = (
                density_loss(log_prob(p, s), *weights)(*rows)
                + log_prob(p, s)(data["u"], data["theta"]).mean()
            )
            assert float(worse.detach()) > best


@pytest.mark.parametrize(
    ("ratio", "match"),
    [
        ((torch.zeros(9, 2), torch.zeros(8)), "ratio"),
        ((torch.zeros(9, 1), torch.zeros(9)), "ratio"),
        ((torch.zeros(9, 2), torch.full((9,), float("inf"))), "ratio: got inf"),
    ],
)
def test_bad_ratio(ratio: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fit_md(
            head(torch.randn(50, 2)),
            torch.randn(9, 2),
            torch.randn(9, 2),
            ratio=ratio,
            epochs=1,
            disable_progbar=True,
        )


def test_error_of_reconstructions_by_square_and_by_distance() -> None:
    flow = ManifoldFlow(
        Pad(2, 5), LatentFlow(2, [])
    )  # the distance of x is the length of its last three coordinates
    x = torch.cat(
        [torch.randn(6, 2), torch.tensor([1e-3, 0.1, 1.0]).repeat(2).unsqueeze(1) * torch.randn(6, 3)], 1
    ).double()
    r = x[:, 2:].norm(dim=-1)
    assert torch.allclose(reconstruction_loss(flow, 3.0)(x), 3 * r.square().mean() / 5)
    assert torch.allclose(reconstruction_loss(flow, 3.0, 1e3)(x), 3 * r.square().mean() / 5, rtol=1e-5)
    assert torch.allclose(reconstruction_loss(flow, 3.0, 1e-6)(x), 3 * 2e-6 / 5 * r.mean(), rtol=1e-2)


def test_huge_errors_of_the_score_count_linearly() -> None:
    """log p = theta u^2 / 2 - u^2 / 2, whose score is u^2 / 2."""
    u, theta, score = torch.randn(3, 50, 1).double()
    q = (u.square() / 2 - score).square().sum(-1)

    def lp(u: Tensor, theta: Tensor) -> Tensor:
        return ((theta - 1) * u.square() / 2).sum(-1)

    rest = -lp(u, theta).mean()
    for delta, want in ((math.inf, q), (1e3, q), (1e-4, 2e-4 * q.sqrt())):
        got = density_loss(lp, 3.0, 0.0, delta)(u, theta, score)
        assert torch.allclose(got, 3 * want.mean() + rest, rtol=1e-3)


@pytest.mark.slow
def test_whitening_finds_a_narrow_axis() -> None:
    """A parabola times a short segment: its widest two axes are those of the parabola, which is a curve."""
    torch.manual_seed(0)
    t, s = torch.randn(2, 4000)
    x = torch.stack([t, (t * t - 1) / 2**0.5, 0.1 * s], -1)
    flow = ManifoldFlow(Pad(2, 3), LatentFlow(2, []))
    error = flow.denoise(x) - x  # of the last coordinate, whose share of the largest deviation is about 0.1
    got = reconstruction_loss(flow, 1.0, whiten=whitener(x))(x, power=1.0)
    assert got == pytest.approx(float(error.square().mean()) * 100, rel=0.1)
    assert torch.allclose(reconstruction_loss(flow, 1.0, whiten=whitener(x))(x), error.square().mean())
    left = []
    for whitening in (0.0, 0.4):
        torch.manual_seed(0)
        flow = ManifoldFlow.from_data(x, 2, depth=2, hidden=(32,), mix=False, latent_depth=1)
        fit_md(
            flow,
            x,
            epochs=(6, 0),
            lr=2e-2,
            warmup=0.03,
            batch_size=100,
            whitening_fraction=whitening,
            disable_progbar=True,
        )
        left.append(float(flow.ood_score(x).mean().detach()))
    assert left[0] > 0.07 and left[1] < 0.02  # 0.08 and 0.011


def test_the_rate_rises_and_falls() -> None:
    rates = []

    def seen(self: Any, *args: Any, **kw: Any) -> None:
        rates.append(self.param_groups[0]["lr"])

    flow = ManifoldFlow(Pad(2, 3), LatentFlow(2, coupling_chain(2, 2, hidden=(4,))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", seen)
        fit_md(
            flow,
            torch.randn(100, 3),
            epochs=10,
            batch_size=10,
            validation=0.0,
            lr=0.5,
            warmup=0.2,
            disable_progbar=True,
        )
    want = [0.25 * min(1.0, i / 20) * (1 + math.cos(math.pi * i / 100)) for i in range(100)]
    assert rates == pytest.approx(want)
