"""Every distribution makes draws, their log density and gradients as a recorded graph, as ``CompiledELBO`` records them.

The graph draws what the distribution draws from the same seed. Many draws and several seeds: a rejection sampler that
was recorded while it ran would repeat as many rounds as it took then.
"""

import pyro
import pytest
import torch
from cases import DISTRIBUTIONS, DistributionCase, tensors

from pyro_manifold.infer.recording import NotRecordableError, Recording

# cases that are not recordable, and why they cannot be
NOT_RECORDED = {
    "atlas": "charts are evaluated at the points that they contain, which are counted",
    "atlas-in-regions": "charts are evaluated at the points of their regions, which are counted",
    "uniform-on-curve": "the number of proposals depends on the stretch of the map, which has to be read",
}
DRAWS = 50


def drawn(case: DistributionCase, values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Draws, log densities, and gradients in the parameters of a function of both."""
    with torch.enable_grad(), pyro.validation_enabled(False):
        values = [v.detach().requires_grad_() for v in values]
        d = case.make(**dict(zip(case.params, values, strict=False)))
        x = (d.rsample if d.has_rsample else d.sample)((DRAWS,))
        # a copy: the intermediate values of a draw are not remembered in a graph, and at parameters off their manifold
        # gradients depend on the way
        log = d.log_prob(x.clone())
        f = log.mean() + (x.sin().mean() if d.has_rsample else 0.0)
        grads = torch.autograd.grad(f, values, allow_unused=True) if f.requires_grad else ()
    return [x.detach(), log.detach(), *(g for g in grads if g is not None)]


@pytest.mark.parametrize("case", DISTRIBUTIONS, ids=lambda c: c.name)
def test_draws_and_densities_are_recorded(case):
    values = list(tensors(case.params, dtype=torch.float64).values()) or [torch.zeros(())]
    torch.manual_seed(0)
    drawn(case, values)  # tables are made at the first call
    if case.name in NOT_RECORDED:
        with pytest.raises(NotRecordableError, match="value|sizes"):
            Recording(lambda *v: drawn(case, list(v)), values, draws=True)
        return
    graph = Recording(lambda *v: drawn(case, list(v)), values, draws=True)
    for seed in (1, 2, 3):
        torch.manual_seed(seed)
        own = drawn(case, values)
        torch.manual_seed(seed)
        tol = torch.finfo(own[0].dtype).eps ** 0.5
        torch.testing.assert_close(graph(*values), own, rtol=tol, atol=tol)


def test_the_list_is_of_cases():
    assert NOT_RECORDED.keys() <= {c.name for c in DISTRIBUTIONS}


def test_a_loop_that_ended_at_once_is_refused():
    """All proposals were accepted while it was recorded, so that nothing of its condition is needed: it was dropped
    before it was looked at, and the graph kept proposals that are to be rejected."""

    def positive(scale: torch.Tensor) -> torch.Tensor:
        x = scale * torch.randn(2, dtype=torch.float64)
        todo = (x < 0).nonzero()
        while todo.numel():
            x[todo] = scale * torch.randn(len(todo), 1, dtype=torch.float64)
            todo = (x < 0).nonzero()
        return x

    seed = next(s for s in range(99) if bool((torch.manual_seed(s) and torch.randn(2)).min() > 0))
    torch.manual_seed(seed)
    with pytest.raises(NotRecordableError, match="sizes depend on the values"):
        Recording(positive, [torch.tensor(1.0, dtype=torch.float64)], draws=True)
