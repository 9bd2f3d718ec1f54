"""Batches and draws of size 0: what PyTorch's distributions give, the right shapes and gradients."""

from collections.abc import Callable
from typing import Any

import geoopt
import pytest
import torch

import pyro_manifold.distributions as mdist

SPHERE, BALL, SPD = geoopt.Sphere(), geoopt.PoincareBall(), geoopt.SymmetricPositiveDefinite()
FAMILIES: dict[str, Callable[..., Any]] = {
    "riemannian-sphere": lambda b: mdist.RiemannianNormal(
        SPHERE, torch.eye(3)[0].expand(*b, 3), torch.ones(b)
    ),
    "riemannian-ball": lambda b: mdist.RiemannianNormal(BALL, torch.zeros(*b, 3), torch.ones(b)),
    "riemannian-spd": lambda b: mdist.RiemannianNormal(SPD, torch.eye(3).expand(*b, 3, 3), torch.ones(b)),
    "vmf-S1": lambda b: mdist.VonMisesFisher(torch.eye(2)[0].expand(*b, 2), torch.ones(b)),
    "vmf-S2": lambda b: mdist.VonMisesFisher(torch.eye(3)[0].expand(*b, 3), torch.ones(b)),
    "power-spherical": lambda b: mdist.PowerSpherical(torch.eye(4)[0].expand(*b, 4), torch.ones(b)),
    "projected-normal": lambda b: mdist.ProjectedNormal(torch.ones(*b, 4)),
    "bingham": lambda b: mdist.Bingham(torch.eye(3).expand(*b, 3, 3)),
    "inverse-wishart": lambda b: mdist.InverseWishart(torch.full(b, 5.0), torch.eye(3).expand(*b, 3, 3)),
    "fisher-bingham": lambda b: mdist.FisherBingham(
        torch.eye(3)[0].expand(*b, 3), torch.ones(b), torch.eye(3).expand(*b, 3, 3)
    ),
    "isotropic-gaussian": lambda b: mdist.IsotropicGaussian(torch.eye(3).expand(*b, 3, 3), torch.ones(b)),
    "watson": lambda b: mdist.Watson(torch.eye(3)[0].expand(*b, 3), torch.ones(b)),
    "kent": lambda b: mdist.Kent(torch.eye(3).expand(*b, 3, 3), torch.ones(b), torch.zeros(b)),
    "matrix-fisher": lambda b: mdist.MatrixFisher(torch.eye(3).expand(*b, 3, 3)),
    "acg": lambda b: mdist.AngularCentralGaussian(torch.eye(3).expand(*b, 3, 3)),
    "uniform": lambda b: mdist.ManifoldUniform(SPHERE, (3,), b),
    "wrapped-cauchy": lambda b: mdist.WrappedCauchy(torch.zeros(b), torch.zeros(b)),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_empty(name: str) -> None:
    d = FAMILIES[name]((0,))
    assert d.batch_shape == (0,)
    for e, batch in ((d, (0,)), (d.expand((3, 0)), (3, 0)), (FAMILIES[name](()), ())):
        for shape in ((), (4,), (0,)):
            if not batch and shape != (0,):
                continue
            x = e.sample(shape)
            assert x.shape == shape + batch + d.event_shape
            assert e.log_prob(x.requires_grad_()).shape == shape + batch
            e._validate_args = False  # the other path of log_prob
            assert e.log_prob(x).shape == shape + batch
            e._validate_args = True
            if name != "uniform":
                (g,) = torch.autograd.grad(e.log_prob(x).sum(), x)
                assert g.shape == x.shape
    for summary in ("entropy", "mean", "variance"):
        try:
            out = getattr(d, summary)
            out = out() if callable(out) else out
        except NotImplementedError:
            continue
        assert out.shape[:1] == (0,), summary
