r"""How far an embedding of the cube is from a bijection that carries uniform to uniform.

.. math::
    \phi_\#\,\mathrm{Uniform}[0, 1]^d \overset{?}{=} \mathrm{Uniform}(M), \qquad
    \mathrm{gap}_j = \mathbb E\, d\big(\phi(t)|_{t_j = 0},\ \phi(t)|_{t_j = 1}\big)
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..geometry import geometry
from ..ops.arguments import checked
from .metrics import mmd2

__all__ = ["EmbeddingReport", "embedding_report"]


@dataclass(frozen=True)
class EmbeddingReport:
    r"""What :func:`embedding_report` measures.

    :ivar float mmd2: squared maximum mean discrepancy, of images of uniform points of the cube
        from uniform points of M, in the coordinates of ``to_features``.
    :ivar float mmd2_floor: the same of two uniform samples of M: what exactness would look like.
    :ivar float ks: the largest Kolmogorov-Smirnov distance between distributions of distances from one of some points
        of M.
    :ivar float ks_floor: the same of two uniform samples of M.
    :ivar tuple seams: for each axis of the cube, the mean geodesic distance (radians, on the circle) between the images
        of its two ends. 0 where an angle closes; :math:`\pi` between the poles of the sphere, which no gap is.
    :ivar float inverse_error: mean distance, in the cube, of a point from the code of its image.
    :ivar float volume_sd: standard deviation of the log volume over the cube; 0 for a map that preserves measure.

    >>> from pyro_manifold.transforms import CubeToTorus
    >>> embedding_report(CubeToTorus(1), draws=200).seams
    (0.0,)
    """

    mmd2: float
    mmd2_floor: float
    ks: float
    ks_floor: float
    seams: tuple[float, ...]
    inverse_error: float
    volume_sd: float


def _ks(x: Tensor, y: Tensor) -> float:
    """The largest distance of empirical distribution functions, over the last axis of either."""
    x, y = x.sort(-1).values, y.sort(-1).values
    both = torch.cat([x, y], -1)
    below = [torch.searchsorted(s, both, right=True).double() / s.shape[-1] for s in (x, y)]
    return float((below[0] - below[1]).abs().max())


@torch.no_grad()
@checked(draws=2, references=1, seed=0)
def embedding_report(
    embedding: Any, *, draws: int = 2000, references: int = 32, seed: int = 0
) -> EmbeddingReport:
    """Measure ``embedding``, a map from the cube to a manifold of finite volume.

    :param embedding: :class:`~pyro_manifold.flows.LearnedEmbedding`, :class:`~pyro_manifold.transforms.CubeToSphere`,
        or another transform from the cube with attributes ``manifold``, ``dim`` and ``point_shape``.
    :param int draws: uniform points of the cube and of the manifold. Tables of ``draws`` by ``draws`` are made.
    :param int references: uniform points of the manifold from which distances are measured.
    :param int seed: of all draws; the caller's generator is left as it was.
    :raises ValueError: for a map without those attributes.

    >>> from pyro_manifold.transforms import CubeToSphere
    >>> report = embedding_report(CubeToSphere(2), draws=500)
    >>> report.ks < 2 * report.ks_floor, report.volume_sd
    (True, 0.0)
    """
    lacking = [name for name in ("manifold", "dim", "point_shape") if not hasattr(embedding, name)]
    if lacking:
        raise ValueError(
            f"embedding: got {type(embedding).__name__}, which has no {', '.join(lacking)}; expected a map from the "
            "cube such as LearnedEmbedding or CubeToSphere."
        )
    geo, d = geometry(embedding.manifold), embedding.dim
    like = next(iter(embedding.parameters()), None) if hasattr(embedding, "parameters") else None
    options: dict[str, Any] = {} if like is None else dict(dtype=like.dtype, device=like.device)
    with torch.random.fork_rng([like.device] if like is not None and like.device.type == "cuda" else []):
        torch.manual_seed(seed)
        t = torch.rand(draws, d, **options)
        one, two = (geo.uniform_sample((draws,), embedding.point_shape, **options) for _ in range(2))
        centres = geo.uniform_sample((references,), embedding.point_shape, **options)
    pushed = embedding(t)
    near = geo.project(pushed)  # an embedding may leave the manifold a little
    ambient = [geo.to_features(x) for x in (pushed, one, two)]
    distances = [geo.dist(centres.unsqueeze(1), x.unsqueeze(0)) for x in (near, one, two)]
    seams = []
    for axis in range(d):
        ends = [
            geo.project(embedding(t.index_fill(1, torch.tensor([axis], device=t.device), e)))
            for e in (0.0, 1.0)
        ]
        seams.append(float(geo.dist(*ends).mean()))
    return EmbeddingReport(
        mmd2=mmd2(ambient[0], ambient[1]),
        mmd2_floor=mmd2(ambient[2], ambient[1]),
        ks=_ks(distances[0], distances[1]),
        ks_floor=_ks(distances[2], distances[1]),
        seams=tuple(seams),
        inverse_error=float((embedding.inv(pushed) - t).norm(dim=-1).mean()),
        volume_sd=float(embedding.log_volume(t).double().std()),
    )
