"""Who folds sequences in `raypipe eval structure`: heads of a model, ViennaRNA, and rules that know no structure."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from model.errors import ModelError
from model.head_files import HeadFile
from model.structure import Pairs, parse_dot_bracket
from raypipe.checkpoints import Checkpoint
from raypipe.errors import RaypipeError, UsageError
from raypipe.evaluation.embedding import computation
from raypipe.evaluation.folding_rules import most_pairs, strongest_helices
from raypipe.evaluation.structure_settings import StructureEvalSettings

Fold = Callable[[list[str]], list[Pairs | None]]
HOW_TO_GET_VIENNA = "pip install ViennaRNA, or conda install -c bioconda viennarna"
_NUCLEOTIDES = frozenset("ACGU")


@dataclass(frozen=True)
class Method:
    """One who folds.

    Attributes:
        name: as reports call it.
        fold: pairs of each of a list of sequences; None where it could not.
        about: settings and versions, for the report.
    """

    name: str
    fold: Fold
    about: dict[str, Any] = field(default_factory=dict)


def rules() -> list[Method]:
    """The two floors."""
    return [
        Method("baseline: most canonical pairs", lambda some: [most_pairs(one) for one in some]),
        Method("baseline: strongest helices", lambda some: [strongest_helices(one) for one in some]),
    ]


def vienna(wanted: str) -> Method | None:
    """Minimum free energy structures of the ViennaRNA package (Lorenz et al. 2011), with its default parameters.

    It is a comparison only, and nothing of raypipe needs it. Its Python module is used if it is installed here, else
    the program RNAfold. Letters other than A, C, G and U, which it would refuse or guess at, are given as N: unpaired.

    Args:
        wanted: auto, vienna or none.

    Returns:
        None where it is not wanted, or not installed and not asked for by name.

    Raises:
        UsageError: it was asked for and is not here.
    """
    if wanted == "none":
        return None
    if find_spec("RNA") is not None:
        return _vienna_module()
    program = shutil.which("RNAfold")
    if program is not None:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        return Method("ViennaRNA", _vienna_program(program), {"program": program, "version": said.strip()})
    if wanted == "vienna":
        raise UsageError(
            f"--compare vienna: neither the Python module RNA nor the program RNAfold is here; {HOW_TO_GET_VIENNA}, or "
            "leave it out"
        )
    return None


def of_head(checkpoint: Checkpoint, head: HeadFile, settings: StructureEvalSettings) -> Method:
    """A head of a model.

    Raises:
        UsageError: it does not say of pairs of nucleotides whether they are pairs.
        ModelError: the model or the head cannot be loaded, or there is no such device.
    """
    from raypipe.answering import Answerer
    from raypipe.outputs import Ask
    from raypipe.prediction_text import gives_structure
    from raypipe.predictions import describe_heads
    from raypipe.settings import RunSettings

    if not gives_structure(head.config) or head.config.num_labels != 1:
        what = " ".join(filter(None, (head.config.problem, head.config.kind)))
        raise UsageError(
            f"--heads {head.name}: is a {what} head with {head.config.num_labels} label(s); base pairs come from "
            "structure heads and from contact heads with one yes-or-no label"
        )
    told = {"threshold": settings.threshold, "pseudoknots": settings.pseudoknots}
    run = RunSettings(model=str(checkpoint.asked), on_long=settings.on_long)
    (made,) = describe_heads(run, checkpoint, [head], **told)
    ask = Ask(settings.on_long, settings.max_tokens, settings.threshold, settings.pseudoknots)
    device, dtype = computation(settings)
    answerer = Answerer(checkpoint, [made], ask, device=device, dtype=dtype)

    def fold(sequences: list[str]) -> list[Pairs | None]:
        answers = answerer(sequences)
        return [None if reason is not None else rows[made.name].structure.pairs for rows, reason in answers]

    about = {
        "checkpoint": checkpoint.asked,
        "fingerprint": checkpoint.fingerprint,
        "trained": checkpoint.trained,
        "head": str(head.path or head.name),
        "head_fingerprint": head.fingerprint,
        "threshold": made.threshold,
        "pseudoknots": settings.pseudoknots,
        "device": str(answerer.model.device),
        "dtype": str(answerer.model.dtype).removeprefix("torch."),
    }
    return Method(f"{checkpoint.name}: {head.name}", fold, about)


def _vienna_module() -> Method:
    import RNA  # pyright: ignore[reportMissingImports] (is no dependency)

    def fold(sequences: list[str]) -> list[Pairs | None]:
        return [parse_dot_bracket(RNA.fold(_plain(sequence))[0]) for sequence in sequences]

    return Method("ViennaRNA", fold, {"module": "RNA", "version": RNA.__version__})


def _vienna_program(program: str) -> Fold:
    def fold(sequences: list[str]) -> list[Pairs | None]:
        text = "".join(f">{place}\n{_plain(sequence)}\n" for place, sequence in enumerate(sequences))
        ran = subprocess.run([program, "--noPS"], input=text, capture_output=True, text=True, check=False)
        lines = ran.stdout.splitlines()
        try:
            # Three lines each: name, sequence, structure with its energy.
            found = [parse_dot_bracket(lines[3 * place + 2].split()[0]) for place in range(len(sequences))]
        except (IndexError, ModelError) as error:
            said = " ".join(ran.stderr.split()) or f"{len(lines)} lines for {len(sequences)} sequences"
            raise RaypipeError(f"{program} failed (exit code {ran.returncode}): {said}") from error
        return list(found)

    return fold


def _plain(sequence: Sequence[str]) -> str:
    return "".join(letter if letter in _NUCLEOTIDES else "N" for letter in sequence)
