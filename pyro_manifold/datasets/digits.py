"""The handwritten digits that come with scikit-learn: 1797 real images of 8 x 8 pixels."""

import torch
from torch import Tensor

from ..ops.arguments import checked

__all__ = ["digits"]


@checked(seed=0)
def digits(*, binarize: bool = True, seed: int = 0) -> tuple[Tensor, Tensor]:
    r"""1797 handwritten digits of 8 x 8 pixels, binarised once.

    .. math:: x_{ij} \sim \mathrm{Bernoulli}(g_{ij} / 16), \qquad g_{ij} \in \{0, \dots, 16\}

    Source: the test part of the UCI "Optical Recognition of Handwritten Digits" set (E. Alpaydin and C.
    Kaynak, 1998, 43 writers), bundled in scikit-learn's wheel as ``sklearn.datasets.load_digits``. Binary
    pixels make the Bernoulli likelihood a true likelihood; drawing them once with a fixed seed makes test
    values comparable between runs.

    :param binarize: draw the pixels; otherwise the grey values :math:`g/16` in [0, 1] are returned.
    :param seed: seed of that draw; torch's global generator is not touched.
    :return: pixels of shape (1797, 64) in torch's default dtype, and classes 0 to 9 of shape (1797,).
    :raises ImportError: without scikit-learn (``pip install scikit-learn``).

    >>> x, label = digits()
    >>> tuple(x.shape), x.unique().tolist()
    ((1797, 64), [0.0, 1.0])
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits() reads scikit-learn's bundled images: pip install scikit-learn") from error
    bunch = load_digits()
    grey = torch.as_tensor(bunch.data / 16)
    label = torch.as_tensor(bunch.target)
    if binarize:
        grey = torch.bernoulli(grey, generator=torch.Generator().manual_seed(seed))
    return grey.to(torch.get_default_dtype()), label
