"""The learned arc length of HMC: from autocorrelations known in closed form, and on a real target."""

import math

import geoopt
import torch

from pyro_manifold.geometry import geometry
from pyro_manifold.infer import GeodesicHMC, VectorizedMCMC
from pyro_manifold.infer.mcmc.adapters import TrajectoryLengthAdapter
from pyro_manifold.infer.mcmc.systems import System

F64 = torch.float64


def recorded(frequency: float, step: float) -> TrajectoryLengthAdapter:
    """Fed with exact harmonic motion x(t) = x cos(f t) + v sin(f t), for which rho of x is cos(f t) and of
    x^2 its square."""
    torch.manual_seed(0)
    arc, n = TrajectoryLengthAdapter(), 2000
    system = System(lambda z: 0.5 * z["y"].square().sum(-1), {}, {"y": torch.Size([1])})
    x, v = torch.randn(2, n, 1, dtype=F64)
    record = arc.recorder(system, step)
    for i in range(round(math.pi / step) + 1):
        angle = torch.tensor(frequency * i * step, dtype=F64)
        y = x * angle.cos() + v * angle.sin()
        record(i, system.state({"y": y}), torch.zeros(n, dtype=F64))
    arc.choose(step)
    return arc


def test_a_quarter_period_is_found():
    """With small steps the best arc of a jittered harmonic oscillator is a little below a quarter period, pi
    / 2 for f = 1."""
    assert 0.8 < recorded(1.0, 0.1).length < 1.6
    assert recorded(2.0, 0.05).length < 0.6 * recorded(1.0, 0.05).length


def test_slow_motion_asks_for_longer_trajectories():
    arc = recorded(0.2, 0.1)
    assert arc.length > 1.7 and arc.longest > 1.9 * math.pi


def test_a_given_length_is_kept():
    arc = TrajectoryLengthAdapter(0.7)
    arc.choose(0.1)
    assert arc.length == 0.7 and 1 <= arc.count(0.1, True) <= 11


def test_learned_arc_in_a_run():
    """S^2 at concentration 100: one or two steps a draw are enough, about a radian in units of the scale; and warm-up
    takes at most two gradients a transition (six seeds: 160 to 187 for 100)."""
    torch.manual_seed(0)
    mu = torch.tensor([0.0, 0.6, 0.8], dtype=F64)
    sphere = geoopt.Sphere()
    start = {"x": geometry(sphere).project(mu + 0.1 * torch.randn(16, 3, dtype=F64))}
    k = GeodesicHMC(potential_fn=lambda z: -100 * (z["x"] @ mu), manifolds={"x": sphere}, chains=16)
    mcmc = VectorizedMCMC(k, num_samples=30, warmup_steps=100, initial_params=start, disable_progbar=True)
    mcmc.run()
    d = mcmc.diagnostics()
    all_, warm = (sum(d[k].values()) / 16 for k in ("gradients", "warmup gradients"))
    per_draw = (all_ - warm) / 30
    assert warm <= 2 * 100
    assert per_draw < 2.5 and 0.3 < k.trajectory_length < 3
