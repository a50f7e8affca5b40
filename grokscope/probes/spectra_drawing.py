"""Drawings of the spectral probe: ranks, singular values and norms of end-to-end maps over time."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from grokscope.probes.drawing import BAND, CYCLE, NEUTRAL, band, chance_lines, curve, legend, thin, time_axes
from grokscope.probes.record import Record

PRINCIPAL = ("product", "mean_active", "neuron_logit", "unembedding", "embedding", "embedding_a")
COMPARED = (
    "product",
    "mean_active",
    "agop",
    "token_to_logit",
    "direct",
    "embedding",
    "embedding_a",
    "embedding_b",
    "unembedding",
    "neuron_logit",
)
_VALUES, _POINTS = 10, 110


def principal_map(record: Record) -> str | None:
    """The map that stands for the whole network: the deepest one with a rank, else the largest tensor."""
    candidates = (*PRINCIPAL, *largest_tensors(record))
    return next(
        (name for name in candidates if record.get(f"spectra.{name}.effective_rank") is not None), None
    )


def largest_tensors(record: Record) -> list[str]:
    """Maps that are single tensors under their authors' names, the largest first."""
    noted = record.notes.get("spectra", {})
    names = [name for name in noted if name.startswith("tensor.")]
    return sorted(names, key=lambda name: -math.prod(noted[name]["shape"]))


def draw_ranks(record: Record, figure: Figure) -> None:
    """The ranks of the principal map."""
    (axes,) = time_axes(figure, record)
    name = principal_map(record)
    axes.set_title(f"map: {_words(name)}")
    ranks = {
        "numerical_rank": "numerical",
        "effective_rank": "effective",
        "entropy_rank": "entropy",
        "participation": "participation",
        "stable_rank": "stable",
    }
    colours = (BAND, *CYCLE)
    for (rank, label), colour in zip(ranks.items(), colours, strict=False):
        curve(axes, record, f"spectra.{name}.{rank}", label, colour)
        null = record.get(f"spectra.{name}.{rank}.null")
        if null is not None and rank != "numerical_rank":
            band(axes, float(null[0]), float(null[-1]), "random weights" if rank == "stable_rank" else "")
    axes.set_ylabel("rank")
    axes.set_ylim(bottom=0)
    legend(axes)


def draw_relative_ranks(record: Record, figure: Figure) -> None:
    """Effective ranks over their medians on random weights."""
    (axes,) = time_axes(figure, record)
    drawn: list[np.ndarray] = []
    colours = iter(CYCLE)
    keep = thin(len(record.steps))[:: max(1, len(thin(len(record.steps))) // _POINTS)]
    low, high = 1.0, 1.0
    for name in (*COMPARED, *largest_tensors(record)):
        values, null = (record.get(f"spectra.{name}.effective_rank{end}") for end in ("", ".null"))
        if values is None or null is None or any(np.array_equal(values, other) for other in drawn):
            continue
        colour = next(colours, None)
        if colour is None:
            break
        drawn.append(values)
        low, high = min(low, null[0] / null[1]), max(high, null[-1] / null[1])
        axes.plot(record.steps[keep], values[keep] / null[1], color=colour, label=_words(name))
    band(axes, float(low), float(high), "random weights")
    axes.set_ylabel("effective rank / random weights")
    axes.set_ylim(bottom=0)
    legend(axes)


def draw_heads(record: Record, figure: Figure) -> None:
    """Effective ranks of the heads' circuits."""
    for axes, circuit in zip(time_axes(figure, record, 2), ("ov", "qk"), strict=True):
        names = [n for n in record.names(f"spectra.{circuit}") if n.endswith(".effective_rank")]
        for name, colour in zip(names, CYCLE, strict=False):
            # one number names a head, two a layer and its head
            curve(axes, record, name, f"head {'.'.join(name.split('.')[2:-1])}", colour)
        nulls = [record.get(f"{name}.null") for name in names]
        found = [null for null in nulls if null is not None]
        if found:
            band(axes, float(np.min(found)), float(np.max(found)), "random weights")
        axes.set_ylabel(f"effective rank of {circuit}")
        axes.set_ylim(bottom=0)
        axes.legend(loc="best")


def draw_singular_values(record: Record, figure: Figure) -> None:
    """Singular values of the principal map on a logarithmic axis, from the largest to the smallest."""
    (axes,) = time_axes(figure, record)
    name = principal_map(record)
    values = np.asarray(record.get(f"spectra.{name}.singular_values"), dtype=float)
    ranks = np.unique(np.geomspace(1, values.shape[1], _VALUES).round().astype(int))
    keep = thin(len(record.steps))[:: max(1, len(thin(len(record.steps))) // _POINTS)]
    for position, rank in enumerate(ranks):
        series = values[keep, rank - 1]
        shade = 1.0 - 0.75 * position / max(len(ranks) - 1, 1)
        axes.plot(
            record.steps[keep],
            np.where(series > 0, series, np.nan),
            color=CYCLE[0],
            alpha=shade,
            linewidth=1.3,
            label=f"σ, rank {rank}",
        )
    null, size = (
        record.get(f"spectra.{name}.singular_values.null"),
        record.get(f"spectra.{name}.factor_norms"),
    )
    if null is not None and size is not None:
        for rank in (ranks[0], ranks[len(ranks) // 2]):
            levels = size[:, None] * null[:, rank - 1]
            chance_lines(axes, record.steps, levels, f"random weights, rank {rank}", NEUTRAL)
    axes.set_yscale("log")
    # what lies at rounding level would push everything else to the top
    largest = np.nanmax(values)
    axes.set_ylim(bottom=max(1e-8 * largest, 0.5 * float(np.nanmin(np.where(values > 0, values, np.nan)))))
    axes.set_title(f"map: {_words(name)}")
    axes.set_ylabel("singular value")
    legend(axes)


def draw_norms(record: Record, figure: Figure) -> None:
    """Schatten energies of the principal map relative to the first save."""
    (axes,) = time_axes(figure, record)
    name = principal_map(record)
    axes.set_title(f"map: {_words(name)}")
    depth = record.notes.get("spectra", {}).get(name, {}).get("factors", 0)
    labels = {
        "schatten_two_over_depth": f"Σσ^(2/{depth})",
        "schatten_half": "Σ√σ",
        "nuclear": "Σσ",
        "frobenius": "√Σσ²",
        "spectral": "largest σ",
    }
    keep = thin(len(record.steps))[:: max(1, len(thin(len(record.steps))) // _POINTS)]
    chance: list[tuple[np.ndarray, str]] = []
    for (quantity, label), colour in zip(labels.items(), CYCLE, strict=False):
        values = record.get(f"spectra.{name}.{quantity}")
        if quantity == "schatten_two_over_depth" and depth in (2, 4):
            continue  # the same as the nuclear norm, or as Σ√σ
        if values is None or not np.isfinite(values[0]) or values[0] <= 0:
            continue
        axes.plot(record.steps[keep], values[keep] / values[0], color=colour, label=label)
        null = record.get(f"spectra.{name}.{quantity}.null")
        if null is not None:
            chance.append((null / values[0], colour))
    for place, (levels, colour) in enumerate(chance, start=1):
        label = "dotted: random weights" if place == len(chance) else ""
        chance_lines(axes, record.steps, levels, label, colour)
    axes.set_ylabel("over the first save")
    axes.set_yscale("log")
    legend(axes)


def draw_balance(record: Record, figure: Figure) -> None:
    """The balance gap and, where the norms were measured, its share of the squared weight norm."""
    (axes,) = time_axes(figure, record)
    curve(axes, record, "spectra.balance_gap", "balance gap", CYCLE[0])
    gap, total = record.get("spectra.balance_gap"), record.get("norm.total")
    if gap is not None and total is not None and (total > 0).all():
        keep = thin(len(record.steps))
        axes.plot(record.steps[keep], (gap / total**2)[keep], color=CYCLE[1], label="share of ‖W‖²")
    null = record.get("spectra.balance_gap.null")
    if null is not None:
        chance_lines(axes, record.steps, null, "random layers", CYCLE[0])
    axes.set_ylabel("gap (squared weight)")
    axes.set_yscale("symlog", linthresh=1e-6)
    legend(axes)


def _words(name: str | None) -> str:
    return "none" if name is None else name.replace("_", " ")
