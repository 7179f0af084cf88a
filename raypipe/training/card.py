"""The model card of a run, written from what the run knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raypipe import __version__
from raypipe.settings import IngestSettings
from raypipe.training.hardware import all_hardware
from raypipe.training.settings import FREE, SHAPES

# Not of the recipe: where things lie on one machine, and what stands in the card in other words.
_ELSEWHERE = {*FREE, *SHAPES, *IngestSettings.model_fields, "inputs", "annotations", "model", "model_fingerprint"}
_NAMES = {
    "mlm_loss": "masked-LM loss, nats",
    "masked_accuracy": "accuracy at masked A, C, G, U",
    "view_mlm_loss": "masked-LM loss of mutated views, nats",
    "contrastive_loss": "contrastive loss, nats",
    "nearest_in_family": "views whose nearest other is of their family",
}


@dataclass(frozen=True)
class Facts:
    """What a card tells.

    Attributes:
        name: of the checkpoint.
        config: the contents of its config.json.
        parameters: of encoder and masked-LM head.
        dtype: of the stored weights.
        settings: of the run, resolved.
        corpus: the contents of corpus.json.
        lines: of metrics.jsonl, up to `step`.
        step: that the weights are of.
        steps: of the whole run.
        about: what the state keeps beside the weights.
    """

    name: str
    config: Mapping[str, Any]
    parameters: int
    dtype: str
    settings: Mapping[str, Any]
    corpus: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    step: int
    steps: int
    about: Mapping[str, Any]


def write_card(facts: Facts) -> str:
    """The card, as Markdown."""
    parts = [f"# {facts.name}", _summary(facts), "## Data", _data(facts), "## Training", _training(facts)]
    parts += ["## Recipe", _recipe(facts), "## Licence and limits", _limits(facts)]
    return "\n\n".join(parts) + "\n"


def _summary(facts: Facts) -> str:
    config, base = facts.config, facts.settings.get("model")
    begun = f"continued from `{base}`" if base else "from random weights"
    unfinished = "" if facts.step == facts.steps else f" Training was to go on to step {facts.steps:,}."
    size = config["hidden_size"] // config["num_attention_heads"]
    rows = {
        "architecture": "AIDO.RNA: pre-norm, rotary positions, SwiGLU, bidirectional",
        "layers, hidden size, heads, intermediate size": f"{config['num_hidden_layers']}, {config['hidden_size']}, "
        f"{config['num_attention_heads']} (head size {size}), {config['intermediate_size']}",
        "parameters": f"{facts.parameters:,}",
        "vocabulary, context": f"{config['vocab_size']} tokens, {config['max_position_embeddings'] - 2:,} nucleotides",
        "stored as": f"safetensors, {facts.dtype}",
    }
    return (
        f"An RNA language model, trained with raypipe {__version__} {begun}, as it is after step {facts.step:,}."
        f"{unfinished}\n\n{_table(('', ''), rows.items())}"
    )


def _data(facts: Facts) -> str:
    corpus, settings = facts.corpus, facts.settings
    sources = [
        (f"`{source['name']}`", f"{source['records']:,}", f"`{source['sha256']}`") for source in corpus["sources"]
    ]
    sources += [
        (f"annotations `{table['name']}`", "", f"`{table['sha256']}`") for table in corpus.get("annotations", ())
    ]
    lines = [
        f"{corpus['sequences']:,} distinct sequences, {corpus['nucleotides']:,} nucleotides: trained on "
        f"{corpus['trained_on']:,}, validated on {corpus['validated_on']:,}, left out {corpus['left_out']:,}.",
        _valid(settings),
        f"An epoch reads some {corpus['visits']:,.0f} sequences.",
    ]
    if settings["type_weights"]:
        weights = ", ".join(f"{name} {weight:g}" for name, weight in settings["type_weights"].items())
        lines.append(f"Weights by RNA type: {weights}; all others 1.")
    if settings["family_cap"]:
        lines.append(f"At most about {settings['family_cap']:,} sequences of one family in an epoch.")
    if settings["hold_out_families"]:
        lines.append(
            "The families of the test split of `raypipe eval retrieval` were left out, by "
            f"`{settings['family_column']}` and `{settings['clan_column']}`{_held_out(corpus)}; the families of its "
            "validation split were validated on."
        )
    return f"{_table(('file', 'records', 'sha256'), sources)}\n\n" + " ".join(lines)


def _valid(settings: Mapping[str, Any]) -> str:
    share, column = settings["valid_share"], settings["valid_column"]
    if not share:
        return "No share of them was kept for validation."
    if column:
        return f"Validated on {share:.2%} of the values of `{column}`, chosen by hash."
    return f"Validated on {share:.2%} of the sequences, chosen by hash: their near-duplicates may be trained on."


def _held_out(corpus: Mapping[str, Any]) -> str:
    found = corpus.get("held_out")
    if not found:
        return ""
    kin = f", and {found['like_them']:,} of no known family that share 32 nucleotides in a row with one of them"
    return f" ({found['families']:,} families with {found['sequences']:,} sequences{kin if found['like_them'] else ''})"


def _training(facts: Facts) -> str:
    train = next((line for line in reversed(facts.lines) if "learning_rate" in line), {})
    valid = next((line for line in reversed(facts.lines) if "valid" in line), {"valid": {}})
    hours = facts.about.get("seconds", 0.0) / 3600
    rows = [
        (name, _number(train.get(key)), _number(valid["valid"].get(key)))
        for key, name in _NAMES.items()
        if key in train or key in valid["valid"]
    ]
    where = ", then ".join(all_hardware(facts.about))
    return (
        f"{facts.step:,} steps, {facts.about['tokens']:,} tokens read"
        + (f" ({train['epoch']:g} epochs)" if "epoch" in train else "")
        + f", {hours:,.1f} h"
        + (f" on {where}" if where else "")
        + ".\n\n"
        + _table(("", f"train, step {train.get('step', 0):,}", f"validation, step {valid.get('step', 0):,}"), rows)
        + f"\n\nTraining figures are means since the line of metrics before{_asked(facts, valid['valid'])}; the curve "
        "stands in `curve.png`."
    )


def _asked(facts: Facts, valid: Mapping[str, Any]) -> str:
    """How much of the split a validation looks at."""
    if "masked" not in valid:
        return ""
    return (
        f", validation figures are over {valid['masked']:,} masked nucleotides, of at most "
        f"{facts.settings['valid_batches']:,} batches"
    )


def _recipe(facts: Facts) -> str:
    told = facts.settings
    idle = {"epochs" if told.get("steps") else "", "" if told.get("hold_out_families") else "hold_out_like"}
    rows = [
        (f"`{name}`", f"`{value}`")
        for name, value in told.items()
        if name not in _ELSEWHERE | idle and value is not None and value != {}
    ]
    return "Settings of `raypipe pretrain`, by name.\n\n" + _table(("setting", "value"), rows)


def _limits(facts: Facts) -> str:
    base = facts.settings.get("model")
    inherited = f" They were continued from `{base}`, whose licence holds for them too." if base else ""
    return (
        f"Who trained these weights decides on their licence, within that of the data: write it here.{inherited}\n\n"
        "The figures above are losses on sequences like those that were trained on. Before you rely on the model, "
        "measure it on your own question: `raypipe eval retrieval`, `raypipe eval mlm`."
    )


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4f}"


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
