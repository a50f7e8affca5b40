"""Do the weights drift along the manifold of interpolators, downhill in their norm, as decay predicts?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.special import stdtrit

from grokscope.errors import GrokscopeError
from grokscope.measures.crossings import Crossing
from grokscope.measures.manifold import junction, rank_constancy
from grokscope.probes.drawing import CYCLE, NEUTRAL, TEST, TRAIN, band, curve, legend, time_axes
from grokscope.probes.findings import read_findings
from grokscope.probes.manifold_quantities import NULLS, QUANTITIES
from grokscope.probes.manifold_readings import (
    COSINE,
    COSINE_NOW,
    DECAY,
    DISTANCE,
    DROPPED,
    FRACTION,
    GRADIENT,
    KEPT,
    RANK,
    RATIO,
    RESIDUAL,
    SPEED,
    SPEED_NOW,
    TANGENT,
    ManifoldReader,
    Method,
    distances,
    flat,
    interval_shares,
)
from grokscope.probes.readings import Values, once
from grokscope.probes.record import Record
from grokscope.probes.registry import register
from grokscope.probes.series import SaveSeries
from grokscope.probes.stepwise import NULL_DIM, NULL_LEVELS, random_params, record_null
from grokscope.runs import Params, Run, open_run

NO_MINIMUM = (
    "the loss is cross-entropy, which has no finite minimum on separable data, so no manifold of minima: only squared "
    "loss has one"
)
NO_CODE = "a function given as code is not differentiated for this"
NO_DECAY = "the run has no weight decay, so nothing drives it along the manifold"
_MOVERS = ("clamp", "filter", "jacobian")
OF_DECAY = (DECAY, COSINE, SPEED, COSINE_NOW, SPEED_NOW)


@register(
    "manifold",
    title="Norm minimisation on the interpolators",
    question="Do the weights drift along the manifold of interpolators, downhill in their norm?",
    quantities=QUANTITIES,
    caveat="The prediction is for squared loss near the manifold of data-fitting weights and for a Jacobian of "
    "constant rank; sparse and low-rank targets change it. Before the fit, and where the rank moves, a cosine or a "
    "speed is no evidence for or against it.",
    needs=("function", "split"),
)
def manifold(
    run: Run,
    record: Record,
    *,
    method: str = "auto",
    iterations: int = 400,
    twin: str = "",
    null_samples: int = 16,
) -> None:
    """The kernel's part of the weights, the drift along it, and the junction of gradient and decay.

    Args:
        method: ``exact`` takes the singular values of the Jacobian, ``products`` runs LSMR on products with it,
            ``auto`` the first where it is small and nothing where it is not.
        iterations: the most of LSMR in each of its passes.
        twin: the directory of an unregularised run of the same recipe.
        null_samples: random weight sets behind the chance band, 0 for none.
    """
    if method not in ("auto", "exact", "products") or iterations < 1 or null_samples < 0 or null_samples == 1:
        raise GrokscopeError(
            f"running probe manifold: method = {method!r}, iterations = {iterations} and null_samples = "
            f"{null_samples}, expected auto, exact or products, at least 1, and 0 or at least 2"
        )
    lacking = _why_no_manifold(run)
    if lacking is not None:
        for quantity in QUANTITIES:
            record.skip(quantity.name, lacking)
        return
    decay, no_decay = _one_decay(run)
    chosen: Method = method  # pyright: ignore[reportAssignmentType]
    reader = ManifoldReader(run, chosen, iterations, decay)
    _distance(run, record, twin)
    if method == "auto" and not reader.exact:
        reason = (
            f"its Jacobian has {len(reader.entries)} × {reader.n_parameters} entries, too many for its singular values "
            'without asking: set the probe\'s option method = "products" or "exact" in a suite'
        )
        for quantity in QUANTITIES:
            if quantity.name != DISTANCE:
                record.skip(quantity.name, reason)
        return
    series = SaveSeries(run.steps)
    series.declare(TANGENT, FRACTION, GRADIENT, reason="the weights are all zero")
    if reader.exact:
        series.declare(RANK, whole=True)
    else:
        record.skip(RANK, "products with the Jacobian do not tell its rank")
    if decay is None:
        for name in (*OF_DECAY, NULLS[1]):
            record.skip(name, no_decay)
    else:
        series.declare(DECAY, COSINE_NOW, SPEED_NOW)
        series.declare(COSINE, SPEED, dims=("interval",))
    options = {"method": "exact" if reader.exact else "products", "iterations": iterations}
    found = read_findings(run, "manifold", reader, series, options=options)
    if decay is not None:
        _drifts(run, reader, series, decay, options)
        _null_cosine(record, reader.n_parameters)
    series.record(record)
    _null_fraction(run, record, reader, null_samples, options)
    _notes(record, found, reader, decay)


def _why_no_manifold(run: Run) -> str | None:
    """Why the run has no manifold of minima to speak of, ``None`` where it has."""
    loss = run.config.get("train", {}).get("loss", "cross-entropy")
    if run.task.kind != "regression" and loss != "squared":
        return NO_MINIMUM
    return NO_CODE if run.function is not None or run.model.no_anatomy is not None else None


def _one_decay(run: Run) -> tuple[float | None, str]:
    """λ where gradient descent with one λ made the run, else ``None`` and why there is no drift to measure."""
    train, changed = run.config.get("train", {}), run.config.get("intervene", {})
    if run.weight_decay is None or "optimizer" not in train or "lr" not in train:
        return None, "how the run was trained is not recorded"
    if train["optimizer"] == "adamw":
        return (
            None,
            "Adam rescales the gradient: the motion is no gradient flow, and λw is no force beside ∇F",
        )
    if train.get("momentum", 0.0):
        return None, "with momentum the gradient acts at another rate than the decay"
    values = set(run.weight_decay.values())
    if values == {0.0}:
        return None, NO_DECAY
    if len(values) > 1 or changed.get("lr") or changed.get("frozen"):
        return None, "the tensors do not share one weight decay and rate"
    for name in _MOVERS:
        if changed.get(name):
            return None, f"intervene.{name} moves the weights beside loss and decay"
    return values.pop(), ""


def _drifts(
    run: Run, reader: ManifoldReader, series: SaveSeries, decay: float, options: dict[str, Any]
) -> None:
    def between(before: Params, after: Params) -> Any:
        return reader.between(before, after)

    found = read_findings(
        run, "manifold.drift", between, series, pairs=True, options=options, also={RATIO: SPEED}
    )
    if len(run.steps) > 1:
        series.fill(SPEED, found[RATIO].numpy() / interval_shares(run, decay))


def _null_cosine(record: Record, n_parameters: int) -> None:
    """Quantiles of a coordinate of a random direction in R^P: c √((P−1)/(1−c²)) is Student's with P − 1 degrees."""
    if n_parameters < 2:
        record.skip(NULLS[1], "one parameter has no other direction")
        return
    record.coordinate(NULL_DIM, NULL_LEVELS)
    t = stdtrit(n_parameters - 1, np.array(NULL_LEVELS))
    record.add(NULLS[1], t / np.sqrt(n_parameters - 1 + t**2), (NULL_DIM,))


def _null_fraction(
    run: Run, record: Record, reader: ManifoldReader, samples: int, options: dict[str, Any]
) -> None:
    if not samples:
        record.skip(NULLS[0], "null_samples is 0")
        return

    def compute() -> Values:
        drawn = []
        for block in random_params(run.model, samples):
            for row in range(len(next(iter(block.values())))):
                params = {name: value[row] for name, value in block.items()}
                vector, weights = reader.projection(params).vector, flat(params, reader.names)
                drawn.append(float(np.linalg.norm(vector) / np.linalg.norm(weights)))
        return {FRACTION: torch.tensor(drawn, dtype=torch.float64)}

    chance = once(run, "manifold.null", compute, options={**options, "null_samples": samples})
    record_null(record, FRACTION, chance[FRACTION])


def _distance(run: Run, record: Record, twin: str) -> None:
    if not twin:
        record.skip(DISTANCE, "no unregularised run was named: set the probe's option twin in a suite")
        return
    other = open_run(twin)
    parts = ({k: v for k, v in one.config.items() if k not in ("name", "save")} for one in (run, other))
    mine, theirs = (
        {**one, "train": {k: v for k, v in one.get("train", {}).items() if k not in _FREE}} for one in parts
    )
    if mine != theirs or any((other.weight_decay or {}).values()) or other.weight_decay is None:
        raise GrokscopeError(
            f"running probe manifold: the twin {twin} was given, expected a run of the recipe of {run.name} with "
            "train.weight_decay = 0"
        )
    values, shared = distances(run, other)
    if not shared:
        record.skip(DISTANCE, f"{other.name} has no save at a step of this run")
        return
    series = SaveSeries(run.steps)
    series.declare(DISTANCE, reason=f"{other.name} has no save at this step")
    series.fill(DISTANCE, values)
    series.record(record)


_FREE = ("weight_decay", "decay", "steps", "until", "until_hold", "threads")


def _notes(record: Record, found: Values, reader: ManifoldReader, decay: float | None) -> None:
    """The junction, whether the rank held, and how sure the projections are."""
    note: dict[str, Any] = {
        "method": "exact" if reader.exact else "products",
        "residuals": len(reader.entries),
        "parameters": reader.n_parameters,
        "largest_residual": _extreme(found[RESIDUAL].numpy(), np.nanmax),
    }
    record.notes["manifold"] = note
    after = None
    gradient, force = record.get(GRADIENT), record.get(DECAY)
    if decay is not None and gradient is not None and force is not None:
        known = np.isfinite(gradient) & np.isfinite(force)
        crossed = junction(record.steps[known], gradient[known], force[known])
        if crossed is None:
            record.events["junction"] = Crossing(int(record.steps[known][-1]), None, True)
        else:
            record.events["junction"] = crossed.crossing
            note["decay_norm_at_junction"], after = crossed.decay_norm, crossed.crossing.by
    rank = record.get(RANK)
    if rank is None:
        return
    note["smallest_kept"] = _extreme(found[KEPT].numpy(), np.nanmin)
    note["largest_dropped"] = _extreme(found[DROPPED].numpy(), np.nanmax)
    known = np.isfinite(rank.astype(float))
    for name, chosen in (("rank", known), ("rank_after_junction", known & (record.steps >= (after or 0)))):
        if chosen.any() and (name == "rank" or after is not None):
            constancy = rank_constancy(record.steps[chosen], rank[chosen])
            note[name] = {
                "holds": constancy.holds,
                "lowest": constancy.lowest,
                "highest": constancy.highest,
                "changes": [list(change) for change in constancy.changes],
            }


def _extreme(values: np.ndarray, of: Any) -> float | None:
    return float(of(values)) if np.isfinite(values).any() else None


@manifold.figure(
    "Gradient against decay",
    "Norm of the gradient of the loss and of the weight decay λw. Where the first drops under the second, the slow "
    "motion along the manifold begins.",
    needs=(GRADIENT,),
)
def draw_junction(record: Record, figure: Figure) -> None:
    """Both forces over training."""
    (axes,) = time_axes(figure, record)
    curve(axes, record, GRADIENT, "‖∇F‖", TRAIN)
    curve(axes, record, DECAY, "λ‖w‖", TEST)
    axes.set_yscale("log")
    axes.set_ylabel("force")
    legend(axes)


@manifold.figure(
    "Part of the weights along the manifold",
    "Norm of the weights' projection on the kernel of the Jacobian (left) and its share of the whole norm (right), "
    "with the band that random weights of the same shapes give.",
    needs=(TANGENT,),
)
def draw_tangent(record: Record, figure: Figure) -> None:
    """‖P w‖ and its share."""
    left, right = time_axes(figure, record, 2)
    curve(left, record, TANGENT, "‖P w‖", TRAIN)
    left.set_ylabel("‖P w‖")
    left.set_ylim(bottom=0)
    curve(right, record, FRACTION, "‖P w‖/‖w‖", TRAIN)
    chance = record.get(NULLS[0])
    if chance is not None:
        band(right, float(chance[0]), float(chance[-1]))
    right.set_ylabel("‖P w‖/‖w‖")
    right.set_ylim(-0.03, 1.03)
    legend(right)


@manifold.figure(
    "Drift along the manifold",
    "Cosine (left) and speed (right) of the motion against −λ P w, between saves and at them. Both are 1 (dashed) "
    "where decay alone moves the weights along the manifold; the band is the cosine of a random direction.",
    needs=(COSINE,),
)
def draw_drift(record: Record, figure: Figure) -> None:
    """Cosine and speed."""
    left, right = time_axes(figure, record, 2)
    for axes, between, at in ((left, COSINE, COSINE_NOW), (right, SPEED, SPEED_NOW)):
        curve(axes, record, between, "between saves", TRAIN)
        curve(axes, record, at, "at saves", CYCLE[2], linestyle="--")
        axes.axhline(1, color=NEUTRAL, linewidth=0.8, linestyle="--")
    chance = record.get(NULLS[1])
    if chance is not None:
        band(left, float(chance[0]), float(chance[-1]))
    left.set_ylabel("cosine with −P w")
    left.set_ylim(-1.05, 1.05)
    right.set_yscale("log")
    right.set_ylabel("speed over λ‖P w‖")
    legend(right)


@manifold.figure(
    "Distance to the run without decay",
    "Distance of the weights from those of the same run without weight decay, at the same step.",
    needs=(DISTANCE,),
)
def draw_distance(record: Record, figure: Figure) -> None:
    """‖w − w'‖."""
    (axes,) = time_axes(figure, record)
    curve(axes, record, DISTANCE, "‖w − w'‖", TRAIN)
    axes.set_ylabel("‖w − w'‖")
    axes.set_ylim(bottom=0)
