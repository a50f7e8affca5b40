"""The runs of the study ``grokalign``: a data set and a network, trained plainly and with what may speed it up.

The same seed is the same split, the same initial weights and the same batches under every method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from grokscope.studies.published import published
from grokscope.studies.sweep import Arm, Scale

CLASSES = 10
BASELINE = "baseline"
FEW = 3
"""Seeds of what is beside a baseline and a main method that have more."""


@dataclass(frozen=True)
class Method:
    """What is done beside the optimiser. ``strength`` is the λ_J of the penalty, 0 for another method."""

    label: str
    overrides: tuple[str, ...] = ()
    strength: float = 0.0


PLAIN = Method(BASELINE)
EMA = Method("Grokfast-EMA", ('intervene.filter={kind="ema"}',))
WINDOW = Method("Grokfast-MA", ('intervene.filter={kind="window"}',))
ORTHOGONAL = Method("⊥Grad", ('intervene.filter={kind="orthogonal"}',))
STABLEMAX = Method("StableMax", ("train.loss=stablemax",))


def penalty(strength: float) -> Method:
    """GrokAlign with λ_J in the units of the run's own loss."""
    return Method(f"λ_J = {strength:g}", (f"intervene.jacobian={{strength={strength!r}}}",), strength)


@dataclass(frozen=True)
class Case:
    """One data set under one loss.

    Attributes:
        key: begins the names of its runs.
        words: as rows name it.
        stop: a run ends when the test accuracy is at least this.
        steps: and after so many updates at the latest.
        updates: in one published step.
        every: updates between two evaluations.
        speedup: where the published ratios stand, ``None`` where there are none.
        main: the method whose ratio is a row; the others are findings.
        few: how many of the seeds the methods beside the baseline and the main one have; ``None`` for all of them.
        saves: how many, spaced evenly in the logarithm of the step.
        spacing: updates between further saves, so that what rises late is dated as closely.
    """

    key: str
    words: str
    recipe: str
    overrides: tuple[str, ...]
    stop: float
    steps: int
    updates: int
    every: int
    methods: tuple[Method, ...]
    main: str
    seeds: tuple[int, ...]
    speedup: str | None = None
    few: int | None = None
    saves: int = 30
    spacing: int = 200

    def arm(self, method: Method) -> Arm:
        """The runs of one method."""
        name = f"grokalign.{self.key}.n{self.steps}.{_slug(method)}"
        own = (
            f"train.steps={self.steps}", f"train.until=accuracy.test >= {self.stop!r}", f"save.snapshots={self.steps}",
            f"save.schedule=['0:1:1', 'log:1:end:{self.saves}', '0:end:{self.spacing}']",
            f"save.evaluate=['0:end:{self.every}']",
        )  # fmt: skip
        seeds = self.seeds if method.label in (BASELINE, self.main) else self.seeds[: self.few]
        return Arm(name, self.recipe, (*self.overrides, *own, *method.overrides), seeds)

    def arms(self) -> dict[str, Arm]:
        """Label of a method → its runs, the baseline first."""
        return {method.label: self.arm(method) for method in self.methods}


def _slug(method: Method) -> str:
    names = {
        EMA.label: "ema",
        WINDOW.label: "ma",
        ORTHOGONAL.label: "orthogonal",
        STABLEMAX.label: "stablemax",
    }
    return f"jacobian{method.strength:g}" if method.strength else names.get(method.label, method.label)


def cases_of(scale: Scale, mnist: Path | None = None) -> list[Case]:
    """Digits under both losses and XOR; at full also transformers, and MNIST where its files are given."""
    setup = published("grokalign")["accelerate"]
    few, many = tuple(range(FEW)), tuple(range(setup["seeds"]))
    seeds = few if scale == "small" else many
    found = [_digits_squared(scale, seeds), _digits_entropy(scale, seeds), _xor(scale, seeds)]
    if scale == "full":
        found += [_transformer(fixed=False), _transformer(fixed=True)]
    if mnist is not None:
        found += [_mnist("squared", mnist, seeds), _mnist("cross-entropy", mnist, seeds)]
    return found


def squared_strength() -> float:
    """The published λ_J of the squared loss in our units: theirs is a mean over classes, ours half of their sum."""
    return published("grokalign")["accelerate"]["lambda_J"]["mse"] * CLASSES / 2


def _digits_squared(scale: Scale, seeds: tuple[int, ...]) -> Case:
    own = squared_strength()
    factors, others = (
        ((1000, 3000), ()) if scale == "small" else ((1, 100, 1000, 3000, 10000), (EMA, WINDOW, ORTHOGONAL))
    )
    return Case(
        "digits.squared", "digits, squared loss", "digits", (), 0.85, 20000, 2, 20,
        (PLAIN, *(penalty(factor * own) for factor in factors), *others), penalty(3000 * own).label, seeds, "mse", FEW,
    )  # fmt: skip


def _digits_entropy(scale: Scale, seeds: tuple[int, ...]) -> Case:
    facts = published("grokalign")["accelerate"]
    own = facts["lambda_J"]["ce"]
    setting = ("task.train=200", "train.batch_size=0", "train.loss=cross-entropy", "train.weight_decay=0.01")
    strengths = (own,) if scale == "small" else (own, 10 * own)
    return Case(
        "digits.entropy", "digits, cross-entropy", "digits", setting, 0.85, 1000 if scale == "small" else 10000, 1, 10,
        (PLAIN, *map(penalty, strengths), STABLEMAX), penalty(own).label, seeds, "ce", FEW,
    )  # fmt: skip


def _mnist(loss: str, folder: Path, seeds: tuple[int, ...]) -> Case:
    facts = published("grokalign")["accelerate"]
    kind = "mse" if loss == "squared" else "ce"
    own = squared_strength() if loss == "squared" else facts["lambda_J"]["ce"]
    setting = (
        f"task={{name='digits', train=1024, test=1024, folder={str(folder)!r}}}", f"train.loss={loss}",
        "train.weight_decay=0.01", "train.dtype=float64",
    )  # fmt: skip
    return Case(
        f"mnist.{kind}", f"MNIST, {loss if loss != 'squared' else 'squared loss'}", "digits", setting, 0.85, 100000, 4,
        40, (PLAIN, penalty(own)), penalty(own).label, seeds, kind,
    )  # fmt: skip


def _xor(scale: Scale, seeds: tuple[int, ...]) -> Case:
    facts = published("grokalign")["xor"]
    d, hidden = (2000, 256) if scale == "small" else (4000, 512)
    # the size of the noise over that of the signal is the published one
    noise = facts["eps"] * math.sqrt((facts["p"] - 2) / (d - 2))
    # their loss is twice ours: twice the rate, half the decay and half the penalty make the same updates
    own = facts["lambda_J"] / 2
    setting = (
        f"task={{name='xor', d={d}, train={facts['n']}, noise={noise!r}}}",
        f"model={{family='feature-mlp', hidden=[{hidden}], activation='relu', hidden_bias=false, head_bias=false, "
        f"init_scale={3**-0.5!r}}}",
        "train.optimizer=gd", f"train.lr={2 * facts['lr']!r}", f"train.weight_decay={facts['wd'] / 2!r}",
        "train.batch_size=0", "train.loss=squared",
    )  # fmt: skip
    return Case(
        f"xor.d{d}.w{hidden}", "XOR", "digits", setting, 0.95, facts["steps"], 1, 2, (PLAIN, penalty(own)),
        penalty(own).label, seeds, saves=24, spacing=10,
    )  # fmt: skip


def _transformer(*, fixed: bool) -> Case:
    facts = published("grokalign")["transformer"]
    setting = ("task.p=59", f"train.lr={facts['lr']!r}", f"train.weight_decay={float(facts['wd'])!r}")
    words = "transformer, fixed embeddings" if fixed else "transformer, learned embeddings"
    case = Case(
        "transformer.learned", words, "nanda", setting, 0.9, 15000, 1, 20, (PLAIN, penalty(facts["lambda_J"])),
        penalty(facts["lambda_J"]).label, (0, 1, 2),
    )  # fmt: skip
    if not fixed:
        return case
    frozen = "intervene.frozen=['embedding', 'position']"
    return replace(case, key="transformer.fixed", overrides=(*setting, frozen))
