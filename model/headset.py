"""The task heads that a loaded model has, read when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from model.adapters import load_head, write_adapter
from model.errors import CheckpointError, ModelError
from model.head_config import HeadConfig
from model.head_files import FOLDER, HeadFile, check_name, find_heads, read_head_file
from model.heads import make_head

MASKED_LM = "masked_lm"
"""What the masked-LM head is called where a head is named."""


class HeadSet:
    """Heads by name.

    Args:
        folder: of the checkpoint.
        hidden_size: D.
        device: where heads are loaded to.
        fingerprint: gives the trunk's fingerprint; called only where an adapter has to fit it, since it reads the
            checkpoint's files.

    Attributes:
        files: what each head is, by name.
        own: names of those that are part of the checkpoint.
    """

    def __init__(self, folder: Path, hidden_size: int, device: torch.device, fingerprint: Callable[[], str]) -> None:
        self._folder = folder
        self._hidden_size = hidden_size
        self._device = device
        self._fingerprint = fingerprint
        self.files: dict[str, HeadFile] = find_heads(folder)
        self._modules: dict[str, nn.Module] = {}
        self.own = [name for name, found in self.files.items() if found.path is None]

    def file(self, name: str) -> HeadFile:
        """What the head `name` is.

        Raises:
            ModelError: there is none; the message lists those there are.
        """
        if name not in self.files:
            known = f"it has: {', '.join(self.files)}" if self.files else "it has none"
            raise ModelError(
                f"{self._folder.name} has no head {name!r}; {known}. A head is trained on labelled sequences, then put "
                f"at {self._folder / FOLDER / name}.safetensors (Model.save_head), or loaded with Model.load_head"
            )
        return self.files[name]

    def trained(self, name: str) -> HeadFile:
        """The head `name`, if its results mean anything.

        Raises:
            ModelError: there is none, or its weights are known to be random.
        """
        found = self.file(name)
        if found.trained is False:
            raise ModelError(
                f"the head {name!r} of {self._folder.name} was never trained: its weights are random and its results "
                "would mean nothing; train it on labelled sequences (Model.loss gives the loss), and save it with "
                "Model.save_head"
            )
        return found

    def module(self, name: str) -> nn.Module:
        """The head's module, float32.

        Raises:
            ModelError: there is none of that name.
            CheckpointError: its file is damaged, or it was trained on another trunk.
        """
        if name not in self._modules:
            found = self.file(name)
            if found.trunk and found.trunk != self._fingerprint():
                raise CheckpointError(
                    f"{found.path}: was trained on another trunk than {self._folder} (fingerprint {found.trunk[:12]}, "
                    f"this one is {self._fingerprint()[:12]}); load the checkpoint that it belongs to"
                )
            self._modules[name] = load_head(found, self._folder, self._hidden_size, self._device)
        return self._modules[name]

    def load(self, path: str | Path) -> str:
        """Take an adapter file; see `Model.load_head`."""
        found = read_head_file(path)
        known = self.files.get(found.name)
        if known is not None and known.fingerprint != found.fingerprint:
            raise ModelError(f"{path}: there is another head called {found.name!r} already; rename the file")
        self.files.setdefault(found.name, found)
        self.module(found.name)
        return found.name

    def add(self, name: str, config: HeadConfig, seed: int) -> None:
        """Make a fresh head; see `Model.add_head`."""
        check_name(name, "add_head")
        if name in self.files or name == MASKED_LM:
            raise ModelError(f"there is a head called {name!r} already; choose another name")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = make_head(config, self._hidden_size)
        self.files[name] = HeadFile(name, config, trained=False)
        self._modules[name] = head.to(self._device).eval()

    def save(self, name: str, path: str | Path | None, trained: bool) -> Path:
        """Write a head into an adapter file; see `Model.save_head`."""
        target = Path(path) if path is not None else self._folder / FOLDER / f"{name}.safetensors"
        module, found = self.module(name), self.file(name)
        write_adapter(target, module, found.config, trunk=self._fingerprint(), trained=trained)
        self.files[name] = replace(found, trained=trained)
        return target
