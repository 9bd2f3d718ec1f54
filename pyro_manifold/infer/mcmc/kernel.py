"""The options of a geodesic kernel, and what it remembers of a run."""

from collections.abc import Callable, Mapping
from typing import Any

import geoopt
import torch
from pyro.infer.mcmc import HMC
from torch import Tensor

from ...geometry import geometry
from .adapters import TrajectoryLengthAdapter
from .options import (
    Option,
    boolean,
    choice,
    compilation,
    function,
    isometries_of,
    mass_of,
    nesting,
    positive,
    probability,
    whole,
)
from .proposals import IndependenceProposal, proposals_of
from .scales import inverse_mass, set_inverse_mass
from .systems import State
from .warmup import WarmUp

__all__ = ["GeodesicKernel"]


class GeodesicKernel(HMC):
    """Options of :class:`~.hmc.GeodesicHMC`. A public attribute takes effect when it is set, or setting
    it raises.

    ``step_size``, ``trajectory_length``, ``target_accept_prob``, ``max_tree_depth`` and
    ``inverse_mass_matrix`` act on a run under way too; the others only between runs.
    """

    chains: Any = Option(whole)
    compile: Any = Option(compilation)
    vectorize: Any = Option(choice("auto", "plates", "vmap", "loop"))
    isometries: Any = Option(isometries_of)
    proposals: Any = Option(proposals_of)
    adapt_step_size: Any = Option(boolean)
    adapt_mass_matrix: Any = Option(boolean)
    full_mass: Any = Option(boolean)
    init_strategy: Any = Option(function)
    max_plate_nesting: Any = Option(nesting)

    def __init__(
        self, model: Callable[..., Any] | None, potential_fn: Callable[[dict[str, Tensor]], Tensor] | None
    ) -> None:
        if (model is None) == (potential_fn is None):
            raise ValueError("model: give exactly one of model and potential_fn.")
        super(HMC, self).__init__()  # Pyro's own state would only be in the way
        self._options: dict[str, Any] = {
            "model": model,
            "potential_fn": potential_fn,
            "inverse_mass_matrix": None,
        }
        self._submodules: dict[str, Any] = {}  # by the last run
        self._transforms: Any = None
        self._reset()

    def __setattr__(self, name: str, value: Any) -> None:
        if not (
            name.startswith("_") or name == "save_params" or hasattr(type(self), name)
        ):  # save_params: Pyro's MCMC
            known = sorted(
                k for c in type(self).__mro__ for k, v in vars(c).items() if isinstance(v, Option | property)
            )
            raise AttributeError(
                f"{name}: {type(self).__name__} has no such option, so setting it would have no effect. Its "
                f"attributes are {', '.join(dict.fromkeys(k for k in known if k[0] != '_'))}. (A subclass "
                "declares its own in its body.)"
            )
        super().__setattr__(name, value)

    @property
    def model(self) -> Any:
        return self._options["model"]

    @model.setter
    def model(self, value: Any) -> None:
        self._between_runs("model")
        if self.model is None or not callable(value):
            raise ValueError("model: this kernel has a potential_fn, or got no function; make a new kernel.")
        self._options["model"], self._transforms = value, None

    @property
    def potential_fn(self) -> Any:
        """Minus log density of a dict of values; of a model, while it is sampled."""
        return self._potential if self.model is not None and self._t > 0 else self._options["potential_fn"]

    @potential_fn.setter
    def potential_fn(self, value: Any) -> None:
        self._between_runs("potential_fn")
        if self.model is not None or not callable(value):
            raise ValueError("potential_fn: this kernel has a model, or got no function; make a new kernel.")
        self._options["potential_fn"] = value

    @property
    def manifolds(self) -> dict[str, geoopt.Manifold]:
        """Where the manifold sites live: as given with ``potential_fn``, or found in the model by the last
        run."""
        return self._options["manifolds"]

    @manifolds.setter
    def manifolds(self, value: Mapping[str, geoopt.Manifold]) -> None:
        self._between_runs("manifolds")
        if self.model is not None and value:
            raise ValueError("manifolds: only with potential_fn; a model's sites say where they live.")
        for manifold in value.values():
            geometry(manifold)
        self._options["manifolds"] = dict(value)

    @property
    def transforms(self) -> Any:
        """From each site's support to the space that is sampled; ``None`` before the first run."""
        return self._transforms

    @property
    def step_size(self) -> float:
        """The initial step; in a run the adapted one, at most the system's cap: flat targets would send it to
        infinity."""
        if self._warm is None:
            return self._submodules.get("step_size", self._options["step_size"])
        return min(self._warm.step_size, self._system.step_cap())

    @step_size.setter
    def step_size(self, value: float) -> None:
        self._options["step_size"] = positive("step_size", value)
        self._submodules.pop("step_size", None)
        if self._warm is not None:
            self._warm.set_step_size(value)

    @property
    def target_accept_prob(self) -> float:
        return self._options["target_accept_prob"]

    @target_accept_prob.setter
    def target_accept_prob(self, value: float) -> None:
        self._options["target_accept_prob"] = probability("target_accept_prob", value)
        if self._warm is not None:
            self._warm.target = value

    @property
    def trajectory_length(self) -> float:
        """Mean arc length, in units of the learned scales."""
        return self._arc.length

    @trajectory_length.setter
    def trajectory_length(self, value: float | None) -> None:
        if value is None:
            self._between_runs("trajectory_length")  # it is learned in warm-up as a whole
        self._trajectory_length(value)

    def _trajectory_length(self, value: float | None) -> None:
        self._arc = TrajectoryLengthAdapter(None if value is None else positive("trajectory_length", value))

    @property
    def num_steps(self) -> int:
        """Steps of a trajectory of mean length."""
        return max(1, round(self.trajectory_length / self.step_size))

    @num_steps.setter
    def num_steps(self, value: int) -> None:
        raise AttributeError(
            "num_steps: the number of steps is drawn for each trajectory; set trajectory_length or step_size."
        )

    @property
    def inverse_mass_matrix(self) -> dict[tuple[str, ...], Tensor]:
        """Squared scales: a number for each manifold site, ``("x",)``; variances or a covariance for the
        ordinary ones, together.

        What is set is what a run starts from, or goes on with (and with ``adapt_mass_matrix`` goes on
        learning from there).
        """
        if self._system is not None:
            return inverse_mass(self._system)
        return self._submodules.get("inverse_mass_matrix", self._options["inverse_mass_matrix"] or {})

    @inverse_mass_matrix.setter
    def inverse_mass_matrix(self, value: Mapping[tuple[str, ...], Tensor]) -> None:
        given = mass_of("inverse_mass_matrix", value)
        if self._system is not None:
            set_inverse_mass(self._system, given or {})
        self._options["inverse_mass_matrix"] = given
        self._submodules.pop("inverse_mass_matrix", None)

    @property
    def mass_matrix_adapter(self) -> Any:
        raise AttributeError(
            "mass_matrix_adapter: geodesic kernels have scales; read and set inverse_mass_matrix."
        )

    @mass_matrix_adapter.setter
    def mass_matrix_adapter(self, value: Any) -> None:
        raise AttributeError(
            "mass_matrix_adapter: geodesic kernels have scales; read and set inverse_mass_matrix."
        )

    @property
    def num_gradients(self) -> int:
        """Gradients of single chains so far."""
        return int(self._gradients.sum())

    @property
    def warmup_gradients(self) -> int:
        """Of these, those of warm-up."""
        return int(self._warmup_gradients.sum())

    @property
    def _running(self) -> bool:
        return self._warmup_steps is not None

    def _between_runs(self, name: str) -> None:
        if self._running:
            raise RuntimeError(
                f"{name}: a run is under way and would not heed it; set it before, or call cleanup() first."
            )

    _initial_params: Any

    @property
    def initial_params(self) -> Any:
        return self._initial_params

    @initial_params.setter
    def initial_params(self, params: Any) -> None:
        self._initial_params = params
        self._starts.append(params)

    def _reset(self) -> None:
        self._starts: list[Any] = []
        self._initial_params = None
        self._warmup_steps: int | None = None  # None between runs
        self._potential: Any = None
        self._system: Any = None
        self._state: State | None = None  # None: to be made from what sample() is given
        self._returned: dict[str, tuple[Tensor, int]] = {}  # by the last transition, and their versions
        self._warm: WarmUp | None = None
        self._moves: list[IndependenceProposal] = []
        self._t = self._lost = 0
        self._mean_accept_prob = 0.0
        self._gradients = self._warmup_gradients = self._accept_sum = self._accepted = torch.zeros(
            0
        )  # of each chain
        self._divergences: list[tuple[int, int]] = []

    def cleanup(self) -> None:
        """Forget the run, except for what it has learned: ``step_size``, ``trajectory_length``,
        ``inverse_mass_matrix``."""
        if self._warm is not None:
            self._submodules = {"step_size": self.step_size, "inverse_mass_matrix": self.inverse_mass_matrix}
        self._reset()
