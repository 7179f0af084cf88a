"""Workers that train together: what they do as one, and how the model is spread over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.encoder import Attention, SwiGlu
from raypipe.errors import RaypipeError
from raypipe.training.settings import PretrainSettings

T = TypeVar("T")


class Team:
    """One worker alone, and what several do otherwise.

    Attributes:
        rank, world: which worker, of how many.
    """

    rank = 0
    world = 1

    def wrap(self, learner: nn.Module) -> nn.Module:
        """The learner, spread over the workers. Its parameters may be other ones afterwards."""
        return learner

    def gradients(self, learner: nn.Module, *, together: bool) -> AbstractContextManager[Any]:
        """Around a forward and backward pass: whether the workers exchange their gradients after it."""
        return nullcontext()

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Sums over all workers, by name."""
        return dict(sums)

    def gather(self, value: T) -> list[T]:
        """Everyone's value, by rank."""
        return [value]

    def together(self) -> AbstractContextManager[Any]:
        """Around what fails in one worker, so that all of them stop with its error."""
        return nullcontext()

    def whole(self, value: Tensor) -> Tensor:
        """A tensor that may be spread over the workers, in one piece; all of them ask for it together."""
        return value

    def spread(self, value: Tensor, like: Tensor) -> Tensor:
        """This worker's view of a tensor in one piece, on the device of `like` and spread as that is."""
        return value.to(like.device)


class DataParallel(Team):
    """Workers of one process group, each with all the weights; gradients are averaged after a step's last pass."""

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def wrap(self, learner: nn.Module) -> nn.Module:
        return DistributedDataParallel(learner, gradient_as_bucket_view=True)

    def gradients(self, learner: nn.Module, *, together: bool) -> AbstractContextManager[Any]:
        assert isinstance(learner, DistributedDataParallel)
        return nullcontext() if together else learner.no_sync()

    def total(self, sums: Mapping[str, float]) -> dict[str, float]:
        found: dict[str, float] = {}
        for each in self.gather(dict(sums)):
            for name, value in each.items():
                found[name] = found.get(name, 0.0) + value
        return found

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        error = None
        try:
            yield
        except RaypipeError as problem:
            error = str(problem)
        # Without this the others would wait for the failed one until the network's patience ends.
        errors = [found for found in self.gather(error) if found is not None]
        if errors:
            raise RaypipeError(errors[0])


class Sharded(DataParallel):
    """Workers that each keep a part of every layer's weights and of the optimizer (FSDP2).

    What it needs of torch is imported where it is used: a worker alone does without, which saves it most of a second.

    Args:
        half: send the matrices of the layers around in bfloat16, which products are computed in then; gradients are
            summed up in float32, and embedding and norms stay in it.
    """

    def __init__(self, *, half: bool = False) -> None:
        super().__init__()
        self._half = half

    def wrap(self, learner: nn.Module) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        # Not left to torch, which would take GPUs that are there although the run is told to do without.
        mesh = init_device_mesh(next(learner.parameters()).device.type, (self.world,))
        policy = MixedPrecisionPolicy()
        if self._half:
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for module in learner.modules():
            if isinstance(module, Attention | SwiGlu):
                fully_shard(module, mesh=mesh, mp_policy=policy)
        # With what is left: the embedding, the norms, the LM head.
        fully_shard(learner, mesh=mesh)
        return learner

    def gradients(self, learner: nn.Module, *, together: bool) -> AbstractContextManager[Any]:
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(learner, FSDPModule)
        learner.set_requires_gradient_sync(together)
        return nullcontext()

    def whole(self, value: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        return value.full_tensor() if isinstance(value, DTensor) else value

    def spread(self, value: Tensor, like: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        value = value.to(like.device)
        return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value


def joined(settings: PretrainSettings) -> Team:
    """The team of this process: that of its process group, where it is in one."""
    if not dist.is_initialized():
        return Team()
    return Sharded(half=settings.precision == "bfloat16") if settings.shard_weights else DataParallel()
