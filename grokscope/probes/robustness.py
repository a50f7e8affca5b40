"""How much of the test accuracy survives noise on the input, over training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor

from grokscope.errors import Absent
from grokscope.probes.alignment import GA
from grokscope.probes.drawing import CYCLE, TEST, curve, legend, time_axes
from grokscope.probes.readings import Values, by_save, per_save
from grokscope.probes.record import Quantity, Record
from grokscope.probes.registry import register
from grokscope.probes.stepwise import no_params, record_series
from grokscope.runs import Params, Run

AMPLITUDES = (0.25, 0.5, 1.0, 2.0)
"""Standard deviations of the noise, over the inputs' root mean square."""
SAMPLES = 1024
"""Of the test samples, drawn once; all where there are no more."""
NAMES = {amplitude: f"robustness.noise_{amplitude:g}" for amplitude in AMPLITUDES}
UNDEFINED = "at every save the weights give no finite answer"


@register(
    "robustness",
    title="Robustness to noise",
    question="How much of the test accuracy survives noise on the input?",
    quantities=tuple(
        Quantity(
            name,
            "1",
            f"Share of test samples that are answered right when Gaussian noise is added to their inputs, of standard "
            f"deviation {amplitude:g} times the root mean square of all entries of these inputs.",
            GA,
            formula=r"\operatorname*{mean}_{i\in\text{test}}\,[\hat{y}(x_i+s\xi_i)=y_i] \\ "
            rf"s={amplitude:g}\sqrt{{\operatorname*{{mean}}_{{i,j}}\,x_{{ij}}^2}},\quad\xi_{{ij}}\sim N(0,1)",
        )
        for amplitude, name in NAMES.items()
    ),
    caveat=f"Over at most {SAMPLES} test samples and one draw of noise, both the same at every save. Where the network "
    "embeds its input the noise is added to the embedded operands, whose size changes with training.",
    needs=("function", "split"),
)
def robust(run: Run, record: Record) -> None:
    """Accuracies of test samples under noise, at every save."""
    task, model = run.task, run.model
    inputs, targets = _test(run)
    lacking = model.embedded(no_params(model), inputs[:1])
    reason = lacking.reason if isinstance(lacking, Absent) else ""
    if task.kind == "regression" and not task.signs:
        reason = "the targets are real numbers, not classes"
    if reason or not len(inputs):
        for name in NAMES.values():
            record.skip(name, reason or "there is no test sample")
        return

    def read(params: Params) -> Values:
        x = model.embedded(params, inputs)
        assert isinstance(x, Tensor)
        # drawn anew at every save from the same seed: the same noise, and none of it kept
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        answer = partial(model.from_embedded, params)
        return {
            name: right_under_noise(answer, x, targets, noise, amplitude, signs=task.signs)
            for amplitude, name in NAMES.items()
        }

    for name, values in per_save(run, "robustness", by_save(read), options={"samples": SAMPLES}).items():
        record_series(record, name, values, UNDEFINED)


def right_under_noise(
    answer: Callable[[Tensor], Tensor],
    x: Tensor,
    targets: Tensor,
    noise: Tensor,
    amplitude: float,
    *,
    signs: bool,
) -> Tensor:
    """Share of the inputs x (N, d) that ``answer`` (N, C) gets right with ``noise`` (N, d) on them, 0-d.

    The noise is scaled by ``amplitude`` times the root mean square of x. NaN where an answer is not finite.
    """
    outputs = answer(x + amplitude * x.square().mean().sqrt() * noise)
    right = outputs[:, 0] * targets > 0 if signs else outputs.argmax(-1) == targets
    return torch.where(outputs.isfinite().all(), right.double().mean(), torch.nan)


def _test(run: Run) -> tuple[Tensor, Tensor]:
    """Inputs and answers of the chosen test samples, in order."""
    places = (~run.task.train_rows).nonzero()[:, 0]
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
    chosen = places[order[:SAMPLES].sort().values]
    targets = run.task.targets[chosen]
    return run.task.inputs[chosen], targets[:, 0] if run.task.signs else targets


@robust.figure(
    "Accuracy under noise",
    "Share of test samples answered right with noise on their inputs, by its size over that of the inputs.",
    needs=(NAMES[AMPLITUDES[0]],),
    size=(6.0, 3.7),
)
def draw_robustness(record: Record, figure: Figure) -> None:
    """The test accuracy, and a line for each size of noise."""
    (axes,) = time_axes(figure, record, 1)
    if "accuracy.test" in record.measurements:
        curve(axes, record, "accuracy.test", "no noise", TEST)
    for place, (amplitude, name) in enumerate(NAMES.items()):
        curve(axes, record, name, f"{amplitude:g}", CYCLE[place])
    axes.set_ylabel("test accuracy")
    axes.set_ylim(-0.02, 1.02)
    legend(axes)
