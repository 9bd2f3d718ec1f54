"""What Pyro expects of any distribution: shapes, expand, mask, pickling, validation."""

import copy
import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ._changes import moved, same, tensors_behind
from ._tools import close, finite
from ._types import Make, Params
from .not_applicable import NotApplicable


def batched(params: Params, *shape: int) -> Params:
    """The parameters with leading axes added, as a user would give a batch."""
    return {k: x.expand(torch.Size(shape) + x.shape) for k, x in params.items()}


def shapes(make: Make, params: Params) -> None:
    """Sample, log_prob, batch and event shapes; dtype, device, support."""
    for batch in ((), (2,), (3, 2)) if params else ((),):
        p = batched(params, *batch)
        d = make(**p)
        assert d.batch_shape == torch.Size(batch), (
            f"batch_shape {d.batch_shape} for parameters of batch {batch}"
        )
        assert isinstance(d.batch_shape, torch.Size) and isinstance(d.event_shape, torch.Size)
        assert d.support.event_dim == d.event_dim
        like = next(iter(params.values()), None)
        for sample_shape in ((), (4,), (4, 1)):
            x = d.sample(torch.Size(sample_shape))
            assert x.shape == torch.Size(sample_shape) + d.batch_shape + d.event_shape
            assert type(x) is Tensor and not x.requires_grad
            assert like is None or (x.dtype == like.dtype and x.device == like.device)
            lp = d.log_prob(x)
            assert lp.shape == torch.Size(sample_shape) + d.batch_shape and lp.dtype == x.dtype
            finite(lp, "log_prob of a draw")
            assert bool(d.support.check(x).all()), "a draw lies outside the support"


def infer_shapes(make: Make, params: Params) -> None:
    """``infer_shapes`` says of the parameters' shapes what the distribution made of them has."""
    if not params:
        raise NotApplicable("it has no tensor parameters")
    for batch in ((), (2,), (3, 2)):
        p = batched(params, *batch)
        d = make(**p)
        inferred = type(d).infer_shapes(**{k: v.shape for k, v in p.items()})
        assert inferred == (d.batch_shape, d.event_shape), f"infer_shapes says {inferred}"


def expansion(make: Make, params: Params) -> None:
    """``expand`` keeps class, values and gradients, and refuses a batch that does not fit; wrappers work on
    top."""
    d = make(**params)
    e = d.expand((2,)).expand((3, 2))
    assert type(e) is type(d) and e.batch_shape == (3, 2) and e.event_shape == d.event_shape
    for batch in ((3, 3), (2,), ()):
        try:
            e.expand(batch)
        except (RuntimeError, ValueError):
            continue
        raise AssertionError(f"a distribution of batch shape (3, 2) is expanded to {batch}")
    x = e.sample()
    assert x.shape == (3, 2) + d.event_shape
    assert not torch.equal(x[0, 0], x[0, 1]), "an expanded distribution repeats its draws"
    close(e.log_prob(x), d.log_prob(x), "log_prob after expand")
    close(e.to_event(1).log_prob(x), d.log_prob(x).sum(-1), "to_event")
    keep = torch.tensor([True, False], device=x.device)
    close(e.mask(keep).log_prob(x), d.log_prob(x) * keep, "mask")
    assert not e.mask(False).log_prob(x).any()
    weights = torch.full((2,), 0.5, dtype=x.dtype, device=x.device)
    mixture = dist.MixtureSameFamily(dist.Categorical(weights), d.expand((2,)))
    close(mixture.log_prob(x[:, 0]), d.log_prob(x[:, 0]), "a mixture of two copies")


def copies(make: Make, params: Params) -> None:
    """Pickling and deep copies give the same distribution."""
    d = make(**params)
    x = d.sample((3,))
    for other in (pickle.loads(pickle.dumps(d)), copy.deepcopy(d)):
        assert type(other) is type(d) and other.batch_shape == d.batch_shape and repr(other)
        close(other.log_prob(x), d.log_prob(x), "log_prob of a copy")


def pyro_site(make: Make, params: Params) -> None:
    """It is a sample site: plates, conditioning, tracing, provenance, Predictive."""

    def model() -> Any:
        with pyro.plate("n", 3):
            return pyro.sample("x", make(**params))

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    x: Any = trace.nodes["x"]["value"]
    assert trace.nodes["x"]["log_prob"].shape == (3,)
    close(pyro.condition(model, data={"x": x})(), x, "a conditioned site")
    draws: Any = pyro.infer.Predictive(model, num_samples=4, parallel=True)()["x"]
    assert draws.shape == (4,) + x.shape
    assert "x" in pyro.infer.inspect.get_model_relations(model)["sample_sample"]


def changed_values(make: Make, params: Params) -> None:
    """A draw is scored as any other tensor with its numbers, in both dtypes, with a gradient or without; so
    is one that becomes a leaf, is differentiated twice or changes in place, as an optimiser's does."""
    for dtype in (torch.float32, torch.float64):
        leaves = {k: v.detach().to(dtype).requires_grad_() for k, v in params.items()}
        d = make(**leaves)
        for draw in (d.sample, d.rsample) if d.has_rsample else (d.sample,):
            with torch.set_grad_enabled(draw.__name__ == "rsample"):
                x = draw((1000,))
                same(
                    d.log_prob(x).detach(),
                    d.log_prob(x.detach().clone()).detach(),
                    f"log_prob of {draw.__name__}() in {dtype}",
                )
    d = make(**params)
    other, x = d.sample((3,)), d.sample((3,))  # x last: it is what a cache remembers
    fresh = x.clone().requires_grad_()
    x.requires_grad_()
    lp = d.log_prob(fresh)
    if lp.requires_grad:  # not constant, as the density of a uniform distribution is
        (expected,) = torch.autograd.grad(lp.sum(), fresh)
        for _ in range(2):
            (grad,) = torch.autograd.grad(d.log_prob(x).sum(), x)
            close(grad, expected, "the gradient at a draw made a leaf")
    with torch.no_grad():
        x.copy_(other)
        close(d.log_prob(x), d.log_prob(other.clone()), "log_prob of a value that changed in place")


def changed_parameters(make: Make, params: Params) -> None:
    """A draw is scored as any other tensor with its numbers, whichever parameter has changed in place since
    (of the distribution, its manifold or its modules): by the density of the new parameters or, where the
    constructor took a copy, of the old ones, never by parts of both. So is the gradient in the parameters at
    a draw without one."""
    params = {k: v.detach().clone() for k, v in params.items()}
    d = make(**params)
    behind = [*params.items(), *tensors_behind(getattr(d, "manifold", None)), *tensors_behind(d)]
    given = {*params, *(name for name, _ in tensors_behind(getattr(d, "manifold", None)))}
    if not behind:
        raise NotApplicable("it has no tensor parameters")
    # without validation: a point is none of the manifold whose curvature has changed
    with torch.no_grad(), pyro.validation_enabled(False):
        for name, tensor in behind:
            x = d.sample((3,))
            before = d.log_prob(x)
            with moved(tensor):
                now = d.log_prob(x.clone())
                same(d.log_prob(x), now, f"log_prob of a draw after {name} changed in place")
                if name in given:
                    after = make(**{k: v.clone() for k, v in params.items()}).log_prob(x.clone())
                    what = f"log_prob after {name} changed in place is of neither the old nor the new distribution"
                    assert any(torch.allclose(now, y, 1e-5, 1e-6, equal_nan=True) for y in (before, after)), (
                        what
                    )
    leaves = {k: v.detach().clone().requires_grad_() for k, v in params.items()}
    d = make(**leaves)
    x = d.sample((3,))
    scores = [d.log_prob(value).sum() for value in (x, x.clone())]
    if not scores[1].requires_grad:
        return
    grads = [
        torch.autograd.grad(s, list(leaves.values()), materialize_grads=True)
        for s in scores
        if s.requires_grad
    ]
    assert len(grads) == 2, "log_prob of a draw has no gradient in the parameters"
    for name, ours, wanted in zip(leaves, *grads, strict=True):
        close(ours, wanted, f"the gradient of log_prob in {name} at a draw", 100)


def _compiled(make: Make, params: Params, fullgraph: bool) -> None:
    with pyro.validation_enabled(False):
        d = make(**params)
        x = d.sample((5,))
        torch._dynamo.reset()
        compiled = torch.compile(lambda y: d.log_prob(y), backend="eager", fullgraph=fullgraph)
        close(compiled(x), d.log_prob(x), "compiled log_prob", 10)


def compilation(make: Make, params: Params) -> None:
    """``log_prob`` compiles with validation off, and gives the same values."""
    _compiled(make, params, fullgraph=False)


def one_graph(make: Make, params: Params) -> None:
    """It compiles without a graph break."""
    _compiled(make, params, fullgraph=True)
