"""Copies between the machine's memory and the device that do not make the program wait.

On CUDA they go through page-locked memory and run beside the computation; elsewhere there is nothing to copy.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


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
        self._host = x.float()
        if x.device.type == "cuda":
            self._host = torch.empty(x.shape, dtype=torch.float32, pin_memory=True)
            self._host.copy_(x, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(x.device))

    def numpy(self) -> np.ndarray:
        """The values; waits for them."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.cpu().numpy()
