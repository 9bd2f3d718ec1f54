r"""Ridge regression from one field to another, with the closed form of its weights.

.. math::
    \hat y_{ij} = b + \sum_{|a|,|b| \le 1} A_{ab}\, x_{i+a,\,j+b} + B\,(x_{ij} \otimes x_{ij}), \qquad
    \min_{A, B, b} |y - \hat y|^2 + \lambda\,(|A|^2 + |B|^2)
"""

import math

import torch
from torch import Tensor, nn

__all__ = ["FieldRegression"]

_PENALTIES = (1e-3, 1e-1, 1.0, 10.0, 100.0)  # times the number of pixels / 1000, for inputs of variance 1
_HELD_OUT = 0.1


class FieldRegression(nn.Module):
    """Linear in the 3 x 3 pixels around a pixel and in the products of its own channels; 0 at first.

    :param int in_channels: of fields x, ``batch + (in_channels, height, width)``.
    :param int out_channels: of the output.
    """

    i: Tensor
    j: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        i, j = torch.triu_indices(in_channels, in_channels)
        self.register_buffer("i", i)
        self.register_buffer("j", j)
        self.around = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.products = nn.Conv2d(len(i), out_channels, 1, bias=False)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def _own(self, x: Tensor) -> Tensor:
        return x.index_select(-3, self.i) * x.index_select(-3, self.j)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, *x.shape[-3:])
        y = self.around(flat) + self.products(self._own(flat))
        return y.reshape(x.shape[:-3] + y.shape[-3:])

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor) -> None:
        """Set the weights to those of fields ``x`` and ``y`` along a first axis, with the penalty that predicts the
        last tenth of the fields best from the others."""
        n, q, h, w = x.shape
        around = nn.functional.unfold(x, 3, padding=1).mT.reshape(-1, 9 * q)
        own = self._own(x).movedim(1, -1).reshape(-1, len(self.i))
        design = torch.cat([torch.ones_like(own[:, :1]), around, own], -1).double()
        target = y.movedim(1, -1).reshape(len(design), -1).double()
        cut = h * w * (n - max(1, math.ceil(_HELD_OUT * n))) if n > 1 else len(design)
        best, chosen = math.inf, _PENALTIES[-1]
        for penalty in _PENALTIES if cut < len(design) else ():
            weight = _solution(design[:cut], target[:cut], penalty)
            error = float((design[cut:] @ weight - target[cut:]).square().mean())
            if error < best:
                best, chosen = error, penalty
        weight = _solution(design, target, chosen).mT.to(x)
        assert self.around.bias is not None
        self.around.bias.copy_(weight[:, 0])
        self.around.weight.copy_(weight[:, 1 : 1 + 9 * q].reshape(-1, q, 3, 3))
        self.products.weight.copy_(weight[:, 1 + 9 * q :, None, None])


def _solution(design: Tensor, target: Tensor, penalty: float) -> Tensor:
    scale = torch.full(
        (design.shape[1],), penalty * len(design) / 1000, dtype=design.dtype, device=design.device
    )
    scale[0] = 1e-9 * len(design)  # the constant is not shrunk
    return torch.linalg.solve(design.mT @ design + scale.diag(), design.mT @ target)
