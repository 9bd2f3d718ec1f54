"""Figures of merit of learned manifolds, as the M-flow paper defines them."""

import torch
from torch import Tensor

from ..ops.arguments import checked
from ..ops.checks import check_all
from ..ops.mmd import gaussian_mmd2
from .samples import two_samples

__all__ = ["grid_mmd2", "mmd2", "ood_auc", "roc_auc"]


@checked
def roc_auc(negative: Tensor, positive: Tensor) -> float:
    r"""Area under the ROC curve, as Mann and Whitney's statistic; ties count half.

    .. math:: \mathrm{AUC} = P(s^+ > s^-) + \tfrac12P(s^+ = s^-)

    :param negative: scores of the one class, (n,).
    :param positive: scores of the class that should score higher, (m,).
    :raises ValueError: for NaN, or an empty class.

    >>> roc_auc(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    0.875
    """
    return _auc(negative=negative, positive=positive)


def _auc(**scores: Tensor) -> float:
    """Of the first scores, by name, and those that should be higher."""
    for name, s in scores.items():
        if s.dim() != 1 or not len(s) or bool(s.isnan().any()):
            raise ValueError(
                f"{name}: got shape {tuple(s.shape)} or NaN; expected at least one score, (n,), and no NaN."
            )
    low, high = (s.double() for s in scores.values())
    order = low.sort().values
    below, upto = (torch.searchsorted(order, high.contiguous(), right=right) for right in (False, True))
    return float((below + upto).double().mean() / (2 * len(order)))


@checked
def ood_auc(inside: Tensor, outside: Tensor) -> float:
    """AUC for telling test points from out-of-distribution points by a score, in whichever direction is
    better.

    The paper also takes the better of log density and reconstruction error; call it with each. It is
    optimistic by that much.

    :param inside: scores of test points, (n,).
    :param outside: scores of out-of-distribution points, (m,).
    :raises ValueError: for NaN, or no scores.

    >>> ood_auc(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]))
    1.0
    """
    auc = _auc(inside=inside, outside=outside)
    return max(auc, 1 - auc)


@checked
def mmd2(x: Tensor, y: Tensor, *, scale: float | None = None) -> float:
    r"""Unbiased squared maximum mean discrepancy with a Gaussian kernel.

    .. math::
        \frac{1}{n(n-1)}\sum_{i\ne j}k(x_i,x_j) + \frac{1}{m(m-1)}\sum_{i\ne j}k(y_i,y_j) -
        \frac{2}{nm}\sum_{i,j}k(x_i,y_j), \qquad k(a,b) = e^{-|a-b|^2/2\ell^2}

    :param x: sample, (n, d) or (n,).
    :param y: sample of the truth, (m, d) or (m,).
    :param scale: :math:`\ell`; the median distance between points of ``y`` if left out, as in the paper.
    :return: may be slightly negative: it is unbiased. Two samples of the truth give the floor to read it
        against.
    :raises ValueError: for samples of fewer than two points or of different dimension, values that are not finite, or a
        truth that is one point.

    >>> a = torch.randn(500, generator=torch.Generator().manual_seed(0))
    >>> abs(mmd2(a[:250], a[250:])) < 0.02, mmd2(a, a + 2) > 0.3
    (True, True)
    """
    x, y = two_samples(x, y)
    length = float(torch.pdist(y).median()) if scale is None else scale
    if not 0 < length < torch.inf:
        raise ValueError(
            f"scale: got {length}; expected a positive finite length."
            + (" Is the sample y mostly one point?" if scale is None else "")
        )
    return float(gaussian_mmd2(x, y, [length]))


@checked
def grid_mmd2(p: Tensor, truth: Tensor, grid: Tensor, *, scale: float | None = None) -> Tensor:
    r"""Squared maximum mean discrepancy of two distributions on a grid of numbers: the limit of :func:`mmd2`
    for ever more draws.

    .. math:: \sum_{ij}(p_i - q_i)\,k(x_i, x_j)\,(p_j - q_j), \qquad k(a,b) = e^{-|a-b|^2/2\ell^2}

    The truth against itself gives 0 exactly: nothing of the figure is the noise of a chain.

    :param p: probabilities, ``batch + (m,)``.
    :param truth: q, likewise.
    :param grid: the numbers :math:`x_i`, (m,).
    :param scale: :math:`\ell`; the median distance between two draws of the truth if left out, one for each
        of the batch.
    :return: shape ``batch``.
    :raises ValueError: for shapes that do not fit, values that are no probabilities, or a truth of which most is one
        point.

    >>> x = torch.linspace(-1, 1, 5)
    >>> grid_mmd2(torch.eye(5)[0], torch.full((5,), 0.2), x, scale=1.0)
    tensor(0.5111)
    """
    if grid.dim() != 1 or p.shape[-1:] != grid.shape or truth.shape[-1:] != grid.shape:
        raise ValueError(
            f"p, truth, grid: got shapes {tuple(p.shape)}, {tuple(truth.shape)}, {tuple(grid.shape)}; "
            "expected one probability for each number of the grid, (m,), on the last axis."
        )
    for name, q in (("p", p), ("truth", truth)):
        good = (q >= 0).all(-1) & ((q.sum(-1) - 1).abs() <= 1e-3)
        check_all(good, name, q, "probabilities, which add up to 1", "Divide them by their sum.")
    distance = (grid.unsqueeze(-1) - grid).abs()
    if scale is None:
        order = distance.flatten().argsort()
        weight = (truth.unsqueeze(-1) * truth.unsqueeze(-2)).flatten(-2)[..., order].cumsum(-1)
        length = distance.flatten()[order][(weight < 0.5 * weight[..., -1:]).sum(-1)]
        if not bool((length > 0).all()):
            raise ValueError(
                "truth: its median distance is 0, most of it is one point of the grid; give scale, or a "
                "finer grid."
            )
    elif not 0 < scale < torch.inf:
        raise ValueError(f"scale: got {scale}; expected a positive finite length.")
    else:
        length = distance.new_full(truth.shape[:-1], scale)
    kernel = (-0.5 * (distance / length[..., None, None]).square()).exp()
    return torch.einsum("...i,...ij,...j->...", p - truth, kernel, p - truth)
