"""A layer's weights as plain tensors, those that read the same input joined into one matrix.

`join` lays query, key and value, and gate and up, one after another in memory, so that each is a view of the whole and
can be trained, saved and replaced as before; `joined` finds the whole again. Nothing is held twice, but float32 weights
on a CPU, until then pages of their file, which processes share, become each process's own.

Legend: D hidden size, F intermediate size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from model.encoder import Block


class Layer(NamedTuple):
    """The weights of one layer; biases are None where the model has none.

    Attributes:
        attention_norm, attention_norm_bias: (D,).
        query_key_value: (3 D, D), and its bias (3 D,).
        output: (D, D), and its bias (D,).
        mlp_norm, mlp_norm_bias: (D,).
        gate_up: (2 F, D), and its bias (2 F,).
        down: (D, F), and its bias (D,).
    """

    attention_norm: Any
    attention_norm_bias: Tensor | None
    query_key_value: Any
    query_key_value_bias: Tensor | None
    output: Any
    output_bias: Tensor | None
    mlp_norm: Any
    mlp_norm_bias: Tensor | None
    gate_up: Any
    gate_up_bias: Tensor | None
    down: Any
    down_bias: Tensor | None


def join(block: Block) -> None:
    """Lay the weights of a layer that read the same input one after another in memory."""
    attention, mlp = block.attention, block.mlp
    for maps in ((attention.query, attention.key, attention.value), (mlp.gate, mlp.up)):
        for parameters in ([each.weight for each in maps], [each.bias for each in maps]):
            if parameters[0] is not None:
                whole = torch.cat([parameter.detach() for parameter in parameters])
                for parameter, part in zip(parameters, whole.split([len(one) for one in parameters]), strict=True):
                    parameter.data = part


def joined(parts: Sequence[Tensor]) -> Tensor | None:
    """Tensors that lie one after another in memory, as one along their first dimension; None where they do not."""
    first = parts[0]
    if any(type(part) not in (Tensor, nn.Parameter) for part in parts):
        return None  # such as those that are spread over machines
    rows, place = 0, first.data_ptr()
    for part in parts:
        if part.data_ptr() != place or part.shape[1:] != first.shape[1:] or not part.is_contiguous():
            return None
        rows += len(part)
        place += part.numel() * part.element_size()
    storage = first.untyped_storage()
    if place > storage.data_ptr() + storage.nbytes():
        return None  # neighbours by chance, each in memory of its own
    return first.detach().as_strided((rows, *first.shape[1:]), first.stride())


def layer_of(block: Block) -> Layer | None:
    """A layer's weights; None where its parts are not joined, or one is not a plain linear map, as with LoRA."""
    attention, mlp = block.attention, block.mlp
    inputs = (attention.query, attention.key, attention.value)
    maps = (*inputs, attention.output, mlp.gate, mlp.up, mlp.down)
    if any(type(each) is not nn.Linear for each in maps):
        return None
    query_key_value, gate_up = joined([each.weight for each in inputs]), joined([mlp.gate.weight, mlp.up.weight])
    if query_key_value is None or gate_up is None:
        return None
    query_key_value_bias = gate_up_bias = None
    if attention.query.bias is not None:
        query_key_value_bias, gate_up_bias = (
            joined([each.bias for each in inputs]),
            joined([mlp.gate.bias, mlp.up.bias]),
        )
        if query_key_value_bias is None or gate_up_bias is None:
            return None
    return Layer(
        block.attention_norm.weight,
        getattr(block.attention_norm, "bias", None),
        query_key_value,
        query_key_value_bias,
        attention.output.weight,
        attention.output.bias,
        block.mlp_norm.weight,
        getattr(block.mlp_norm, "bias", None),
        gate_up,
        gate_up_bias,
        mlp.down.weight,
        mlp.down.bias,
    )
