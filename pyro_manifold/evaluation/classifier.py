"""How well a classifier that is trained to do so tells two samples apart."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..nn import MLP
from ..ops.arguments import checked
from ..training import Phase, fit
from .samples import two_samples

__all__ = ["TwoSampleAccuracy", "classifier_two_sample"]


class TwoSampleAccuracy(NamedTuple):
    r"""Accuracy of a two-sample classifier on rows that it was not trained on, and its standard error
    :math:`\sqrt{a(1-a)/N}` if the N rows were independent.

    >>> TwoSampleAccuracy(0.5, 0.01).accuracy
    0.5
    """

    accuracy: float
    error: float


@checked(folds=2, epochs=1, seed=0, lr=0, weight_decay=0)
def classifier_two_sample(
    x: Tensor,
    y: Tensor,
    *,
    folds: int = 5,
    hidden: tuple[int, ...] = (64, 64),
    epochs: int = 30,
    lr: float = 3e-3,
    weight_decay: float = 1e-2,
    seed: int = 0,
) -> TwoSampleAccuracy:
    r"""Two-sample classifier accuracy (C2ST): a multilayer perceptron is trained to tell the rows of ``x`` from those
    of ``y``, and judged on rows that it has not seen, by cross-validation.

    .. math:: a = \frac1N \sum_i 1\big[c_{-f(i)}(r_i) = l_i\big], \qquad
        \tfrac12 \le a_{\text{best}} = \tfrac12 + \tfrac14 \int |p - q|

    0.5 where nothing can be told, 1 where everything can. It is a lower estimate of :math:`a_{\text{best}}`: a network
    that is too small, or data that are too few, tell less.

    :param Tensor x: sample, (n, d) or (n,).
    :param Tensor y: sample, (m, d) or (m,); of the larger sample a random part is used, of the size of the smaller.
    :param int folds: the rows are split into so many parts, of both samples equally many in each; the rows of a part
        are judged by a network trained on the others.
    :param hidden: units of the hidden layers.
    :param int epochs: passes over the rows for training. A tenth of these is kept for validation, and the best
        weights on it are used.
    :param float lr: learning rate of AdamW.
    :param float weight_decay: of AdamW.
    :param int seed: of the split, the networks and the batches; torch's global generator is not touched.
    :return: the accuracy and its standard error.
    :raises ValueError: for other shapes, fewer than 5 rows of each sample for a fold, or rows that are not finite.

    Reference: Lopez-Paz and Oquab, *Revisiting classifier two-sample tests*, ICLR 2017, eq. 2.

    >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    >>> classifier_two_sample(x[:150], x[150:] + 4.0, epochs=5, folds=2).accuracy > 0.95
    True
    """
    two_samples(x, y, 5 * folds, f", five rows for each of {folds} folds")
    random, n = torch.Generator().manual_seed(seed), min(len(x), len(y))
    parts = [
        s.detach().reshape(len(s), -1)[torch.randperm(len(s), generator=random)[:n].to(s.device)]
        for s in (x, y)
    ]
    rows = torch.cat(parts).to(x)
    label = torch.cat([torch.zeros(n), torch.ones(n)]).to(rows)
    fold = (torch.arange(n) % folds).repeat(2).to(rows.device)
    right = 0
    for f in range(folds):
        right += _right(rows, label, fold == f, hidden, epochs, lr, weight_decay, seed + f)
    accuracy = right / (2 * n)
    return TwoSampleAccuracy(accuracy, (accuracy * (1 - accuracy) / (2 * n)) ** 0.5)


def _right(
    rows: Tensor,
    label: Tensor,
    test: Tensor,
    hidden: tuple[int, ...],
    epochs: int,
    lr: float,
    weight_decay: float,
    seed: int,
) -> int:
    """How many of the ``test`` rows a network that is trained on the others labels rightly."""
    own = rows[~test]
    loc, scale = own.mean(0), own.std(0)
    rows = (rows - loc) / torch.where(scale > 0, scale, 1.0)
    with torch.random.fork_rng([rows.device] if rows.device.type == "cuda" else []):
        torch.manual_seed(seed)
        net = MLP(rows.shape[1], 1, hidden).to(rows)

    def loss(r: Tensor, c: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(net(r).squeeze(-1), c)

    phase = Phase(
        "classifier",
        loss,
        list(net.parameters()),
        optimizer=lambda p: torch.optim.AdamW(p, lr=lr, weight_decay=weight_decay),
        epochs=epochs,
        review=lambda *_: [],
    )
    with torch.enable_grad():
        fit([phase], (rows[~test], label[~test]), model=net, seed=seed, disable_progbar=True)
    with torch.no_grad():
        guess = net(rows[test]).squeeze(-1) > 0
    return int((guess == label[test].bool()).sum())
