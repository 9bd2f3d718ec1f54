r"""Data as a latent site that cannot move, so that chains of one kernel may each be conditioned on data of
their own.

An observed value y is a manifold of one point, :math:`\{y\}`: its geodesics stay, its momentum changes
nothing else.
:func:`~pyro_manifold.infer.sbc` uses it to run many posteriors in one batch.
"""

from collections.abc import Sequence
from typing import Any

import geoopt
import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ...constraints import on
from ...geometry import Geometry, register_geometry

__all__ = ["HeldData", "hold_data"]


class _Held(geoopt.Manifold):
    """One point, whatever it is; ``ndim`` is the rank of an event."""

    name, reversible = "Held", True

    def __init__(self, ndim: int) -> None:
        super().__init__()
        self.ndim = ndim

    def _check_point_on_manifold(self, x: Any, **kwargs: Any) -> tuple[bool, str | None]:
        return True, None

    def _check_vector_on_tangent(self, x: Any, u: Any, **kwargs: Any) -> tuple[bool, str | None]:
        return True, None

    def projx(self, x: Tensor) -> Tensor:
        return x

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return torch.zeros_like(u)

    def inner(self, x: Tensor, u: Tensor, v: Any = None, *, keepdim: bool = False) -> Tensor:
        return 0 * u

    egrad2rgrad = proju

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return x

    expmap = retr

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return torch.zeros_like(v)


@register_geometry(_Held)
class _HeldGeometry(Geometry):
    """One frame coordinate per point, for kernels that divide by the dimension, in a metric so large that
    nothing moves.

    A unit tangent vector is 2^-500 long in the data's own units (2^-60 in float32): it survives
    ``from_tangent`` to the last bit (momentum must be kept, or energies would be wrong), while forces on it
    and displacements by it vanish.
    """

    def __init__(self, manifold: geoopt.Manifold) -> None:
        super().__init__(manifold)
        self.event_dim = manifold.ndim

    def _zero(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[: x.dim() - self.event_dim])

    def dim(self, event_shape: Sequence[int]) -> int:
        return 1

    def base_point(
        self, event_shape: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None
    ) -> Tensor:
        return torch.zeros(torch.Size(event_shape), dtype=dtype, device=device)

    def contains(self, x: Tensor, atol: float | None = None) -> Tensor:
        return self._zero(x) == 0

    def project(self, x: Tensor) -> Tensor:
        return x

    def project_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        return torch.zeros_like(u)

    def _unit(self, x: Tensor) -> float:
        return 2.0**-60 if x.dtype == torch.float32 else 2.0**-500

    def to_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return (self._unit(p) * v.reshape(v.shape[:-1] + (1,) * self.event_dim)).expand_as(p)

    def from_tangent(self, p: Tensor, u: Tensor) -> Tensor:
        first = u.flatten(u.dim() - self.event_dim)[..., :1] if self.event_dim else u.unsqueeze(-1)
        return first / self._unit(p)

    def embed_tangent(self, p: Tensor, v: Tensor) -> Tensor:
        return torch.zeros_like(v)  # held data do not take part in the U-turn criterion

    def exp(self, p: Tensor, u: Tensor) -> Tensor:
        return p

    def log(self, p: Tensor, q: Tensor) -> Tensor:
        return torch.zeros_like(p)

    def dist(self, p: Tensor, q: Tensor) -> Tensor:
        return self._zero(p)

    def log_det_exp(self, p: Tensor, v: Tensor) -> Tensor:
        return self._zero(p)

    def geodesic(self, p: Tensor, u: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        return p, u


class HeldData(TorchDistribution):
    """The distribution ``base`` as a latent site whose value no geodesic kernel moves.

    >>> import pyro.distributions as dist
    >>> distribution = HeldData(dist.Normal(0.0, 1.0))
    >>> distribution.support, distribution.log_prob(torch.tensor(1.0))
    (on(Held), tensor(-1.4189))
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: Any) -> None:
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return on(_Held(len(self.event_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.base.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(value)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "HeldData":
        return HeldData(self.base.expand(batch_shape))


class hold_data(Messenger):
    """Handler that makes the sites named in ``values`` :class:`HeldData`, with those values unless an outer
    handler sets others.

    >>> import pyro.distributions as dist
    >>> from pyro import poutine
    >>> model = hold_data({"y": torch.tensor(2.0)})(lambda: pyro.sample("y", dist.Normal(0.0, 1.0)))
    >>> site = poutine.trace(model).get_trace().nodes["y"]
    >>> site["fn"].support, site["value"], site["is_observed"]
    (on(Held), tensor(2.), False)
    """

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["fn"] = HeldData(msg["fn"])
            if msg["value"] is None:
                msg["value"] = self.values[msg["name"]]
