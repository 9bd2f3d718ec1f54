"""M-flows: what training reaches on a known surface, that it resumes, restores its best and stops at bad
rows."""

import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_manifold.flows import LatentFlow, coupling_chain
from pyro_manifold.models import AmbientFlow, ManifoldFlow
from pyro_manifold.training import CheckpointError, TrainingWarning, fit_md
from pyro_manifold.transforms import Chart, Pad

pytestmark = pytest.mark.filterwarnings(
    "ignore::pyro_manifold.training.TrainingWarning"
)  # too few passes, on purpose


def surface(n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """(z, x): the graph of a smooth function over normal z."""
    z = torch.randn(n, 2, generator=generator)
    return z, torch.stack([z[:, 0], z[:, 1], z[:, 0].sin() + 0.2 * z[:, 1].square()], -1)


def quick(flow: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    return fit_md(flow, x, *args, disable_progbar=True, **kwargs)


def test_learns_a_surface_and_its_density() -> None:
    _, x = surface(1500)
    flow = ManifoldFlow.from_data(x, 2, depth=4, hidden=(32, 32), latent_depth=2, latent_hidden=(32,))
    before = flow.ood_score(x).mean()
    history = quick(flow, x, epochs=(10, 5), lr=(1e-2, 5e-3), batch_size=100)
    z, y = surface(1000)
    assert flow.ood_score(y).mean() < 0.15 * before
    slope = torch.stack([z[:, 0].cos(), 0.4 * z[:, 1]], -1)
    exact = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) - 0.5 * slope.square().sum(-1).log1p()
    assert (flow.log_prob(y) - exact).detach().abs().median() < 0.2  # nats; the entropy is 3.1
    assert history.losses["M"][-1] < 0.1 * history.losses["M"][0] or history.losses["M"][-1] < 0.1
    noise = y + 0.3 * torch.randn_like(y)
    assert flow.ood_score(noise).median() > 5 * flow.ood_score(y).median()
    assert torch.allclose(flow.denoise(noise), flow.transform(flow.transform.inv(noise)))


def test_best_weights_are_restored() -> None:
    _, x = surface(300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    flow = ManifoldFlow.from_data(x, 2, hidden=(8,), latent_hidden=(8,))
    x[order[30:]] *= (
        # rows to learn from that are of another distribution: the better these, the worse those of validation
        0.3
    )
    history = quick(flow, x, epochs=(0, 8), lr=5e-3, batch_size=90)
    loss = -flow.latent.condition().log_prob(flow.transform.inv(x[order[:30]])).mean().item()
    assert loss == pytest.approx(min([history.start["D"], *history.losses["D"]]), abs=1e-4)
    assert history.losses["D"][-1] > min(history.losses["D"]) + 0.1


def test_budget_in_seconds_of_a_clock() -> None:
    """Of a clock that ticks a second whenever it is looked at: batches until a share of the budget is gone,
    and no pass more."""
    _, x = surface(200)
    ticks = iter(range(10**6))
    flow = ManifoldFlow.from_data(x, 2, hidden=(8,), latent_hidden=(8,))
    history = quick(flow, x, epochs=50, seconds=(30.0, 12.0), clock=lambda: float(next(ticks)), batch_size=20)
    assert len(history.losses["M"]) in (2, 3) and len(history.losses["D"]) in (
        1,
        2,
    )  # 9 batches, and some looks, a pass
    assert 42.0 <= history.seconds < 60.0


@pytest.mark.parametrize("schedule", ["sequential", "alternating"])
def test_resumes_where_it_was(schedule: str, tmp_path: Path) -> None:
    _, x = surface(200)

    def make() -> ManifoldFlow:
        torch.manual_seed(3)
        return ManifoldFlow.from_data(x, 2, hidden=(8,), latent_hidden=(8,))

    kwargs = dict(schedule=schedule, batch_size=50, epochs=2)
    whole = make()
    quick(whole, x, **kwargs)
    path, part = tmp_path / "run.pt", make()
    original, count = torch.optim.AdamW.step, 0

    def interrupted(self: Any, *args: Any, **kw: Any) -> Any:
        nonlocal count
        count += 1
        if count > 12:
            raise KeyboardInterrupt
        return original(self, *args, **kw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            quick(part, x, checkpoint=path, **kwargs)
    again = make()
    history = quick(again, x, checkpoint=path, **kwargs)
    assert all(len(v) == 2 for v in history.losses.values())
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_score_of_a_simulator() -> None:
    """x ~ N(theta, 1): the joint score is x - theta, and the trained density's score finds it."""
    theta = torch.randn(2000, 1)
    u = theta + torch.randn(2000, 1)
    flow = ManifoldFlow(Pad(1, 2), LatentFlow(1, coupling_chain(1, 1, 1, kind="affine", hidden=(32,)), 1))
    x = torch.nn.functional.pad(u, (0, 1))
    quick(flow, x, theta, score=u - theta, epochs=15, lr=1e-2, batch_size=100)
    t = theta[:200].clone().requires_grad_()
    (own,) = torch.autograd.grad(flow.log_prob(x[:200], t).sum(), t)
    assert (own - (u - theta)[:200]).square().mean() < 0.1  # its variance is 1
    d = flow.log_prob(x[:200], theta[:200]) - dist.Normal(theta[:200], 1.0).log_prob(u[:200]).squeeze(-1)
    assert d.detach().abs().mean() < 0.1


def test_family_by_its_parts() -> None:
    _, x = surface(400)
    chart = Chart(
        lambda u: torch.cat([u, u[..., :1].sin() + 0.2 * u[..., 1:].square()], -1), lambda x: x[..., :2], 2, 3
    )
    fom = ManifoldFlow(chart, LatentFlow(2, coupling_chain(2, 2)))
    assert list(quick(fom, x, epochs=1).losses) == ["D"]  # the chart is prescribed
    assert fom.ood_score(x).max() < 1e-6
    for flow in (
        ManifoldFlow.from_data(x, 2, encoder=True, hidden=(8,)),
        ManifoldFlow.autoencoder(x, 2, hidden=(8,)),
        AmbientFlow.from_data(x, 2, hidden=(8,)),
        AmbientFlow.from_data(x, 3, hidden=(8,)),
    ):
        quick(flow, x, epochs=1)
        assert flow.log_prob(x[:5]).isfinite().all()
        assert flow.condition().sample((7,)).shape == (7, 3)
    pie = AmbientFlow.from_data(x, 1, context_dim=2, outer=True, hidden=(8,))
    assert pie.log_prob(x[:5], torch.zeros(2)).shape == (5,)


def test_mass_of_the_ambient_flow() -> None:
    """PIE integrates to 1 over a grid of the plane."""
    x = torch.randn(50, 2) @ torch.tensor([[1.0, 0.4], [0.0, 0.5]])
    pie = AmbientFlow.from_data(x, 1, eps=0.5, hidden=(8,))
    grid = torch.linspace(-6, 6, 121)
    p = pie.log_prob(torch.cartesian_prod(grid, grid)).detach().exp()
    assert p.sum().item() * 0.1**2 == pytest.approx(1, abs=5e-3)


_, X = surface(50, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: ManifoldFlow(Pad(2, 3), LatentFlow(1, [])), "latent: its dimension is 1; expected 2"),
        (lambda: quick(ManifoldFlow.from_data(X, 2), torch.full((5, 3), math.nan)), "x: got nan"),
        (lambda: quick(ManifoldFlow.from_data(X, 2), X, schedule="both"), "schedule: got 'both'"),
        (
            lambda: quick(ManifoldFlow.from_data(X, 2), X, torch.zeros(3, 1)),
            r"context: got shape \(3, 1\); expected \(50, size\)",
        ),
        (lambda: quick(ManifoldFlow.from_data(X, 2), X, score=X), "score: expected the shape of context"),
        (lambda: quick(ManifoldFlow.from_data(X, 2), X, validation=1.0), "validation: got 1.0"),
        (
            lambda: quick(ManifoldFlow.from_data(X, 2), X, warmup=2.0),
            "warmup: got 2.0; expected a share",
        ),
        (
            lambda: quick(ManifoldFlow.from_data(X, 2), X, huber_delta=0.0),
            "huber_delta: got 0.0; expected a positive",
        ),
        (lambda: quick(ManifoldFlow.from_data(X, 2), X, batch_size=0), "batch_size: got 0"),
        (lambda: quick(ManifoldFlow.from_data(X, 2), X, epochs=-1), "epochs: got -1"),
        (lambda: quick(ManifoldFlow.from_data(X, 2), X, epochs=(1, 2, 3)), r"epochs: got \(1, 2, 3\)"),
        (lambda: quick(ManifoldFlow.from_data(X, 2), X, lr=0.0), "lr: got 0.0"),
        (lambda: quick(ManifoldFlow.from_data(X, 2), X, seconds=math.nan), "seconds: got nan"),
        (
            lambda: quick(ManifoldFlow.from_data(X, 2), X, reconstruction_weight=math.inf),
            "reconstruction_weight: got",
        ),
        (
            lambda: quick(ManifoldFlow.from_data(X, 2), X, reconstruction_weight=-1.0),
            "reconstruction_weight: got",
        ),
        (
            lambda: quick(ManifoldFlow.from_data(X, 2).requires_grad_(False), X),
            "flow: none of its parameters requires",
        ),
        (
            lambda: torch.no_grad()(quick)(ManifoldFlow.from_data(X, 2), X),
            "fit_md: gradients are switched off",
        ),
        (
            lambda: quick(ManifoldFlow.from_data(X, 2), X.double()),
            "x: got torch.float64.*parameters are torch.float32",
        ),
        (lambda: quick(ManifoldFlow.from_data(X, 2), X.long()), "x: got .*int64"),
        (
            lambda: quick(ManifoldFlow.from_data(X, 2), X[:1].expand(9, 3)),
            r"x: got shape \(9, 3\), all rows equal",
        ),
        (lambda: LatentFlow(1, []).condition(torch.zeros(2)), r"context: got shape \(2,\); expected none"),
        (lambda: AmbientFlow([], LatentFlow(3, []), 2), "latent, eps: got dimension 3 in 2"),
        (
            lambda: ManifoldFlow.from_data(X, 3),
            r"dim: got 3 for x of shape \(50, 3\); expected 1 <= dim < d.*AmbientFlow",
        ),
        (lambda: ManifoldFlow.from_data(X, 0), "dim: got 0"),
        (lambda: ManifoldFlow.autoencoder(X, 4), "dim: got 4"),
        (lambda: AmbientFlow.from_data(X, 4), "latent, eps: got dimension 4 in 3"),
        (lambda: ManifoldFlow.from_data(X * math.nan, 2), "x: got nan"),
        (
            lambda: quick(ManifoldFlow.from_data(X, 2, 1), X, torch.full((50, 1), math.nan)),
            r"context: got nan at index \(0,\)",
        ),
        (
            lambda: quick(
                ManifoldFlow.from_data(X, 2, 1), X, torch.ones(50, 1), score=torch.full((50, 1), math.inf)
            ),
            r"score: got inf at index \(0,\), expected finite rows",
        ),
        (lambda: ManifoldFlow.from_data(X, 2).log_prob(X * math.nan), "value: got nan|Expected value"),
    ],
)
def test_bad_input(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_lost_rank_is_told() -> None:
    """A decoder that ignores one of its two coordinates, and a flow that a training gone wrong has
    flattened."""
    lost = ManifoldFlow.autoencoder(X, 2, hidden=(8,))
    with torch.no_grad():
        lost.transform._forward[0].layers[0].weight[:, 1] = 0
    flat = ManifoldFlow.from_data(X, 2, hidden=(8,))
    with torch.no_grad():
        flat.transform.layers[-2].log_diagonal.fill_(-200.0)  # e^-200 is 0 in float32
    for flow in (lost, flat):
        with pytest.raises(
            ValueError, match=r"no full rank \(2\) at 50 of 50 points.*fewer latent dimensions"
        ):
            flow.transform.log_volume(torch.randn(50, 2))


def test_data_off_the_manifold_where_that_is_an_error() -> None:
    flow = ManifoldFlow.from_data(X, 2, hidden=(8,))
    strict = ManifoldFlow(flow.transform, flow.latent, off_manifold="error")
    on = flow.denoise(X).detach()
    torch.testing.assert_close(strict.log_prob(on), flow.log_prob(on))
    off = on.clone()
    off[7] += 0.5
    with pytest.raises(
        ValueError, match=r"value: got .* at index \(7,\), expected points of the image.*transform.project"
    ):
        strict.log_prob(off)
    reject = ManifoldFlow(flow.transform, flow.latent, off_manifold="reject").log_prob(off)
    assert (reject == -math.inf).nonzero().tolist() == [[7]]


def test_nan_in_a_later_batch_is_named() -> None:
    """A map that fails for one row only: training stops at its batch, and nothing is replaced."""
    x = X.clone()
    x[:, 0].clamp_(max=4.0)
    x[11, 0] = 5.0
    chart = Chart(torch.nn.Linear(2, 3), lambda x: torch.where(x[..., :1] > 4.5, torch.nan, x[..., :2]), 2, 3)
    flow = ManifoldFlow(chart, LatentFlow(2, coupling_chain(2, 2)))
    with pytest.raises(ValueError, match=r"loss of phase M is nan in batch \d+; look there for NaN"):
        quick(flow, x, epochs=1, batch_size=5, validation=0.0)
    fixed = Chart(lambda u: torch.cat([u, u[..., :1]], -1), chart._inverse, 2, 3)
    flow = ManifoldFlow(fixed, LatentFlow(2, coupling_chain(2, 2)))
    for check in (True, False):  # a distribution that refuses NaN, and one that answers it
        with (
            pyro.validation_enabled(check),
            pytest.raises(ValueError, match=r"data: .*phase D .*in batch \d+"),
        ):
            quick(flow, x, epochs=1, batch_size=5, validation=0.0)


def test_simultaneous_training_warns() -> None:
    with pytest.warns(UserWarning, match="ill-posed"):
        quick(
            ManifoldFlow.from_data(X, 2, hidden=(4,), latent_hidden=(4,)),
            X,
            schedule="simultaneous",
            epochs=1,
        )


def test_whitened_is_the_same_manifold() -> None:
    _, x = surface(500)
    flow = ManifoldFlow.from_data(x, 2, hidden=(8,), latent_hidden=(8,))
    torch.manual_seed(1)
    for p in flow.transform.parameters():
        p.data += 0.1 * torch.randn_like(p)
    for white in (flow.whitened(x), flow.whitened(x).whitened(x)):  # after Pad, and after an affine embedding
        u = white.transform.inv(x)
        assert torch.allclose(u.mean(0), torch.zeros(2), atol=1e-4) and torch.allclose(
            u.mT.cov(), torch.eye(2), atol=1e-4
        )
        assert torch.allclose(white.denoise(x), flow.denoise(x), atol=1e-4)
        assert white.latent is flow.latent
    with pytest.raises(ValueError, match="transform: got Chart"):
        ManifoldFlow.autoencoder(x, 2).whitened(x)


# --- units, starts, one coordinate --------------------------------------------------------------------------
def test_units_do_not_matter() -> None:
    """The same fit to rows in other units, up to rounding: errors scale, log densities shift by 2 log of the
    factor."""
    _, x = surface(300)
    x = x.double()
    errors, densities = [], []
    for unit in (1.0, 1e-6, 1e6):
        torch.manual_seed(0)
        flow = ManifoldFlow.from_data(unit * x, 2, hidden=(8,), latent_hidden=(8,))
        quick(flow, unit * x, epochs=3, batch_size=50, lr=1e-3)  # higher rates enlarge rounding errors
        errors.append(flow.ood_score(unit * x).detach() / unit)
        densities.append(flow.log_prob(unit * x).detach() + 2 * math.log(unit))
    for k in (1, 2):
        torch.testing.assert_close(errors[0], errors[k], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(densities[0], densities[k], rtol=1e-4, atol=1e-3)


def test_never_worse_than_it_was_and_says_so() -> None:
    """A learning rate that ruins everything: the start is what is returned."""
    _, x = surface(300)
    flow = ManifoldFlow.from_data(x, 2, hidden=(8,), latent_hidden=(8,))
    before = {name: p.clone() for name, p in flow.transform.named_parameters()}
    with pytest.warns(TrainingWarning, match="phase M: no pass improved on the start"):
        history = quick(flow, x, epochs=(2, 0), lr=0.3, warmup=0.0)
    assert all(torch.equal(before[name], p) for name, p in flow.transform.named_parameters())
    assert min(history.losses["M"]) > history.start["M"] and any(
        "far from the rows" in text for text in history.warnings
    )


def test_a_good_fit_is_silent() -> None:
    _, x = surface(600)
    flow = ManifoldFlow.from_data(x, 2, depth=4, hidden=(32, 32), latent_depth=2, latent_hidden=(16,))
    history = quick(flow, x, epochs=(12, 1), lr=1e-2, batch_size=50)
    assert history.warnings == [] and history.losses["M"][-1] < 0.3 * history.start["M"]


def test_density_of_one_coordinate_starts_as_the_identity() -> None:
    u = torch.linspace(-7, 7, 29).unsqueeze(-1)
    normal = dist.Normal(0.0, 1.0).log_prob(u).squeeze(-1)
    torch.testing.assert_close(LatentFlow(1, coupling_chain(1, 3)).condition().log_prob(u), normal)
    h = LatentFlow(1, coupling_chain(1, 3))
    h.standardise(3 + 2 * torch.randn(10_000, 1))
    exact = dist.Normal(3.0, 2.0).log_prob(3 + 2 * u).squeeze(-1)
    assert (h.condition().log_prob(3 + 2 * u) - exact).abs().max() < 2.0 and abs(
        float(h.standard.loc) - 3
    ) < 0.1


def test_density_on_an_arc() -> None:
    """A normal angle of standard deviation 0.347, whose density by arc length has mean log -0.36 (its
    entropy)."""
    angle = 0.347 * torch.randn(2000)
    x = torch.stack([angle.cos(), angle.sin()], -1)
    flow = ManifoldFlow.from_data(x, 1, depth=2, hidden=(32,))
    quick(flow, x, epochs=(8, 8))
    angle = 0.347 * torch.randn(4000)
    log_p = flow.log_prob(torch.stack([angle.cos(), angle.sin()], -1)).detach()
    kl = (dist.Normal(0.0, 0.347).log_prob(angle) - log_p).mean()
    assert -0.02 < kl < 0.05  # nats; -3.5 before, with a spline of random parameters


# --- checkpoints
#
# ------------------------------------------------------------------------------------------------
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    _, x = surface(60)

    def make(seed: int = 0, **kwargs: Any) -> ManifoldFlow:
        torch.manual_seed(seed)
        return ManifoldFlow.from_data(x, 2, **{"hidden": (8,), "latent_hidden": (8,), **kwargs})

    path, common = tmp_path / "run.pt", {"checkpoint": tmp_path / "run.pt", "epochs": 1}
    flow = make()
    losses = quick(flow, x, **common).losses
    assert (
        quick(make(), x, **common).losses == losses == quick(flow, x, **common).losses
    )  # the same call, done already
    for call, match in (
        (lambda: quick(make(), x + 1e-3, **common), "data differs"),
        (lambda: quick(make(), x, seed=1, **common), "seed was 0, is 1"),
        (lambda: quick(make(), x, lr=1e-3, **common), "lr was"),
        (lambda: quick(make(), x, **{**common, "epochs": 2}), "epochs was"),
        (lambda: quick(make(kind="spline"), x, **common), "model differs"),
        (lambda: quick(make(hidden=(9,)), x, **common), "model differs"),
        (lambda: quick(make(1), x, **common), "started from other weights"),
    ):
        with pytest.raises(CheckpointError, match=rf"run\.pt.*{match}"):
            call()
    whole = path.read_bytes()
    for content in (
        b"",
        whole[:100],
        whole[:-1],
        b"foreign",
        whole[:300] + bytes([whole[300] ^ 1]) + whole[301:],
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"checkpoint: .*run\.pt"):
            quick(make(), x, **common)


def test_a_missing_folder_fails_before_the_first_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *args, **kwargs: steps.append(1))
    with pytest.raises(ValueError, match=r"checkpoint: cannot write '.*missing/run\.pt'"):
        quick(ManifoldFlow.from_data(X, 2, hidden=(8,)), X, checkpoint=tmp_path / "missing" / "run.pt")
    assert not steps
