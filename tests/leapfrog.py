"""What a leapfrog along geodesics must do on every manifold, known or implicit (after Mici's tests of its
integrators)."""

import torch

from pyro_manifold.infer.mcmc.integrators import geodesic_leapfrog


def run(system, state, size, steps):
    step = torch.full((state.w.shape[0], 1), size, dtype=state.w.dtype)
    for _ in range(steps):
        state = geodesic_leapfrog(system, state, step)
    return state


def check_reversibility(system, start, size, steps):
    """There, and back with the momentum turned, to rounding; and it did move."""
    end = run(system, start, size, steps)
    back = run(system, end.with_momentum(-end.w), size, steps)
    for k in start.z:
        assert (back.z[k] - start.z[k]).abs().max() < 1e-10
    assert (back.w + start.w).abs().max() < 1e-10
    assert (end.z["x"] - start.z["x"]).abs().max() > 0.1


def check_order_two(system, start, time):
    """Half the step, a quarter of the error of the energy."""
    h = start.energy()
    errors = [float((run(system, start, time / n, n).energy() - h).abs().max()) for n in (4, 8, 16)]
    assert errors[0] > 1e-9  # the test would be empty if the dynamics were trivial
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 3 < coarse / fine < 5.5


def check_no_mutation(system, start, size):
    before = start.clone()
    run(system, start, size, 3)
    assert all(torch.equal(before.z[k], start.z[k]) for k in start.z)
    assert torch.equal(before.w, start.w) and torch.equal(before.grad, start.grad)
    assert torch.equal(before.table, start.table)
