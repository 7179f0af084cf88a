"""GenBio's secondary-structure model as its training program left it: a Lightning `.ckpt` beside a config.json.

Lightning keeps the tensors under "state_dict" with the names of the training module. They become GenBio's names for
the trunk (`bert.`) and multimolecule's for the head (`ss_head.`); the decision threshold, which was tuned on validation
data and which multimolecule's conversion drops, is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from model.errors import CheckpointError

_NAMES = (
    (r"backbone\.encoder\.(?:bert\.)?(.+)", r"bert.\1"),
    (r"adapter\.in_to_conv\.(weight|bias)", r"ss_head.projection.\1"),
    (r"adapter\.resnet\.res2D_blocks\.(\d+)\.residual_block\.0\.weight", r"ss_head.convnet.\1.conv1.weight"),
    (r"adapter\.resnet\.res2D_blocks\.(\d+)\.residual_block\.3\.weight", r"ss_head.convnet.\1.conv2.weight"),
    (r"adapter\.resnet\.res2D_blocks\.(\d+)\.residual_block\.6\.weight", r"ss_head.convnet.\1.conv3.weight"),
    (r"adapter\.conv_to_output\.(weight|bias)", r"ss_head.prediction.\1"),
)


def find_lightning(folder: Path) -> Path | None:
    """The one `.ckpt` of a folder, if there is one.

    Raises:
        CheckpointError: there are several.
    """
    found = sorted(folder.glob("*.ckpt"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CheckpointError(
            f"{folder} holds {len(found)} Lightning checkpoints ({names}); leave the one that is meant"
        )
    return found[0] if found else None


def rename(loaded: Any, file: Path) -> tuple[dict[str, Tensor], float | None]:
    """Tensors by GenBio's and multimolecule's names, and the threshold where there is one.

    Args:
        loaded: what the file holds.
        file: for messages.

    Raises:
        CheckpointError: no "state_dict", or a tensor in it that nobody knows.
    """
    state = loaded.get("state_dict") if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{file} holds no state_dict of tensors, so it is no Lightning checkpoint")
    tensors: dict[str, Tensor] = {}
    threshold = None
    for key, value in state.items():
        if key == "threshold":
            threshold = _threshold(value, file)
            continue
        for pattern, name in _NAMES:
            if re.fullmatch(pattern, key):
                tensors[re.sub(pattern, name, key)] = value
                break
        else:
            raise CheckpointError(f"{file}: unknown tensor {key!r}: this is not GenBio's secondary-structure model")
    return tensors, threshold


def _threshold(value: Tensor, file: Path) -> float:
    if value.numel() != 1 or not 0 <= float(value) < 1:
        raise CheckpointError(f"{file}: threshold is one probability, 0 to below 1, not {value.tolist()}")
    return float(value)
