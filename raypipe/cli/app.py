"""All verbs, and where their settings come from: command line > RAYPIPE_* > YAML of --config > default."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import App, Parameter
from cyclopts.config import Dict, Env
from rich.console import Console

from raypipe import __version__
from raypipe.cli import (
    asking,
    checking,
    cluster,
    evaluating,
    exporting,
    finetuning,
    graph,
    indexing,
    making,
    mapping,
    models,
    planning,
    predicting,
    refusals,
    serving,
    system,
    training,
)
from raypipe.cli.arguments import refuse_remote, spell_stdin
from raypipe.errors import UsageError

DEBUG = "RAYPIPE_DEBUG"
# RAYPIPE_EMBED_MODEL and so on: without the verb, one name would mean different things to different verbs.
ENVIRONMENT = Env("RAYPIPE_", command=True)
app = App(
    name="raypipe",
    help="Embed non-coding RNA with AIDO.RNA, search it, and join the hits with annotations.",
    version=f"raypipe {__version__}",
    version_flags=["--version"],
    help_format="plaintext",
    error_console=Console(stderr=True),
    error_formatter=refusals.panel,
    # Nobody asks for an empty list by --empty-ids.
    default_parameter=Parameter(negative_iterable="", validator=refuse_remote),
)
# Ctrl-C and SIGTERM are for `raypipe.cli.run`, which knows what they mean for the work.
app.suppress_keyboard_interrupt = app.meta.suppress_keyboard_interrupt = False
app.command(making.ingest)
app.command(making.embed)
app.command(predicting.predict)
app.command(predicting.mlm)
app.command(indexing.index)
app.command(graph.neighbors)
app.command(graph.cluster)
app.command(mapping.make_map, name="map")
app.command(making.annotate)
app.command(making.remove)
app.command(asking.search)
app.command(asking.sql)
app.command(asking.info)
app.command(exporting.export)
app.command(serving.serve)
app.command(planning.plan)
app.command(checking.status)
app.command(checking.verify)
app.command(models.fill_mask)
app.command(models.model_app)
app.command(finetuning.finetune)
app.command(training.pretrain)
app.command(evaluating.eval_app)
app.command(cluster.submit)
app.command(system.doctor)
app.command(system.demo)


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None,
        Parameter(
            help="YAML file with settings, named as the options are; or a shipped one, as: embed",
            env_var="RAYPIPE_CONFIG",
        ),
    ] = None,
    debug: Annotated[
        bool,
        Parameter(
            help="Show tracebacks, and what Ray and its workers say.",
            env_var=DEBUG,
            negative="",
        ),
    ] = False,
) -> None:
    if debug:  # for everything below, and for processes that this one starts
        os.environ[DEBUG] = "1"
    # Under every verb, not at the root: there cyclopts passes over keys that are also names of verbs, "model" for one.
    file = [Dict(_under_every_verb(app, _read_settings(config)), source=str(config))] if config else []
    app.config = (ENVIRONMENT, *file, predicting.pass_over, indexing.pass_over)
    _refuse_unknown_variables(tokens)
    app(tokens)


def _under_every_verb(of: App, settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` for each verb, below its group where it is in one (`eval retrieval`); `model` takes none."""
    groups = [name for name in of if name != "model" and not name.startswith("-") and of[name].default_command is None]
    return dict.fromkeys(of, settings) | {name: _under_every_verb(of[name], settings) for name in groups}


def _refuse_unknown_variables(tokens: Sequence[str]) -> None:
    """A misspelt variable is refused as a misspelt option is.

    Raises:
        UsageError: RAYPIPE_<VERB>_<NAME> is set, and the verb has no option of that name.
    """
    # A verb in a group, as eval retrieval, is both words: RAYPIPE_EVAL_RETRIEVAL_<NAME>.
    words, command = [], app
    for token in tokens:
        if not token.startswith("-") and token in command:
            words.append(token)
            command = command[token]
        if words and command.default_command is not None:
            break
    if command.default_command is None or words[:1] == ["model"]:
        return
    verb = " ".join(words)
    prefix = f"RAYPIPE_{verb.replace('-', '_').replace(' ', '_').upper()}_"
    options = [name for argument in command.assemble_argument_collection() for name in argument.names]
    known = {prefix + name.strip("-").replace("-", "_").upper() for name in options}
    unknown = sorted(name for name in os.environ if name.startswith(prefix) and name not in known)
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, 1)
        raise UsageError(f"{unknown[0]}: {verb} has no such setting" + (f"; did you mean {near[0]}?" if near else ""))


def _read_settings(file: Path) -> dict[str, Any]:
    if not file.is_file() and file.name == str(file):
        file = next((shipped for shipped in _shipped_settings() if shipped.stem == file.stem), file)
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(shipped.stem for shipped in _shipped_settings())
        raise UsageError(f"--config {file}: cannot be read ({error.strerror}); shipped are: {known}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {file}: no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings or {}, dict):
        raise UsageError(f"--config {file}: holds no settings; write them in lines such as: pooling: mean")
    for key, value in (settings or {}).items():
        if value is None or (isinstance(value, list) and None in value):
            raise UsageError(f"--config {file}: {key}: has no value; write one behind it, or take the line out")
    return settings or {}


def _shipped_settings() -> list[Path]:
    """The files of configs/: beside the packages in a checkout, inside this one where it was installed as a wheel."""
    package = Path(__file__).resolve().parents[1]
    folder = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    return sorted(folder.glob("*.yaml"))


def launch(arguments: Sequence[str]) -> None:
    """Parse and run; usage errors leave by SystemExit(2) with a message that says what was meant."""
    # Not what an earlier command line in this process was given.
    app.config = (ENVIRONMENT, predicting.pass_over, indexing.pass_over)
    app.meta(spell_stdin(cluster.spell_command(arguments)))
