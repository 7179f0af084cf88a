"""The loop: read, forward, backward, step; metrics, validation and states on the way.

Everything that a step does follows from the settings, the corpus, the number of workers and the number of the step, so
a run that was killed and goes on gives the losses of one that was not: bit for bit on the same processor with as many
threads, else within the rounding of float32 or bfloat16.
"""

from __future__ import annotations

import math
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
from raypipe.training.hardware import all_hardware
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
        self._hardware = [hardware]
        self._made, self._before = time.perf_counter(), 0.0
        # Step and moment at which this process began to train.
        self._first, self._begun = 0, self._made
        self.step = 0
        self.tokens = 0

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self._maker.steps

    @property
    def seconds(self) -> float:
        """That the run has taken, in all its processes."""
        return self._before + time.perf_counter() - self._made

    def resume(self) -> dict[str, Any] | None:
        """Go on from the newest state; what was kept beside its weights, or None where there is none."""
        found = latest_state(self._states)
        if found is None:
            return None
        self.step, about = load_state(found, self._weights, self._optimizer, self._team)
        window = about.get("window", {})
        self.tokens = int(about["tokens"]) - int(window.get("tokens", 0))
        self._before = float(about.get("seconds", 0))
        kept = all_hardware(about)
        self._hardware = kept if kept[-1:] == self._hardware else kept + self._hardware
        # What the window has summed up is everybody's, so one worker takes it over.
        self._window = Sums(window if self._team.rank == 0 else None)
        return about

    def run(self, report: Report, until: int | None = None, stop: Callable[[], bool] = lambda: False) -> None:
        """Train until the last step, or until `until` steps are done, or until somebody wants an end.

        Args:
            report: called with the metrics of every logged step and of every validation, in every worker.
            until: steps done in all.
            stop: asked after every step; where it says so in any worker, all of them end with the state of that step.

        Raises:
            RaypipeError: a loss is NaN or infinite, the message names the step and the sequences; or the state cannot
                be written.
        """
        told, end = self.settings, min(self.steps, until or self.steps)
        if self.step >= end:
            return
        self._learner.train()
        self._first, self._begun, kept = self.step, time.perf_counter(), self.step
        lap = self._begun
        batches = self._feed(self.step)
        try:
            while self.step < end:
                asked_for = time.perf_counter()
                ready = next(batches)
                waited = time.perf_counter() - asked_for
                # At least one step, so that a run gets on however short its slices are.
                wanted = self.step > self._first and stop()
                asked = float(sum(len(batch.asked) for batch in ready))
                both = self._team.total({"asked": asked, "stop": float(wanted)})
                if both["stop"]:
                    break
                self._one_step(ready, both["asked"])
                self.step += 1
                if self._team.rank == 0:
                    # From the end of one step to that of the next, whatever it was spent on.
                    now = time.perf_counter()
                    self._window.add({"seconds": now - lap, "waited": waited})
                    lap = now
                last = self.step == self.steps
                if self.step % told.log_every == 0 or last:
                    report(self._metrics())
                if self.step % told.valid_every == 0 or last:
                    report({"step": self.step, "valid": self.validate()})
                if self.step % told.checkpoint_every == 0:
                    self.save()
                    kept = self.step
            if self.step > kept:
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
            save_state(
                self._states,
                self.step,
                self._weights,
                self._optimizer,
                about,
                self._team,
                keep=self.settings.keep_states,
            )

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

    def _one_step(self, batches: list[Packed], asked: float) -> None:
        """One step of the optimizer.

        Args:
            batches: of this worker.
            asked: tokens that the masked LM is asked for, in all workers.
        """
        told = self.settings
        # Dropout is the only chance that is torch's own.
        torch.manual_seed((told.seed * 1_000_003 + self.step) * self._team.world + self._team.rank)
        rate = learning_rate(self.step, self.steps, told)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        for number, batch in enumerate(batches):
            # Every asked token of a step weighs the same, whichever batch and worker it stands with.
            share = len(batch.asked) * self._team.world / max(asked, 1.0)
            with self._team.gradients(self._learner, together=number == len(batches) - 1):
                loss, found = self._learner(batch, share)
                loss.backward()
            losses.append(loss.detach())
            self._window.add(found)
        # One look for all: where a loss is NaN or infinite the norm of its gradients is as well, in every worker.
        norm = float(self._team.whole(nn.utils.clip_grad_norm_(self._weights.values(), told.clip)))
        if not math.isfinite(norm):
            self._refuse(batches, losses, norm)
        self._optimizer.step()
        self._window.add({"tokens": float(sum(len(batch.ids) for batch in batches))})
        if self._team.rank == 0:
            self._window.add({"grad_norm": norm, "rate": rate, "steps": 1.0})

    def _refuse(self, batches: list[Packed], losses: list[Tensor], norm: float) -> None:
        """Stop at a loss, or gradients, of no use.

        Raises:
            RaypipeError: always, and the same in every worker.
        """
        values = [float(loss) for loss in losses]
        bad = [place for place, value in enumerate(values) if not math.isfinite(value)]
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
        here = time.perf_counter() - self._begun
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
            "data_seconds": round(sums.get("waited", 0.0), 3),
            "seconds_left": round(here / (self.step - self._first) * (self.steps - self.step), 1),
        }
