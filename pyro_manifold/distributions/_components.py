r"""Components of mixtures as an EM algorithm sees them: densities of all at all points, sufficient statistics,
and the parameters of greatest likelihood given those.

.. math::
    r_{nk} = \frac{w_k\,p(x_n\mid\theta_k)}{\sum_j w_j\,p(x_n\mid\theta_j)}, \qquad
    \theta_k = \arg\max_\theta\sum_n r_{nk}\log p(x_n\mid\theta)

Parameters are dictionaries of float64 tensors whose first axis counts the K components. Statistics are sums
over points, so that they may be added up over parts of the data. Every maximum is that under the bounds
``1 / max_scale^2 <= concentration <= max_concentration`` (wrapped normals: standard deviations along all
directions), and is never worse than the parameters before it: hence the likelihood never falls.

References: Dempster, Laird & Rubin, J. R. Stat. Soc. B 39 (1977); Banerjee et al., J. Mach. Learn. Res. 6
(2005), eq. 2.5 (von Mises-Fisher); Kent, J. R. Stat. Soc. B 44 (1982), sec. 4.
"""

from abc import ABC, abstractmethod
from typing import Any

import geoopt
import pyro.distributions as dist
import torch
from torch import Tensor

from ..constraints import check_point, on
from ..geometry import Torus, geometry
from ..ops.fisher_bingham import relative_moments, relative_normalizer
from ..ops.inverse_ratio import inverse_bessel_ratio
from ..ops.pairwise import pairwise_distances
from ..ops.special import log_bessel
from ..ops.spherical import log_sphere_area
from .kent import Kent
from .von_mises_fisher import VonMisesFisher

__all__ = [
    "Components",
    "KentComponents",
    "VonMisesComponents",
    "VonMisesFisherComponents",
    "frame_about",
    "log_sum",
]

Parameters = dict[str, Tensor]
_TINY = 1e-12  # a component with fewer points than this keeps its parameters


def log_sum(log: Tensor) -> Tensor:
    """``logsumexp`` over the last axis, ten times as fast where most terms vanish: exp is slow where its result
    is below the least number. Terms of less than exp(-50) of the largest count as that."""
    top = log.detach().amax(-1, keepdim=True)
    return (log - top).clamp_min(-50.0).exp().sum(-1).log() + top.squeeze(-1)


class Components(ABC):
    """One family of components, with bounds on their concentrations; see the module.

    :param most: ``max_concentration``.
    """

    manifold: geoopt.Manifold
    concentrated: tuple[str, ...]  # the parameters that are zero for a uniform component

    def __init__(self, most: float) -> None:
        self.most = most

    @property
    def support(self) -> Any:
        return on(self.manifold)

    def prepare(self, name: str, x: Tensor) -> Tensor:
        """Points in float64, to all of its digits on the manifold.

        :raises ValueError: for points off the manifold, or too few."""
        if x.dim() != 2 or len(x) < 2:
            raise ValueError(
                f"{name}: got shape {tuple(x.shape)}, expected (n, d), n >= 2 points in rows; "
                "unsqueeze or flatten it."
            )
        check_point(self.manifold, name, x)
        return geometry(self.manifold).project(x.detach().double())

    def squared_distance(self, x: Tensor, centre: Tensor) -> Tensor:
        """Of points (n, d) from K centres, squared, as chords; shape (n, K)."""
        a, b = (geometry(self.manifold).ambient_coordinates(y) for y in (x, centre))
        assert a is not None and b is not None
        return pairwise_distances(a, b).square()

    @abstractmethod
    def free(self, coordinates: int) -> int:
        """The number of free parameters of a component, for points of so many coordinates."""

    @abstractmethod
    def at(self, centre: Tensor) -> Parameters:
        """Components about K centres, to start from."""

    @abstractmethod
    def log_density(self, p: Parameters, x: Tensor) -> Tensor:
        """Shape (n, K)."""

    def with_norm(self, p: Parameters) -> Parameters:
        """With what does not depend on the point computed once, for many calls of :meth:`log_density`."""
        return p

    @abstractmethod
    def statistics(self, p: Parameters, x: Tensor, r: Tensor) -> Parameters:
        """Sums over points weighted by ``r`` (n, K); under "n" the sums of the weights."""

    @abstractmethod
    def maximum(self, p: Parameters, s: Parameters) -> Parameters:
        """The parameters of greatest likelihood for statistics ``s``, or ``p`` for lack of points."""

    @abstractmethod
    def build(self, p: Parameters, dtype: torch.dtype) -> dist.TorchDistribution:
        """The distribution whose batch are the components."""

    @abstractmethod
    def values(self, d: Any) -> Parameters:
        """The parameters of the distribution that :meth:`build` made."""

    def uniform(self, x: Tensor) -> Parameters:
        """One component, uniform on the manifold."""
        p = self.at(x[:1])
        return {name: torch.zeros_like(v) if name in self.concentrated else v for name, v in p.items()}


def with_points(s: Parameters, new: Parameters, old: Parameters) -> Parameters:
    """``new``, but ``old`` for components without points."""
    enough = s["n"] > _TINY
    return {
        name: torch.where(enough.reshape((-1,) + (1,) * (v.dim() - 1)), v, old[name])
        for name, v in new.items()
    }


class VonMisesFisherComponents(Components):
    """Parameters ``loc`` (K, d), ``concentration`` (K,)."""

    manifold = geoopt.Sphere()
    concentrated = ("concentration",)

    def free(self, coordinates: int) -> int:
        return coordinates

    def at(self, centre: Tensor) -> Parameters:
        start = torch.full_like(centre[:, 0], min(100.0, self.most))
        return {"loc": centre, "concentration": start}

    def log_density(self, p: Parameters, x: Tensor) -> Tensor:
        p = p if "norm" in p else self.with_norm(p)
        return torch.addmm(-p["norm"], x, p["concentration"] * p["loc"].mT)

    def with_norm(self, p: Parameters) -> Parameters:
        k, n = p["concentration"], p["loc"].shape[-1]
        return p | {"norm": k + (log_bessel(k, n / 2 - 1, scaled=True) + log_sphere_area(n - 1))}

    def statistics(self, p: Parameters, x: Tensor, r: Tensor) -> Parameters:
        return {"n": r.sum(0), "x": r.mT @ x}

    def maximum(self, p: Parameters, s: Parameters) -> Parameters:
        mean = s["x"] / s["n"].clamp_min(_TINY).unsqueeze(-1)
        length = mean.norm(dim=-1, keepdim=True)
        k = inverse_bessel_ratio(1 - length.squeeze(-1), mean.shape[-1] / 2 - 1, self.most)
        loc = torch.where(length > 1e-9, mean / length.clamp_min(1e-300), p["loc"])
        return with_points(s, {"loc": loc, "concentration": k}, p)

    def build(self, p: Parameters, dtype: torch.dtype) -> dist.TorchDistribution:
        loc = torch.nn.functional.normalize(p["loc"].to(dtype), dim=-1)
        return VonMisesFisher(loc, p["concentration"].to(dtype))

    def values(self, d: Any) -> Parameters:
        return {"loc": d.loc, "concentration": d.concentration}


class VonMisesComponents(Components):
    """Independent von Mises distributions of d angles: ``loc`` (K, d), ``concentration`` (K, d)."""

    manifold = Torus()
    concentrated = ("concentration",)

    def free(self, coordinates: int) -> int:
        return 2 * coordinates

    def at(self, centre: Tensor) -> Parameters:
        return {"loc": centre, "concentration": torch.full_like(centre, min(10.0, self.most))}

    def log_density(self, p: Parameters, x: Tensor) -> Tensor:
        p = p if "norm" in p else self.with_norm(p)
        k, loc = p["concentration"], p["loc"]
        return x.cos() @ (k * loc.cos()).mT + x.sin() @ (k * loc.sin()).mT - p["norm"]

    def with_norm(self, p: Parameters) -> Parameters:
        k = p["concentration"]
        norm = log_bessel(k, 0.0, scaled=True) + log_sphere_area(1) + k
        return p | {"norm": norm.sum(-1)}

    def statistics(self, p: Parameters, x: Tensor, r: Tensor) -> Parameters:
        return {"n": r.sum(0), "cos": r.mT @ x.cos(), "sin": r.mT @ x.sin()}

    def maximum(self, p: Parameters, s: Parameters) -> Parameters:
        n = s["n"].clamp_min(_TINY).unsqueeze(-1)
        k = inverse_bessel_ratio(1 - torch.hypot(s["cos"], s["sin"]) / n, 0.0, self.most)
        return with_points(s, {"loc": torch.atan2(s["sin"], s["cos"]), "concentration": k}, p)

    def build(self, p: Parameters, dtype: torch.dtype) -> dist.TorchDistribution:
        k = p["concentration"].clamp_min(1e-12)  # which torch's distribution needs positive
        return dist.VonMises(p["loc"].to(dtype), k.to(dtype)).to_event(1)

    def values(self, d: Any) -> Parameters:
        return {"loc": d.base_dist.loc, "concentration": d.base_dist.concentration}


class KentComponents(Components):
    """On the sphere S^2: ``frame`` (K, 3, 3), ``concentration`` and ``ovalness`` (K,). The frame is Kent's
    moment estimate, the two concentrations are those of greatest likelihood with it.

    Along its axes a component has the concentrations a = kappa - 2 beta <= b = kappa + 2 beta; both keep to
    the bounds, and a >= kappa / 50, so that there is one mode.
    """

    manifold = geoopt.Sphere()
    concentrated = ("concentration", "ovalness")

    def prepare(self, name: str, x: Tensor) -> Tensor:
        if x.shape[-1:] != (3,):
            raise ValueError(
                f"{name}: got shape {tuple(x.shape)}, expected (n, 3): Kent mixtures are fitted on the sphere "
                "S^2; elsewhere use family='von_mises_fisher'."
            )
        return super().prepare(name, x)

    def free(self, coordinates: int) -> int:
        return 5

    def at(self, centre: Tensor) -> Parameters:
        k = torch.full_like(centre[:, 0], min(100.0, self.most))
        return {"frame": frame_about(centre), "concentration": k, "ovalness": torch.zeros_like(k)}

    def log_density(self, p: Parameters, x: Tensor) -> Tensor:
        p = p if "form" in p else self.with_norm(p)
        features = torch.cat([x, (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)], -1)
        return torch.addmm(-p["norm"], features, p["form"].mT)

    def with_norm(self, p: Parameters) -> Parameters:
        """The log density is a linear function of x and its products."""
        k, b, f = p["concentration"], p["ovalness"], p["frame"]
        axes = f[..., 1:] * f.new_tensor([1.0, -1.0]) @ f[..., 1:].mT
        form = torch.cat([k.unsqueeze(-1) * f[..., 0], b.unsqueeze(-1) * axes.flatten(-2)], -1)
        return p | {"norm": k + relative_normalizer(_rates(k, b)), "form": form}

    def statistics(self, p: Parameters, x: Tensor, r: Tensor) -> Parameters:
        square = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)
        return {"n": r.sum(0), "x": r.mT @ x, "xx": (r.mT @ square).unflatten(-1, (3, 3))}

    def maximum(self, p: Parameters, s: Parameters) -> Parameters:
        n = s["n"].clamp_min(_TINY)
        mean, second = s["x"] / n.unsqueeze(-1), s["xx"] / n[..., None, None]
        length = mean.norm(dim=-1, keepdim=True)
        centre = torch.where(length > 1e-9, mean / length.clamp_min(1e-300), p["frame"][..., 0])
        about = frame_about(centre)
        _, axes = torch.linalg.eigh((about.mT @ second @ about)[..., 1:, 1:])  # ascending
        frame = torch.cat([about[..., :1], about[..., 1:] @ axes.flip(-1)], -1)
        new = {"frame": frame} | self._concentrations(frame, mean, second, p)
        better = _expected(new, mean, second) >= _expected(p, mean, second)
        kept = {name: torch.where(better.reshape((-1,) + (1,) * (v.dim() - 1)), v, p[name])
                for name, v in new.items()}  # fmt: skip
        return with_points(s, kept, p)

    def _concentrations(self, frame: Tensor, mean: Tensor, second: Tensor, p: Parameters) -> Parameters:
        """Matches E(1 - x_1) and E(x_2^2 - x_3^2): each axis' concentration times the ratio of its spread in
        the model to that in the data, until nothing moves."""
        fall = 1 - (frame[..., 0] * mean).sum(-1)
        spread = (frame * (second @ frame)).sum(-2)
        oval = 0.5 * (spread[..., 1] - spread[..., 2])
        wide, narrow = (fall + oval).clamp_min(1e-15), (fall - oval).clamp_min(1e-15)
        k, b = p["concentration"], p["ovalness"]
        for _ in range(6):  # one is exact for narrow components; wide ones go on in the next step of EM
            m = relative_moments(_rates(k, b))[1]
            f, o = 0.5 * m.sum(-1), 0.5 * (m[..., 1] - m[..., 2])
            k, b = self._bounded((k - 2 * b) * (f + o) / wide, (k + 2 * b) * (f - o) / narrow)
        return {"concentration": k, "ovalness": b}

    def _bounded(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        high = high.clamp(1e-9, self.most)
        low = torch.minimum(torch.maximum(low, high / 99), high)
        return (low + high) / 2, (high - low) / 4

    def build(self, p: Parameters, dtype: torch.dtype) -> dist.TorchDistribution:
        frame = torch.linalg.qr(p["frame"].to(dtype))
        frame = frame.Q * frame.R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
        return Kent(frame, p["concentration"].to(dtype), p["ovalness"].to(dtype))

    def values(self, d: Any) -> Parameters:
        return {"frame": d.frame, "concentration": d.concentration, "ovalness": d.axis_ovalness[..., 0]}


def _rates(k: Tensor, b: Tensor) -> Tensor:
    return torch.stack([k / 2, k / 2 - b, k / 2 + b], -1)


def _expected(p: Parameters, mean: Tensor, second: Tensor) -> Tensor:
    """The mean log density of data with these first and second moments."""
    k, b, f = p["concentration"], p["ovalness"], p["frame"]
    spread = (f * (second @ f)).sum(-2)
    fall = 1 - (f[..., 0] * mean).sum(-1)
    return -k * fall + b * (spread[..., 1] - spread[..., 2]) - relative_normalizer(_rates(k, b))


def frame_about(centre: Tensor) -> Tensor:
    """An orthonormal frame with a given first column, unit vectors (K, 3)."""
    smallest = torch.nn.functional.one_hot(centre.abs().argmin(-1), 3).to(centre)
    across = torch.nn.functional.normalize(torch.linalg.cross(centre, smallest), dim=-1)
    return torch.stack([centre, across, torch.linalg.cross(centre, across)], -1)
