"""What every variational auto-encoder shares, on a linear Gaussian model whose evidence is known."""

import copy
import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

from pyro_manifold.models import LatentVAE

D = torch.float64


class Factor(LatentVAE):
    r"""Factor analysis, :math:`x = Wz + \epsilon`: :math:`x \sim N(0, WW^\top + s^2 I)`, and the posterior is
    normal."""

    def __init__(self, shape: Any = 3, families: str = "normal", scale: float = 0.5) -> None:
        super().__init__(shape, name="factor")
        self.W = torch.nn.Parameter(
            torch.randn(self.data_shape.numel(), 2, generator=torch.Generator().manual_seed(0))
        )
        self.families, self.scale = families, scale

    def settings(self) -> dict[str, Any]:
        return {"families": self.families}

    @property
    def prior(self) -> Any:
        return dist.Normal(self.W.new_zeros(2), 1.0).to_event(1)

    def encode(self, x: Tensor) -> Any:
        """The exact posterior with twice its covariance."""
        self._check_data(x)
        rows = x.flatten(x.dim() - len(self.data_shape))
        precision = torch.eye(2, dtype=x.dtype) + self.W.mT @ self.W / self.scale**2
        loc = torch.linalg.solve(precision, (rows @ self.W).unsqueeze(-1) / self.scale**2).squeeze(-1)
        return dist.MultivariateNormal(loc, 2 * precision.inverse())

    def decode(self, z: Tensor) -> Any:
        out = (z @ self.W.mT).unflatten(-1, self.data_shape)
        return dist.Normal(out, self.scale).to_event(len(self.data_shape))

    def evidence(self, x: Tensor) -> Tensor:
        n = self.data_shape.numel()
        covariance = self.W @ self.W.mT + self.scale**2 * torch.eye(n, dtype=x.dtype)
        rows = x.flatten(x.dim() - len(self.data_shape))
        return torch.distributions.MultivariateNormal(x.new_zeros(n), covariance).log_prob(rows)


class Closed(Factor):
    """The same with a prior whose divergence from the posterior is registered."""

    @property
    def prior(self) -> Any:
        return dist.MultivariateNormal(self.W.new_zeros(2), torch.eye(2, dtype=self.W.dtype))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 3, dtype=D, generator=torch.Generator().manual_seed(1))


def gap() -> float:
    """KL of the posterior from the exact one, whose covariance is half of its, in two dimensions."""
    return 0.5 * 2 * (2 - 1 - math.log(2))


@pytest.mark.parametrize("kind", [Factor, Closed])
def test_the_bound_is_below_the_evidence_by_the_divergence_of_the_posterior(kind: Any, x: Tensor) -> None:
    vae = kind().double()
    pyro.set_rng_seed(0)
    bound = vae.elbo(x, 20_000)
    # sd of one draw of a row below 2 nats (measured): 6 sd of the mean are 6 * 2 / sqrt(2e4) = 0.085
    torch.testing.assert_close(bound, vae.evidence(x) - gap(), atol=0.085, rtol=0)
    assert bound.requires_grad and torch.autograd.grad(bound.sum(), vae.W)[0].isfinite().all()


def test_the_closed_form_is_used_where_there_is_one(x: Tensor) -> None:
    """One draw of z gives the divergence of any other: it does not depend on the draw."""
    for kind, exact in ((Closed, True), (Factor, False)):
        vae = kind().double()
        q, p = vae.encode(x), vae.prior
        a, b = (vae.divergence(q, p, q.sample((1,))) for _ in range(2))
        assert a.shape == (6,) and torch.equal(a, b) is exact


def test_iwae_rises_from_the_bound_to_the_evidence(x: Tensor) -> None:
    vae = Factor().double()
    pyro.set_rng_seed(0)
    evidence = vae.evidence(x).mean().detach()
    scores = {k: torch.stack([vae.iwae(x, k).mean() for _ in range(200)]) for k in (1, 10)}
    # the sd of the log weights is 1 (measured): 6 sd of the mean of 1200 are 0.17
    assert abs(float(scores[1].mean() - evidence) + gap()) < 0.17
    assert scores[1].mean() < scores[10].mean() - 0.1
    # the weights have a relative variance of 1/3 (exactly): 6 sd of the log of the mean of 6e5 are 0.005
    assert abs(float(vae.iwae(x, 100_000).mean() - evidence)) < 0.005


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_pyro_agrees(elbo: Any, x: Tensor) -> None:
    for kind in (Factor, Closed):
        vae = kind().double()
        pyro.set_rng_seed(0)
        own = vae.elbo(x, 5000).sum()
        loss = elbo(num_particles=5000, vectorize_particles=True).differentiable_loss(
            vae.model, vae.guide, x, size=60
        )
        # sd of one draw of all rows below 5 nats (measured): 6 sd of the difference of two means are 0.6
        assert abs(float((own + loss / 10).detach())) < 0.6


def test_rows_of_any_shape() -> None:
    vae = Factor((2, 3)).double()
    x = torch.randn(4, 2, 3, dtype=D)
    assert vae.elbo(x).shape == vae.iwae(x, 3, chunk=13).shape == (4,)
    assert vae.iwae(x[0], 3).shape == () and vae.elbo(x[0]).shape == ()
    assert vae.elbo(x[:0]).shape == vae.iwae(x[:0]).shape == (0,)
    assert vae.iwae(x.expand(5, 4, 2, 3), 2).shape == (5, 4)
    assert vae.sample(7).shape == vae.sample(7, x).shape == (7, 2, 3)
    with pytest.raises(ValueError, match=r"x: got shape \(4, 3, 2\); expected last axes \(2, 3\)"):
        vae.elbo(x.mT)
    with pytest.raises(ValueError, match=r"x: got shape \(2, 3\); expected \(n, 2, 3\). Use x.unsqueeze"):
        vae.guide(x[0])


def test_a_draw_without_gradient_is_refused(x: Tensor) -> None:
    class Counts(Factor):
        def encode(self, x: Tensor) -> Any:
            return dist.Poisson(x[..., :2].exp()).to_event(1)

    with pytest.raises(ValueError, match="posterior: draws of Independent have no gradient.*score function"):
        Counts().double().elbo(x)


def test_files(tmp_path: Path, x: Tensor) -> None:
    file = tmp_path / "vae.pt"
    vae = Factor().double()
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)
    vae.save(file)
    other = Factor().double()
    assert not torch.equal(other.W, vae.W) and other.load(file) is other and torch.equal(other.W, vae.W)
    assert Factor().load(file).W.dtype == torch.float32  # weights take the dtype of the model
    fresh = Factor().double()
    for bad, match in (
        (Closed().double(), "holds a Factor; expected a Closed"),
        (
            Factor(families="other").double(),
            "saved from a model with {'families': 'normal'}.*construct it alike",
        ),
        (Factor(4).double(), "does not fit this model.*size mismatch"),
    ):
        before = copy.deepcopy(bad.state_dict())
        with pytest.raises(ValueError, match=f"(?s)vae.pt.*{match}"):
            bad.load(file)
        assert all(torch.equal(v, before[k]) for k, v in bad.state_dict().items() if isinstance(v, Tensor))
    content = file.read_bytes()
    for damaged in (b"", content[:100], content[:-1], content[:60] + b"?" + content[61:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="vae.pt"):
            fresh.load(file)
    with pytest.raises(FileNotFoundError):
        fresh.load(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="no/folder/vae.pt"):
        vae.save(tmp_path / "no" / "folder" / "vae.pt")


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    from pyro_manifold.training import save_checkpoint

    save_checkpoint(tmp_path / "run.pt", {"scores": [1.0]}, {})
    with pytest.raises(ValueError, match="run.pt' holds no model"):
        Factor().load(tmp_path / "run.pt")


@pytest.mark.parametrize("shape", [0, (), (2, 0), True])
def test_bad_shapes(shape: Any) -> None:
    with pytest.raises(ValueError, match="data_shape: got"):
        LatentVAE(shape)
