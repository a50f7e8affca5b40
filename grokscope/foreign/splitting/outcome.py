"""What is known of a training split in the end: the pairs and how they were found, or why nobody can say.

Shape legend: N operand pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from grokscope.foreign.splitting.evidence import Evidence, Judgement

CONVENTION = "the first int(fraction * N) of torch.randperm(N) after manual_seed(seed), on the CPU"

Source = Literal["explicit", "recorded", "searched", "recovered"]


@dataclass(frozen=True)
class Split:
    """The training pairs and how they were found.

    Attributes:
        mask: (N,) bool, the pairs trained on.
        fraction: as written in the recipe, else the share of pairs in ``mask``.
        seed: that the recipe draws from, ``None`` where pairs are listed or recovered.
        separation, step: z at the save where it is largest, and that save's step.
        confidence: from 0 to 1, that this is the split; for a recovered one, 1/e where 5 % of the training
            pairs are expected to be wrong.
        contradiction: a recorded seed, fraction or list that this split contradicts, empty where none.
    """

    mask: Tensor
    fraction: float
    seed: int | None
    source: Source
    separation: float
    step: int
    evidence: str
    recipe: str = CONVENTION
    confidence: float = 1.0
    contradiction: str = ""

    def as_json(self) -> dict[str, Any]:
        n_train = int(self.mask.sum())
        return {
            "source": self.source,
            "convention": self.recipe,
            "recipe": self.recipe,
            "train_fraction": self.fraction,
            "seed": self.seed,
            "n_train": n_train,
            "n_test": len(self.mask) - n_train,
            "separation": self.separation,
            "step": self.step,
            "confidence": self.confidence,
            "evidence": self.evidence,
            "contradiction": self.contradiction,
        }


@dataclass(frozen=True)
class NoSplit:
    """Nobody can say which pairs were trained on: ``why``, and what was tried."""

    why: str

    def as_json(self) -> dict[str, Any]:
        return {"source": "none", "why": self.why}


def as_split(
    evidence: Evidence,
    mask: np.ndarray,
    judged: Judgement,
    source: Source,
    recipe: str,
    about: str,
    sure: float,
) -> Split:
    return Split(
        mask=torch.from_numpy(mask.copy()),
        fraction=float(mask.mean()),
        seed=None,
        source=source,
        separation=judged.z,
        step=evidence.steps[judged.save],
        evidence=about,
        recipe=recipe,
        confidence=sure,
    )


def in_words(evidence: Evidence, judged: Judgement) -> str:
    """What speaks for a split, in words."""
    step = evidence.steps[judged.save]
    said = [f"training losses are the lower ones at step {step} by z = {judged.z:.1f}"]
    if judged.error is not None:
        said.append(
            f"{judged.n_numbers} recorded numbers, the losses within a median of {100 * judged.error:.2g} %"
        )
    elif judged.n_numbers:
        said.append(f"{judged.n_numbers} recorded numbers")
    if judged.misfit is not None and judged.refuted:
        said.append(
            f"but the recorded numbers are missed by {judged.misfit:.0%} of what a random split gives"
        )
    return ", ".join(said)
