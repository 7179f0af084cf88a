"""Copies between the machine's memory and the device that do not make the program wait.

On CUDA they go through page-locked memory and run beside the computation; elsewhere there is nothing to copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

AHEAD = 2
"""Tensors that are still to come while the next batch is packed and sent: a GPU does not wait for either."""

Label = TypeVar("Label")


def to_device(array: np.ndarray, device: torch.device | str) -> Tensor:
    """An array on the device; what is computed there next finds it whole."""
    tensor, where = torch.from_numpy(array), torch.device(device)
    if where.type == "cuda":
        return tensor.pin_memory().to(where, non_blocking=True)
    return tensor.to(where)


class Arrival:
    """A tensor on its way from the device, as float32."""

    def __init__(self, x: Tensor) -> None:
        self._event = None
        if x.device.type != "cuda":
            self._host = x.float().cpu()
            return
        self._host = torch.empty(x.shape, dtype=torch.float32, pin_memory=True)
        self._host.copy_(x, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(x.device))

    def numpy(self) -> np.ndarray:
        """The values; waits for them."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()


class Arrivals(Generic[Label]):
    """Tensors on their way from the device in a queue; the last `AHEAD` are not waited for.

    Args:
        take: called in order with each one's label and its values as float32, when they have come.
    """

    def __init__(self, take: Callable[[Label, np.ndarray], None]) -> None:
        self._take = take
        self._coming: deque[tuple[Label, Arrival]] = deque()

    def add(self, label: Label, x: Tensor) -> None:
        """Send a tensor, and hand over what should have come by now."""
        self._coming.append((label, Arrival(x)))
        self._settle(AHEAD)

    def finish(self) -> None:
        """Hand over all that is still to come."""
        self._settle(0)

    def _settle(self, most: int) -> None:
        while len(self._coming) > most:
            label, arrival = self._coming.popleft()
            self._take(label, arrival.numpy())
