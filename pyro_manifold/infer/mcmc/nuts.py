"""The No-U-Turn sampler as a kernel of Pyro's ``MCMC``."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...ops.arguments import checked
from .hmc import GeodesicHMC
from .options import Option, whole
from .systems import State
from .transitions import TransitionResult, nuts
from .trees import advance, advance_inputs

__all__ = ["GeodesicNUTS"]

EARLY = 0.93  # ends paths of warm-up at a third of their length: on harmonic motion at an angle with a = 0.93 tan a


class GeodesicNUTS(GeodesicHMC):
    r"""The No-U-Turn sampler on geodesic flows: multinomial trajectories that stop where they start to
    return.

    As :class:`GeodesicHMC`, with the arc length chosen by the U-turn criterion for velocities compared in one
    fixed space (ambient vectors on compact manifolds, normal coordinates at a central draw of warm-up on
    hyperbolic space), and Stan's additional sub-tree checks, which closed geodesics need.

    :param int max_tree_depth: at most ``2 ** max_tree_depth`` leapfrog steps a draw.

    Other parameters, errors and references: :class:`GeodesicHMC`; Betancourt 2017, app. A.

    >>> import geoopt, pyro, torch
    >>> from pyro.infer import MCMC
    >>> import pyro_manifold.distributions as mdist
    >>> model = lambda: pyro.sample("x", mdist.ManifoldUniform(geoopt.Sphere(), 3))
    >>> mcmc = MCMC(GeodesicNUTS(model), num_samples=20, warmup_steps=20, disable_progbar=True)
    >>> mcmc.run()
    >>> mcmc.get_samples()["x"].norm(dim=-1).allclose(torch.ones(20))
    True
    """

    max_tree_depth: Any = Option(whole, live=True)

    @checked(max_tree_depth=1)
    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Callable[[dict[str, Tensor]], Tensor] | None = None,
        *,
        max_tree_depth: int = 10,
        **kwargs: Any,
    ) -> None:
        if "trajectory_length" in kwargs:
            raise ValueError(
                "trajectory_length: NUTS finds it; use GeodesicHMC to fix it, or max_tree_depth to bound it."
            )
        super().__init__(
            model, potential_fn, trajectory_length=1.0, **kwargs
        )  # a length that is given is not learned
        self.max_tree_depth = max_tree_depth

    @property
    def trajectory_length(self) -> float:
        raise AttributeError("trajectory_length: NUTS finds one for each draw.")

    @trajectory_length.setter
    def trajectory_length(self, value: float | None) -> None:
        raise AttributeError(
            "trajectory_length: NUTS finds it; use GeodesicHMC to fix it, or max_tree_depth to bound it."
        )

    @property
    def num_steps(self) -> int:
        raise AttributeError("num_steps: NUTS finds it for each draw.")

    @num_steps.setter
    def num_steps(self, value: int) -> None:
        raise AttributeError("num_steps: NUTS finds it; max_tree_depth bounds it.")

    def _step(self) -> tuple[Any, ...]:
        return advance, advance_inputs, self.max_tree_depth

    def _transition(self, state: State, step_size: float) -> TransitionResult:
        short = self._warm is not None and self._t < (self._warmup_steps or 0) and self._warm.arrived
        return nuts(self._system, state, step_size, self.max_tree_depth, EARLY if short else 0.0)
