"""One warm process of the comparison: loads a checkpoint, then embeds what each line of stdin names.

    python peer_worker.py make FOLDER --layers N    write a random checkpoint (needs multimolecule)
    python peer_worker.py multimolecule FOLDER DTYPE
    python peer_worker.py raypipe FOLDER DTYPE

Requests and answers are JSON lines: `{"sequences": [...], "save": PATH or null}` gives
`{"wall_s": ..., "cpu_s": ...}`; the (N, D) float32 embeddings go to PATH. What is timed is the whole way from
strings to embeddings: tokenising, forward pass, mean over the nucleotides.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

PEER_BATCH = 32
Embed = Callable[[list[str]], np.ndarray]


def make_checkpoint(folder: str, layers: int) -> None:
    """Write random weights of the 650M model's widths in multimolecule's own layout.

    Biases and norms are drawn at random too: at their usual 0 and 1 a mix-up of them would not show.
    """
    import torch

    multimolecule: Any = importlib.import_module("multimolecule")
    torch.manual_seed(0)
    config = multimolecule.AidoRnaConfig(
        hidden_size=1280, num_hidden_layers=layers, num_attention_heads=20, intermediate_size=3392
    )
    model = multimolecule.AidoRnaModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(folder)
    multimolecule.RnaTokenizer().save_pretrained(folder)


def multimolecule_embedder(folder: str, dtype: str) -> Embed:
    """The peer as its model card runs it: padded batches in the order given, eager attention."""
    import torch

    multimolecule: Any = importlib.import_module("multimolecule")
    tokenizer = multimolecule.RnaTokenizer.from_pretrained(folder)
    model = multimolecule.AidoRnaModel.from_pretrained(folder, torch_dtype=getattr(torch, dtype)).eval()

    @torch.inference_mode()
    def embed(sequences: list[str]) -> np.ndarray:
        parts = []
        for start in range(0, len(sequences), PEER_BATCH):
            batch = tokenizer(sequences[start : start + PEER_BATCH], padding=True, return_tensors="pt")
            hidden = model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].clone()
            mask[torch.arange(len(mask)), mask.sum(1) - 1] = 0
            mask[:, 0] = 0
            parts.append(torch.einsum("bld,bl->bd", hidden, mask.float()) / mask.sum(1, keepdim=True))
        return torch.cat(parts).numpy()

    return embed


def raypipe_embedder(folder: str, dtype: str) -> Embed:
    """Our model by its public call; it orders and packs the sequences itself."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    load = importlib.import_module("model").load
    model = load(folder, device="cpu", dtype=dtype)
    return lambda sequences: model.embed(sequences, pooling="mean")


def versions() -> dict[str, str]:
    """Versions of what the figures depend on, as far as installed here."""
    found = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "multimolecule", "danling", "raypipe"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@contextmanager
def _answers() -> Iterator[TextIO]:
    """Keep the real stdout for answers; whatever the libraries print goes to stderr."""
    real, sys.stdout = sys.stdout, sys.stderr
    try:
        yield real
    finally:
        sys.stdout = real


def serve(embed: Embed, answers: TextIO, threads: int) -> None:
    """Answer requests until stdin ends."""
    print(json.dumps({"versions": versions(), "threads": threads}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        embeddings = embed(request["sequences"])
        answer = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        if request.get("save"):
            np.save(request["save"], embeddings)
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["make", "multimolecule", "raypipe"])
    parser.add_argument("folder")
    parser.add_argument("dtype", nargs="?", default="float32")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.role == "make":
        make_checkpoint(options.folder, options.layers)
        return
    import torch

    torch.set_num_threads(options.threads)
    embedders = {"multimolecule": multimolecule_embedder, "raypipe": raypipe_embedder}
    with _answers() as answers:
        serve(embedders[options.role](options.folder, options.dtype), answers, options.threads)


if __name__ == "__main__":
    main()
