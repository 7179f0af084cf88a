"""One warm process of a comparison with multimolecule: loads a checkpoint, then does what each line of stdin asks.

    python -m tests.benchmarks.peer_worker make FOLDER --layers N [--masked-lm]     (needs multimolecule)
    python -m tests.benchmarks.peer_worker multimolecule FOLDER DTYPE --task embed|variants
    python -m tests.benchmarks.peer_worker raypipe FOLDER DTYPE --task embed|variants

Requests and answers are JSON lines: `{"sequences": [...], "copies": 32, "save": PATH or null}` gives
`{"wall_s": ..., "cpu_s": ...}`; the float32 result goes to PATH. What is timed is the whole way from strings to the
result: for "embed" (S, D), the mean over the nucleotides of each of S sequences; for "variants", of one sequence,
(L, 4): log p(variant) - log p(the letter that stands there) for A, C, G and U, the position masked. `copies` says how
many masked copies multimolecule is given at a time; ours packs them itself.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks import machine
from tests.benchmarks.conversation import answers, serve

PEER_BATCH = 32
LETTERS = "ACGU"
Request = dict[str, Any]
Work = Callable[[Request], np.ndarray]


def make_checkpoint(folder: str, layers: int, *, masked_lm: bool) -> None:
    """Write random weights of the 650M model's widths in multimolecule's own layout.

    Biases and norms are drawn at random too: at their usual 0 and 1 a mix-up of them would not show.
    """
    import torch

    multimolecule: Any = importlib.import_module("multimolecule")
    torch.manual_seed(0)
    config = multimolecule.AidoRnaConfig(
        hidden_size=1280, num_hidden_layers=layers, num_attention_heads=20, intermediate_size=3392
    )
    model = (multimolecule.AidoRnaForMaskedLM if masked_lm else multimolecule.AidoRnaModel)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(folder)
    multimolecule.RnaTokenizer().save_pretrained(folder)


def multimolecule_embed(folder: str, dtype: str) -> Work:
    """The peer as its model card runs it: padded batches in the order given, eager attention."""
    import torch

    tokenizer, model = _peer("AidoRnaModel", folder, dtype)

    @torch.inference_mode()
    def embed(request: Request) -> np.ndarray:
        sequences, parts = request["sequences"], []
        for start in range(0, len(sequences), PEER_BATCH):
            batch = tokenizer(sequences[start : start + PEER_BATCH], padding=True, return_tensors="pt")
            hidden = model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].clone()
            mask[torch.arange(len(mask)), mask.sum(1) - 1] = 0
            mask[:, 0] = 0
            parts.append(torch.einsum("bld,bl->bd", hidden, mask.float()) / mask.sum(1, keepdim=True))
        return torch.cat(parts).numpy()

    return embed


def multimolecule_variants(folder: str, dtype: str) -> Work:
    """The peer asked for every position in turn: mask it, run the model, read the scores there.

    With one copy at a time this is the plain loop over positions. All copies have one length, so that several at a time
    need no padding.
    """
    import torch

    tokenizer, model = _peer("AidoRnaForMaskedLM", folder, dtype)
    letters = tokenizer.convert_tokens_to_ids(list(LETTERS))

    @torch.inference_mode()
    def variants(request: Request) -> np.ndarray:
        (sequence,) = request["sequences"]
        ids = tokenizer(sequence, return_tensors="pt")["input_ids"]
        parts = []
        for places in torch.arange(1, len(sequence) + 1).split(request["copies"]):
            rows = torch.arange(len(places))
            batch = ids.repeat(len(places), 1)
            batch[rows, places] = tokenizer.mask_token_id
            logits = model(input_ids=batch, attention_mask=torch.ones_like(batch)).logits
            parts.append(logits[rows, places][:, letters].float().log_softmax(-1))
        logs = torch.cat(parts)
        stands = torch.tensor([[LETTERS.index(letter)] for letter in sequence])
        return (logs - logs.gather(1, stands)).numpy()

    return variants


def raypipe_embed(folder: str, dtype: str) -> Work:
    """Our model by its public call; it orders and packs the sequences itself."""
    model = importlib.import_module("model").load(folder, device="cpu", dtype=dtype)
    return lambda request: model.embed(request["sequences"], pooling="mean")


def raypipe_variants(folder: str, dtype: str) -> Work:
    """Our model by its public call; it packs the masked copies itself."""
    model = importlib.import_module("model").load(folder, device="cpu", dtype=dtype)
    return lambda request: model.variants(request["sequences"])[0].scores


def _peer(name: str, folder: str, dtype: str) -> tuple[Any, Any]:
    """Tokenizer and model of the peer."""
    import torch

    multimolecule: Any = importlib.import_module("multimolecule")
    tokenizer = multimolecule.RnaTokenizer.from_pretrained(folder)
    model = getattr(multimolecule, name).from_pretrained(folder, torch_dtype=getattr(torch, dtype))
    return tokenizer, model.eval()


WORK: dict[tuple[str, str], Callable[[str, str], Work]] = {
    ("multimolecule", "embed"): multimolecule_embed,
    ("multimolecule", "variants"): multimolecule_variants,
    ("raypipe", "embed"): raypipe_embed,
    ("raypipe", "variants"): raypipe_variants,
}


def answering(work: Work) -> Callable[[Request], dict[str, float]]:
    """Answers to requests: the time that `work` takes."""

    def answer(request: Request) -> dict[str, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work(request)
        taken = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        if request.get("save"):
            np.save(request["save"], result)
        return taken

    return answer


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("role", choices=["make", "multimolecule", "raypipe"])
    parser.add_argument("folder")
    parser.add_argument("dtype", nargs="?", default="float32")
    parser.add_argument("--task", choices=["embed", "variants"], default="embed")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--masked-lm", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.role == "make":
        make_checkpoint(options.folder, options.layers, masked_lm=options.masked_lm)
        return
    import torch

    torch.set_num_threads(options.threads)
    with answers() as out:
        work = WORK[options.role, options.task](options.folder, options.dtype)
        serve({"versions": machine.versions(), "threads": options.threads}, answering(work), out)


if __name__ == "__main__":
    main()
