"""Drawings of the Fourier probe: spectra over time, their concentration, neurons and phases."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from grokscope.probes.drawing import BAND, CYCLE, band, curve, thin, time_axes
from grokscope.probes.record import Record

_CELLS = (110, 60)  # columns and rows of a heat map, so that its image stays small
_LINES = 6

MAP_COLOURS = {
    "embedding": CYCLE[0],
    "embedding_a": CYCLE[0],
    "embedding_b": CYCLE[5],
    "unembedding": CYCLE[1],
    "neuron_logit": CYCLE[3],
}


def draw_shared_spectrum(record: Record, figure: Figure) -> None:
    """Heat map of the embedding's spectrum beside its leading frequencies."""
    left, right = time_axes(figure, record, 2)
    _heat_map(left, record, "fourier.embedding.fraction")
    _leading_lines(right, record, "fourier.embedding.fraction", "share of the power")


def draw_separate_spectra(record: Record, figure: Figure) -> None:
    """Heat maps of the two embeddings' spectra."""
    for axes, which in zip(time_axes(figure, record, 2), "ab", strict=True):
        _heat_map(axes, record, f"fourier.embedding_{which}.fraction")


def draw_concentration(record: Record, figure: Figure) -> None:
    """Gini coefficients and participations of the maps over their chance bands."""
    left, right = time_axes(figure, record, 2)
    for axes, quantity in ((left, "gini"), (right, "participation")):
        bands = []
        for name, colour in MAP_COLOURS.items():
            series = f"fourier.{name}.{quantity}"
            if name == "neuron_logit" and _equal(record, series, f"fourier.unembedding.{quantity}"):
                continue
            if curve(axes, record, series, name.replace("_", " "), colour):
                null = record.get(f"{series}.null")
                bands += [] if null is None else [null]
        if bands:
            band(axes, float(np.min(bands)), float(np.max(bands)), "random weights")
    left.set_ylabel("gini of the power")
    left.set_ylim(-0.02, 1.02)
    right.set_ylabel("effective number of frequencies")
    right.set_ylim(bottom=0)
    left.legend(loc="best")


def draw_neurons(record: Record, figure: Figure) -> None:
    """How well one frequency explains a neuron, and which frequencies neurons have."""
    left, right = time_axes(figure, record, 2)
    curve(left, record, "fourier.neuron_explained", "variance explained", CYCLE[0])
    curve(left, record, "fourier.ipr", "inverse participation", CYCLE[3])
    curve(left, record, "fourier.embedding.circularity", "circularity", CYCLE[2])
    nulls = [
        record.get(f"fourier.{name}.null") for name in ("neuron_explained", "ipr", "embedding.circularity")
    ]
    found = [null for null in nulls if null is not None]
    for place, null in enumerate(found, start=1):
        band(left, float(null[0]), float(null[-1]), "random weights" if place == len(found) else "")
    left.set_ylim(-0.02, 1.02)
    left.set_ylabel("share")
    left.legend(loc="best")
    _leading_lines(right, record, "fourier.key_frequencies.by_neuron", "share of the neurons")


def draw_phases(record: Record, figure: Figure) -> None:
    """Phase statistics and the resultant of random phases."""
    (axes,) = time_axes(figure, record)
    curve(axes, record, "fourier.phase_cosine", "mean cos θ", CYCLE[0])
    curve(axes, record, "fourier.phase_resultant", "resultant", CYCLE[1])
    curve(axes, record, "fourier.phase_chance", "resultant by chance", BAND, linestyle="--")
    axes.axhline(0, color=BAND, linewidth=0.6)
    null = record.get("fourier.phase_cosine.null")
    if null is not None:
        band(axes, float(null[0]), float(null[-1]), "mean cos θ, random weights")
    axes.set_ylabel("phase agreement")
    axes.set_ylim(top=1.03)
    axes.legend(loc="best")


def _equal(record: Record, first: str, second: str) -> bool:
    one, other = record.get(first), record.get(second)
    return one is not None and other is not None and np.array_equal(one, other, equal_nan=True)


def _frequencies(record: Record, name: str) -> list[int]:
    return [int(k) for k in record.coordinates[record.measurements[name].dims[1]]]


def _heat_map(axes: Axes, record: Record, name: str) -> None:
    """(T, F) shares as colours; neighbouring saves and frequencies are pooled by their largest."""
    values = np.asarray(record.get(name), dtype=float)
    frequencies = _frequencies(record, name)
    saves, first_k = (_pools(count, limit) for count, limit in zip(values.shape, _CELLS, strict=True))
    pooled = np.fmax.reduceat(np.fmax.reduceat(values, saves, axis=0), first_k, axis=1)
    steps = record.steps[saves].astype(float)
    edges = np.append(steps, max(float(record.steps[-1]), steps[-1] + 1.0))
    heights = np.append(np.asarray(frequencies, dtype=float)[first_k] - 0.5, frequencies[-1] + 0.5)
    image = axes.pcolormesh(
        edges,
        heights,
        pooled.T,
        norm=PowerNorm(0.5, 0.0, max(float(np.nanmax(pooled)), 1e-9)),
        rasterized=True,
    )
    axes.grid(False)
    axes.set_ylabel(f"frequency k ({name.split('.')[1].replace('_', ' ')})")
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.06, pad=0.02)
    bar.set_label("share of the power")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def _pools(count: int, limit: int) -> NDArray[np.int64]:
    """First indices of at most ``limit`` runs that cover ``count`` entries."""
    return np.unique(np.linspace(0, count, min(count, limit) + 1).round().astype(np.int64)[:-1])


def _leading_lines(axes: Axes, record: Record, name: str, label: str) -> None:
    """The frequencies with the largest shares at the last save that has any."""
    values = np.asarray(record.get(name), dtype=float)
    frequencies = _frequencies(record, name)
    last = values[np.isfinite(values).all(axis=1)][-1]
    keep = thin(len(record.steps))[:: max(1, len(thin(len(record.steps))) // 110)]
    for position, colour in zip(np.argsort(-last, kind="stable")[:_LINES], CYCLE, strict=False):
        if last[position] > 0:
            shares = values[keep, position]
            axes.plot(record.steps[keep], shares, color=colour, label=f"k = {frequencies[position]}")
    null = record.get(f"{name}.null")
    if null is not None:
        band(axes, float(null[0]), float(null[-1]), "largest, random weights")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.legend(loc="best", ncols=2 if len(axes.lines) > 4 else 1)
