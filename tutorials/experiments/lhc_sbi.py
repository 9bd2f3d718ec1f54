"""sbi's NPE, NRE and NLE on the events of the LHC tutorial: default networks, one seed, epochs capped.

NRE and NLE learn from the very training events, one for each theta, and add their log likelihood (ratio) over
the events of a set. NPE must see whole sets: as many events again, 20 for each of a twentieth as many theta,
of the same simulator. None of the three can use the joint score or the joint ratio.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lhc_compare import N_OBS, posterior
from torch import Tensor

from pyro_manifold.contrib.lhc import LHC, Posterior

__all__ = ["posteriors"]


def _npe(args: Any, data: dict[str, Tensor], prior: Any, epochs: int) -> tuple[Callable[[Tensor], Any], int]:
    from sbi.inference import NPE
    from sbi.neural_nets import posterior_nn
    from sbi.neural_nets.embedding_nets import FCEmbedding, PermutationInvariantEmbedding

    lhc = LHC(args.theta, seed=args.seed + 4000)
    theta = lhc.prior(args.events // N_OBS)
    x = lhc.observables(lhc.simulate(theta.repeat_interleave(N_OBS, 0)).y).reshape(len(theta), N_OBS, -1)
    trial = FCEmbedding(x.shape[-1], output_dim=32, num_layers=2, num_hiddens=64)
    embedding = PermutationInvariantEmbedding(trial, trial_net_output_dim=32, num_hiddens=64, output_dim=16)
    network = posterior_nn("nsf", embedding_net=embedding, z_score_x="none")  # x is standardised
    inference = NPE(prior, density_estimator=network, show_progress_bars=False)
    net = inference.append_simulations(theta.float(), x.float()).train(
        max_num_epochs=epochs, training_batch_size=200
    )

    def of(x: Tensor) -> Any:
        def log_likelihood(t: Tensor) -> Tensor:
            log_posterior = net.log_prob(t.float().unsqueeze(1), condition=x.float().unsqueeze(0))[:, 0]
            return log_posterior.double() + 0.5 * t.square().sum(-1)

        return log_likelihood

    return of, inference.epoch


def _of_events(
    inference: Any, data: dict[str, Tensor], epochs: int, log_value: Callable[[Any, Tensor, Tensor], Tensor]
) -> tuple[Callable[[Tensor], Any], int]:
    """Train on single events; over a set, ``log_value(net, theta, events)`` of every pair is summed."""
    inference.append_simulations(data["theta"].float(), data["x"].float())
    net = inference.train(max_num_epochs=epochs, training_batch_size=500)

    def of(x: Tensor) -> Any:
        def log_likelihood(t: Tensor) -> Tensor:
            theta, events = t.float().repeat_interleave(len(x), 0), x.float().repeat(len(t), 1)
            return log_value(net, theta, events).reshape(len(t), len(x)).double().sum(-1)

        return log_likelihood

    return of, inference.epoch


def _nre(args: Any, data: dict[str, Tensor], prior: Any, epochs: int) -> tuple[Callable[[Tensor], Any], int]:
    from sbi.inference import NRE

    inference = NRE(prior, classifier="resnet", show_progress_bars=False)
    return _of_events(
        inference, data, epochs, lambda net, theta, events: net.unnormalized_log_ratio(theta, events)
    )


def _nle(args: Any, data: dict[str, Tensor], prior: Any, epochs: int) -> tuple[Callable[[Tensor], Any], int]:
    from sbi.inference import NLE

    inference = NLE(prior, density_estimator="maf", show_progress_bars=False)
    return _of_events(
        inference, data, epochs, lambda net, theta, events: net.log_prob(events.unsqueeze(0), condition=theta)
    )


def posteriors(
    args: Any, data: dict[str, Tensor], sets: list[Tensor]
) -> Iterator[tuple[str, list[Posterior], dict[str, Any]]]:
    """Name, grid posteriors of the sets, and what training took."""
    prior = torch.distributions.MultivariateNormal(torch.zeros(args.theta), torch.eye(args.theta))
    for (name, train), epochs in zip(
        {"NPE": _npe, "NRE": _nre, "NLE": _nle}.items(), args.sbi_epochs, strict=True
    ):
        torch.manual_seed(args.seed)
        start = time.process_time()
        of, done = train(args, data, prior, epochs)
        seconds = time.process_time() - start
        with torch.no_grad():
            grids = [posterior(args, _split(of(x))) for x in sets]
        yield (
            f"sbi {name}",
            grids,
            {"cpu_seconds": seconds, "epochs": min(done, epochs), "cap": epochs, "capped": done >= epochs},
        )


def _split(f: Callable[[Tensor], Tensor], step: int = 400) -> Callable[[Tensor], Tensor]:
    return lambda theta: torch.cat([f(t) for t in theta.split(step)])
