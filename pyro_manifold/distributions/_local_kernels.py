r"""Kent kernels on the sphere S^2 whose widths and axes are those of the neighbours of their points.

.. math::
    C_i = \frac1k\sum_{j\in N_k(i)} u_{ij}u_{ij}^\top, \quad u_{ij} \in T_{x_i}S^2, \qquad
    \Sigma_i = h^2\big((1-a)\,C_i + \tfrac a2\,\mathrm{tr}(C_i)\,I\big) + \epsilon I

The eigenvalues of :math:`\Sigma_i` are the inverse concentrations of kernel i along its axes. References: Vincent &
Bengio, *Manifold Parzen windows*, NeurIPS 2003; Breiman, Meisel & Purcell, Technometrics 19 (1977) (k-th neighbours).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..ops.chunks import slices
from ..ops.pairwise import pairwise_distances
from ._components import Parameters, frame_about

__all__ = ["local_kernels"]

_SCALES = (0.4, 0.8)  # h
_ROUNDNESS = (0.1, 0.6)  # a
_ELEMENTS = 1 << 20


def local_kernels(x: Tensor, neighbours: Sequence[int], most: float) -> Iterator[Parameters]:
    """For each number of neighbours k, h and a the parameters of Kent kernels about all points.

    :param most: the largest concentration, 1 / epsilon.
    """
    n = len(x)
    nearest = torch.cat(
        [
            pairwise_distances(x[part], x).topk(max(neighbours) + 1, largest=False).indices[:, 1:]
            for part in slices(n, n, _ELEMENTS)
        ]
    )
    frame = frame_about(x)
    u = torch.einsum("nki,nij->nkj", x[nearest] - x.unsqueeze(1), frame[..., 1:])
    for k in neighbours:
        covariance = torch.einsum("nki,nkj->nij", u[:, :k], u[:, :k]) / k
        values, axes = torch.linalg.eigh(covariance)
        axes = torch.cat([frame[..., :1], frame[..., 1:] @ axes.flip(-1)], -1)  # the longer axis first
        mean = values.mean(-1, keepdim=True)
        for h in _SCALES:
            for a in _ROUNDNESS:
                variance = h * h * ((1 - a) * values + a * mean) + 1 / most
                low = 1 / variance[:, 1]
                high = torch.minimum(1 / variance[:, 0], 99 * low)
                yield {"frame": axes, "concentration": (low + high) / 2, "ovalness": (high - low) / 4}
