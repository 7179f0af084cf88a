"""Make sure that `model` and `index` are ours, whatever lies in the user's folder.

Python puts the working folder (or the script's) first on its path, and Ray does the same in its workers, so a user's
own `model.py` or `index.py` would be imported in our place. Whatever is in `sys.modules` already wins over the path;
therefore `pin` imports ours first, in the driver and, as the `worker_process_setup_hook`, in every Ray worker.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
PACKAGES = ("model", "index")


def pin() -> None:
    """Import our `model` and `index`, or say which foreign module took the name.

    Raises:
        ImportError: another module of that name was imported before; the message names its file.
    """
    sys.path.insert(0, str(HOME))
    try:
        for name in PACKAGES:
            module = importlib.import_module(name)
            found = getattr(module, "__file__", None)
            if found is None or Path(found).resolve().parent != HOME / name:
                where = found or next(iter(getattr(module, "__path__", [])), "an unknown place")
                raise ImportError(
                    f"raypipe needs its own package {name!r}, but {where} was imported under that name before; "
                    f"rename that file, or import raypipe first"
                )
    finally:
        # Only for the look-up: left in place, it would put all of site-packages before the standard library.
        sys.path.remove(str(HOME))
