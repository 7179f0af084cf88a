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
from model.head_files import FOLDER, HeadFile, check_name, find_head, head_names, read_head_file
from model.heads import make_head

HOW_TO_TRAIN = (
    "To train one on labelled sequences: Model.add_head, Model.features for what it reads, Model.head_module and "
    "model.loss_terms for its loss, then Model.save_head (the README shows it)"
)


class HeadSet:
    """Heads by name.

    Args:
        folder: of the checkpoint.
        hidden_size: D.
        device: where heads are loaded to.
        fingerprint: gives the trunk's fingerprint; called only where an adapter has to fit it, since it reads the
            checkpoint's files.

    Attributes:
        names: of all heads.
        own: names of those that are part of the checkpoint.
    """

    def __init__(self, folder: Path, hidden_size: int, device: torch.device, fingerprint: Callable[[], str]) -> None:
        self._folder = folder
        self._hidden_size = hidden_size
        self._device = device
        self._fingerprint = fingerprint
        # Read one by one when asked for, so that a damaged adapter is in nobody's way.
        self._files: dict[str, HeadFile] = {}
        self._modules: dict[str, nn.Module] = {}
        found = head_names(folder)
        self.names = list(found)
        self.own = [name for name, path in found.items() if path is None]
        # Those that the checkpoint came with: a file that is named takes the place of one of them.
        self._beside = set(found)

    def files(self) -> dict[str, HeadFile]:
        """What each head is, by name."""
        return {name: self.file(name) for name in self.names}

    def file(self, name: str) -> HeadFile:
        """What the head `name` is.

        Raises:
            ModelError: there is none; the message lists those there are.
        """
        if name not in self.names:
            known = f"it has: {', '.join(self.names)}" if self.names else "it has none"
            raise ModelError(
                f"{self._folder.name} has no head {name!r}; {known}. {HOW_TO_TRAIN}; or load an adapter with "
                "Model.load_head"
            )
        if name not in self._files:
            self._files[name] = find_head(self._folder, name)
        return self._files[name]

    def trained(self, name: str) -> HeadFile:
        """The head `name`, if its results mean anything.

        Raises:
            ModelError: there is none, or its weights are known to be random.
        """
        found = self.file(name)
        if found.trained is False:
            raise ModelError(
                f"the head {name!r} of {self._folder.name} was never trained: its weights are random and its results "
                f"would mean nothing. {HOW_TO_TRAIN}"
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
            self._fit(found)
            self._modules[name] = load_head(found, self._folder, self._hidden_size, self._device)
        return self._modules[name]

    def load(self, path: str | Path) -> str:
        """Take an adapter file; see `Model.load_head`."""
        found = read_head_file(path)
        self._fit(found)
        same = self._same(found.name)
        if same is not None and same not in self._beside:
            if self.file(same).fingerprint != found.fingerprint:
                raise ModelError(f"{path}: there is another head called {same!r} already; rename the file")
            return same
        # Registered once it is whole: a file that failed may be mended and tried again.
        module = load_head(found, self._folder, self._hidden_size, self._device)
        if same is not None:
            self._beside.discard(same)
            self.names.remove(same)
            self._files.pop(same, None)
            self.own = [found.name if name == same else name for name in self.own]
        self._modules[found.name], self._files[found.name] = module, found
        self.names.append(found.name)
        return found.name

    def add(self, name: str, config: HeadConfig, seed: int) -> None:
        """Make a fresh head; see `Model.add_head`."""
        check_name(name, "add_head")
        if (same := self._same(name)) is not None:
            raise ModelError(f"there is a head called {same!r} already; choose another name")
        # The CPU's generator alone: torch.manual_seed would start those of all devices anew.
        state = torch.default_generator.get_state()
        try:
            torch.default_generator.manual_seed(seed)
            head = make_head(config, self._hidden_size)
        finally:
            torch.default_generator.set_state(state)
        self.names.append(name)
        self._files[name] = HeadFile(name, config, trained=False)
        self._modules[name] = head.to(self._device).eval()

    def save(self, name: str, path: str | Path | None, trained: bool) -> Path:
        """Write a head into an adapter file; see `Model.save_head`."""
        beside = self._folder / FOLDER
        target = Path(path) if path is not None else beside / f"{name}.safetensors"
        if target.parent.absolute() == beside.absolute() and target.stem in self.own:
            raise ModelError(
                f"{target}: the checkpoint has a head called {target.stem!r} of its own; give the adapter another name"
            )
        module, found = self.module(name), self.file(name)
        write_adapter(target, module, found.config, trunk=self._fingerprint(), trained=trained)
        if name not in self.own:
            saved = read_head_file(target)
            self._files[name] = saved if saved.name == name else replace(found, trained=trained)
        return target

    def _same(self, name: str) -> str | None:
        """The head of this name, upper and lower case alike: they name SQL views, too."""
        return next((known for known in self.names if known.lower() == name.lower()), None)

    def _fit(self, found: HeadFile) -> None:
        if found.trunk and found.trunk != self._fingerprint():
            raise CheckpointError(
                f"{found.path}: was trained on another trunk than {self._folder} (fingerprint {found.trunk[:12]}, "
                f"this one is {self._fingerprint()[:12]}); load the checkpoint that it belongs to"
            )
