"""The matrix products of an index's build by torch: the same code on a GPU and on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# Of scores that are held at once.
BLOCK_BYTES = {"cuda": 1 << 30, "cpu": 64 << 20}


@dataclass(frozen=True)
class TorchNearest:
    """An `index.kmeans.Nearest` whose device is looked for where it is called, be it on another machine.

    Products are of bfloat16 where the device is built for them: a vector between two centroids may go to the second
    nearest, which changes no recall that could be measured.

    Attributes:
        device: as torch names it, such as "cpu" or "cuda:1"; "auto" is a GPU if there is one.
    """

    device: str = "auto"

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        import torch

        return self._found(torch).type != "cpu"

    def __call__(self, vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
        """Vectors (n, E) and centroids (m, E), float32, to the number of each vector's nearest centroid, int64 (n,)."""
        import torch

        device = self._found(torch)
        dtype = torch.bfloat16 if _has_bfloat16(torch, device) else torch.float32
        with torch.inference_mode():
            wide = torch.from_numpy(centroids).to(device)
            # What all share is subtracted: where it is large, products would differ by less than their rounding.
            common = wide.mean(dim=0)
            wide = wide - common
            halves = wide.square().sum(dim=1) / 2
            narrow = wide.to(dtype).T.contiguous()
            found = torch.empty(len(vectors), dtype=torch.int64)
            step = max(1, BLOCK_BYTES[device.type] // (4 * len(centroids)))
            for start in range(0, len(vectors), step):
                block = (torch.from_numpy(vectors[start : start + step]).to(device) - common).to(dtype)
                found[start : start + step] = ((block @ narrow).float() - halves).argmax(dim=1)
        return found.numpy()

    def _found(self, torch: Any) -> Any:
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(name)


def _has_bfloat16(torch: Any, device: Any) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    # By torch's own names for what the processor has; without it products of bfloat16 are slower than of float32.
    known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(ask is not None and ask() for ask in known)
