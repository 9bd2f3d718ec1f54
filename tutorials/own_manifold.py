"""Your own manifold and a distribution on it in 40 lines, complete and tested.

    python tutorials/own_manifold.py

Takes three to four minutes of one core and writes one picture.
"""

# %% [markdown]
# # Your own manifold and distribution
#
# A manifold is an exponential map and its inverse; everything else, frames, wrapped normals, guides, geodesic NUTS,
# diagnostics, follows. A distribution is a density and a way to draw. This page writes a manifold that the package
# does not have and a distribution on it, together in some 40 lines, checks both, and uses them in a model. It takes
# fifteen minutes to read.
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
# Formulas come first. The *exponential map* takes a point and a velocity to where a straight path arrives after the
# time 1. Translations of $m$ and common scalings of $m$ and $s$ are isometries, so it is enough to know the paths
# from the point $(0, 1)$. With velocity $v$ of length $r$ they arrive at
#
# $$s = \frac1{\cosh r - v_2\,\frac{\sinh r}{r}}, \qquad m = s\,v_1\,\frac{\sinh r}{r}.$$
#
# The *logarithm* asks for the velocity that arrives at a given point $(a, b)$:
#
# $$v = \frac{r}{\sinh r}\Big(\frac ab,\; h + \frac{b-1}b\Big), \qquad
# h = \cosh r - 1 = \frac{a^2 + (b-1)^2}{2b}, \qquad
# \frac r{\sinh r} = \frac{\operatorname{arsinh}\sqrt{h/2}}{\sqrt{h/2}\,\sqrt{1 + h/2}}.$$
#
# ## The manifold
#
# The half-plane is *symmetric*: at every point, turning all paths around is an isometry. Then `SymmetricGeometry`
# derives from these two maps, by automatic differentiation, the distance, the velocity along a path, the orthonormal
# frame at every point in which `scale` is measured, and how the exponential map changes volume. What is left to say
# is which numbers are points, one point where the metric is that of the coordinates, and the curvature. (Derivatives
# cost time. A class that is used a lot gives closed forms of `to_tangent`, `from_tangent`, `dist` and `geodesic`.)

# %%
import pyro
import torch

from pyro_manifold.geometry import GeometricManifold, SymmetricGeometry, register_geometry
from pyro_manifold.ops.signed_trig import (
    arcsinc_sqrt,
    cos_sqrt,
    sinc_sqrt,
)  # cosh r = cos sqrt(-r^2), without 0/0


class HalfPlane(GeometricManifold):
    event_shape = (2,)


@register_geometry(HalfPlane)
class HalfPlaneGeometry(SymmetricGeometry):
    membership = "a finite mean and a positive standard deviation"
    has_chart = True  # the exponential map reaches every point, each by one velocity

    def constant_curvature(self, like):
        return like.new_tensor(-1.0)

    def contains(self, x, atol=None):
        return x.isfinite().all(-1) & (x[..., 1] > 0)

    def base_point(self, event_shape, *, dtype=None, device=None):
        return torch.tensor([0.0, 1.0], dtype=dtype, device=device)

    def project(self, x):
        return torch.stack([x[..., 0], x[..., 1].clamp_min(torch.finfo(x.dtype).eps)], -1)

    def exp(self, p, u):
        v = u / p[..., 1:]
        minus_r2 = -v.square().sum(-1)
        sinhc = sinc_sqrt(minus_r2)
        s = p[..., 1] / (cos_sqrt(minus_r2) - v[..., 1] * sinhc)
        return torch.stack([p[..., 0] + s * v[..., 0] * sinhc, s], -1)

    def log(self, p, q):
        a, b = (q[..., 0] - p[..., 0]) / p[..., 1], q[..., 1] / p[..., 1]
        h = (a.square() + (b - 1).square()) / (2 * b)
        ratio = arcsinc_sqrt(-h / 2) / (1 + h / 2).sqrt()
        return p[..., 1:] * ratio.unsqueeze(-1) * torch.stack([a / b, h + (b - 1) / b], -1)


# %% [markdown]
# ## Is it right?
#
# `check_geometry` compares the volume change with automatic differentiation, the frame with the first variation
# of the distance, paths with the exponential map, inverses with each other; it looks for NaN at coinciding points and
# in gradients. It returns the checks that do not apply, with the reason.

# %%
from pyro_manifold.testing import check_distribution, check_geometry

torch.manual_seed(0)
for name, reason in check_geometry(HalfPlane(), dim=2).items():
    print(f"{name}: {reason}")

# %% [markdown]
# Every other check has passed. To see one fail, say that the curvature is $-2$: `volume_change` says that
# `log_det_exp` is not the derivative of the exponential map, and by how much.
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
# with shape $\alpha$ and rate $\beta$, and given $s$ the mean is normal with standard deviation $s/\sqrt n$. As a
# distribution on the half-plane its density is with respect to the area $dm\,ds/s^2$:
#
# $$p(m, s) = \mathcal N\big(m;\, m_0, s/\sqrt n\big)\; \mathrm{IG}(s^2;\, \alpha, \beta)\; 2s \cdot s^2
# = \sqrt{\frac{2n}\pi}\,\frac{\beta^\alpha}{\Gamma(\alpha)}\; s^{-2\alpha}\,
# e^{-\frac n2\left(\frac{m - m_0}s\right)^2 - \frac\beta{s^2}}.$$
#
# The factor $2s$ turns a density of $s^2$ into one of $s$; the factor $s^2$ turns one with respect to $dm\,ds$
# into one with respect to area. `ManifoldDistribution` looks after shapes, batches and validation.

# %%
import pyro.distributions as dist
from pyro.distributions.constraints import positive, real

from pyro_manifold.constraints import on


class NormalInverseGamma(mdist.ManifoldDistribution):
    """Base measure: hyperbolic area of the half-plane."""

    arg_constraints = {"mean0": real, "count": positive, "alpha": positive, "beta": positive}
    support = on(half_plane)
    has_rsample = True

    def __init__(self, mean0, count, alpha, beta, validate_args=None):
        super().__init__(dict(mean0=mean0, count=count, alpha=alpha, beta=beta), validate_args)

    def draw(self, shape):
        s = dist.InverseGamma(self.alpha, self.beta).expand(shape).rsample().sqrt()
        return torch.stack([self.mean0 + s / self.count.sqrt() * torch.randn_like(s), s], -1)

    def log_density(self, value):
        m, s = value.unbind(-1)
        z2 = self.count * ((m - self.mean0) / s).square()
        constant = (2 * self.count / torch.pi).log() / 2 + self.alpha * self.beta.log() - self.alpha.lgamma()
        return constant - 2 * self.alpha * s.log() - z2 / 2 - self.beta / s.square()


# %% [markdown]
# `check_distribution` integrates the density by quadrature and compares the moments and the distribution of draws
# with it: both the density and the sampler must be right, and with respect to the same measure. It also draws at the
# ends of float32, compiles, maps, differentiates twice, and gives parameters that mean nothing.

# %%
parameters = {"mean0": 1.0, "count": 4.0, "alpha": 6.0, "beta": 5.0}
parameters = {name: torch.tensor(value, dtype=torch.float64) for name, value in parameters.items()}
for name, reason in check_distribution(NormalInverseGamma, parameters).items():
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
