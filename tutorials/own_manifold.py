"""Your own manifold in 70 lines and a distribution on it in 40, complete and tested.

    python tutorials/own_manifold.py

Takes about a minute of one core and writes one picture.
"""

# %% [markdown]
# # Your own manifold and distribution
#
# A manifold is one class with a dozen short methods; everything else, wrapped normals, guides, geodesic NUTS,
# diagnostics, follows. This page writes one that the package does not have, checks it, writes a distribution on
# it, checks that, and uses both in a model. It takes fifteen minutes to read.
#
# ## The half-plane of normal distributions
#
# A normal distribution is a pair $(m, s)$ with $s > 0$: a point of the upper half-plane. How far are two of them
# apart? A difference of 1 in the mean is a lot if $s = 0.1$ and nothing if $s = 100$, and what matters of $s$ is
# its ratio. Fisher's information says it: up to a constant, the metric is that of the *hyperbolic half-plane*,
#
# $$\lVert(\dot m, \dot s)\rVert = \frac{\sqrt{\dot m^2 + \dot s^2}}{s},$$
#
# whose volume element is $dm\,ds/s^2$. (With $\dot m^2 + 2\dot s^2$ it would be Fisher's own; measure $m$ in
# other units.)

# %% tags=["options"]
import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description="Your own manifold and distribution.")
parser.add_argument("--out", type=Path, default=Path("own_manifold"), help="folder for the picture")
parser.add_argument("--quick", action="store_true", help="a few steps only: to see that everything runs")
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
draws, depth = (8, 2) if args.quick else (200, 10)

# %% [markdown]
# Formulas come first. Translations of $m$ and common scalings of $m$ and $s$ are isometries, so it is enough to
# know the geodesics from the point $(0, 1)$. With velocity $v$ of length $r$, after the time 1,
#
# $$s = \frac1{\cosh r - v_2\,\frac{\sinh r}{r}}, \qquad m = s\,v_1\,\frac{\sinh r}{r}.$$
#
# Tangent coordinates are coordinates in an orthonormal frame: that of $(0, 1)$, transported along the geodesic.
# The two coordinate directions $s\,\partial_m$ and $s\,\partial_s$ have unit length, and transport turns them by
# the angle $2\arctan\frac{m}{1+s}$. The exponential map changes area by $\sinh r/r$, as in every hyperbolic
# plane.
#
# ## The manifold

# %%
import pyro
import torch

from pyro_manifold.geometry import GeometricManifold, Geometry, register_geometry
from pyro_manifold.ops.numerics import norm  # with gradient 0 at 0
from pyro_manifold.ops.signed_trig import (  # cosh r = cos sqrt(-r^2), without 0/0
    cos_sqrt,
    log_sinc_sqrt,
    sinc_sqrt,
)


class HalfPlane(GeometricManifold):
    """Normal distributions as pairs (mean, standard deviation)."""

    def __init__(self):
        super().__init__((2,), "HalfPlane")


@register_geometry(HalfPlane)
class HalfPlaneGeometry(Geometry):
    membership = "a finite mean and a positive standard deviation"
    constant_curvature = -1.0
    has_chart = True

    def dim(self, event_shape):
        return 2

    def point_shape(self, dim):
        return torch.Size([2])

    def contains(self, x, atol=None):
        return x.isfinite().all(-1) & (x[..., 1] > 0)

    def base_point(self, event_shape, *, dtype=None, device=None):
        return torch.tensor([0.0, 1.0], dtype=dtype, device=device)

    def project(self, x):
        return torch.stack([x[..., 0], x[..., 1].clamp_min(torch.finfo(x.dtype).eps)], -1)

    def project_tangent(self, p, u):
        return u

    def turned(self, p, v, sign):
        """``v`` turned by the angle 2 atan(m / (1 + s))."""
        a, b = p[..., 0], 1 + p[..., 1]
        c, s = (b * b - a * a) / (a * a + b * b), sign * 2 * a * b / (a * a + b * b)
        return torch.stack([c * v[..., 0] - s * v[..., 1], s * v[..., 0] + c * v[..., 1]], -1)

    def to_tangent(self, p, v):
        return p[..., 1:] * self.turned(p, v, -1)

    def from_tangent(self, p, u):
        return self.turned(p, u / p[..., 1:], 1)

    def geodesic(self, p, u, t):
        v = u / p[..., 1:]
        t = torch.as_tensor(t, dtype=p.dtype, device=p.device)
        r2 = v.square().sum(-1)
        c, s = cos_sqrt(-r2 * t * t), t * sinc_sqrt(-r2 * t * t)  # cosh rt, sinh(rt) / r
        y = 1 / (c - v[..., 1] * s)
        slope = y * y * (v[..., 1] * c - r2 * s)
        x, dx = y * v[..., 0] * s, (slope * s + y * c) * v[..., 0]
        scale = p[..., 1]
        return torch.stack([p[..., 0] + scale * x, scale * y], -1), torch.stack(
            [scale * dx, scale * slope], -1
        )

    def exp(self, p, u):
        return self.geodesic(p, u, 1.0)[0]

    def dist(self, p, q):
        return 2 * torch.asinh(norm(q - p) / (2 * (p[..., 1] * q[..., 1]).sqrt()))

    def log(self, p, q):
        a, b = (q[..., 0] - p[..., 0]) / p[..., 1], q[..., 1] / p[..., 1]
        h = (a.square() + (b - 1).square()) / (2 * b)  # cosh r - 1
        sinhc = sinc_sqrt(-self.dist(p, q).square())
        return p[..., 1:] * torch.stack([a / b, h + (b - 1) / b], -1) / sinhc.unsqueeze(-1)

    def log_det_exp(self, p, v):
        return log_sinc_sqrt(-v.square().sum(-1)) + torch.zeros_like(p[..., 0])


# %% [markdown]
# ## Is it right?
#
# `check_geometry` compares the volume change with automatic differentiation, the frame with the first variation
# of the distance, geodesics with exp, inverses with each other; it looks for NaN at coinciding points and in
# gradients. It returns the checks that do not apply, with the reason.

# %%
from pyro_manifold.testing import check_distribution, check_geometry

torch.manual_seed(0)
for name, reason in check_geometry(HalfPlane(), dim=2).items():
    print(f"{name}: {reason}")

# %% [markdown]
# Every other check has passed. To see one fail, take the coordinate directions as the frame, without turning
# them: the check of frames says that they are not "the origin's, transported along the geodesic", and by how
# much.
#
# ## What you get
#
# A normal distribution of normal distributions, for one. The scale is in units of the metric: 0.1 is ten per cent
# of $s$, or a tenth of $s$ in the mean.

# %%
import pyro_manifold.distributions as mdist

half_plane = HalfPlane()
cloud = mdist.WrappedNormal(half_plane, torch.tensor([5.0, 2.0]), 0.1)
print(cloud.sample((3,)))

# %% [markdown]
# ## A distribution of your own
#
# The conjugate prior of a normal distribution is *normal–inverse-gamma*: $s^2$ has an inverse gamma distribution
# with shape $a$ and rate $b$, and given $s$ the mean is normal with standard deviation $s/\sqrt n$. As a
# distribution on the half-plane its density is with respect to the area $dm\,ds/s^2$:
#
# $$p(m, s) = \mathcal N\big(m;\, m_0, s/\sqrt n\big)\; \mathrm{IG}(s^2;\, a, b)\; 2s \cdot s^2.$$
#
# The factor $2s$ turns a density of $s^2$ into one of $s$; the factor $s^2$ turns one with respect to $dm\,ds$
# into one with respect to area.

# %%
import pyro.distributions as dist
from pyro.distributions import constraints

from pyro_manifold.constraints import on


class NormalInverseGamma(dist.TorchDistribution):
    """Base measure: hyperbolic area of the half-plane."""

    arg_constraints = {
        "mean0": constraints.real,
        "count": constraints.positive,
        "alpha": constraints.positive,
        "beta": constraints.positive,
    }
    support = on(half_plane)
    has_rsample = True

    def __init__(self, mean0, count, alpha, beta, validate_args=None):
        parameters = torch.broadcast_tensors(mean0, count, alpha, beta)
        self.mean0, self.count, self.alpha, self.beta = parameters
        super().__init__(self.mean0.shape, torch.Size([2]), validate_args=validate_args)

    @staticmethod
    def infer_shapes(mean0, count, alpha, beta):
        return torch.broadcast_shapes(mean0, count, alpha, beta), torch.Size([2])

    def expand(self, batch_shape, _instance=None):
        parameters = (t.expand(batch_shape) for t in (self.mean0, self.count, self.alpha, self.beta))
        return NormalInverseGamma(*parameters, validate_args=False)

    def rsample(self, sample_shape=()):
        s = dist.InverseGamma(self.alpha, self.beta).rsample(torch.Size(sample_shape)).sqrt()
        return torch.stack([dist.Normal(self.mean0, s / self.count.sqrt()).rsample(), s], -1)

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        m, s = value.unbind(-1)
        variance = dist.InverseGamma(self.alpha, self.beta, validate_args=False).log_prob(s.square())
        mean = dist.Normal(self.mean0, s / self.count.sqrt(), validate_args=False).log_prob(m)
        return mean + variance + torch.log(2 * s) + 2 * s.log()


# %% [markdown]
# `check_distribution` integrates the density by quadrature and compares the moments and the distribution of draws
# with it: both the density and the sampler must be right, and with respect to the same measure. Two checks are
# left out, of infinite parameters and of those near the ends of float32, which this short class does not look
# after.

# %%
parameters = {"mean0": 1.0, "count": 4.0, "alpha": 6.0, "beta": 5.0}
parameters = {name: torch.tensor(value, dtype=torch.float64) for name, value in parameters.items()}
LEFT_OUT = ["validation", "support_of_draws"]
for name, reason in check_distribution(NormalInverseGamma, parameters, skip=LEFT_OUT).items():
    print(f"{name}: {reason}")

# %% [markdown]
# Forget the factor $s^2$, and `total_mass` fails by name.
#
# ## Use it
#
# Eight machines fill bottles; each has a mean and a standard deviation of its own, in millilitres more than the
# label says. How do machines differ? Each machine is a point of the half-plane, scattered about a typical
# machine.

# %%
pyro.set_rng_seed(0)
truth = mdist.WrappedNormal(half_plane, torch.tensor([2.0, 4.0]), torch.tensor([0.8, 0.3])).sample((8,))
bottles = dist.Normal(truth[:, 0], truth[:, 1]).sample((12,))


def machines(x):
    typical = pyro.sample("typical", NormalInverseGamma(*(torch.tensor(v) for v in (0.0, 0.1, 2.0, 20.0))))
    differ = pyro.sample("differ", dist.HalfNormal(torch.ones(2)).to_event(1))
    with pyro.plate("machines", x.shape[-1]):
        machine = pyro.sample(
            "machine", mdist.WrappedNormal(half_plane, typical.unsqueeze(-2), differ.unsqueeze(-2))
        )
        with pyro.plate("bottles", len(x)):
            pyro.sample("x", dist.Normal(machine[..., 0], machine[..., 1]), obs=x)


from pyro_manifold.infer import GeodesicNUTS, VectorizedMCMC, manifold_summary

kernel = GeodesicNUTS(machines, chains=4, max_tree_depth=depth)
mcmc = VectorizedMCMC(kernel, num_samples=draws, warmup_steps=draws, disable_progbar=True)
mcmc.run(bottles)
posterior, summary = mcmc.get_samples(), manifold_summary(mcmc)
print("R-hat:", {name: round(float(row["r_hat"].max()), 2) for name, row in summary.items()})
mean, deviation = summary["typical"]["mean"]
print(f"typical machine: mean {mean:.1f}, standard deviation {deviation:.1f} (true: 2.0, 4.0)")

# %%
import matplotlib.pyplot as plt

fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for i in range(8):
    ax.scatter(*posterior["machine"][::4, i].T, s=2, color=f"C{i}", alpha=0.5)
    ax.plot(*truth[i], "k*", markersize=8)
steps = torch.linspace(0, 1, 30).unsqueeze(-1) * half_plane.logmap(truth[0], truth[1])
ax.plot(*half_plane.expmap(truth[0].expand(30, 2), steps).T, ":", color="0.3", label="a geodesic")
ax.set(
    xlabel="mean, ml above the label", ylabel="standard deviation, ml", ylim=(0, None), title="eight machines"
)
ax.legend()
fig.savefig(args.out / "own_manifold.png", dpi=110)

# %% [markdown]
# ![Posteriors of eight machines in the half-plane, and a geodesic between two of them](own_manifold.png)
#
# The geodesic from one machine to another is a piece of a circle about the axis: it goes through more uncertain
# distributions, which are near to both.
#
# ## Exercise
#
# What is the mean of the first two true machines on the manifold, and how does it differ from the mean of the
# numbers?

# %% tags=["answer"]
from pyro_manifold.infer import frechet_mean

print("Fréchet mean:", frechet_mean(half_plane, truth[:2])[0], "mean of the numbers:", truth[:2].mean(0))
# Its standard deviation is larger: it must explain the difference of the means, too.

# %% [markdown]
# Where next: {doc}`../howto/add_a_manifold` and {doc}`../howto/add_a_distribution` list what else a class may say
# (windings, volume, charts of its own), and what a contribution to the package needs.
