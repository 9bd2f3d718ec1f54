"""Where training runs: in this process, or in the processes and on the devices of a Lightning Fabric object.

Each of several processes takes its share of every batch. A loss is weighted by the number of rows it is of, so
that the mean over processes is that of the whole batch, and gradients are averaged by the strategy of Fabric.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .phase import Phase

__all__ = ["Engine", "FabricEngine"]


class Engine:
    """One process, one device."""

    rank, processes = 0, 1

    def place(self, model: nn.Module, data: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Move the model to the device; return the data there."""
        return list(data)

    def setup(self, phase: Phase, optimizer: Optimizer) -> tuple[Any, Any]:
        """The loss and the optimiser of a phase, as this engine runs them."""
        return phase.loss, optimizer

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def total(self, value: Tensor) -> Tensor:
        """The sum of ``value`` over the processes."""
        return value

    def same(self, value: Any) -> Any:
        """The ``value`` of process 0, for decisions that all must take alike."""
        return value

    def share(self, index: Tensor) -> tuple[Tensor, float]:
        """The rows of a batch that are this process's, and the weight of their mean loss."""
        return index, 1.0


class FabricEngine(Engine):
    """The processes, devices and precision of a ``lightning_fabric.Fabric`` that has been launched."""

    def __init__(self, fabric: Any) -> None:
        self.fabric, self.rank, self.processes = fabric, fabric.global_rank, fabric.world_size

    def place(self, model: nn.Module, data: Sequence[Tensor | None]) -> list[Tensor | None]:
        model.to(self.fabric.device)
        return [None if t is None else t.to(self.fabric.device) for t in data]

    def setup(self, phase: Phase, optimizer: Optimizer) -> tuple[Any, Any]:
        return self.fabric.setup(_Loss(phase), optimizer)

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)

    def total(self, value: Tensor) -> Tensor:
        return self.fabric.all_reduce(value.detach().clone(), reduce_op="sum")

    def same(self, value: Any) -> Any:
        return self.fabric.broadcast(value)

    def share(self, index: Tensor) -> tuple[Tensor, float]:
        own = index[self.rank :: self.processes]
        if not len(own):  # the gradients of a process without rows take part in the average too
            return index[:1], 0.0
        return own, len(own) * self.processes / len(index)


class _Loss(nn.Module):
    """The loss as a module of the phase's parameters: what Fabric wraps."""

    def __init__(self, phase: Phase) -> None:
        super().__init__()
        self.loss, self.parameters_of_phase = phase.loss, nn.ParameterList(phase.parameters)

    def forward(self, *batch: Tensor | None, **options: Any) -> Tensor:
        return self.loss(*batch, **options)
