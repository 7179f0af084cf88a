"""All verbs, and where their settings come from: command line > RAYPIPE_* > YAML of --config > default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.config import Env, Yaml
from rich.console import Console

from raypipe import __version__
from raypipe.cli import asking, making, models, system

app = App(
    name="raypipe",
    help="Embed non-coding RNA with AIDO.RNA, search it, and join the hits with annotations.",
    version=f"raypipe {__version__}",
    version_flags=["--version"],
    help_format="plaintext",
    error_console=Console(stderr=True),
)
# Ctrl-C and SIGTERM are for `raypipe.cli.run`, which knows what they mean for the work.
app.suppress_keyboard_interrupt = app.meta.suppress_keyboard_interrupt = False
app.command(making.ingest)
app.command(making.embed)
app.command(making.index)
app.command(making.annotate)
app.command(asking.search)
app.command(asking.sql)
app.command(asking.info)
app.command(models.fill_mask)
app.command(models.model_app)
app.command(system.doctor)
app.command(system.demo)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(help="YAML file with settings, named as the options are.")] = None,
) -> None:
    yaml = [Yaml(config, must_exist=True, use_commands_as_keys=False)] if config else []
    app.config = (Env("RAYPIPE_", command=False), *yaml)
    app(tokens)


def launch(arguments: Sequence[str]) -> None:
    """Parse and run; usage errors leave by SystemExit(2) with a message that says what was meant."""
    app.meta(list(arguments))
