"""Rows to train on and rows to validate on, in batches."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.manifold_flow import AmbientFlow, ManifoldFlow
from .md_phases import Phase

__all__ = ["Rows"]


class Rows:
    """Rows to learn from and rows to validate on, with what is given for each."""

    def __init__(
        self, x: Tensor, given: tuple[Tensor | None, ...], validation: float, seed: int, size: int
    ) -> None:
        self.x, self.given, self.seed, self.size = x, given, seed, size
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
        held = int(validation * len(x))
        self.held, self.train = order.split([held, len(x) - held])
        self.check = self.held if held else self.train
        self._encoded: tuple[Phase, Tensor] | None = None

    def of(self, flow: ManifoldFlow | AmbientFlow, phase: Phase, *, fixed: bool) -> Tensor:
        """What the phase's loss is a function of: x, or its coordinates, computed once while the manifold is
        ``fixed``."""
        if phase.name != "D" or not isinstance(flow, ManifoldFlow):
            return self.x
        if self._encoded is None or self._encoded[0] is not phase or not fixed:
            with torch.no_grad():
                parts = self.x.split(16 * self.size)
                self._encoded = (phase, torch.cat([flow.transform.inv(rows) for rows in parts]))
        return self._encoded[1]

    def batch(self, data: Tensor, index: Tensor) -> list[Tensor | None]:
        return [None if t is None else t[index] for t in (data, *self.given)]

    def shuffled(self, number: int) -> Sequence[Tensor]:
        """Batches of pass ``number``."""
        order = torch.randperm(
            len(self.train), generator=torch.Generator().manual_seed(1_000_003 * self.seed + number)
        )
        return self.train[order.to(self.train.device)].split(self.size)

    def judged(self, data: Tensor) -> list[list[Tensor | None]]:
        return [self.batch(data, index) for index in self.check.split(4 * self.size)]
