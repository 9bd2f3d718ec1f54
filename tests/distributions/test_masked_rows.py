"""Rows under a mask hold any filler in inference: SVI, both kinds of NUTS, whole batches that are missing,
events of rows.

Every distribution of the registry passes the check ``masked_rows``; here the posterior is compared with that
of the rows alone.
"""

import geoopt
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO

from pyro_manifold.distributions import ManifoldUniform, VonMisesFisher, WrappedNormal
from pyro_manifold.infer import AutoManifoldNormal, GeodesicNUTS, ManifoldReparam

F64 = torch.float64
SPHERE = geoopt.Sphere()
ROWS = torch.nn.functional.normalize(
    torch.tensor([[0.1, 0.2, 1.0], [0.3, -0.1, 1.0], [-0.2, 0.1, 1.0]], dtype=F64), dim=-1
)
MASK = torch.tensor([True, False, True, False, True])
TEN = torch.tensor(10.0, dtype=F64)
FILLERS = pytest.mark.parametrize("filler", [0.0, torch.nan])


def with_gaps(filler):
    x = torch.full((5, 3), filler, dtype=F64)
    x[MASK] = ROWS
    return x


def handled(x):
    mu = pyro.sample("mu", ManifoldUniform(SPHERE, 3, dtype=F64))
    with pyro.plate("n", len(x)), poutine.mask(mask=MASK):
        pyro.sample("x", VonMisesFisher(mu, TEN), obs=x)


def partly(x):
    mu = pyro.sample("mu", ManifoldUniform(SPHERE, 3, dtype=F64))
    with pyro.plate("n", len(x)):
        pyro.sample("x", WrappedNormal(SPHERE, mu, TEN / 30), obs=x, obs_mask=MASK)


@FILLERS
@pytest.mark.parametrize("model", [handled, partly])
def test_svi(model, filler):
    """One step's gradient is finite and that of the rows alone, whatever the filler."""
    losses = []
    for x in (with_gaps(filler), torch.where(MASK[:, None], with_gaps(0.0), ROWS[0])):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        guide = AutoManifoldNormal(poutine.block(model, hide=["x_unobserved"]))
        hidden = model if model is handled else poutine.block(model, hide=["x_unobserved"])
        svi = SVI(hidden, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        pyro.set_rng_seed(1)
        losses.append([svi.step(x) for _ in range(5)])
    assert losses[0] == pytest.approx(losses[1])


def test_kernels():
    """The posterior of the mean is vMF about the sum of the rows: mean cosine to that within 5 standard
    errors of 40 draws."""
    resultant = 10 * ROWS.sum(0).norm()
    expected = float(1 / torch.tanh(resultant) - 1 / resultant)
    axis = ROWS.sum(0) / ROWS.sum(0).norm()
    for kernel, name in (
        (GeodesicNUTS(handled, max_tree_depth=3), "mu"),
        (NUTS(ManifoldReparam()(handled), max_tree_depth=3), "mu_ambient"),
    ):
        pyro.set_rng_seed(0)
        mcmc = MCMC(kernel, 60, 40, disable_progbar=True)
        mcmc.run(with_gaps(torch.nan))
        mu = torch.nn.functional.normalize(mcmc.get_samples()[name], dim=-1)
        cosine = mu @ axis
        assert abs(float(cosine.mean()) - expected) < 5 * float(1 / resultant) / 40**0.5


def test_a_batch_that_is_missing_altogether():
    x = torch.full((2, 3), torch.nan, dtype=F64)
    kappa = TEN.clone().requires_grad_()
    fn = VonMisesFisher(ROWS[0], kappa).expand((2,))
    for masked in (
        fn.mask(torch.zeros(2, dtype=torch.bool)),
        fn.mask(torch.zeros(2, dtype=torch.bool)).to_event(1),
    ):
        out = masked.log_prob(x).sum()
        out.backward()
        assert out == 0 and kappa.grad == 0
    trace = poutine.trace(
        poutine.mask(lambda: pyro.sample("x", fn.to_event(1), obs=x), mask=False)
    ).get_trace()
    assert trace.log_prob_sum() == 0


def test_masks_of_events():
    """A mask of sites that are events of two rows each drops both."""
    fn = VonMisesFisher(ROWS[0], TEN).expand((3, 2)).to_event(1)
    x = fn.sample()
    mask = torch.tensor([True, False, True])
    gaps = torch.where(mask[:, None, None], x, torch.nan)
    assert torch.allclose(fn.mask(mask).log_prob(gaps), fn.log_prob(x) * mask)


def test_a_bad_row_beside_masked_ones_is_an_error():
    x = with_gaps(torch.nan)
    x[0] = 2 * x[0]
    with pytest.raises(
        ValueError, match=r"(?s)Error while computing .*'x'.*index \(0,\), expected points of Sphere"
    ):
        poutine.trace(handled).get_trace(x).log_prob_sum()
    with pytest.raises(ValueError, match="expected points of Sphere"):
        VonMisesFisher(ROWS[0], TEN).log_prob(with_gaps(torch.nan))
    with pyro.validation_enabled(False):
        out = VonMisesFisher(ROWS[0], TEN).log_prob(with_gaps(torch.nan))
    assert torch.equal(out == -torch.inf, ~MASK)


def test_imputed_rows():
    """Predictive fills what is missing and keeps what is there."""
    x = Predictive(partly, num_samples=3)(with_gaps(torch.nan))["x"]
    assert torch.equal(x[:, MASK], ROWS.expand(3, 3, 3)) and torch.allclose(
        x.norm(dim=-1), torch.ones(3, 5, dtype=F64)
    )
