"""The loop: read, forward, backward, step; metrics, validation and states on the way.

Everything that a step does follows from the settings, the corpus, the number of workers and the number of the step, so
a run that was killed and goes on gives the losses of one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model import Alphabet
from model.encoder import AidoRna
from raypipe.errors import RaypipeError
from raypipe.training.batches import Packed
from raypipe.training.feed import StepMaker, inline
from raypipe.training.learner import Learner
from raypipe.training.metrics import Sums, means
from raypipe.training.parallel import Team
from raypipe.training.schedule import learning_rate, make_optimizer
from raypipe.training.settings import PretrainSettings
from raypipe.training.state import load_state, save_state
from raypipe.training.state_files import latest_state, step_of

Report = Callable[[dict[str, Any]], None]
Feed = Callable[[int], Iterator[list[Packed]]]

_NAMED = 20
"""Sequences of a bad batch that its error names."""


class Trainer:
    """One worker of a run.

    Args:
        folder: of the run.
        encoder: to be trained, on its device, in float32.
        alphabet: its vocabulary.
        maker: of this worker's batches.
        settings: the recipe.
        team: the workers that train together.
        feed: gives the batches of a step and of all steps after it; by default `maker` does, in a thread.
        hardware: what it runs on, to be kept with its states.
    """

    def __init__(
        self,
        folder: Path,
        encoder: AidoRna,
        alphabet: Alphabet,
        maker: StepMaker,
        settings: PretrainSettings,
        *,
        team: Team | None = None,
        feed: Feed | None = None,
        hardware: str = "",
    ) -> None:
        self.folder, self.settings = folder, settings
        self._states = folder / "state"
        self._maker = maker
        self._feed: Feed = feed or (lambda step: inline(maker, step))
        self._team = team or Team()
        nucleotides = torch.from_numpy(alphabet.nucleotides).to(encoder.embedding.weight.device)
        self._learner = self._team.wrap(Learner(encoder, nucleotides, settings))
        self._weights = dict(encoder.named_parameters())
        self._optimizer = make_optimizer(self._weights, settings)
        self._window = Sums()
        self._hardware = hardware
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self._maker.steps

    def resume(self) -> bool:
        """Go on from the newest state; whether there was one."""
        found = latest_state(self._states)
        if found is None:
            return False
        self.step, about = load_state(found, self._weights, self._optimizer, self._team)
        window = about.get("window", {})
        self.tokens, self.seconds = int(about["tokens"]) - int(window.get("tokens", 0)), float(about.get("seconds", 0))
        # What the window has summed up is everybody's, so one worker takes it over.
        self._window = Sums(window if self._team.rank == 0 else None)
        return True

    def run(self, report: Report, until: int | None = None) -> None:
        """Train until the last step, or until `until` steps are done.

        Args:
            report: called with the metrics of every logged step and of every validation, in every worker.

        Raises:
            RaypipeError: a loss is NaN or infinite, the message names the step and the sequences; or the state cannot
                be written.
        """
        told, stop = self.settings, min(self.steps, until or self.steps)
        if self.step >= stop:
            return
        self._learner.train()
        begun = time.perf_counter() - self.seconds
        batches = self._feed(self.step)
        try:
            while self.step < stop:
                self._one_step(next(batches))
                self.step += 1
                self.seconds = time.perf_counter() - begun
                last = self.step == self.steps
                if self.step % told.log_every == 0 or last:
                    report(self._metrics())
                if self.step % told.valid_every == 0 or last:
                    report({"step": self.step, "valid": self.validate()})
                if self.step % told.checkpoint_every == 0 or self.step == stop:
                    self.save()
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()

    def save(self) -> None:
        """Write the state as it is now.

        Raises:
            RaypipeError: it cannot be written; raised in every worker.
        """
        window = self._team.total(self._window.values())
        self._window = Sums(window if self._team.rank == 0 else None)
        about = {
            "tokens": self.tokens + int(window.get("tokens", 0)),
            "seconds": self.seconds,
            "window": window,
            "hardware": self._hardware,
        }
        with self._team.together():
            save_state(self._states, self.step, self._weights, self._optimizer, about, self._team)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Means over the batches of the validation split, which the workers share out, and how many were asked for."""
        self._learner.eval()
        sums = Sums()
        batches = self._maker.validation
        rank, world = self._team.rank, self._team.world
        for first in range(0, len(batches), world):
            # All take part in every round, with sharded weights they must; who has no batch left repeats the last.
            number = first + rank
            _, found = self._learner(batches[min(number, len(batches) - 1)])
            if number < len(batches):
                sums.add(found)
        self._learner.train()
        total = self._team.total(sums.values())
        return means(total) | ({"masked": int(total["asked"])} if total.get("asked") else {})

    def _one_step(self, batches: list[Packed]) -> None:
        told, begun = self.settings, time.perf_counter()
        # Dropout is the only chance that is torch's own.
        torch.manual_seed((told.seed * 1_000_003 + self.step) * self._team.world + self._team.rank)
        rate = learning_rate(self.step, self.steps, told)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        # Every asked token of a step weighs the same, whichever batch and worker it stands with.
        asked = self._team.total({"asked": float(sum(len(batch.asked) for batch in batches))})["asked"]
        for number, batch in enumerate(batches):
            share = len(batch.asked) * self._team.world / max(asked, 1.0)
            with self._team.gradients(self._learner, together=number == len(batches) - 1):
                loss, found = self._learner(batch, share)
                loss.backward()
            losses.append(loss.detach())
            self._window.add(found)
        # One look for all: where a loss is NaN or infinite the norm of its gradients is as well, in every worker.
        norm = float(self._team.whole(nn.utils.clip_grad_norm_(self._weights.values(), told.clip)))
        if not torch.isfinite(torch.tensor(norm)):
            self._refuse(batches, losses, norm)
        self._optimizer.step()
        self._window.add({"tokens": float(sum(len(batch.ids) for batch in batches))})
        if self._team.rank == 0:
            seconds = time.perf_counter() - begun
            self._window.add({"grad_norm": norm, "rate": rate, "steps": 1.0, "seconds": seconds})

    def _refuse(self, batches: list[Packed], losses: list[Tensor], norm: float) -> None:
        """Stop at a loss, or gradients, of no use.

        Raises:
            RaypipeError: always, and the same in every worker.
        """
        values = [float(loss) for loss in losses]
        bad = [place for place, value in enumerate(values) if not -float("inf") < value < float("inf")]
        rows = sorted({int(row) for place in bad or range(len(batches)) for row in batches[place].rows})
        what = f"the loss is {values[bad[0]]}" if bad else f"the norm of the gradients is {norm}"
        everyone = self._team.gather((not bad, what, rows))
        _, what, rows = min(everyone, key=lambda found: found[0])
        found = latest_state(self._states)
        named = ", ".join(map(str, rows[:_NAMED])) + (", ..." if len(rows) > _NAMED else "")
        raise RaypipeError(
            f"{what} at step {self.step + 1}, in the batch of the sequences with seq_id {named}; the last state is of "
            f"step {step_of(found) if found else 0}; begin again in another folder with a lower --learning-rate, a "
            f"longer --warmup-steps or --precision float32"
        )

    def _metrics(self) -> dict[str, Any]:
        """A line about the steps since the last one."""
        sums = self._team.total(self._window.values())
        self._window = Sums()
        self.tokens += int(sums["tokens"])
        epoch = self._maker.epoch(self.step)
        return {
            "step": self.step,
            "steps": self.steps,
            **({} if epoch is None else {"epoch": round(epoch, 4)}),
            **means(sums),
            "learning_rate": sums["rate"] / sums["steps"],
            "grad_norm": sums["grad_norm"] / sums["steps"],
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "tokens_per_second": round(sums["tokens"] / sums["seconds"], 1),
            "seconds_per_step": round(sums["seconds"] / sums["steps"], 3),
        }
