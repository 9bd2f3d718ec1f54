"""Every guide on every site of the registry of reparametrisers, in plates, events and under masks: steps are
finite, draws of all sites lie on their supports and have the shapes of the model's."""

import math

import pyro
import pytest
import torch
from cases.reparametrisers import REPARAMS
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from pyro_manifold.constraints import manifold_of
from pyro_manifold.infer import AutoManifoldDelta, AutoManifoldMultivariateNormal, AutoManifoldNormal
from pyro_manifold.infer.reparam.circular import is_angle

SITES = ("alone", "row", "event", "masked", "response")
OURS = (AutoManifoldNormal, AutoManifoldDelta, AutoManifoldMultivariateNormal)
PYROS = (AutoNormal, AutoMultivariateNormal)  # on the reparametrised model


def every_form(case):
    def model(data=None):
        fn = case.make()
        pyro.sample("alone", fn)
        pyro.sample("event", fn.expand((2,)).to_event(1))
        with pyro.plate("n", 2):
            pyro.sample("row", fn)
            pyro.sample("masked", fn.mask(torch.tensor([True, False])))
            pyro.sample("response", fn, obs=data)

    return model


@pytest.mark.parametrize("guide_class", [*OURS, *PYROS], ids=lambda c: c.__name__)
@pytest.mark.parametrize("case", [c for c in REPARAMS if c.has_density], ids=lambda case: case.name)
def test_guide(case, guide_class):
    fn, model = case.make(), every_form(case)
    if (
        guide_class in OURS
        and is_angle(fn)
        and manifold_of(fn.support) is None
        and guide_class is not AutoManifoldDelta
    ):
        with pytest.raises((ValueError, NotImplementedError), match="CircularReparam"):
            guide_class(model)()
        return
    if guide_class in PYROS:
        model = poutine.reparam(model, {site: case.reparam() for site in SITES})
    pyro.set_rng_seed(0)
    guide = guide_class(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    data = fn.sample((2,))
    assert all(math.isfinite(svi.step(data)) for _ in range(2))
    drawn = Predictive(model, guide=guide, num_samples=3)()
    for site in SITES:
        x = drawn[site]
        assert fn.support.check(x).all(), site
        assert x.shape[len(x.shape) - fn.event_dim :] == fn.event_shape and x.shape[0] == 3
        assert x.numel() == 3 * fn.event_shape.numel() * (1 if site == "alone" else 2)
