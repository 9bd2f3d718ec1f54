"""Geodesic HMC as a kernel of Pyro's ``MCMC``."""

import multiprocessing
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import geoopt
import pyro
import torch
from pyro.infer.autoguide.initialization import init_to_uniform
from torch import Tensor
from torch.distributions import constraints, identity_transform

from ...constraints import on
from ...geometry import geometry
from ...ops.arguments import checked
from .compiled import CompiledStep
from .constrained import ProjectedMotion
from .errors import InvalidStartError, StepSizeError
from .given import check_sites, check_start
from .kernel import GeodesicKernel
from .options import Isometry
from .potential import ChainBatch, warn_of_loop
from .proposals import IndependenceProposal
from .scales import set_inverse_mass
from .start import find_start, prepare
from .systems import State, System
from .transitions import TransitionResult, hmc, hmc_inputs, hmc_step, isometry_jump
from .warmup import WarmUp

__all__ = ["GeodesicHMC"]

PATIENCE = 100  # transitions that may all diverge before StepSizeError is raised


class GeodesicHMC(GeodesicKernel):
    r"""Hamiltonian Monte Carlo whose manifold sites move along geodesics, mixed with ordinary sites.

    .. math:: H(z, w) = -\log p(z, x) + \tfrac12|w|^2, \qquad \text{kick, exact geodesic flow, kick}

    Sites whose support is a manifold (``on(manifold)``, Pyro's ``constraints.sphere``) are sampled as points,
    with respect to Riemannian volume and without charts. So are those with Pyro's
    ``constraints.positive_definite`` (``Wishart``), whose density is converted from Lebesgue measure to the
    volume of ``SymmetricPositiveDefinite()``; the others as Pyro does, through ``biject_to``. Each
    manifold site has one scale and the ordinary ones share a diagonal or dense mass, learned in warm-up from
    its first draws on. The arc length of a path is uniform on ``trajectory_length`` times [1/2, 3/2]; by
    default warm-up learns the one with most effective draws per gradient, which on spheres is two to three
    times as many as NUTS makes.

    :param model: a Pyro model, or give ``potential_fn``.
    :param potential_fn: minus log density of a dict of values (one chain), for which ``initial_params``
        (points on the manifold for the sites in ``manifolds``) and ``manifolds`` must be given.
    :param dict manifolds: site name -> geoopt manifold; only with ``potential_fn``.
    :param int chains: chains that this kernel advances together, one batched gradient for all; run it with
        :class:`~pyro_manifold.infer.VectorizedMCMC`. (Pyro's ``MCMC(num_chains=...)`` runs separate
        processes: the model must pickle, and a script needs its ``if __name__ == "__main__":`` guard where
        processes are spawned.)
    :param float step_size: initial step size.
    :param float trajectory_length: arc length in units of the learned scales; ``None`` to learn it.
    :param bool full_mass: dense mass for the ordinary sites.
    :param dict isometries: site name -> ``"antipode"``, ``"quaternion sign"`` or an isometry of that site's
        manifold that is its own inverse; after each trajectory one of the point and its image is drawn (for
        one point of a site in a plate), which lets axial and other two-mode targets mix. It costs one
        gradient.
    :param dict proposals: site name -> distribution on the site's support with a density with respect to
        Riemannian volume (of ordinary sites: Lebesgue measure), such as a mixture of von Mises-Fisher
        distributions or a trained flow. After each trajectory one of its draws is proposed for the site, the
        others held, and accepted by Metropolis-Hastings, so that modes far apart get their weights. Of a site
        in a plate one point is proposed, if that is what the distribution is of. It costs one gradient a site;
        ``diagnostics`` has the ``proposal acceptance``. In warm-up the proposals rest while scales are
        learned, which are those of paths within a mode, and run in its last third (at most 50 transitions), so
        that the first draws have arrived.
    :param float target_accept_prob: for the adaptation of the step size.
    :param init_strategy: as in Pyro; its values are points for manifold sites.
    :param str vectorize: how chains share a gradient: ``"auto"``, ``"plates"``, ``"vmap"`` or ``"loop"``.
    :param compile: ``True`` to record the leapfrog step of all chains, the model and its gradient included, as one
        graph and compile it with ``torch.compile``: a minute the first time, seconds when torch's cache on disk has the
        code, and then a fraction of the time per gradient, so it pays for runs of more than some thousand gradients.
        ``"trace"`` only records, in about a second, and saves less. The model must do the same operations whatever the
        values, and draw nothing (no subsampled plates); otherwise a warning says why and the run goes on without. It is
        recorded anew by each ``setup`` or ``run`` and after :meth:`clear_cache`, so that data and parameters may change
        in between; in between only, and not within a run.
    :raises InvalidStartError: for a start off the manifold or without finite potential.
    :raises StepSizeError: when every trajectory diverges.
    :raises ValueError: for unsupported options or supports, or names that are not sites.

    ``initial_params`` (Pyro's argument of ``MCMC``) are unconstrained values for ordinary sites and points
    for manifold sites.

    Public attributes take effect when they are set (:class:`~.kernel.GeodesicKernel`), or setting them
    raises. ``inverse_mass_matrix`` holds the squared scales, and can be given. ``sample(params)`` goes on
    from the values that it is given; ``clear_cache()`` says that the density has changed.

    References: Byrne & Girolami 2013 (geodesic flows); Neal 2011; Bou-Rabee & Sanz-Serna 2017 (random arc
    lengths).

    >>> import geoopt
    >>> from pyro.infer import MCMC
    >>> import pyro_manifold.distributions as mdist
    >>> model = lambda: pyro.sample("x", mdist.VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(5.0)))
    >>> mcmc = MCMC(GeodesicHMC(model), num_samples=20, warmup_steps=20, disable_progbar=True)
    >>> mcmc.run()
    >>> mcmc.get_samples()["x"].shape
    torch.Size([20, 3])
    """

    @checked(chains=1)
    def __init__(
        self,
        model: Callable[..., Any] | None = None,
        potential_fn: Callable[[dict[str, Tensor]], Tensor] | None = None,
        *,
        manifolds: Mapping[str, geoopt.Manifold] | None = None,
        chains: int = 1,
        step_size: float = 0.5,
        trajectory_length: float | None = None,
        adapt_step_size: bool = True,
        adapt_mass_matrix: bool = True,
        full_mass: bool = False,
        isometries: Mapping[str, str | Isometry] | None = None,
        proposals: Mapping[str, Any] | None = None,
        target_accept_prob: float = 0.8,
        init_strategy: Callable[..., Any] = init_to_uniform,
        max_plate_nesting: int | None = None,
        vectorize: str = "auto",
        compile: bool | str = False,
    ) -> None:
        super().__init__(model, potential_fn)
        self._trajectory_length(trajectory_length)
        self.manifolds = manifolds or {}
        self.chains, self.vectorize, self.compile = chains, vectorize, compile
        self.isometries, self.proposals = isometries, proposals
        self.step_size, self.target_accept_prob = step_size, target_accept_prob
        self.adapt_step_size, self.adapt_mass_matrix, self.full_mass = (
            adapt_step_size,
            adapt_mass_matrix,
            full_mass,
        )
        self.init_strategy, self.max_plate_nesting = init_strategy, max_plate_nesting

    # --- start ----------------------------------------------------------------------------------------------
    def _own_start(self) -> Any:
        """The start of this chain: Pyro hands one kernel those of all chains before its processes, named 0,
        1, ..., start."""
        starts = [p for p in self._starts if p is not None]
        worker = multiprocessing.current_process().name
        if multiprocessing.parent_process() is not None and worker.isdigit() and int(worker) < len(starts):
            return starts[int(worker)]
        return starts[-1] if starts else None

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        given, how = self._own_start(), self.vectorize
        self._reset()  # discards the state of an interrupted run
        self._gradients, self._warmup_gradients = torch.zeros(2, self.chains, dtype=torch.long)
        self._accept_sum = torch.zeros(self.chains)
        self._arc.reset()
        if self.model is not None:
            setup = prepare(self.model, args, kwargs, self.init_strategy, self.max_plate_nesting)
            supports = setup.supports
            if setup.enumerated and how == "auto":
                how = "loop"
                if self.chains > 1:
                    warn_of_loop(self.chains, "the model has enumerated sites")
            self._transforms, self._options["manifolds"] = setup.transforms, setup.manifolds
            given = given or (find_start(setup, self.chains, how, args, kwargs) if setup.transforms else {})
            potential = setup.potential
        else:
            potential, self._transforms = self._options["potential_fn"], {}
            supports = {name: on(manifold) for name, manifold in self.manifolds.items()}
            if given is None:
                raise InvalidStartError(
                    "initial_params: missing; give MCMC(initial_params={site: value}) with potential_fn."
                )
        self._warmup_steps, self._potential, self._initial_params = warmup_steps, potential, given
        if not given:
            return  # nothing is latent
        z = self._rows(given)
        check_start(z, self.chains, self.manifolds)
        check_sites(z, self.manifolds, self.isometries, self.proposals)
        geometries = {k: geometry(m) for k, m in self.manifolds.items()}
        batch = ChainBatch(potential, z, how)
        self._system = System(batch, geometries, {k: v.shape[1:] for k, v in z.items()})
        for s in self._system.sites:
            if s.momentum is not None:
                s.momentum.centre(z[s.name])
        for name, q in self.proposals.items():
            t = self._transforms.get(name, identity_transform)
            self._moves.append(
                IndependenceProposal(name, q, z[name], t, supports.get(name, constraints.real))
            )
        self._accepted = torch.zeros(len(self._moves), self.chains)
        mass = self._options["inverse_mass_matrix"]
        if mass is not None:
            set_inverse_mass(self._system, mass)
        self._state = self._at(given)
        if self.compile and self._system.size:
            loop = batch.how == "loop" and self.chains > 1
            self._system.compiled = CompiledStep(
                self._system,
                1 if loop else self.chains,
                self.compile is True,
                *(() if loop else self._step()),
            )
        self._warm = WarmUp(
            self._system,
            warmup_steps,
            self._options["step_size"],
            self.target_accept_prob,
            self.adapt_step_size,
            self.adapt_mass_matrix,
            self.full_mass,
        )
        with pyro.validation_enabled(False):
            self._warm.start(self._state, guess=mass is None)
        self._gradients += self._warm.trials

    def _rows(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {k: (v.unsqueeze(0) if self.chains == 1 else v).detach() for k, v in params.items()}

    def _at(self, params: Mapping[str, Tensor]) -> State:
        """The state at these values: the remembered one if it has them."""
        state = self._state
        if state is not None and len(params) == len(self._returned):
            if all(params.get(k) is v and v._version == n for k, (v, n) in self._returned.items()):
                return state  # what the last transition returned
        z = self._rows(params)
        if (
            state is not None
            and z.keys() == state.z.keys()
            and all(torch.equal(z[k], v) for k, v in state.z.items())
        ):
            return state
        shapes = {s.name: (self.chains, *s.shape) for s in self._system.sites}
        if {k: tuple(v.shape) for k, v in z.items()} != shapes:
            cut = 1 if self.chains == 1 else 0
            raise ValueError(
                f"params: got shapes {dict((k, tuple(v.shape)) for k, v in params.items())}, expected "
                f"{dict((k, v[cut:]) for k, v in shapes.items())}."
            )
        check_start(z, self.chains, self.manifolds)
        with pyro.validation_enabled(False):
            state = self._system.state(z)
        self._gradients += 1
        bad = ~(state.potential.isfinite() & state.grad.isfinite().all(-1))
        if bool(bad.any()):
            raise InvalidStartError(
                "the log density or its gradient is not finite at the start of chain "
                f"{int(bad.nonzero()[0])}; start elsewhere (init_strategy or initial_params) or check the "
                "model there."
            )
        return state

    def clear_cache(self) -> None:
        """Forget potential and gradient at the current values (and what was compiled of them); for a density that
        has changed since."""
        self._state = None
        if self._system is not None and self._system.compiled is not None:
            self._system.compiled.forget()

    # --- sampling -------------------------------------------------------------------------------------------
    def _step(self) -> tuple[Any, ...]:
        """What is compiled: a step, its other arguments, the depth of trees."""
        return hmc_step, hmc_inputs

    def _transition(self, state: State, step_size: float) -> TransitionResult:
        warm = self._t < (self._warmup_steps or 0)
        record = self._arc.recorder(self._system, step_size) if warm and self._arc.adapt else None
        return hmc(self._system, state, step_size, self._arc.count(step_size, warm), record)

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """One transition from ``params``, which may differ from what the last one returned (HMC within
        Gibbs).

        A density that has changed otherwise, as a Gibbs step changes it, needs :meth:`clear_cache` first.

        :raises ValueError: for other names or shapes than those of the sites, values off the manifold or
            without density.
        """
        if not self._running:
            raise RuntimeError(
                "sample: this kernel is not set up; call setup(warmup_steps, *args) or run it by MCMC."
            )
        assert self._warmup_steps is not None
        if self._system is None:
            return self._sample_nothing(params)
        assert self._warm is not None
        state = self._at(params)
        with pyro.validation_enabled(False):
            out = self._transition(state, self.step_size)
            state = out.state
            for name, f in self.isometries.items():
                state = isometry_jump(self._system, state, name, f)
                self._gradients += 1
            if not self._warm.learns_scales:
                state = self._propose(state)
            if self._t % 50 == 49 and self.manifolds:  # take rounding drift off the manifold away
                state = self._system.state(self._system.project(state.z))
                self._gradients += 1
        self._state = state
        prob, diverging, steps = (x.cpu().numpy() for x in (out.accept_prob, out.diverging, out.steps))
        self._gradients += torch.from_numpy(steps)
        self._t += 1
        self._watch(bool((diverging | (prob == 0)).all()))
        accept = float(prob.mean())
        if self._t <= self._warmup_steps:
            n = self._t
            with pyro.validation_enabled(False):
                self._adapt(state, accept)
            self._warmup_gradients = self._gradients.clone()
        else:
            n = self._t - self._warmup_steps
            self._divergences.extend((n - 1, int(c)) for c in diverging.nonzero()[0])
            self._accept_sum += torch.from_numpy(prob)
        self._mean_accept_prob += (accept - self._mean_accept_prob) / n
        z = {k: v.clone() if self.chains > 1 else v[0].clone() for k, v in state.z.items()}
        self._returned = {k: (v, v._version) for k, v in z.items()}
        return z

    def _propose(self, state: State) -> State:
        for move, accepted in zip(self._moves, self._accepted, strict=True):
            state, prob = move.move(self._system, state)
            self._gradients += 1
            if self._t >= (self._warmup_steps or 0):
                accepted += prob.cpu()
        return state

    def _sample_nothing(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        if params:
            raise ValueError(f"params: got {sorted(params)}, but this model has no latent sites.")
        self._t += 1
        self._mean_accept_prob = 1.0
        self._accept_sum += float(self._t > (self._warmup_steps or 0))
        return params

    def _adapt(self, state: State, accept: float) -> None:
        assert self._warm is not None
        trials = self._warm.trials
        done = self._warm.update(state, accept)
        self._gradients += self._warm.trials - trials
        if done is not None:
            stretch, enough = done
            self._arc.choose(self.step_size, stretch, enough)
        if self._t == self._warmup_steps:
            for s in self._system.sites:
                if isinstance(s.momentum, ProjectedMotion):
                    s.momentum.forget_refused()

    def _watch(self, lost: bool) -> None:
        assert self._warm is not None and self._warmup_steps is not None
        if (
            self._t <= self._warmup_steps and self._warm.learns_scales
        ):  # new scales may yet make steps possible
            self._lost = 0
            return
        self._lost = self._lost + 1 if lost else 0
        if self._lost >= PATIENCE:
            raise StepSizeError(
                f"every trajectory of the last {PATIENCE} transitions diverged or was refused at step size "
                f"{self.step_size:.2e}; give a smaller step_size or adapt_step_size=True with more warm-up, "
                "and check that the log density is continuous where the chain is (on an unbounded site, a "
                "non-centred reparametriser may be what it needs)."
            )

    def logging(self) -> OrderedDict:
        return OrderedDict(
            [("step size", f"{self.step_size:.2e}"), ("acc. prob", f"{self._mean_accept_prob:.3f}")]
        )

    def diagnostics(self) -> dict[str, Any]:
        """``divergences`` (draws), ``acceptance rate``, ``gradients`` and ``warmup gradients``; since warm-up,
        ``proposal acceptance`` of sites with proposals and ``refused steps`` of sites on implicit manifolds. Of
        several chains in one kernel the gradients and steps are sums and the rates means; ``by chain`` lists
        these figures of each."""
        if not self._running:
            raise RuntimeError(
                "diagnostics: this kernel has been cleaned up after its run; ask mcmc.diagnostics()."
            )
        every = list(range(self.chains))
        if self.chains == 1:
            return self._figures(every)
        return {**self._figures(every), "by chain": [self._figures([i]) for i in every]}

    def _figures(self, chains: list[int]) -> dict[str, Any]:
        """Diagnostics of these chains together."""
        sites = [] if self._system is None else self._system.sites
        refused = {
            s.name: {reason: sum(n[i] for i in chains) for reason, n in s.momentum.refused.items()}
            for s in sites
            if isinstance(s.momentum, ProjectedMotion)
        }
        draws = max(1, self._t - (self._warmup_steps or 0))
        accepted = {
            move.name: float(prob[chains].mean()) / draws
            for move, prob in zip(self._moves, self._accepted, strict=True)
        }
        return {
            "divergences": [draw for draw, chain in self._divergences if chain in chains],
            "acceptance rate": float(self._accept_sum[chains].mean()) / draws,
            "gradients": int(self._gradients[chains].sum()),
            "warmup gradients": int(self._warmup_gradients[chains].sum()),
            **({"proposal acceptance": accepted} if accepted else {}),
            **({"refused steps": refused} if refused else {}),
        }
