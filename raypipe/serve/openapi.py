"""Write openapi.json beside this file: `python -m raypipe.serve.openapi`."""

from __future__ import annotations

import json
from pathlib import Path

from raypipe.serve.app import create_app
from raypipe.serve.settings import ServeSettings

FILE = Path(__file__).with_name("openapi.json")


def described() -> str:
    """The description of the server as it stands in the file."""
    return json.dumps(create_app(ServeSettings(atlas="atlas")).openapi(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(described(), encoding="utf-8")
