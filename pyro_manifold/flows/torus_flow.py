r"""Flows on flat tori of any dimension, by circular splines.

.. math:: f = f_k \circ \dots \circ f_1, \qquad \log|\det J_f| = \sum_i \log|\det J_{f_i}|
"""

from ..constraints import on
from ..geometry.torus import Torus
from ..ops.arguments import checked
from ..transforms.layers import LayerFlow
from .circular import CircularAutoregressive, CircularSpline

__all__ = ["TorusFlow"]


class TorusFlow(LayerFlow):
    r"""A flow of angles :math:`(\theta_1, \dots, \theta_d)` in radians.

    :param int dim: d.
    :param int depth: number of layers.
    :param str kind: ``"coupling"``, :class:`CircularSpline` layers that change one half of the angles after the
        other, fast in both directions; or ``"autoregressive"``, :class:`CircularAutoregressive` layers that count
        the angles from the first and from the last one in turn, whose draws find one angle after the other.
    :param options: those of the layers.
    :raises ValueError: for an unknown kind or sizes that are not positive.

    Volumes are those of :math:`\prod d\theta_i`. A new flow is the identity.

    >>> import torch, pyro.distributions as dist, pyro_manifold.distributions as mdist
    >>> flow = TorusFlow(2)
    >>> d = dist.TransformedDistribution(mdist.ManifoldUniform(Torus(), 2), [flow])
    >>> d.log_prob(torch.tensor([3.0, -1.0]))  # -2 log(2 pi)
    tensor(-3.6758, grad_fn=...)
    """

    @checked(dim=1, depth=1)
    def __init__(
        self, dim: int, depth: int = 6, *, kind: str = "coupling", cache_size: int = 0, **options: object
    ) -> None:
        super().__init__(cache_size=cache_size)
        if kind not in ("coupling", "autoregressive"):
            raise ValueError(f"kind: got {kind!r}; expected 'coupling' or 'autoregressive'.")
        self.dim = self.codomain_dim = dim
        self.domain = self.codomain = on(Torus())
        self.kind = kind
        halves = [range(0, dim, 2), range(1, dim, 2)] if dim > 1 else [range(1)]
        self.hold(
            [
                CircularSpline(dim, halves[i % len(halves)], **options)  # type: ignore[arg-type]
                if kind == "coupling"
                else CircularAutoregressive(dim, reverse=bool(i % 2), **options)  # type: ignore[arg-type]
                for i in range(depth)
            ]
        )

    def __repr__(self) -> str:
        return f"TorusFlow({self.dim}, depth={len(self.layers)}, kind={self.kind!r})"
