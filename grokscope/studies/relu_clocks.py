"""The two clocks of a ReLU network on addition (arXiv 2606.05863): what falls, when, and in which region.

One hidden layer on the sum of two token embeddings, trained by AdamW on the full batch, for several weight decays with
matched seeds: the same split and initial weights in every arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from grokscope.studies.part import Part
from grokscope.studies.published import published
from grokscope.studies.relu_clocks_figures import drop_figure, gates_figure, rank_figure
from grokscope.studies.relu_readings import MAPS, Reading, read_arms
from grokscope.studies.relu_rows import (
    ABOUT,
    Found,
    data_of,
    falling,
    findings_of,
    median_gap,
    median_time,
    printed,
    rows_of,
)
from grokscope.studies.result import Row
from grokscope.studies.sweep import Arm, Bench, Scale

RECIPE = "two-clocks"
ONSET_WINDOW = 2000
"""Steps after the beginning of the fall of the test loss in which weights are saved every 50 steps."""
RATE = 1e-3
EVERY = 20
"""Steps between evaluations."""


@dataclass(frozen=True)
class Setting:
    """What an arm was trained with; ``varied`` names what it changes of the main setting, empty in the main grid."""

    decay: float
    width: int
    fraction: float
    p: int
    steps: int
    seeds: tuple[int, ...]
    varied: str = ""

    @property
    def arm(self) -> Arm:
        """Its runs. The name holds everything in which settings differ."""
        name = f"{RECIPE}.relu.p{self.p}.w{self.width}.f{self.fraction:g}.wd{self.decay:g}"
        overrides = (
            f"task.p={self.p}",
            f"task.train_fraction={self.fraction}",
            "model.combine=sum",
            f"model.hidden=[{self.width}]",
            f"train.steps={self.steps}",
            f"train.lr={RATE}",
            f"train.weight_decay={self.decay}",
            f'save.schedule=["log:0:end:60", "0:end:250", "onset:{ONSET_WINDOW}:50", "2000:2200:10"]',
            f'save.evaluate=["0:200:2", "200:end:{EVERY}"]',
            "save.snapshots=2500",
        )
        return Arm(name, RECIPE, overrides, self.seeds)


def relu_settings(scale: Scale) -> list[Setting]:
    """The main grid over the decays first, then what is varied at one decay."""
    setup = published("two_clocks")["setup"]
    decays, steps = setup["weight_decay"], setup["epochs"]
    if scale == "small":
        few, last = (0, 1), max(decays)
        return [
            *(Setting(decay, 128, 0.3, 59, 12000, few) for decay in (min(decays), last)),
            Setting(last, 64, 0.3, 59, 12000, few, "width 64"),
            Setting(last, 256, 0.3, 59, 12000, few, "width 256"),
            Setting(last, 512, 0.3, 59, 12000, few, "width 512"),
            Setting(last, 128, 0.4, 59, 12000, few, "train fraction 0.4"),
        ]
    seeds, last = (0, 1, 2), max(decays)
    p = printed().p
    main = [Setting(decay, 512, 0.2, p, steps, seeds) for decay in decays]
    return [
        *main,
        Setting(last, 256, 0.2, p, steps, seeds, "width 256"),
        Setting(last, 1024, 0.2, p, steps, seeds, "width 1024"),
        Setting(last, 512, 0.3, p, steps, seeds, "train fraction 0.3"),
    ]


def relu_arms(scale: Scale) -> list[Arm]:
    """The arms of every setting."""
    return [setting.arm for setting in relu_settings(scale)]


def relu_part(bench: Bench) -> Part:
    """Train what is missing, the main grid first, measure every run, and compare with the published numbers."""
    settings = relu_settings(bench.scale)
    bench.train_arms([setting.arm for setting in settings if not setting.varied])
    others = {setting: setting.arm for setting in settings if setting.varied}
    varied = bench.part("what is varied of the ReLU network", lambda: bench.ready(others)) or {}
    bench.train_arms(list(varied.values()))
    kept = [setting for setting in settings if not setting.varied or setting in varied]
    return compare(kept, read_arms(bench, [one.arm for one in kept], printed().level), bench.scale)


def found_of(settings: Sequence[Setting], readings: Sequence[Sequence[Reading]]) -> Found:
    """One group of readings for each setting."""
    groups = list(zip(settings, readings, strict=True))
    return Found(
        p=settings[0].p,
        main={setting.decay: some for setting, some in groups if not setting.varied},
        varied={setting.varied: some for setting, some in groups if setting.varied},
    )


def compare(settings: Sequence[Setting], readings: Sequence[Sequence[Reading]], scale: Scale) -> Part:
    """The part that these readings make."""
    found = found_of(settings, readings)
    rows = rows_of(found)
    return Part(
        rows=tuple(replace(row, quantity=f"ReLU: {row.quantity}") for row in rows),
        findings=tuple(replace(one, quantity=f"ReLU: {one.quantity}") for one in findings_of(found)),
        figures=(rank_figure(found, printed()), drop_figure(found, printed()), gates_figure(found)),
        chosen=_chosen(settings),
        left_out=_left_out(scale),
        data={"relu": data_of(found)},
        sentence=sentence_of(found, rows),
    )


def _chosen(settings: Sequence[Setting]) -> str:
    main, varied = settings[0], [one for one in settings if one.varied]
    also = (
        f"Varied at decay {varied[0].decay:g}: {', '.join(one.varied for one in varied)}. " if varied else ""
    )
    return (
        f"ReLU network on addition: chosen here are one hidden layer of {main.width} neurons, no biases, the sum as "
        f"the symmetric combination, {100 * main.fraction:g} % of the pairs for training, decoupled weight decay and "
        f"seeds {', '.join(map(str, main.seeds))}. At p = 113 the train fraction 0.2 was taken after a look at one run "
        "each: at 0.3 the test loss falls before the training loss is flat, and the clocks that the paper separates "
        f"are one. {also}A pair and its mirror image have the same sum, so mirrored test pairs "
        "are right as soon as the training pairs are, and the test loss is that of the unmirrored ones times their "
        "share. Which point of the drop of the test loss the paper means is not said: where it has halved from its "
        'largest value is taken, and where it is down to a tenth stands beside it. "About" in the paper is '
        f"taken as within {100 * ABOUT:g} %. Intervals of medians over runs are those of order statistics, over "
        "decays and seeds together where no decay is named."
    )


def _left_out(scale: Scale) -> str:
    if scale == "full":
        return ""
    return (
        "ReLU network at this scale: p = 59 and 128 neurons in place of 113 and 512, the smallest and the largest "
        "decay, two seeds. Steps, losses, ranks and the gap of the clocks are of another problem than the published "
        "one; the order of the decays, what width and train fraction change, the gates and the gradients are what can "
        "be read. The grid is left to --scale full."
    )


def sentence_of(found: Found, rows: Sequence[Row]) -> str:
    """What was found, in one sentence."""
    gap, runs = median_gap(found.runs, "half"), found.runs
    times = "an unknown number of" if gap.value is None else f"{gap.value:.2g}"
    flat = median_time(runs, "flat")
    which = falling(rows)
    if which:
        told = f"the stable rank of {' and of '.join(MAPS[name] for name in which)} falls as published"
    elif found.p != printed().p:
        told = "which map's rank is the published one cannot be read at this modulus"
    else:
        told = "no map's stable rank is the published one at both ends"
    held = float(np.median([reading.weighed.held[reading.window()][-1] for reading in runs]))
    soon = [
        share for reading in runs for spacing, share in reading.frozen_by_spacing().items() if spacing == 10
    ]
    over = f" ({100 * float(np.median(soon)):.2g} % over 10 steps)" if soon else ""
    return (
        f"ReLU network: the training loss is flat at step {flat.by:g}, the test loss has halved {times} times later "
        f"(published {printed().gap:g}), and {told}; {100 * held:.2g} % of the training pairs keep their activation "
        f"pattern from the one to generalisation{over}, on which the argument for a linear reduction rests."
    )
