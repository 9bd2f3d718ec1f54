r"""The rows of the density tables: each a function of training and validation points that returns a density.

Everything is chosen on validation points: numbers of components, widths of kernels, where training stops. A
density has ``log_prob`` and ``sample``.

A *spline flow on kernels* puts the kernels where the flow takes the training points:

.. math::
    p(x) = |\det J_{f^{-1}}(x)|\,\sum_l w_l\,\frac1n\sum_j
    \mathrm{vMF}\big(f^{-1}(x);\, f^{-1}(x_j), \kappa_l\big)

It is trained by leaving one out, on batches whose points are each other's kernels, so the flow learns where on the
manifold kernels should be wide and where narrow, and along which directions; the weights are those that validation
points like best. The *stack* is a mixture of the densities of other rows, whose weights are those of greatest
likelihood of the validation points.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import geoopt
import pyro.distributions as dist
import torch
from torch import Tensor

import pyro_manifold.distributions as mdist
from pyro_manifold.geometry import Torus, geometry
from pyro_manifold.training import Phase, fit

__all__ = [
    "Stack",
    "fit_flow",
    "fit_flow_on_kernels",
    "flow_on_local_kernels",
    "kernels",
    "local_kernels",
    "mixture",
    "stack",
    "uniform",
]

WIDTHS = torch.logspace(0.75, 6.75, 9, dtype=torch.float64)  # concentrations of kernels


FINER = torch.logspace(7.5, 8.25, 2, dtype=torch.float64)  # used where the largest of these has much weight


def is_sphere(x: Tensor) -> bool:
    return x.shape[-1] == 3


def uniform(train: Tensor, valid: Tensor, **_: Any) -> Any:
    manifold = geoopt.Sphere() if is_sphere(train) else Torus()
    return mdist.ManifoldUniform(manifold, train.shape[-1], dtype=train.dtype)


def mixture(
    train: Tensor,
    valid: Tensor,
    *,
    family: str,
    components: Sequence[int],
    caps: Sequence[float],
    seed: int,
    em_steps: int = 60,
    **_: Any,
) -> Any:
    """An EM mixture; number of components and largest concentration by the likelihood of the validation points."""
    numbers = [k for k in components if k <= len(train) // 2] or [1]
    fits = [
        mdist.fit_mixture(
            train,
            numbers,
            family=family,
            validation=valid,
            seed=seed,
            max_concentration=cap,
            restarts=1,
            steps=em_steps,
        )
        for cap in caps
    ]
    return max(fits, key=lambda d: float(d.log_prob(valid).mean()))


def concentrations(d: Any) -> Tensor:
    """Of each kernel; of angles, the largest."""
    c = d.component_distribution
    k = getattr(c, "base_dist", c).concentration
    return k.reshape(len(k), -1).amax(-1)


def share_of(d: Any, concentration: Tensor) -> float:
    """The weight of kernels that are at least so narrow."""
    k = concentrations(d)
    return float(d.mixture_distribution.probs[k >= 0.99 * concentration].sum())


def kernels(train: Tensor, valid: Tensor, widths: Tensor = WIDTHS, **_: Any) -> Any:
    """Where the narrowest get more than a tenth of the weight, narrower ones are tried too (fires: pixels of a
    satellite, next to each other)."""
    family = "von_mises_fisher" if is_sphere(train) else "von_mises"
    d = mdist.kernel_mixture(train, widths, family=family, validation=valid)
    if widths is WIDTHS and share_of(d, widths[-1]) > 0.1:
        return kernels(train, valid, torch.cat([WIDTHS, FINER]))
    return d


def local_kernels(train: Tensor, valid: Tensor, **_: Any) -> Any:
    """Kernels shaped by the neighbours of their points, beside the round ones that are of use without them."""
    near = [k for k in (5, 12, 30) if k < len(train) // 4] or [min(5, len(train) - 1)]
    round_ = concentrations(kernels(train, valid)).unique()
    widths = WIDTHS if float(round_.max()) < 1.01 * WIDTHS[-1] else torch.cat([WIDTHS, FINER])
    return mdist.kernel_mixture(train, widths, family="kent", neighbours=near, validation=valid)


def flow_on_local_kernels(train: Tensor, valid: Tensor, *, fitted: Mapping[str, Any], **_: Any) -> Any:
    """The flow of "spline flow on kernels" on kernels that are shaped by the neighbours' images."""
    (flow,) = fitted["spline flow on kernels"].transforms
    with torch.no_grad():
        base = local_kernels(_inverse(flow, train)[0], _inverse(flow, valid)[0])
    return dist.TransformedDistribution(base, [flow])


# --- flows --------------------------------------------------------------------------------------------------
def jittered(x: Tensor, scale: float) -> Tensor:
    """Points moved by a normal tangent vector of this standard deviation."""
    if scale == 0:
        return x
    noise = scale * torch.randn_like(x)
    manifold = geoopt.Sphere() if is_sphere(x) else Torus()
    return geometry(manifold).project(x + noise)


def fit_flow(
    flow: Any,
    base: Any,
    train: Tensor,
    valid: Tensor,
    *,
    steps: int,
    batch: int = 512,
    lr: float = 3e-3,
    decay: float = 1e-4,
    jitter: float = 0.0,
    seed: int = 0,
) -> Any:
    """Maximum likelihood; the weights that validation points like best. float32 in training, float64 after."""
    x, v = train.float(), valid.float()
    flow.float()

    def loss(x: Tensor, noise: float = 0.0) -> Tensor:
        z, log_volume = flow.inverse_and_log_volume(jittered(x, noise))
        return (log_volume - base.log_prob(z)).mean()

    phase = Phase(
        "likelihood",
        loss,
        list(flow.parameters()),
        optimizer=lambda p: torch.optim.AdamW(p, lr=lr, weight_decay=decay, fused=True),
        anneal=lambda share: {"noise": jitter},
        epochs=max(1, math.ceil(steps * batch / len(x))),
    )
    fit([phase], x, model=flow, validation=v, batch_size=batch, seed=seed, disable_progbar=True)
    return dist.TransformedDistribution(base, [flow.double()])


def fit_flow_on_kernels(
    flow: Any,
    train: Tensor,
    valid: Tensor,
    *,
    steps: int,
    batch: int = 1024,
    every: int = 15,
    lr: float = 5e-4,
    decay: float = 0.01,
    start: Sequence[float] = (50.0, 1000.0, 20000.0),
    seed: int = 0,
) -> Any:
    """Kernels at the images of the training points, see above.

    :param every: steps between two looks at the validation points.
    """
    x, n = train.float(), len(train)
    flow.float()
    batch = min(batch, n)
    sphere = is_sphere(train)
    used = concentrations(kernels(train, valid)).unique()
    every_width = torch.cat([WIDTHS, FINER])  # of these, those of use without a flow, and their neighbours
    near = torch.isclose(every_width.log().unsqueeze(-1), used.clamp_min(1e-9).log(), atol=0.1, rtol=0).any(
        -1
    )
    padded = torch.nn.functional.pad(near, (1, 1))
    near = near | padded[:-2] | padded[2:]
    widths = every_width[near] if bool(near.any()) else WIDTHS
    log_k = torch.nn.Parameter(torch.tensor(start).log())
    logits = torch.nn.Parameter(torch.zeros(len(start) + 1))
    log_area = math.log(4 * math.pi) if sphere else 2 * math.log(2 * math.pi)

    def log_kernels(z: Tensor, same: Tensor) -> Tensor:
        """Log density of each point under the kernels of the others."""
        if sphere:
            fall = (1 - z @ z.mT).clamp_min(0)
        else:
            u = torch.cat([z.cos(), z.sin()], -1)
            fall = (2 - u @ u.mT).clamp_min(0)
        count = (~same).sum(-1).clamp_min(1).log()
        parts = [
            log_sum((-k * fall).masked_fill(same, -math.inf)) - count + log_norm(k, sphere)
            for k in log_k.exp()
        ]
        return (
            torch.stack([*parts, torch.full_like(parts[0], -log_area)], -1) + logits.log_softmax(-1)
        ).logsumexp(-1)

    def density() -> Any:
        family = "von_mises_fisher" if sphere else "von_mises"
        with torch.no_grad():
            z, _ = _inverse(flow, train)
            w, log_volume = _inverse(flow, valid)
            base = mdist.kernel_mixture(z, widths, family=family, validation=w)
        return base, base.log_prob(w) - log_volume

    def loss(index: Tensor, training: bool = False) -> Tensor:
        if not training:  # of the validation points, whatever the rows
            return -density()[1].mean()
        index = index.unique().long()
        z, log_volume = flow.inverse_and_log_volume(x[index])
        same = torch.eye(len(index), dtype=torch.bool)
        return (log_volume - log_kernels(z, same)).mean()

    def optimizer(_: Any) -> torch.optim.Optimizer:
        own = {"params": [log_k, logits], "lr": 0.02, "weight_decay": 0.0}
        return torch.optim.AdamW([{"params": list(flow.parameters())}, own], lr=lr, weight_decay=decay)

    batches = max(every, math.ceil(n / batch))  # of a pass; all of one size
    rows = (torch.arange(batches * batch) % n).float()
    passes = max(1, round(steps / batches))
    parameters = [*flow.parameters(), log_k, logits]
    phase = Phase(
        "kernels",
        loss,
        parameters,
        optimizer=optimizer,
        anneal=lambda share: {"training": True},
        epochs=passes,
    )
    one = rows[:1]  # the validation loss is one number
    trained = torch.nn.ModuleList([flow, torch.nn.ParameterList([log_k, logits])])
    fit([phase], rows, model=trained, validation=one, batch_size=batch, seed=seed, disable_progbar=True)
    base = density()[0]
    return dist.TransformedDistribution(base, [flow.double()])


def log_sum(log: Tensor) -> Tensor:
    """``logsumexp`` over the last axis that does not compute what is less than exp(-50) of the largest term, where
    exp is slow."""
    top = log.detach().amax(-1, keepdim=True)
    return (log - top).clamp_min(-50.0).exp().sum(-1).log() + top.squeeze(-1)


def log_norm(k: Tensor, sphere: bool) -> Tensor:
    r"""Of a kernel :math:`e^{-\kappa(1-\cos)}`: minus the log of its integral."""
    if sphere:
        return k.log() - math.log(2 * math.pi) - torch.log1p(-torch.exp(-2 * k))
    return -2 * (torch.special.i0e(k).log() + math.log(2 * math.pi))


def _inverse(flow: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    dtype = next(flow.parameters()).dtype
    z, log_volume = flow.inverse_and_log_volume(x.to(dtype))
    manifold = geoopt.Sphere() if is_sphere(x) else Torus()
    return geometry(manifold).project(z.double()), log_volume.double()


# --- mixtures of rows ---------------------------------------------------------------------------------------
class Stack:
    """A mixture of densities of any kinds."""

    def __init__(self, parts: Sequence[Any], weights: Tensor) -> None:
        self.parts, self.weights = list(parts), weights

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.stack([d.log_prob(x) for d in self.parts], -1).add(self.weights.log()).logsumexp(-1)

    def sample(self, shape: Sequence[int]) -> Tensor:
        n = math.prod(shape)
        counts = torch.multinomial(self.weights, n, replacement=True).bincount(minlength=len(self.parts))
        parts = [d.sample((int(c),)) for d, c in zip(self.parts, counts, strict=True) if c]
        return torch.cat(parts)[torch.randperm(n)].reshape(*shape, -1)


def stack(valid: Tensor, parts: Sequence[Any], steps: int = 2000) -> Stack:
    """Weights by EM on the validation points and one more that all densities share; what gets less than a thousandth
    is left out."""
    with torch.no_grad():
        log = torch.stack([d.log_prob(valid) for d in parts], -1)
        w = torch.full_like(log[0], 1 / len(parts))
        for _ in range(steps):
            w = ((log + w.log()).softmax(-1).sum(0) + 1 / len(parts)) / (len(valid) + 1)
    keep = w > 1e-3
    return Stack([d for d, k in zip(parts, keep, strict=True) if k], w[keep] / w[keep].sum())


Builder = Callable[..., Any]
