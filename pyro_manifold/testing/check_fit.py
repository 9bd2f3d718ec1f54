"""Is an estimator one of maximum likelihood, and does it take weights, batches and dtypes as promised?"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..distributions.estimation.likelihood import derivatives

__all__ = ["check_fit"]


def _log_likelihood(d: Any, x: Tensor) -> float:
    return float(d.log_prob(x).double().mean())


def _same(a: Any, b: Any, x: Tensor, what: str, tol: float = 1e-7) -> None:
    """Assert that two distributions have the same density at the rows."""
    torch.testing.assert_close(a.log_prob(x), b.log_prob(x), rtol=tol, atol=tol, msg=lambda m: f"{what}: {m}")


def check_fit(
    fit: Callable[..., Any], distribution: Any, n: int = 400, maximum: bool = True, batches: bool = True
) -> None:
    """Draw ``n`` rows from ``distribution`` and check ``fit(x, weights)`` on them: the fit has a likelihood of at
    least that of the truth and no slope in tangent coordinates; weighted rows are repeated rows; a batch is a
    loop; float32 rows give float32 parameters; rows with a gradient are detached.

    :param fit: e.g. ``VonMisesFisher.fit``, called as ``fit(x)`` or ``fit(x, weights)``.
    :param distribution: the truth, without batch axes, in float64.
    :param n: number of rows.
    :param maximum: is it the maximum of the likelihood in all parameters? Else the first two checks are left out.
    :param batches: does it take batches?
    :raises AssertionError: naming what does not hold and by how much.

    >>> from pyro_manifold.distributions import VonMisesFisher
    >>> check_fit(VonMisesFisher.fit, VonMisesFisher(torch.eye(3, dtype=torch.float64)[0], 5.0))
    """
    x = distribution.sample((n,))
    found = fit(x)
    shares = torch.full((n,), 1 / n, dtype=x.dtype, device=x.device)
    assert found.batch_shape == () and found.event_shape == distribution.event_shape, found
    if maximum:
        gain = _log_likelihood(found, x) - _log_likelihood(distribution, x)
        assert gain > -1e-10, f"the truth is more likely than the fit, by {-gain:.3g} nats a row"
        _, gradient, information = derivatives(found, x, shares)
        step = torch.linalg.lstsq(information, gradient.unsqueeze(-1), driver="gelsd").solution.squeeze(-1)
        left = float((gradient * step).sum())
        assert abs(left) * n < 1e-8, f"a Newton step would still gain {0.5 * left * n:.3g} nats"
    counts = torch.randint(0, 4, (n,), device=x.device)
    _same(fit(x, 0.5 * counts.to(x)), fit(x.repeat_interleave(counts, 0)), x, "weights are not repetitions")
    single = fit(x.float())
    assert single.log_prob(x[:1].float()).dtype == torch.float32, "float32 rows give other parameters"
    difference = _log_likelihood(single, x.float()) - _log_likelihood(found, x)
    assert abs(difference) < 1e-3, f"float32 rows change the mean log likelihood by {difference:.3g}"
    with_graph = fit(x.clone().requires_grad_())
    assert not with_graph.log_prob(x).requires_grad, "the fit of rows with a gradient has one"
    if batches:
        pair = torch.stack([x, x.flip(0).roll(n // 3, 0)[torch.randint(n, (n,), device=x.device)]], 1)
        both = fit(pair)
        assert both.batch_shape == (2,), f"the batch shape is {tuple(both.batch_shape)}, expected (2,)"
        each = torch.stack([fit(pair[:, i]).log_prob(pair[:, i]) for i in range(2)], 1)
        torch.testing.assert_close(
            both.log_prob(pair), each, rtol=1e-7, atol=1e-7, msg=lambda m: f"batch: {m}"
        )
