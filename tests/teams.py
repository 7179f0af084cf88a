"""Two processes that train together without Ray, for tests of what they do as one."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raypipe.errors import RaypipeError
from raypipe.training.corpus import Corpus
from raypipe.training.loop import Trainer
from raypipe.training.parallel import joined
from raypipe.training.settings import PretrainSettings
from raypipe.training.start import Start, build, find_start
from tests.pretraining import CONTEXT, small, step_maker

WORLD = 2
SECONDS = 240


def start() -> Start:
    """A narrow layer with a short context."""
    found = find_start(small())
    return replace(found, config=replace(found.config, max_positions=CONTEXT + 2))


def train(folder: Path, corpus: Corpus, settings: PretrainSettings, spoil: Callable[[Trainer], None]) -> str:
    """Train as the process group that this process is in, or alone; metrics go to folder/lines-RANK.json.

    Args:
        spoil: is given the trainer before it trains.

    Returns:
        The error that ended it, or "".
    """
    team = joined(settings)
    begin = start()
    maker = step_maker(corpus, settings, team.rank, team.world)
    trainer = Trainer(folder, build(begin, settings), begin.alphabet, maker, settings, team=team)
    trainer.resume()
    spoil(trainer)
    lines: list[dict[str, Any]] = []
    error = ""
    try:
        trainer.run(lines.append)
    except RaypipeError as problem:
        error = str(problem)
    folder.mkdir(parents=True, exist_ok=True)
    kept = [{key: value for key, value in line.items() if "second" not in key} for line in lines]
    (folder / f"lines-{team.rank}.json").write_text(json.dumps({"lines": kept, "error": error}))
    return error


def lines_of(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    return json.loads((folder / f"lines-{rank}.json").read_text())["lines"]


def error_of(folder: Path, rank: int) -> str:
    return json.loads((folder / f"lines-{rank}.json").read_text())["error"]


def in_pair(work: Callable[..., None], *arguments: Any) -> None:
    """Run `work` in two processes that are one gloo group; an error in one of them fails."""
    context = multiprocessing.get_context("spawn")
    meeting = Path(arguments[0]) / "meeting"
    workers = [context.Process(target=_member, args=(rank, meeting, work, arguments)) for rank in range(WORLD)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join(SECONDS)
        assert [worker.exitcode for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()


def _member(rank: int, meeting: Path, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD)
    work(*arguments)
    dist.destroy_process_group()
