"""Guides and the model's own ``subsample=indices``: rows of data meet the latents of these rows, or an error
says why not."""

import pickle

import geoopt
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoGuideList

import pyro_manifold.distributions as mdist
from pyro_manifold.infer import AutoManifoldDelta, AutoManifoldMultivariateNormal, AutoManifoldNormal

F64 = torch.float64
SPHERE = geoopt.Sphere()
GUIDES = pytest.mark.parametrize("guide_class", [AutoManifoldDelta, AutoManifoldNormal])
N = 6
DATA = torch.nn.functional.normalize(
    torch.randn(N, 3, dtype=F64, generator=torch.Generator().manual_seed(0)), dim=-1
)


def model(rows, indices):
    """A direction and a number for each row, both known from the row almost exactly; the rows are picked by
    the caller."""
    shift = pyro.sample("shift", dist.Normal(torch.zeros((), dtype=F64), 1.0))
    with pyro.plate("n", N, subsample=indices):
        z = pyro.sample("z", mdist.ManifoldUniform(SPHERE, 3, dtype=F64))
        w = pyro.sample("w", dist.Normal(shift, torch.ones((), dtype=F64)))
        pyro.sample("x", mdist.VonMisesFisher(z, torch.tensor(50.0, dtype=F64)), obs=rows)
        pyro.sample("y", dist.Normal(w, 0.1), obs=rows[:, 0])


@GUIDES
def test_indices_are_the_models(guide_class):
    """In the guide and in the model replayed against it, for batches of any size, order and type."""
    guide = guide_class(model)
    for batch in ([4, 0, 3], [5, 1, 2], [2], [3, 2, 1, 0, 5, 4]):
        for indices in (torch.tensor(batch), batch):
            trace = poutine.trace(guide).get_trace(DATA[batch], indices)
            replayed = poutine.trace(poutine.replay(model, trace)).get_trace(DATA[batch], indices)
            assert trace.nodes["n"]["value"].tolist() == replayed.nodes["n"]["value"].tolist() == batch
            assert trace.nodes["z"]["value"].shape == (len(batch), 3)


@GUIDES
def test_indices_after_a_call_with_all_rows(guide_class):
    """A guide that was made without indices takes them when they come; one row of data would be compared with all
    latents otherwise, and all rows in another order with those of others."""
    guide = guide_class(model)
    guide(DATA, None)
    for batch in ([2], [3, 2, 1, 0, 5, 4], [4, 0]):
        indices = torch.tensor(batch)
        trace = poutine.trace(guide).get_trace(DATA[batch], indices)
        replayed = poutine.trace(poutine.replay(model, trace)).get_trace(DATA[batch], indices)
        assert replayed.nodes["n"]["value"].tolist() == batch
        assert trace.nodes["z"]["value"].shape == (len(batch), 3)
    assert guide(DATA, None)["z"].shape == (N, 3)


@pytest.mark.parametrize(
    "guide_class", [AutoManifoldDelta, AutoManifoldMultivariateNormal, AutoManifoldNormal]
)
def test_a_trained_guide_is_called_without_data(guide_class):
    """As Pyro's guides are, where no plate is subsampled."""

    def whole(rows):
        model(rows, None)

    guide = guide_class(whole)
    guide(DATA)
    assert guide()["z"].shape == guide.median()["z"].shape == (N, 3)


@GUIDES
def test_each_row_keeps_its_own_centre(guide_class):
    """Trained on random batches, the centre of each row is that row, within the noise of 100 steps; other
    rows are 1.4 away."""
    guide = guide_class(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.15}), Trace_ELBO())
    for _ in range(100):
        indices = torch.randperm(N)[:3]
        svi.step(DATA[indices], indices)
    z = guide.z if guide_class is AutoManifoldDelta else guide.locs.z
    w = guide.w if guide_class is AutoManifoldDelta else guide.locs.w
    assert torch.linalg.vector_norm(z.detach() - DATA, dim=-1).max() < 0.4
    assert (w.detach() - DATA[:, 0]).abs().max() < 0.4


@GUIDES
def test_pyros_own_subsample_is_left_to_pyro(guide_class):
    def drawn():
        with pyro.plate("n", N, subsample_size=2) as i:
            z = pyro.sample("z", mdist.ManifoldUniform(SPHERE, 3, dtype=F64))
            pyro.sample("x", mdist.VonMisesFisher(z, torch.tensor(50.0, dtype=F64)), obs=DATA[i])

    guide = guide_class(drawn)
    seen = {tuple(poutine.trace(guide).get_trace().nodes["n"]["value"].tolist()) for _ in range(20)}
    assert len(seen) > 3 and {len(s) for s in seen} == {2}


@GUIDES
def test_indices_drawn_inside_the_model(guide_class):
    def hidden():
        indices = torch.randperm(1000)[:500]
        with pyro.plate("n", 1000, subsample=indices):
            pyro.sample("z", mdist.ManifoldUniform(SPHERE, 3, dtype=F64))

    with pytest.raises(
        ValueError, match="plate 'n': its subsample is drawn inside the model.*pass them as an argument"
    ):
        guide_class(hidden)()


@GUIDES
def test_plates_of_the_user(guide_class):
    """``create_plates`` with the model's indices works; with others it raises; so does a list of guides."""
    batch = torch.tensor([4, 0, 3])
    right = guide_class(model, create_plates=lambda rows, indices: pyro.plate("n", N, subsample=indices))
    assert right(DATA[batch], batch)["z"].shape == (3, 3)
    wrong = guide_class(
        model, create_plates=lambda rows, indices: pyro.plate("n", N, subsample=torch.arange(3))
    )
    with pytest.raises(
        ValueError,
        match=r"plate 'n': got indices \[0, 1, 2\].*expected those that the model gives, \[4, 0, 3\]",
    ):
        wrong(DATA[batch], batch)
    several = AutoGuideList(model)
    several.append(guide_class(poutine.block(model, hide=["w"])))
    with pytest.raises(ValueError, match="plate 'n': got indices .* from the list of guides"):
        for _ in range(10):  # Pyro's list draws its own
            several(DATA[batch], batch)


def test_a_joint_covariance_needs_all_rows():
    for indices in (torch.tensor([4, 0, 3]), torch.arange(N).flip(0)):
        with pytest.raises(ValueError, match="z: is in the subsampled plate 'n'.*AutoManifoldNormal"):
            AutoManifoldMultivariateNormal(model)(DATA[indices], indices)
        guide = AutoManifoldMultivariateNormal(model)
        guide(DATA, None)
        for _ in range(2):
            with pytest.raises(ValueError, match="z: is in the subsampled plate 'n'.*AutoManifoldNormal"):
                guide(DATA[indices], indices)


@GUIDES
def test_a_saved_guide(guide_class):
    """Saving leaves the guide at work as it is; the loaded one has no model to give it indices, and says
    so."""
    batch = torch.tensor([4, 0, 3])
    guide = guide_class(model)
    guide(DATA[batch], batch)
    loaded = pickle.loads(pickle.dumps(guide))
    assert poutine.trace(guide).get_trace(DATA[batch], batch).nodes["n"]["value"].tolist() == [4, 0, 3]
    with pytest.raises(ValueError, match=r"plates \['n'\]: a guide that was saved .* load its state_dict"):
        loaded(DATA[batch], batch)
