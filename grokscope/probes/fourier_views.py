"""Pictures of the Fourier probe that follow the time cursor: spectra, planes of the embedding, neurons and phases.

Shape legend: T saves, K keyframes, n points of the cyclic axis, F = n // 2 frequencies, d width, h neurons.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.measures.cyclic import FourierBasis, fourier_basis
from grokscope.measures.neuron_frequencies import frequencies_of_rows, joined
from grokscope.measures.phases import fit_phases
from grokscope.models.neuron_rows import neuron_view
from grokscope.probes.cyclic_axis import CyclicAxis, axes_of
from grokscope.probes.fourier_neurons import less_bias, sign_of_phases, why_no_neurons
from grokscope.probes.readings import Values, by_save, per_save
from grokscope.probes.record import Record
from grokscope.probes.views import Content, Frames, finite_rows, keyframes
from grokscope.runs import Params, Run

SPECTRA = ("embedding", "embedding_a", "embedding_b", "unembedding", "neuron_logit")
MOST_NEURONS = 1024
"""Neurons of the largest network whose neurons are shown one by one."""


def spectra(run: Run, record: Record) -> Content | None:
    """Shares of the power by frequency, of every map that was measured."""
    layers, dims = [], set[str]()
    for name in SPECTRA:
        measured = record.measurements.get(f"fourier.{name}.fraction")
        if measured is None:
            continue
        dims.add(measured.dims[1])
        layers.append({"label": name.replace("_", " "), "values": Frames(measured.values, "byte", low=0.0)})
    if not layers or len(dims) > 1:  # two axes have two sets of labels
        layers = layers[:1]
    if not layers:
        return None
    shown = record.measurements[f"fourier.{layers[0]['label'].replace(' ', '_')}.fraction"]
    labels = [str(k) for k in record.coordinates.get(shown.dims[1], range(1, shown.values.shape[1] + 1))]
    return {
        "layers": layers,
        "labels": labels,
        "xlabel": "frequency",
        "ylabel": "share of the power",
        "chance": 1.0 / len(labels),
    }


def planes(run: Run, record: Record) -> Content | None:
    """The embedding in the plane of its strongest frequency, and in its principal plane.

    The strongest frequency is the one that leads at the last save, the same at every step. Its plane is spanned by
    the cosine and the sine component of the embedding, made orthogonal; the principal plane is turned at each save
    to lie as near as it can to the next one, since its axes are free.
    """
    token, _ = axes_of(run.task)
    if isinstance(token, Absent):
        return None
    layers = []
    for name in run.model.embeddings(run.params(0)):
        fraction = record.get(f"fourier.{name}.fraction")
        if fraction is None or not np.isfinite(fraction[-1]).all():
            continue
        leading = int(fraction[-1].argmax()) + 1
        found = per_save(
            run, f"planes.{name}", _plane_reader(run, token, name, leading), options={"k": leading}
        )
        label = name.replace("_", " ")
        if not token.overlapping:
            order = around(token.n, leading)
            layers.append(_layer(f"{label}, frequency {leading}", found["frequency"].numpy(), order))
        layers.append(_layer(f"{label}, principal plane", turned(found["principal"].numpy()), None))
    if not layers:
        return None
    return {"layers": layers, "labels": [str(row) for row in np.asarray(token.axis.rows)]}


def _plane_reader(run: Run, token: CyclicAxis, name: str, k: int) -> Callable[[Params], Values]:
    """(n, 2) coordinates of one save's embedding in the plane of frequency ``k`` and in its principal plane."""
    basis = fourier_basis(token.n)

    def read(params: Params) -> Values:
        table = token.ordered(run.model.embeddings(params)[name])
        if not bool(table.isfinite().all()):
            nothing = torch.full((token.n, 2), torch.nan, dtype=torch.float64)
            return {"frequency": nothing, "principal": nothing.clone()}
        centred = table - table.mean(0)
        return {
            "frequency": frequency_plane(centred, basis, k),
            "principal": principal_plane(centred),
        }

    return by_save(read)


def frequency_plane(centred: Tensor, basis: FourierBasis, k: int) -> Tensor:
    """(n, 2) coordinates of ``centred`` (n, d) along its cosine and sine components of frequency ``k``.

    The second axis is the sine component without its part along the first, so the coordinates do not depend on
    the basis of the embedding space. Zero along an axis without length, as the second one of frequency n/2.
    """
    components = basis.rows([k]) @ centred
    # what is left of a frequency that is not there points anywhere
    least = 1e-12 * float(torch.linalg.matrix_norm(centred))
    first = _unit(components[0], least)
    second = torch.zeros_like(first)
    if len(components) == 2:
        second = _unit(components[1] - (components[1] @ first) * first, least)
    return torch.stack([centred @ first, centred @ second], dim=-1)


def principal_plane(centred: Tensor) -> Tensor:
    """(n, 2) scores of ``centred`` (n, d) on its two leading principal components; each column's largest entry in
    magnitude is positive."""
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    scores = torch.zeros(len(centred), 2, dtype=centred.dtype)
    scores[:, : min(2, len(s))] = u[:, :2] * s[:2]
    largest = scores.gather(0, scores.abs().argmax(0, keepdim=True))
    return scores * torch.where(largest < 0, -1.0, 1.0)


def _unit(vector: Tensor, least: float) -> Tensor:
    length = torch.linalg.vector_norm(vector)
    return vector / length if float(length) > least else torch.zeros_like(vector)


def turned(points: np.ndarray) -> np.ndarray:
    """(T, n, 2) points of a plane whose axes are free, each save rotated or reflected to lie nearest to the next.

    The last save keeps its axes (orthogonal Procrustes, backwards in time), so that nothing spins without a cause.
    """
    found = points.copy()
    for row in range(len(points) - 2, -1, -1):
        both = found[row].T @ found[row + 1]
        if np.isfinite(both).all():
            u, _, vt = np.linalg.svd(both)
            found[row] = found[row] @ (u @ vt)
    return found


def around(n: int, k: int) -> list[int] | None:
    """The n points in the order in which frequency ``k`` goes round its circle, ``None`` where some coincide."""
    if math.gcd(n, k) > 1:
        return None
    step = pow(k, -1, n)
    return [place * step % n for place in range(n)]


def _layer(label: str, points: np.ndarray, order: list[int] | None) -> dict[str, object]:
    """Points scaled to ±1 save by save, with the scale."""
    extent = np.abs(np.nan_to_num(points)).max(axis=(1, 2))
    scaled = np.nan_to_num(points) / np.where(extent > 0, extent, 1.0)[:, None, None]
    return {
        "label": label,
        "order": order,
        "points": Frames(scaled, "byte", low=-1.0, high=1.0),
        "extent": Frames(extent[None], "float32"),
    }


def neurons(run: Run, record: Record) -> Content | None:
    """The frequency of each neuron, and the share of its variance there."""
    found = _of_neurons(run, record)
    if found is None:
        return None
    rows, values, n_frequencies = found
    return {
        "frequency": Frames(values["frequency"].numpy(), "byte", rows, low=0.0, high=255.0),
        "share": Frames(values["share"].numpy(), "byte", rows, low=0.0, high=1.0),
        "n_frequencies": n_frequencies,
    }


def phases(run: Run, record: Record) -> Content | None:
    """φ_a ± φ_b of each neuron's input weights against ψ of its output weights."""
    found = _of_neurons(run, record)
    token, answer = axes_of(run.task)
    if found is None or isinstance(token, Absent) or "input" not in found[1]:
        return None
    rows, values, _ = found
    if not bool((values["weight"] > 0).any()):
        return None
    sign, _ = sign_of_phases(run.task, token, answer, run.model)
    turn = {"low": -np.pi, "high": np.pi, "unit": "rad"}
    return {
        "x": Frames(values["input"].numpy(), "byte", rows, **turn),
        "y": Frames(values["output"].numpy(), "byte", rows, **turn),
        "weight": Frames(values["weight"].numpy(), "byte", rows, low=0.0, high=1.0),
        "xlabel": "φ_a + φ_b" if sign == 1 else "φ_a − φ_b",
        "ylabel": "ψ",
    }


def _of_neurons(run: Run, record: Record) -> tuple[np.ndarray, Values, int] | None:
    """(keyframes, readings (K, h), number of frequencies) of neurons on a cyclic axis, where there are some."""
    token, answer = axes_of(run.task)
    if isinstance(token, Absent) or run.lacks("function") or why_no_neurons(run.model, token):
        return None
    if token.n // 2 > 255:  # a byte holds a frequency
        return None
    sign, _ = sign_of_phases(run.task, token, answer, run.model)
    residues = torch.arange(token.n) if token.axis.kind == "additive" else torch.as_tensor(token.axis.rows)

    def read(params: Params) -> Values:
        view = neuron_view(run.model, params, residues)
        assert not isinstance(view, Absent)
        found = joined([frequencies_of_rows(rows, token.n) for rows in view.rows])
        width = found.frequency.shape[-1]
        values: Values = {
            "frequency": torch.where(found.frequency > 0, found.frequency, 0).double(),
            "share": found.explained * found.varies,
        }
        if sign is not None and isinstance(answer, CyclicAxis):
            nothing = torch.zeros(width, dtype=torch.float64)
            values |= {"input": nothing, "output": nothing, "weight": nothing}
            output = answer.ordered(run.model.neuron_logit(params))  # pyright: ignore[reportArgumentType]
            with suppress(ValueError):
                inputs = less_bias(run.model, params, view.inputs)
                fitted = fit_phases(*inputs, output, found.frequency, sign)
                values["input"] = _wrapped(fitted.input_a + sign * fitted.input_b)
                values["output"], values["weight"] = fitted.output, fitted.weight * fitted.used
        return values

    rows = finite_rows(run, keyframes(record))
    if not len(rows):
        return None
    chosen = replace(run, rows=run.rows[rows])
    values = per_save(chosen, "neurons", by_save(read))
    if values["frequency"].shape[1] > MOST_NEURONS:
        values = {key: value[:, :MOST_NEURONS] for key, value in values.items()}
    return rows, values, token.n // 2


def _wrapped(angle: Tensor) -> Tensor:
    """Angles in [−π, π)."""
    return torch.remainder(angle + torch.pi, 2 * torch.pi) - torch.pi
