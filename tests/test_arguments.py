"""Arguments of the wrong kind: everything exported answers with a ``ValueError`` that names the argument and
what was given."""

import inspect

import geoopt
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from cases.arguments import GOOD, called, wrong
from torch.distributions import kl_divergence

import pyro_manifold.distributions as md
from pyro_manifold import datasets, distributions, evaluation, flows, infer, models, nn, transforms
from pyro_manifold.constraints import on
from pyro_manifold.ops.arguments import checked
from pyro_manifold.training import fit_md
from pyro_manifold.transforms import Chart

ABSTRACT = {
    "CubeTransform",
    "InjectiveTransform",
    "LatentDensity",
    "ManifoldDistribution",
    "MapTransform",
    "ModuleTransform",
}
NO_ARGUMENTS = {
    "AmbientReparam",
    "CubeToRotations",
    "ManifoldReparam",
    "ProjectedNormalReparam",
    "SymmetricVolume",
    "WrappedNormalReparam",
}
RESULTS = {
    "ConfidenceCone",
    "CredibleBall",
    "CredibleRegion",
    "FrechetMean",
    "LogLikelihood",
    "SBCResult",
    "DimensionScan",
    "History",
}  # made by functions, not by users
ERRORS = {name for name in infer.__all__ if name.endswith("Error")}


def test_every_class_is_in_the_table() -> None:
    met = {called(f).split(".")[0] for f, _ in GOOD} | ABSTRACT | NO_ARGUMENTS | RESULTS | ERRORS
    exported = [
        getattr(p, n) for p in (distributions, flows, infer, models, nn, transforms) for n in p.__all__
    ]
    lacking = [x.__name__ for x in exported if inspect.isclass(x) and x.__name__ not in met]
    assert not lacking, f"add a good call to tests/cases/arguments.py of {lacking}"


def test_every_function_is_in_the_table() -> None:
    """Of what is measured and of data; loaders that read a folder are tested where their files are."""
    met = {called(f).split(".")[0] for f, _ in GOOD}
    loaders = {
        "diffusion_scan",
        "earth",
        "earth_split",
        "fit_diffusion_scan",
        "mnist",
        "torsions",
        "torsions_split",
    }
    none = {"exception_tree", "train_test_split"}
    exported = {n for p in (datasets, evaluation) for n in p.__all__ if inspect.isfunction(getattr(p, n))}
    lacking = exported - met - loaders - none
    assert not lacking, f"add a good call to tests/cases/arguments.py of {sorted(lacking)}"


def _free(f: object, name: str, what: str) -> bool:
    """What is no mistake: None where it is the default, any string as a name."""
    default = inspect.signature(f).parameters.get(name)  # type: ignore[arg-type]
    return (
        what == "None"
        and default is not None
        and default.default is None
        or what == "another word"
        and name == "name"
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", range(0, len(GOOD), 10))
def test_wrong_kinds(first: int) -> None:
    """Each argument in turn replaced by numpy arrays, None, strings, integers, meta and complex tensors,
    lists of them, ..."""
    problems = []
    for f, good in GOOD[first : first + 10]:
        f(**good)
        for name, value in good.items():
            for what, bad in wrong(value):
                if _free(f, name, what):
                    continue
                try:
                    f(**{**good, name: bad})
                except ValueError as e:
                    if (
                        not (f"{name}:" in str(e) or f"{name}," in str(e))
                        or "expected" not in str(e)
                        and len(str(e)) < 40
                    ):
                        problems.append(f"{called(f)}({name}={what}): {e}")
                except Exception as e:
                    problems.append(f"{called(f)}({name}={what}): {type(e).__name__}, {e}")
                else:
                    problems.append(f"{called(f)}({name}={what}): accepted")
    assert not problems, "\n".join(problems)


def test_the_table_of_the_issue() -> None:
    """What users gave, and what they are told."""
    sphere, x = geoopt.Sphere(), torch.randn(20, 2)
    flow = models.ManifoldFlow.from_data(x, 1, hidden=(4,), latent_hidden=(4,))
    told = {
        "manifolds: got .*sphere.*expected a dictionary with a manifold": lambda: infer.GeodesicNUTS(
            potential_fn=lambda z: z["x"].sum(),
            manifolds={"x": "sphere"},  # type: ignore[dict-item]
        ),
        "epochs: got -1, expected .* of at least 0": lambda: fit_md(flow, x, epochs=-1),
        "forward: got None, expected a function": lambda: Chart(None, None, 1, 2),  # type: ignore[arg-type]
        r"loc: got a numpy array of shape \(3,\), expected a floating tensor. Convert it with "
        r"torch.as_tensor\(loc\)": lambda: md.VonMisesFisher(np.eye(3)[0], 2.0),  # type: ignore[arg-type]
        "loc: got a tensor of torch.float32 on meta, .* no values": lambda: md.VonMisesFisher(
            torch.ones(3, device="meta"), 2.0
        ),
        r"loc: got dtype torch.int64, .* convert it with "
        r".float\(\)": lambda: md.VonMisesFisher(torch.tensor([1, 0, 0]), 2.0),
        "manifold: got the class Sphere itself, .* Make an instance, Sphere": lambda: md.WrappedNormal(
            geoopt.Sphere,
            torch.eye(3)[0],
            1.0,  # type: ignore[arg-type]
        ),
        "scale: got 'wide', expected a floating tensor or a number": lambda: md.WrappedNormal(
            sphere, torch.eye(3)[0], "wide"
        ),  # type: ignore[arg-type]
        "step_size: got None, expected a number": lambda: infer.GeodesicNUTS(lambda: None, step_size=None),  # type: ignore[arg-type]
    }
    for message, call in told.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_points_rounded_and_cast() -> None:
    """A float32 unit vector is none in float64: by how much, against what tolerance, and what to do."""
    x = torch.nn.functional.normalize(torch.tensor([0.0, 0.6, 0.8123]), dim=-1)
    off = abs(float(x.double().norm()) - 1)
    assert off > 2e-8
    said = rf"loc: .*unit vectors. Normalise it.* It is {off:.2g} off, and the tolerance of torch.float64 is 1.5e-08; .*cast must"
    with pytest.raises(ValueError, match=said):
        md.VonMisesFisher(x.double(), 2.0)
    with pytest.raises(ValueError, match=rf"loc: .*points of Sphere. Project it first.* It is {off:.2g} off"):
        md.WrappedNormal(geoopt.Sphere(), x.double(), 1.0)
    d = md.VonMisesFisher(torch.nn.functional.normalize(x.double(), dim=-1), 2.0)
    with pytest.raises(ValueError, match=rf"value: .*It is {off:.2g} off"):
        d.log_prob(x.double())


def test_what_has_no_formula_says_so() -> None:
    x = torch.eye(3)[0]
    vmf, ps = md.VonMisesFisher(x, 2.0), md.PowerSpherical(x, 2.0)
    wrapped = md.WrappedNormal(geoopt.Sphere(), x, 1.0)
    for p, q in ((vmf, ps), (ps, ps), (wrapped, vmf), (ps, wrapped)):
        with pytest.raises(
            NotImplementedError,
            match=f"KL of {type(p).__name__} from {type(q).__name__}; estimate it by draws",
        ):
            kl_divergence(p, q)
    for d in (vmf, wrapped, md.ManifoldUniform(geoopt.Sphere(), (3,))):
        for call in (d.cdf, d.icdf):
            with pytest.raises(NotImplementedError, match=f"{type(d).__name__} on .* has no i?cdf"):
                call(x)
        with pytest.raises(NotImplementedError, match="discrete sites"):
            d.enumerate_support()


def test_kl_of_images_under_one_map() -> None:
    """That of the bases: N(1, 1) from N(0, 1) on a line stretched 5 times, 1/2."""
    line = transforms.LinearEmbedding(torch.tensor([[3.0], [4.0]]))
    p, q = (md.Pushforward(dist.Normal(torch.tensor([m]), 1.0).to_event(1), line) for m in (1.0, 0.0))
    torch.testing.assert_close(kl_divergence(p, q), torch.tensor(0.5))
    other = md.Pushforward(q.base_dist, transforms.Pad(1, 2))
    with pytest.raises(NotImplementedError, match="estimate it by draws"):
        kl_divergence(p, other)


def test_checked() -> None:
    """Annotations decide; what they do not describe is let through."""

    @checked(n=1, scale=0.0)
    def f(
        n: int,
        scale: float | None = None,
        names: dict[str, float] | None = None,
        pair: tuple[int, float] = (1, 2.0),
        **more,
    ):  # type: ignore[no-untyped-def]
        return n

    assert f(np.int64(3), scale=np.float32(2.0), names={"a": 1}, pair=(1, 2), other=object()) == 3
    for bad in (
        dict(n=True),
        dict(n=0),
        dict(n=1, scale=-1.0),
        dict(n=1, names={"a": "b"}),
        dict(n=1, pair=(1,)),
        dict(n=1, scale=float("nan")),
    ):
        with pytest.raises(ValueError, match=list(bad)[-1]):
            f(**bad)
    with pytest.raises(TypeError, match="required positional argument"):
        f()
    with pytest.raises(ValueError, match="expected a number or None of at least 0"):
        f(1, scale=-2)
    assert on(geoopt.Sphere()).event_dim == 1


def test_compilers_trace_a_checked_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks are left out of what is compiled to one graph."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # the compiler turns it off

    @checked(n=1)
    def power(x: torch.Tensor, n: int = 2) -> torch.Tensor:
        return x**n

    x = torch.tensor([2.0, 3.0])
    assert torch.equal(torch.compile(lambda x: power(x, n=3), fullgraph=True, backend="eager")(x), x**3)
