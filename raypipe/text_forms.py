"""How results become text: tables and JSON lines, a record at a time.

Probabilities, values and logits are as short as reads back the same float32, other numbers have six decimals. A tab or
line break inside a name becomes one space in TSV, whose readers know no escapes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = Sequence[Any]
_BREAKS = str.maketrans("\t\n\r", "   ")


@dataclass(frozen=True)
class Form:
    """How results become text.

    Attributes:
        header: what stands before the first record; may be empty.
        text: id, sequence and result of one record -> its text, ending with a line break.
    """

    header: str
    text: Callable[[str, str, Any], str]


def table_form(columns: Sequence[str], rows: Callable[[str, str, Any], Iterable[Row]], header: bool = True) -> Form:
    """TSV; `rows` takes the id, the sequence and the result of one record."""
    return Form(
        "\t".join(map(cell, columns)) + "\n" if header else "",
        lambda id_, sequence, result: "".join("\t".join(map(cell, row)) + "\n" for row in rows(id_, sequence, result)),
    )


def json_form(about: Callable[[Any], dict[str, Any]]) -> Form:
    """JSON lines: one object per record with its id, its sequence, and what `about` makes of its result."""
    return Form(
        "",
        lambda id_, sequence, result: (
            json.dumps({"id": id_, "sequence": sequence, **about(result)}, ensure_ascii=False, allow_nan=False) + "\n"
        ),
    )


def plain(values: np.ndarray) -> Any:
    """An array as nested lists; a float32 as the shortest number that reads back the same, null where not finite."""
    if values.ndim:
        return [plain(value) for value in values]
    return float(str(values)) if math.isfinite(values) else None


def cell(value: Any) -> str:
    """A value in TSV: nothing for None and for a number that is not finite."""
    if value is None or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not isinstance(value, np.floating):
        return f"{value:.6f}"
    return str(value).translate(_BREAKS)
