r"""Training of manifold and density apart (M/D), so that neither can cheat the other.

.. math::
    \text{M:}\; \min_g \mathbb E\,|x - g(g^{-1}(x))|^2, \qquad
    \text{D:}\; \min_h -\mathbb E\log p_h(u \mid \theta) + \alpha\,(\text{error of the score}) +
    \beta\,(\text{error of ratios}), \quad u = g^{-1}(x)

The last two terms use the joint score and joint ratios of a simulator, if given; see ``md_losses.py``.
The volume of g does not depend on h or :math:`\theta` and is never needed. Reference: Brehmer and Cranmer,
NeurIPS 2020, sec. 3.2.
"""

import math
import warnings
from typing import Any

from torch import Tensor

from ..models.ambient_flow import AmbientFlow
from ..models.manifold_flow import ManifoldFlow
from ..ops.arguments import checked
from .loop import Loop
from .md_checks import check_rows, check_settings, pair, ratio_rows
from .md_phases import density_phase, joint_phase, manifold_phase
from .phase import Phase
from .run import History
from .verdict import warned

__all__ = ["fit_md"]

SCHEDULES = ("sequential", "alternating", "simultaneous")


@checked(epochs=0, seconds=0, lr=0)
def fit_md(
    flow: ManifoldFlow | AmbientFlow,
    x: Tensor,
    context: Tensor | None = None,
    *,
    schedule: str = "sequential",
    epochs: int | tuple[int | None, int | None] | None = None,
    seconds: float | tuple[float, float] = math.inf,
    lr: float | tuple[float, float] = (1e-2, 5e-3),
    warmup: float = 0.05,
    reconstruction_weight: float = 100.0,
    huber_delta: float = math.inf,
    whitening_fraction: float = 0.0,
    unroll: bool = True,
    score: Tensor | None = None,
    score_weight: float = 2.0,
    score_delta: float = math.inf,
    ratio: tuple[Tensor, Tensor] | None = None,
    ratio_weight: float = 10.0,
    **loop: Any,
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
    :param lr: learning rate of AdamW, for both phases or for each, falling to zero along a cosine.
    :param float warmup: share of a phase in which it rises from zero first.
    :param float reconstruction_weight: of the error of reconstructions, in units of the rows' mean variance.
    :param float huber_delta: :math:`\\delta`, the distance, in the units of x, from which on that error grows
        linearly: for data with heavy tails, of which squares would learn the few largest errors alone.
    :param float whitening_fraction: share of the M phase in which its error is first that of whitened rows,
        then less and less so. A manifold may need narrow axes along which the rows vary independently of all
        else; without it the M phase gives them up for wide ones that others determine, and does not come
        back.
    :param bool unroll: a manifold that leaves the rows as far off as their principal subspace does is first
        fitted to coordinates by lengths of paths along the rows, for a quarter as many batches as the M phase
        has, and goes on from there if that brings it closer by a fifth: surfaces that are rolled up are found
        from there, and rarely else. Closed ones are cut open and fitted for as many batches as the M phase
        has, but rows at the seam stay far off: a torus at defaults comes to 0.3 to 0.65 where the plane is
        0.7 away. Prefer several charts there (:func:`~pyro_manifold.training.fit_charts`): four, at defaults,
        come to 0.03.
        Not beside ``whitening_fraction``.
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
    :param loop: what else :func:`~pyro_manifold.training.fit` takes: ``batch_size``, ``validation``,
        ``seed``, ``clock``, ``checkpoint``, ``fabric``, ``disable_progbar``.
    :return: losses by phase ("M", "D", "MD"), those before the first pass, and warnings.
    :raises ValueError: for rows that do not fit, are not finite or all equal, settings out of range,
        parameters that are all frozen; and as :func:`~pyro_manifold.training.fit`.
    :warns TrainingWarning: as :func:`~pyro_manifold.training.fit`, and where the manifold is far from the
        rows: no better than the principal subspace, or at more than a third of its distance and three times
        that of planes through near neighbours.

    >>> from pyro_manifold.models import ManifoldFlow
    >>> u = torch.randn(200, 1)
    >>> x = torch.cat([u, 0.3 * u.square()], 1)
    >>> flow = ManifoldFlow.from_data(x, 1, hidden=(8,))
    >>> history = fit_md(flow, x, epochs=(5, 0), batch_size=20, disable_progbar=True)
    >>> history.losses["M"][-1] < history.start["M"]
    True
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: got {schedule!r}; expected one of {', '.join(map(repr, SCHEDULES))}.")
    manifold: dict[str, Any] = dict(reconstruction_weight=reconstruction_weight, huber_delta=huber_delta)
    density: dict[str, Any] = dict(
        score_weight=score_weight, score_delta=score_delta, ratio_weight=ratio_weight
    )
    check_settings(
        {"epochs": epochs, "seconds": seconds, "lr": lr},
        {"warmup": warmup, "whitening_fraction": whitening_fraction},
        {"huber_delta": huber_delta, "score_delta": score_delta},
        {k: v for k, v in {**manifold, **density}.items() if k.endswith("weight")},
    )
    check_rows(x, context, score, flow)
    data = (x, context, score, *ratio_rows(ratio, context))
    first, second = (
        {"epochs": n, "seconds": s, "lr": rate, "warmup": warmup}
        for n, s, rate in zip(pair(epochs), pair(seconds), pair(lr), strict=True)
    )
    bends = any(p.requires_grad for p in flow.manifold_parameters())
    phases: list[Phase] = []
    if schedule == "simultaneous" and bends:
        warnings.warn(
            "schedule='simultaneous' is ill-posed: the likelihood of the manifold itself grows without "
            "bound as the image turns away from the data and concentrates; only reconstruction_weight "
            "opposes it. Prefer 'sequential' or 'alternating'.",
            UserWarning,
            stacklevel=3,
        )
        phases.append(joint_phase(flow, x, **manifold, **density, **{**first, "lr": second["lr"]}))
    else:
        if bends:
            start: dict[str, Any] = dict(whitening_fraction=whitening_fraction, unroll=unroll)
            phases.append(manifold_phase(flow, x, **manifold, **start, **first))
        if any(p.requires_grad for p in flow.density_parameters()):
            phases.append(density_phase(flow, **density, **second))
    settings = dict(schedule=schedule, lr=lr, warmup=warmup, **manifold, **density)
    settings |= dict(whitening_fraction=whitening_fraction, unroll=unroll)
    stages = [phases] if schedule == "alternating" else phases
    whole = Loop(stages, data, model=flow, settings=settings, description="fit_md", **loop)
    return warned(whole.run(), stacklevel=3)
