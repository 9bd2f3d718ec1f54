r"""Training of manifold and density apart (M/D), so that neither can cheat the other.

.. math::
    \text{M:}\; \min_g \mathbb E\,|x - g(g^{-1}(x))|^2, \qquad
    \text{D:}\; \min_h -\mathbb E\log p_h(u \mid \theta) + \alpha\,(\text{error of the score}) +
    \beta\,(\text{error of ratios}), \quad u = g^{-1}(x)

The last two terms use the joint score and joint ratios of a simulator, if given; ``md_losses.py`` says how.
The volume of g does not depend on h or :math:`\theta` and is never needed. Reference: Brehmer and Cranmer,
NeurIPS 2020, sec. 3.2.
"""

import contextlib
import copy
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..models.manifold_flow import AmbientFlow, ManifoldFlow
from ..ops.arguments import checked
from ..transforms.injective import principal_axes
from .checkpoint import digest, structure
from .md_checks import check_rows, check_settings, check_trainable, pair, ratio_rows
from .md_floor import local_noise
from .md_phases import SCHEDULES, Phase, spread, stages
from .md_rows import Rows
from .md_run import History, Run, RunFile
from .md_unroll import unrolled_loss
from .verdict import TrainingWarning, verdict

__all__ = ["fit_md"]

STEPS, PASSES = 2000, 10  # by default a phase makes that many batches, and at least so many passes
LANDMARKS = 600  # rows between which paths are measured


@checked(epochs=0, seconds=0, batch_size=1, lr=0, seed=0)
def fit_md(
    flow: ManifoldFlow | AmbientFlow,
    x: Tensor,
    context: Tensor | None = None,
    *,
    schedule: str = "sequential",
    epochs: int | tuple[int | None, int | None] | None = None,
    seconds: float | tuple[float, float] = math.inf,
    clock: Callable[[], float] = time.monotonic,
    batch_size: int = 100,
    lr: float | tuple[float, float] = (1e-2, 5e-3),
    warmup: float = 0.05,
    whitening: float = 0.0,
    unroll: bool = True,
    score: Tensor | None = None,
    score_weight: float = 2.0,
    score_delta: float = math.inf,
    ratio: tuple[Tensor, Tensor] | None = None,
    ratio_weight: float = 10.0,
    reconstruction_weight: float = 100.0,
    delta: float = math.inf,
    validation: float = 0.1,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    disable_progbar: bool = False,
) -> History:
    """Train ``flow`` in place, the manifold by reconstruction and the density by likelihood; the weights that
    did best on the validation rows are restored, those given among them.

    Units do not matter: flows made from data have a fixed layer that standardises them, the density's
    coordinates are standardised before its phase where that raises their likelihood, and reconstruction
    errors are measured in units of the rows' spread. Phases without a trainable parameter are left out.

    :param flow: one in all of space, or on a prescribed chart, has the D phase only.
    :param Tensor x: rows, shape ``(rows, d)``.
    :param Tensor context: a row for each, if the flow is conditional.
    :param str schedule: ``"sequential"``, M and then D on coordinates computed once; ``"alternating"``, a
        pass of each in turn; ``"simultaneous"``, one loss for both, with a warning.
    :param epochs: passes over the data, for both phases or for each; None for as many as make 2000 batches,
        at least 10.
    :param seconds: budget of time, likewise; what ends first ends the phase. (Alternating phases share the
        first.)
    :param clock: what tells the time; ``time.process_time`` makes the budget one of CPU seconds.
    :param int batch_size: rows of a batch.
    :param lr: learning rate of AdamW, for both phases or for each, falling to zero along a cosine.
    :param float warmup: share of a phase in which it rises from zero first.
    :param float whitening: share of the M phase in which its error is first that of whitened rows, then less
        and less so. A manifold may need narrow axes along which the rows vary independently of all else;
        without it the M phase gives them up for wide ones that others determine, and does not come back.
    :param bool unroll: a manifold that leaves the rows as far off as their principal subspace does is first
        fitted to coordinates by lengths of paths along the rows, for a quarter as many batches as the M phase
        has, and goes on from there if that brings it closer by a fifth: surfaces that are rolled up or closed
        are found from there, and rarely else. Not beside ``whitening``.
    :param Tensor score: joint scores :math:`t`, of the shape of ``context``.
    :param float score_weight: :math:`\\alpha`.
    :param float score_delta: :math:`\\delta_t`, the error of the score from which on it counts linearly, not
        as its square. Where amplitudes vanish joint scores are huge, and their squares hide all else for a
        long time; in return the score comes out as something between mean and median of the joint scores of a
        u.
    :param tuple ratio: m further contexts for each row, drawn independently of it from the distribution of
        ``context``, shape ``(rows, m, k)``, and
        :math:`\\log p(x, z \\mid \\theta_0) - \\log p(x, z \\mid \\theta_j)`, joint log ratios of a
        simulator, ``(rows, m)``; the axis of m may be left out for one.
    :param float ratio_weight: :math:`\\beta`.
    :param float reconstruction_weight: of the error of reconstructions, in units of the rows' mean variance.
    :param float delta: :math:`\\delta`, the distance, in the units of x, from which on that error grows
        linearly: for data with heavy tails, of which squares would learn the few largest errors alone.
    :param float validation: share of the rows kept for validation.
    :param checkpoint: a file written before the first pass and after each; an interrupted call with the same
        model, data and settings goes on from it. An interruption leaves ``flow`` as it is in the file.
    :return: losses by phase, those before the first pass, and warnings.
    :raises ValueError: for rows that do not fit, are not finite or all equal, settings out of range,
        parameters that are all frozen, gradients that are switched off; where the loss is not finite (naming
        the batch); for a checkpoint that cannot be written, is damaged, or is of another model, other data or
        settings.
    :warns TrainingWarning: where a phase did not improve on its start or ends above it, and where the
        manifold is far from the rows: no better than the principal subspace, or at more than a third of its
        distance and three times that of planes through near neighbours.

    >>> from pyro_manifold.models import ManifoldFlow
    >>> u = torch.randn(200, 1)
    >>> x = torch.cat([u, 0.3 * u.square()], 1)
    >>> history = fit_md(ManifoldFlow.from_data(x, 1, hidden=(8,)), x, epochs=20, batch_size=20, disable_progbar=True)
    >>> sorted(history.losses), history.losses["M"][-1] < history.start["M"]
    (['D', 'M'], True)
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: got {schedule!r}; expected one of {', '.join(map(repr, SCHEDULES))}.")
    weights = (score_weight, ratio_weight, score_delta, reconstruction_weight, delta)
    check_settings(
        epochs=epochs,
        seconds=seconds,
        batch_size=batch_size,
        lr=lr,
        warmup=warmup,
        whitening=whitening,
        delta=delta,
        score_delta=score_delta,
        validation=validation,
        weights=(score_weight, ratio_weight, reconstruction_weight),
    )
    check_trainable(flow)
    other, log_ratio = ratio_rows(ratio, context)
    check_rows(x, context, score, flow)
    rows = Rows(x, (context, score, other, log_ratio), validation, seed, batch_size)
    usual = max(PASSES, math.ceil(STEPS / math.ceil(len(rows.train) / batch_size)))
    turns = tuple(usual if n is None else n for n in pair(epochs))
    plans = stages(flow, x[rows.train], schedule, pair(lr), warmup, whitening, weights)
    of_stage = [
        1 if phases[0].name == "D" else 0 for phases in plans
    ]  # which of a pair of settings is theirs
    plan = [(i, turn) for i, which in enumerate(of_stage) for turn in range(turns[which])]
    file = None
    if checkpoint is not None:
        settings = dict(
            schedule=schedule,
            epochs=turns,
            seconds=seconds,
            batch_size=batch_size,
            lr=lr,
            warmup=warmup,
            whitening=whitening,
            unroll=unroll,
            weights=weights,
            validation=validation,
            seed=seed,
        )
        file = RunFile(
            Path(checkpoint),
            flow,
            plans,
            {"model": structure(flow), "data": digest(x, *rows.given), **settings},
        )
    run = Run() if file is None else file.resume()
    with file.kept() if file is not None else contextlib.nullcontext():
        bar = tqdm(plan, initial=run.done, disable=disable_progbar, desc="fit_md")
        for number, (stage, turn) in enumerate(plan[run.done :], start=run.done):
            if stage != run.stage:
                _finish(flow, run, plans, rows)
                _begin(flow, run, plans[stage], stage, rows)
                if unroll and not whitening and plans[stage][0].name == "M":
                    steps = turns[of_stage[stage]] * math.ceil(len(rows.train) / batch_size) // 4
                    _unroll(flow, run, plans[stage], rows, steps, pair(seconds)[of_stage[stage]] / 4, clock)
            budget, passes = pair(seconds)[of_stage[stage]], turns[of_stage[stage]]
            if run.spent >= budget:
                continue
            began, criterion = clock(), 0.0
            for phase in plans[stage]:
                data = rows.of(flow, phase, fixed=len(plans[stage]) == 1)
                batches = rows.shuffled(number)
                for b, index in enumerate(batches):
                    used = (run.spent + clock() - began) / budget
                    if used >= 1:
                        break
                    phase.step(rows.batch(data, index), b, max(used, (turn + b / len(batches)) / passes))
                loss = phase.evaluate(rows.judged(data))
                run.history.losses.setdefault(phase.name, []).append(loss)
                bar.set_postfix({phase.name: f"{loss:.4g}"}, refresh=False)
                criterion += loss
            bar.update()
            if criterion < run.best:
                run.best, run.best_state = criterion, copy.deepcopy(flow.state_dict())
            run.spent += clock() - began
            run.history.seconds += clock() - began
            run.done = number + 1
            if file is not None:
                file.save(run)
        bar.close()
        _finish(flow, run, plans, rows)
        if file is not None:
            file.save(run)
    for message in run.history.warnings:
        warnings.warn(message, TrainingWarning, stacklevel=3)
    return run.history


def _begin(flow: ManifoldFlow | AmbientFlow, run: Run, phases: list[Phase], stage: int, rows: Rows) -> None:
    """What is there before the first pass is the first candidate for the best."""
    run.stage, run.spent = stage, 0.0
    losses = [_loss(flow, phase, rows) for phase in phases]
    last = phases[-1]
    if last.name == "D" and isinstance(flow, ManifoldFlow):
        latent = flow.latent.flow
        if any(p.requires_grad for p in latent.parameters()):
            u, before = (
                rows.of(flow, last, fixed=True)[rows.train],
                copy.deepcopy(latent.standard.state_dict()),
            )
            if len(u) > 1 and bool(u.isfinite().all()):
                latent.standardise(u)
            standard = _loss(flow, last, rows)
            if standard < losses[-1]:
                losses[-1] = standard
            else:
                latent.standard.load_state_dict(before)
    run.best = sum(losses)
    run.best_state = copy.deepcopy(flow.state_dict())
    run.history.start.update({phase.name: loss for phase, loss in zip(phases, losses, strict=True)})


def _unroll(
    flow: ManifoldFlow | AmbientFlow, run: Run, phases: list[Phase], rows: Rows, steps: int, seconds: float,
    clock: Callable[[], float],
) -> None:  # fmt: skip
    """Fit the manifold to coordinates along the rows, see ``md_unroll.py``; another candidate for the
    best."""
    assert isinstance(flow, ManifoldFlow)
    began = clock()
    ours, plane, _ = _distances(flow, rows)
    few, manifold = rows.train[:LANDMARKS], phases[0]
    if steps < 1 or ours < 0.5 * plane or plane < 1e-3 * spread(rows.x):
        return
    problem = unrolled_loss(flow, rows.x[few], spread(rows.x[rows.train]))
    if problem is None:
        return
    loss, c = problem
    first = Phase("M", loss, manifold.parameters, manifold.lr, manifold.warmup)
    draws = torch.Generator().manual_seed(rows.seed)
    for step in range(steps):
        if clock() - began >= seconds:
            break
        index = torch.randint(len(few), (rows.size,), generator=draws).to(few.device)
        try:
            first.step([rows.x[few][index], c[index]], step, step / steps)
        except ValueError:  # of a loss that is not finite: what the phase itself says of it counts
            break
    assert run.best_state is not None
    with torch.no_grad():
        image = float((flow.transform(c) - rows.x[few]).double().square().sum(-1).mean().sqrt())
    if image < 0.8 * plane:  # the shape is right, whether or not its inverse is yet
        total = sum(_loss(flow, phase, rows) for phase in phases)
        if total < run.best:
            run.best, run.best_state = total, copy.deepcopy(flow.state_dict())
    else:
        flow.load_state_dict(run.best_state)
    run.spent = clock() - began
    run.history.seconds += run.spent


def _loss(flow: ManifoldFlow | AmbientFlow, phase: Phase, rows: Rows) -> float:
    """Of the validation rows; infinite where it is not a number, so that whatever is finite does better."""
    try:
        loss = phase.evaluate(rows.judged(rows.of(flow, phase, fixed=True)))
    except ValueError:  # the first batch of training says of what
        return math.inf
    return loss if math.isfinite(loss) else math.inf


@torch.no_grad()
def _finish(flow: ManifoldFlow | AmbientFlow, run: Run, plans: list[list[Phase]], rows: Rows) -> None:
    """Restore the best weights of the stage and say what is wrong with them."""
    if run.best_state is None:
        return
    flow.load_state_dict(run.best_state)
    run.best_state = None
    for phase in plans[run.stage]:
        losses, start = run.history.losses.get(phase.name, []), run.history.start[phase.name]
        if phase.name != "M" or not losses:
            run.history.warnings += verdict(phase.name, start, losses, margin=0.1)
            continue
        assert isinstance(flow, ManifoldFlow)
        ours, plane, noise = _distances(flow, rows)
        if ours < max(1e-3 * spread(rows.x), 0.05 * plane) or ours < 1.5 * noise:
            continue  # as good as exact, or as the rows
        run.history.warnings += verdict("M", start, losses)
        away = (
            f"that of planes through near neighbours is {noise:.4g}"
            if noise == noise
            else "near neighbours are on no plane"
        )
        if not ours < 0.95 * plane or ours > max(3 * noise, plane / 3):
            run.history.warnings.append(
                f"phase M: the manifold is far from the rows: rms distance {ours:.4g} on validation rows, "
                f"where that of the principal subspace of dimension {flow.transform.dim} is {plane:.4g} and "
                f"{away}. Training has stalled, or no one chart covers the rows; try more passes, depth=, "
                "kind='spline', another seed, or several charts (ManifoldMixture)."
            )


@torch.no_grad()
def _distances(flow: ManifoldFlow, rows: Rows) -> tuple[float, float, float]:
    """Of the validation rows, rms: from the manifold, from the principal subspace; of rows from planes
    through neighbours."""
    x = rows.x[rows.check]
    error = torch.cat([flow.denoise(part) - part for part in x.split(4 * rows.size)])
    loc, axes, _ = principal_axes(rows.x[rows.train])
    rest = (x - loc) @ axes[:, flow.transform.dim :]
    ours, plane = (t.double().square().sum(-1).mean().sqrt().item() for t in (error, rest))
    return ours, plane, local_noise(rows.x[rows.train], flow.transform.dim)
