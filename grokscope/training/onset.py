"""When the test loss begins to fall: the step at which the ``onset`` windows of a schedule open.

*Definition.* The training set counts as fitted from the first evaluation at which it reaches the task's fit
level (a skill of 0.99 for a classification, a relative squared error of 0.01 for a completion). From there on L is the
largest test loss that was evaluated. The onset is the first evaluation whose test loss is under (1 − fall)·L,
with ``fall`` the recipe's ``save.onset_fall``.

*Why.* Before the fit the test loss says little: it falls at first where the initial outputs are large, and for a
completion it falls with the fit itself. After the fit it rises as the network memorises, and overshoots: once
the training loss stops growing the logits, weight decay takes 20 to 35 % off the largest test loss within a
hundred steps, without a single test answer learned (measured on addition modulo 59, two-layer networks and
transformers). A fall of 0.4 passes over that and is reached at a third to a half of the way from the fit to
generalisation. Without weight decay the test loss never falls by more than a few per cent, and no window opens.
A smaller ``fall`` opens the window earlier, at the risk of opening it on the overshoot.

The onset is as coarse as the evaluations are (``save.evaluate``), and there is one: a later, deeper fall opens
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from grokscope.tasks import Task


class OnsetWatch:
    """Watches the evaluations of one run for the onset.

    Attributes:
        largest: the largest test loss since the fit; ``None`` before the fit.
        step: the onset; ``None`` before it.
        fell_from: the largest test loss at the onset.
    """

    def __init__(self, task: Task, fall: float) -> None:
        self._levels, self._chance = task.levels, task.chance
        self.fall = fall
        self.largest: float | None = None
        self.step: int | None = None
        self.fell_from: float | None = None

    def observe(self, step: int, scalars: Mapping[str, float]) -> bool:
        """Take the scalars of an evaluation; whether this step is the onset. Steps come in order."""
        if self.largest is None and not self._fitted(scalars):
            return False
        loss = scalars["loss.test"]
        self.largest = loss if self.largest is None else max(self.largest, loss)
        if self.step is not None or not loss < (1 - self.fall) * self.largest:
            return False
        self.step, self.fell_from = step, self.largest
        return True

    def state(self) -> dict[str, str]:
        """What was seen so far, as the metadata of a snapshot: exact, and empty before the fit."""
        seen: dict[str, float | int | None] = {"onset_largest": self.largest}
        if self.step is not None:
            seen |= {"onset_step": self.step, "onset_fell_from": self.fell_from, "onset_fall": self.fall}
        return {name: repr(value) for name, value in seen.items() if value is not None}

    def restore(self, metadata: Mapping[str, str]) -> None:
        """Go back to what :meth:`state` said; an onset by another ``fall`` is none.

        Raises ValueError for text that is no number.
        """
        numbers = {name: float(text) for name, text in metadata.items() if name.startswith("onset_")}
        self.largest = numbers.get("onset_largest")
        known = numbers.get("onset_fall") == self.fall and "onset_step" in numbers
        self.step = int(metadata["onset_step"]) if known else None
        self.fell_from = numbers.get("onset_fell_from") if known else None

    def as_json(self) -> dict[str, float | int | None]:
        """For ``run.json``."""
        return {"step": self.step, "fell_from": self.fell_from, "fall": self.fall}

    def _fitted(self, scalars: Mapping[str, float]) -> bool:
        if self._levels.quantity == "error":
            return scalars["error.train"] <= self._levels.fit
        chance = self._chance or 0.0
        return (scalars["accuracy.train"] - chance) / (1 - chance) >= self._levels.fit
