"""What is read off one run of the ReLU network: its clocks, the rank of every map, its gates and its gradients.

Shape legend: E evaluations, T saves, N training pairs, h hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grokscope.errors import Absent, GrokscopeError
from grokscope.measures.crossings import Crossing, first_hold, onset
from grokscope.measures.regions import gates
from grokscope.measures.spectra import factored_singular_values, stable_rank
from grokscope.probes.many import Choice, measure_many
from grokscope.probes.record import Record
from grokscope.runs import Run, open_run
from grokscope.studies.sweep import Arm, Bench, Log

HOLD = 3
"""Evaluations for which a level must hold."""
FLAT = 2.0
"""The training loss is flat from where it stays within this factor of its final median."""
PROBES = ("spectra", "regions", "gradients")
SPECTRA = ("embedding", "unembedding", "token_to_logit", "mean_active", "agop")
MAPS = {
    "embedding": "token embedding E",
    "hidden": "hidden layer W",
    "token_to_hidden": "E W",
    "unembedding": "head U",
    "token_to_logit": "tokens to logits, mean gates",
    "mean_active": "mean of the A_i",
    "region": "A_i, mean over samples",
    "agop": "gradient outer product, scales",
    "logits": "logits of the training pairs",
}
"""Every matrix whose stable rank may be the published one. For one hidden layer the map from neurons to logits is U."""
SCALES = {"": "‖g‖", "_per_parameter": "root mean square of g", "_relative": "‖g‖/‖θ‖"}
SPACINGS = (10, 50, 250)
"""Steps between saves that are told apart."""
BLOCKS = ("embedding", "hidden.1", "head")


@dataclass(frozen=True)
class Clocks:
    """When a run did what, on its evaluations.

    Attributes:
        fit: 99 % of the training pairs are right.
        level: the training loss is at the published level; censored where decay keeps it above.
        flat: the training loss is within a factor of two of its final median.
        start, half, end: the test loss is at 90, 50 and 10 % of its largest value.
        grok: 95 % of all test pairs are right; ``alone`` of the unmirrored ones.
    """

    fit: Crossing
    level: Crossing
    flat: Crossing
    start: Crossing
    half: Crossing
    end: Crossing
    grok: Crossing
    alone: Crossing

    def as_json(self) -> dict[str, Any]:
        """Every crossing as ``after`` and ``by``."""
        return {name: getattr(self, name).as_json() for name in self.__dataclass_fields__}


def read_clocks(log: Log, level: float) -> Clocks:
    """The clocks of a log, with the published ``level`` of the training loss."""
    steps, train, test = log.steps, log.scalars["loss.train"], log.scalars["loss.test"]
    tail = train[-max(HOLD, len(train) // 10) :]
    peak = int(np.argmax(test))

    def falls(share: float) -> Crossing:
        # a fall is what follows the largest value: the loss at the start is often below it
        return first_hold(steps[peak:], test[peak:], share * float(test[peak]), "below", HOLD)

    return Clocks(
        fit=log.reached("accuracy.train", 0.99, HOLD),
        level=first_hold(steps, train, level, "below", HOLD),
        flat=first_hold(steps, train, FLAT * float(np.median(tail)), "below", HOLD),
        start=falls(0.9),
        half=falls(0.5),
        end=falls(0.1),
        grok=log.reached("accuracy.test", 0.95, HOLD),
        alone=log.reached(
            "accuracy.test_unmirrored" if "accuracy.test_unmirrored" in log.scalars else "accuracy.test",
            0.95, HOLD,
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Weighed:
    """What no probe records, read off the weights: further ranks, and how long the gates of one save hold.

    Attributes:
        ranks: (T,) stable ranks by map.
        reference: the save whose gates the others are compared with.
        held: (T,) share of training pairs whose whole pattern has been that of the reference at every save since;
            NaN before it.
        same: (T,) share of (pair, gate) entries that are as at the reference.
        accuracy: by subset, of the last save's weights with the gates of the reference and with their own.
    """

    ranks: Mapping[str, np.ndarray]
    reference: int
    held: np.ndarray
    same: np.ndarray
    accuracy: Mapping[str, tuple[float, float]]


def weigh(run: Run, since: int) -> Weighed:
    """Read ``run``, with the first save from step ``since`` on as the reference of the gates."""
    task, model = run.task, run.model
    chosen = int(min(np.searchsorted(run.steps, since), len(run.steps) - 1))
    train = task.inputs[task.train_mask]
    ranks: dict[str, list[float]] = {name: [] for name in ("hidden", "token_to_hidden", "logits")}
    held, same = np.full(len(run.steps), np.nan), np.full(len(run.steps), np.nan)
    reference = still = None
    for index, params in run.each():
        table, layer = params["embed.W_E"], params["hidden.1.W"]
        z = model.combined(params, train)
        logits = model.from_z(params, z)
        gram = (logits - logits.mean(1, keepdim=True)).mT @ (logits - logits.mean(1, keepdim=True))
        eigenvalues = torch.linalg.eigvalsh(gram).clamp(min=0)
        ranks["hidden"].append(float(stable_rank(torch.linalg.svdvals(layer))))
        ranks["token_to_hidden"].append(float(stable_rank(factored_singular_values((table, layer)))))
        ranks["logits"].append(float(eigenvalues.sum() / eigenvalues[-1]))
        if index < chosen:
            continue
        pattern = _gates(run, params, z)
        if reference is None or still is None:
            reference, still = pattern, torch.ones(len(train), dtype=torch.bool)
        agree = pattern == reference
        still &= agree.all(1)
        held[index], same[index] = float(still.double().mean()), float(agree.double().mean())
    return Weighed(
        {name: np.asarray(values) for name, values in ranks.items()},
        int(run.steps[chosen]),
        held,
        same,
        _with_old_gates(run, chosen),
    )


def _gates(run: Run, params: Mapping[str, torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    form = run.model.gated(dict(params))
    if isinstance(form, Absent):
        raise GrokscopeError(f"reading the gates of {run.name}: {form.reason}, expected a ReLU network")
    return gates(form, z)[0]


def _with_old_gates(run: Run, chosen: int) -> dict[str, tuple[float, float]]:
    """Accuracies of the last save with the gates that every pair had at an earlier one, and with its own."""
    task, model = run.task, run.model
    early, last = run.params(chosen), run.params(len(run.steps) - 1)
    old = _gates(run, early, model.combined(early, task.inputs))
    pre = model.combined(last, task.inputs) @ last["hidden.1.W"]
    head = model.unembedding(last)
    assert not isinstance(head, Absent)
    right = [
        ((pre * pattern) @ head.mT).argmax(1) == task.targets for pattern in (old, pre > 0)
    ]  # head: classes first
    masks = {"train": task.train_mask, "test": ~task.train_mask}
    return {
        name: (float(right[0][mask].double().mean()), float(right[1][mask].double().mean()))
        for name, mask in masks.items()
    }


@dataclass(frozen=True)
class Reading:
    """One run.

    Attributes:
        largest: the largest test loss.
        steps: (T,) saves.
        ranks: (T,) stable rank of every map of :data:`MAPS`.
        frozen: (T − 1,) share of training pairs whose pattern is that of the save before; ``flipped`` of entries.
        residual: (T,) how far the linear reduction of every save is from the network.
        ratios: (T,) head over embedding of the gradient, by the ends of names in :data:`SCALES`.
        slack: (T,) per-sample gradient norm over its bound, by block.
        forced: (T,) share of training pairs whose head gradient exceeds the bound of their embedding gradient.
        updates: (T − 1,) head over embedding of what the optimiser moved, relative to the norms.
        loss: (E,) training loss on ``evaluated`` (E,) steps.
    """

    name: str
    seed: int
    decay: float
    rate: float
    clocks: Clocks
    evaluated: np.ndarray
    loss: np.ndarray
    largest: float
    steps: np.ndarray
    ranks: Mapping[str, np.ndarray]
    frozen: np.ndarray
    flipped: np.ndarray
    residual: np.ndarray
    ratios: Mapping[str, np.ndarray]
    slack: Mapping[str, np.ndarray]
    updates: np.ndarray
    forced: np.ndarray
    weighed: Weighed
    frozen_since: int | None = None

    @property
    def from_flat(self) -> int | None:
        """Step at which the training loss is flat."""
        return self.clocks.flat.by

    def window(self) -> slice:
        """Saves between the flat training loss and generalisation, or the end where that was not reached."""
        first = self.from_flat if self.from_flat is not None else int(self.steps[-1])
        last = self.clocks.grok.by if self.clocks.grok.by is not None else int(self.steps[-1])
        begin = int(min(np.searchsorted(self.steps, first), len(self.steps) - 1))
        return slice(begin, max(int(np.searchsorted(self.steps, last, "right")), begin + 1))

    def at(self, values: np.ndarray, step: int | None) -> float:
        """The value at the first save from ``step`` on."""
        if step is None:
            return float("nan")
        return float(values[min(int(np.searchsorted(self.steps, step)), len(values) - 1)])

    def in_window(self, values: np.ndarray) -> float:
        """Median over the window; of values between saves, over the intervals that begin in it."""
        found = values[self.window()]
        found = found[np.isfinite(found)]
        return float(np.median(found)) if found.size else float("nan")

    def last(self, values: np.ndarray) -> float:
        """Median of the last three saves."""
        return float(np.median(values[-HOLD:]))

    def fall(self, name: str) -> Crossing | None:
        """When the stable rank of a map began to fall for good from its largest value after the fit."""
        if self.clocks.fit.by is None:
            return None
        values = self.ranks[name]
        after = np.flatnonzero(self.steps >= self.clocks.fit.by)
        if len(after) < 2 * HOLD:
            return None
        top = int(after[0] + np.argmax(values[after]))
        first = max(min(top - 1, len(values) - HOLD), 0)
        found = onset(self.steps, values, (int(self.steps[first]), int(self.steps[first + HOLD - 1])), q=HOLD)
        return found.crossing if found.direction == "below" else None

    def half_life(self) -> Crossing:
        """When half of the training pairs have left the pattern they had when the loss became flat."""
        here = np.isfinite(self.weighed.held)
        return first_hold(self.steps[here], self.weighed.held[here], 0.5, "below", 1)

    def frozen_by_spacing(self) -> dict[int, float]:
        """Median share of pairs that keep their pattern between two saves of the window, by the steps between them."""
        inside = np.arange(len(self.frozen))[self.window()]
        apart = np.diff(self.steps)
        return {
            spacing: float(np.median(self.frozen[inside[apart[inside] == spacing]]))
            for spacing in SPACINGS
            if (apart[inside] == spacing).sum() >= HOLD
        }

    def loss_at(self, step: float) -> float:
        """Training loss at the last evaluation up to ``step``."""
        return float(self.loss[max(int(np.searchsorted(self.evaluated, step, "right")) - 1, 0)])

    def as_json(self) -> dict[str, Any]:
        """What the rows were computed from."""
        flat, clocks = self.from_flat, self.clocks
        return {
            "decay": self.decay,
            "seed": self.seed,
            "clocks": clocks.as_json(),
            "final_training_loss": float(np.median(self.loss[-HOLD:])),
            "largest_test_loss": self.largest,
            "stable_rank": {
                name: {"when_flat": self.at(values, flat), "at_the_end": self.last(values)}
                for name, values in self.ranks.items()
            },
            "gates": {
                "reference_step": self.weighed.reference,
                "half_of_the_pairs_left": self.half_life().as_json(),
                "pairs_held_over_the_window": float(self.weighed.held[self.window()][-1]),
                "gates_as_then": float(self.weighed.same[self.window()][-1]),
                "accuracy_with_old_gates": {k: list(v) for k, v in self.weighed.accuracy.items()},
                "frozen_since": self.frozen_since,
            },
            "reduction_residual": float(np.nanmax(self.residual)),
            "head_over_embedding": {
                f"gradient{name}": {"at_fit": self.at(v, clocks.fit.by), "in_the_window": self.in_window(v)}
                for name, v in self.ratios.items()
            },
            "pairs_that_keep_their_pattern_over": self.frozen_by_spacing(),
            "bound_slack": {block: self.in_window(values) for block, values in self.slack.items()},
        }


def reading_of(
    log: Log, record: Record, weighed: Weighed, decay: float, rate: float, clocks: Clocks
) -> Reading:
    """Put together what the log, the probes and the weights of a run say."""
    ranks = {name: record[f"spectra.{name}.stable_rank"] for name in SPECTRA}
    ranks["region"] = record["regions.stable_rank_mean"]
    every = {**ranks, **weighed.ranks}
    since = record.get("regions.frozen_since")
    return Reading(
        name=log.name,
        seed=log.seed,
        decay=decay,
        rate=rate,
        clocks=clocks,
        evaluated=log.steps,
        loss=log.scalars["loss.train"],
        largest=float(np.max(log.scalars["loss.test"])),
        steps=record.steps,
        ranks={name: every[name] for name in MAPS},
        frozen=record["regions.frozen_samples"],
        flipped=record["regions.flipped"],
        residual=record["regions.reduction_residual"],
        ratios={end: record[f"gradients.head_over_embedding{end}"] for end in SCALES},
        slack={block: record[f"gradients.bound_slack.{block}"] for block in BLOCKS},
        updates=record["gradients.update_ratio.relative"],
        forced=record["gradients.head_above_bound"],
        weighed=weighed,
        frozen_since=None if since is None else int(since),
    )


def read_arms(bench: Bench, arms: Sequence[Arm], level: float) -> list[list[Reading]]:
    """Measure every finished run of ``arms`` on all cores; readings by arm, in the order of the seeds."""
    logs = [bench.logs(arm) for arm in arms]
    flat = [log for some in logs for log in some]
    clocks = [read_clocks(log, level) for log in flat]
    names = [log.name for log in flat]
    with bench.bar("probing", len(names)) as tick:
        measured = measure_many(
            names, bench.workspace, Choice(only=PROBES), workers=bench.workers, with_records=True,
            progress=lambda _: tick(),
        )  # fmt: skip
    units = [
        (str(bench.used[log.name]), found.flat.by if found.flat.by is not None else int(log.steps[-1]))
        for log, found in zip(flat, clocks, strict=True)
    ]
    weighed = bench.read("reading gates", _weigh_unit, units)
    recipes = [recipe for arm in arms for _, recipe in arm.runs()]
    readings = []
    for log, one, own, when, recipe in zip(flat, measured, weighed, clocks, recipes, strict=True):
        if one.record is None:
            raise GrokscopeError(one.error)
        readings.append(reading_of(log, one.record, own, recipe.train.weight_decay, recipe.train.lr, when))
    ends = np.cumsum([len(some) for some in logs])
    return [readings[end - len(some) : end] for some, end in zip(logs, ends, strict=True)]


def _weigh_unit(unit: tuple[str, int]) -> Weighed:
    with torch.no_grad():
        return weigh(open_run(Path(unit[0])), unit[1])
