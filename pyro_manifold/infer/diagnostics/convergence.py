r"""Has a chain on a manifold converged, judged by statistics that no chart distorts?

For a site with draws x, pooled Fréchet mean m and orthonormal frame at m, the statistics are

.. math:: f_0(x) = d(m, x), \qquad f_i(x) = \langle e_i, \log_m x\rangle, \quad i = 1,\dots,\dim M
"""

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import geoopt
import numpy as np
import torch
from torch import Tensor

from ...geometry import Geometry, geometry
from ...ops.arguments import checked
from ..mcmc.errors import ConvergenceError
from .frechet import frechet_mean
from .samples import gather_samples
from .units import angle_factor, lengths_are_angles

__all__ = ["align_axes", "geodesic_ess", "geodesic_r_hat", "geodesic_statistics", "manifold_summary"]


@checked
def align_axes(x: Tensor, sample_dims: int = 2) -> Tensor:
    r"""Axial data as directions in one half of the sphere: :math:`x\,\mathrm{sign}\langle x, a\rangle`, a the
    main axis.

    For distributions where x and -x mean the same (axes, unit quaternions): diagnostics and means of what is
    aligned are meaningful. The main axis is the leading eigenvector of the pooled :math:`\mathrm E\,xx^\top`;
    points near its equator may still jump.

    :param x: unit vectors, the first ``sample_dims`` axes are the draws.

    >>> align_axes(torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])).sign().sum(1).abs()
    tensor([[2., 0.]])
    """
    second = (x.unsqueeze(-1) * x.unsqueeze(-2)).mean(tuple(range(sample_dims)))
    axis = torch.linalg.eigh(second).eigenvectors[..., -1]
    return torch.where(((x * axis).sum(-1, keepdim=True)) < 0, -x, x)


def _check(x: Tensor, event_dim: int) -> None:
    if x.dim() < 2 + event_dim or x.shape[1] < 4:
        raise ValueError(
            f"x: got shape {tuple(x.shape)}, expected (chains, draws) + batch + event with at least 4 draws; "
            "mcmc.get_samples(group_by_chain=True) gives that."
        )


@torch.no_grad()
def geodesic_statistics(manifold: geoopt.Manifold, x: Tensor, center: Tensor | None = None) -> Tensor:
    """Distance to the pooled Fréchet mean and log-map coordinates there, shape
    ``(chains, draws) + batch + (1 + dim,)``.

    Where points straddle the cut locus of the mean the coordinates jump, which leaves them valid statistics
    of the chain. Where logarithms have no closed form (Stiefel manifolds, level sets): chord to, and
    coordinates of the projected difference from, the projected ambient mean.

    :param x: points, shape ``(chains, draws) + batch + event``.
    :param center: another point to measure from, shape ``batch + event``.
    :raises ConvergenceError: where the sample has no clear mean; give ``center``.

    >>> import geoopt
    >>> x = geometry(geoopt.Sphere()).project(torch.randn(2, 10, 3) + torch.tensor([5.0, 0.0, 0.0]))
    >>> geodesic_statistics(geoopt.Sphere(), x).shape
    torch.Size([2, 10, 3])
    """
    geo = geometry(manifold)
    _check(x, geo.event_dim)
    if not geo.has_global_log:
        m = geo.project(x.mean((0, 1))) if center is None else center
        p = m.expand_as(x)
        v = geo.from_tangent(p, geo.project_tangent(p, x - m))
        return torch.cat([geo.chord(p, x).unsqueeze(-1), v], -1)
    m = frechet_mean(manifold, x.flatten(0, 1), tolerance=1e-5).mean if center is None else center
    v = geo.log_frame(m.expand_as(x), x)
    return torch.cat([torch.linalg.vector_norm(v, dim=-1, keepdim=True), v], -1)


def _arviz(name: str, f: Tensor) -> Tensor:
    """A diagnostic of ArviZ for each of the statistics ``f``, shape ``(chains, draws, ...)`` -> ``(...)``."""
    import arviz  # slow to import

    with np.errstate(all="ignore"):  # chains that stand still have variance zero
        values = getattr(arviz, name)(arviz.convert_to_dataset({"f": f.double().cpu().numpy()}))
    return torch.as_tensor(values["f"].values, dtype=torch.double, device=f.device)


@checked
def geodesic_ess(manifold: geoopt.Manifold, x: Tensor, center: Tensor | None = None) -> Tensor:
    """Bulk effective sample size (ArviZ's), the smallest over the geodesic statistics, shape ``batch``.

    0 where a statistic does not vary.

    :param x: points, shape ``(chains, draws) + batch + event``; ``center`` as in :func:`geodesic_statistics`.

    References: Vehtari, Gelman, Simpson, Carpenter & Bürkner, *Rank-normalization, folding, and
    localization*, 2021, sec. 3-4.

    >>> import geoopt
    >>> x = geometry(geoopt.Sphere()).uniform_sample((4, 500), (3,))
    >>> bool(geodesic_ess(geoopt.Sphere(), x) > 1000)
    True
    """
    f = geodesic_statistics(manifold, x, center)
    stuck = (f == f[:1, :1]).flatten(0, 1).all(0)
    return _arviz("ess", f).masked_fill(stuck, 0.0).amin(-1)


@checked
def geodesic_r_hat(manifold: geoopt.Manifold, x: Tensor, center: Tensor | None = None) -> Tensor:
    r"""Rank-normalised split :math:`\hat R` (ArviZ's), the largest over the geodesic statistics, shape
    ``batch``.

    At most 1.01 for chains that agree, infinite where chains stand still. A single chain is split into two
    halves.

    :param x: points, shape ``(chains, draws) + batch + event``; ``center`` as in :func:`geodesic_statistics`.

    References: Vehtari et al. 2021, sec. 4.

    >>> import geoopt
    >>> x = geometry(geoopt.Sphere()).uniform_sample((4, 500), (3,))
    >>> bool(geodesic_r_hat(geoopt.Sphere(), x) < 1.03)
    True
    """
    f = geodesic_statistics(manifold, x, center)
    if len(f) == 1:  # ArviZ wants two chains
        half = f.shape[1] // 2
        f = torch.cat([f[:, :half], f[:, -half:]])
    return _arviz("rhat", f).nan_to_num(torch.inf, torch.inf).amax(-1)


@checked
def manifold_summary(
    source: Any,
    manifolds: Mapping[str, geoopt.Manifold] | None = None,
    group_by_chain: bool = True,
    unit: str = "radians",
) -> "OrderedDict[str, dict[str, Tensor]]":
    r"""For each manifold-valued site its Fréchet ``mean``, ``scale`` (below), ``n_eff`` and ``r_hat``.

    .. math:: \text{scale}^2 = \tfrac{1}{\dim M}\,\mathrm E\,d(\bar x, x)^2

    A site whose draws have no clear mean (axes, frames in several copies of sign) has no ``mean`` and
    ``scale``, and a warning that names it; the others are measured from a point of the chain there.

    :param source: a finished ``MCMC`` (or ``VectorizedMCMC``) run, or a dict of draws,
        ``(chains, draws) + shape``.
    :param manifolds: site name -> manifold; read off an MCMC run's model by default.
    :param group_by_chain: False for a dict whose tensors start with (draws,).
    :param unit: of ``scale`` where lengths are angles (spheres, tori, rotations): "radians" or "degrees". With
        "degrees" such sites also have the ``angles`` of the mean in degrees (on :math:`S^2` the polar angle from
        the third axis and the azimuth). Sites of other manifolds keep their own unit of length.

    >>> import geoopt
    >>> x = geometry(geoopt.Sphere()).project(torch.tensor([3.0, 0.0, 0.0]) + torch.randn(4, 100, 3))
    >>> list(manifold_summary({"x": x}, {"x": geoopt.Sphere()})["x"])
    ['mean', 'scale', 'n_eff', 'r_hat']
    """
    factor = angle_factor(unit)
    samples, found = gather_samples(source, manifolds, group_by_chain)
    out: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
    for name, m in found.items():
        x, geo = samples[name], geometry(m)
        centred: dict[str, Tensor] = {}
        center = x[0, -1] if geo.has_global_log else None
        try:
            _check_one_mode(geo, x)
            mean, variance = frechet_mean(m, x.flatten(0, 1), tolerance=1e-5)
        except (ConvergenceError, ValueError) as error:
            warnings.warn(
                f"{name}: the draws have no clear mean on {m.name}, so its mean and scale are left out "
                f"({error}). Align copies that mean the same (align_axes, for frames column by column), or "
                "look at the modes one by one.",
                UserWarning,
                stacklevel=2,
            )
        else:
            centred = {"mean": mean, "scale": (variance / geo.dim(x.shape[x.dim() - geo.event_dim :])).sqrt()}
            center = mean if geo.has_global_log else None
            if factor != 1 and lengths_are_angles(geo, mean):
                angles = geo.angles(mean)
                assert angles is not None
                centred |= {"scale": factor * centred["scale"], "angles": factor * angles[0]}
        out[name] = {**centred, "n_eff": geodesic_ess(m, x, center), "r_hat": geodesic_r_hat(m, x, center)}
    return out


def _check_one_mode(geo: Geometry, x: Tensor) -> None:
    """Frames in several copies of sign have columns whose mean is near zero, and logarithms between them cost
    much or fail."""
    for g, y in zip(geo.factors, geo.split(x), strict=True):
        if g.has_global_log or g.event_dim != 2:
            continue
        least = torch.linalg.svdvals(y.mean((0, 1)))[..., -1]
        if bool((least < 0.5).any()):
            raise ValueError(
                f"the least singular value of the mean frame is {float(least.min()):.2f}, below 0.5"
            )
