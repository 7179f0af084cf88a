"""The AIDO.RNA encoder on packed tokens.

Pre-norm, bidirectional, rotary positions, SwiGLU, after multimolecule 0.0.8 and GenBio ModelGenerator.
Sequences lie end to end, so there is no padding and the reference's multiplication by the padding mask falls away.

Legend: T packed tokens, D hidden size, N heads, H head size, F intermediate size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.attention import Backend, choose_backend, rotary, rotate
from model.config import AidoRnaConfig
from model.errors import ModelError
from model.float8 import Float8Layers
from model.heads import LmHead, Pooler
from model.layers import Layer, join, layer_of
from model.norm import make_norm
from model.packing import Layout
from model.steps import PLAIN, Shape, Steps


class Attention(nn.Module):
    """Multi-head self-attention inside each segment."""

    def __init__(self, config: AidoRnaConfig) -> None:
        super().__init__()
        width, bias = config.hidden_size, config.linear_bias
        self.heads = (config.num_heads, config.head_size)
        self.query = nn.Linear(width, width, bias)
        self.key = nn.Linear(width, width, bias)
        self.value = nn.Linear(width, width, bias)
        self.output = nn.Linear(width, width, bias)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, layout: Layout, angles: tuple[Tensor, Tensor], attend: Backend) -> Tensor:
        """(T, D) -> (T, D)."""
        query = rotate(self.query(x).unflatten(-1, self.heads), *angles)
        key = rotate(self.key(x).unflatten(-1, self.heads), *angles)
        value = self.value(x).unflatten(-1, self.heads)
        return self.dropout(self.output(attend(query, key, value, layout).flatten(-2)))


class SwiGlu(nn.Module):
    """down(silu(gate(x)) * up(x)); multimolecule calls `gate` what is `up` here."""

    def __init__(self, config: AidoRnaConfig) -> None:
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.linear_bias
        self.gate = nn.Linear(width, inner, bias)
        self.up = nn.Linear(width, inner, bias)
        self.down = nn.Linear(inner, width, bias)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return self.dropout(self.down(F.silu(self.gate(x)) * self.up(x)))


class Block(nn.Module):
    """One layer."""

    def __init__(self, config: AidoRnaConfig) -> None:
        super().__init__()
        self.attention_norm = make_norm(config, config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config, config.norm_eps)
        self.mlp = SwiGlu(config)

    def forward(self, x: Tensor, layout: Layout, angles: tuple[Tensor, Tensor], attend: Backend) -> Tensor:
        """(T, D) -> (T, D)."""
        x = x + self.attention(self.attention_norm(x), layout, angles, attend)
        return x + self.mlp(self.mlp_norm(x))


class AidoRna(nn.Module):
    """Embedding, layers, final norm, and what heads the checkpoint has.

    Args:
        config: shape and arithmetic.
        pooler: build the pooler.
        lm_head: build the masked-LM head.
        tied: the LM head scores against the embedding itself; otherwise it has a matrix of its own.

    Attributes:
        checkpoint_activations: keep only the residual stream between layers for the gradients and compute the rest a
            second time (Chen et al. 2016); False at first. Results and gradients are the same.
        attention_dropout: probability of dropout on attention probabilities in training; at first the configuration's.
        float8: compute the products of all layers but the first and the last in 8-bit floating point where no gradients
            are asked for, see `model.float8`; None, as at first, for not.
        fixed: the pieces of a layer for batches that are filled up to one constant number of tokens
            (`model.packing.Layout.filled`), compiled where that pays; the plain ones at first.
    """

    def __init__(
        self, config: AidoRnaConfig, *, pooler: bool = False, lm_head: bool = False, tied: bool = True
    ) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        self.attention_dropout = config.attention_dropout
        self.float8: Float8Layers | None = None
        self.fixed: Steps = PLAIN
        # As nn.Embedding draws them itself; but on the meta device that imports torch's compiler, for a second or two.
        drawn = torch.randn(config.vocab_size, config.hidden_size)
        self.embedding = nn.Embedding.from_pretrained(drawn, freeze=False)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = make_norm(config, config.norm_eps)
        self.pooler = Pooler(config) if pooler else None
        self.lm_head = LmHead(config, tied=tied) if lm_head else None

    def states(self, ids: Tensor, layout: Layout, attend: Backend | None = None) -> Iterator[Tensor]:
        """The hidden states one after another, each (T, D), num_layers + 1 of them.

        State 0 is the embedding, state k < num_layers the residual stream after k layers, the last one the
        final-normed output (the un-normed output of the last layer is not among them, as in the reference).
        A consumer that stops early saves the layers above. `attend` stands in for the usual attention kernel, and does
        without attention dropout.
        """
        attend = attend or self._kernel(ids.device)
        angles = rotary(layout, self.config.head_size)
        layers = self._joined(ids.device)
        if layers is not None:
            yield from self._without_gradients(ids, layout, attend, angles, layers)
            return
        twice = self.checkpoint_activations and torch.is_grad_enabled()
        x = self.embedding(ids)
        for block in self.layers:
            yield x
            if twice:
                x = checkpoint(block, x, layout, angles, attend, use_reentrant=False)
            else:
                x = block(x, layout, angles, attend)
        yield self.final_norm(x)

    def join(self) -> AidoRna:
        """Lay the weights that read the same input together in memory, where inference takes them as one; itself."""
        for block in self.layers:
            assert isinstance(block, Block)
            join(block)
        return self

    def _joined(self, device: torch.device) -> list[Layer] | None:
        """The weights of all layers for inference; None where modules have to do it: for gradients, dropout, LoRA."""
        if torch.is_grad_enabled() or self.training or torch.is_autocast_enabled(device.type):
            return None
        layers: list[Layer] = []
        for block in self.layers:
            layer = layer_of(block) if type(block) is Block else None
            if layer is None:
                if self.float8 is not None:
                    raise ModelError(
                        "8-bit floating point takes the plain linear maps of a loaded checkpoint; use bfloat16"
                    )
                return None
            layers.append(layer)
        return layers if self.float8 is None else self.float8(list(self.layers), layers)

    def _without_gradients(
        self, ids: Tensor, layout: Layout, attend: Backend, angles: tuple[Tensor, Tensor], layers: list[Layer]
    ) -> Iterator[Tensor]:
        config = self.config
        shape = Shape(config.num_heads, config.head_size, config.norm_eps)
        steps = self.fixed if layout.filled else PLAIN
        x = self.embedding(ids)
        yield x
        projected = steps.enter(x, layers[0], *angles, shape)
        for layer, following in pairwise(layers):
            attended = attend(*projected, layout)
            del projected  # half of what a layer takes
            x, projected = steps.cross(x, attended, layer, following, *angles, shape)
            yield x
        attended = attend(*projected, layout)
        del projected
        yield self.final_norm(steps.leave(x, attended, layers[-1], shape))

    def _kernel(self, device: torch.device) -> Backend:
        dtype = self.embedding.weight.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        dropout = self.attention_dropout if self.training else 0.0
        return choose_backend(device, dtype, gradients=torch.is_grad_enabled(), dropout=dropout)

    def forward(self, ids: Tensor, layout: Layout, layer: int = -1) -> Tensor:
        """One hidden state.

        Args:
            ids: (T,) token ids.
            layout: where the segments lie.
            layer: which state; -1 or num_layers is the final-normed one.

        Returns:
            (T, D).
        """
        wanted = layer % (self.config.num_layers + 1)
        for number, state in enumerate(self.states(ids, layout)):
            if number == wanted:
                return state
        raise AssertionError("unreachable: there are num_layers + 1 states")

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the masked LM, (T, D) -> (T, V)."""
        assert self.lm_head is not None
        return self.lm_head(hidden, self.embedding.weight)


def count_parameters(config: AidoRnaConfig) -> dict[str, int]:
    """Parameters by component, without allocating any (on the meta device).

    Returns:
        embedding; one layer and its parts (attention with its norm, mlp_norm, gate_up, down); layers; final_norm;
        encoder (all of these, no pooler); pooler; with_pooler; lm_head (tied); masked_lm (encoder and tied LM head).
    """
    with torch.device("meta"):
        whole = AidoRna(config, pooler=True, lm_head=True)

    def size(*modules: nn.Module | None) -> int:
        return sum(p.numel() for module in modules if module is not None for p in module.parameters())

    block = whole.layers[0]
    assert isinstance(block, Block)
    encoder = size(whole.embedding, whole.layers, whole.final_norm)
    return {
        "embedding": size(whole.embedding),
        "layer": size(block),
        "attention": size(block.attention, block.attention_norm),
        "mlp_norm": size(block.mlp_norm),
        "gate_up": size(block.mlp.gate, block.mlp.up),
        "down": size(block.mlp.down),
        "layers": size(whole.layers),
        "final_norm": size(whole.final_norm),
        "encoder": encoder,
        "pooler": size(whole.pooler),
        "with_pooler": encoder + size(whole.pooler),
        "lm_head": size(whole.lm_head),
        "masked_lm": encoder + size(whole.lm_head),
    }
