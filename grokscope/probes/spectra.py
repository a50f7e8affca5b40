"""What are the ranks and norms of the network's end-to-end maps, and do its ranks fall?

Shape legend: T saves, (m, n) a map, r its singular values, C classes, p residues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.measures import spectra as measures
from grokscope.measures.linear_reduction import mean_active_and_agop
from grokscope.measures.nulls import band_at_norms, factor_norms, quantiles_of
from grokscope.models.neuron_rows import gate_pattern
from grokscope.probes import spectra_drawing as drawing
from grokscope.probes.readings import Values, by_save, once, per_save
from grokscope.probes.record import Record
from grokscope.probes.registry import register
from grokscope.probes.spectra_quantities import NORMS, QUANTITIES
from grokscope.probes.stepwise import (
    NULL_DIM,
    NULL_LEVELS,
    no_params,
    random_params,
    record_null,
    record_series,
    rowwise,
    unless_refused,
)
from grokscope.probes.views import MOST_RANKS, Content, Frames, keyframes
from grokscope.runs import Model, Params, Run

RANKS: dict[str, Callable[[Tensor], Tensor]] = {
    "stable_rank": measures.stable_rank,
    "effective_rank": measures.effective_rank,
    "entropy_rank": measures.entropy_rank,
    "participation": measures.participation_rank,
}
GATED = ("mean_active", "agop", "token_to_logit")
PRODUCT, BALANCE, ENERGY = "product", "balance_gap", "squared layer norms"
SIZE = "factor norms of {}"

ONE_ROW = "a map of one row has rank 1, and its one singular value is each of its norms"
ZERO = "the map is zero (or not finite) at every save"
NOT_FINITE = "the map is not finite at any save"
NO_CHANCE = "it is not defined on random weights of these shapes"
GIVEN = "random weights are drawn with this norm, so there is no chance in it"
MASKED = "an identity for deep linear networks only: for a masked map it is no more than an inequality"

_NULL_INPUTS = 512


@dataclass(frozen=True)
class _Shape:
    """A map (m, n) that is a product of ``depth`` factors and has ``width`` singular values."""

    shape: tuple[int, int]
    depth: int
    width: int
    note: str = ""
    sum_of_paths: bool = False


@register(
    "spectra",
    title="Ranks and spectra",
    question="How many directions do the network's end-to-end maps use, and does that number fall?",
    quantities=QUANTITIES,
    caveat="Maps through norms fold their gains in and are not exact; with several layers a map goes through "
    "one part and past the others. The effective rank is that of Roy and Vetterli; what arXiv 2606.05863 calls "
    "so is the stable rank here. Scales of agop below about 1e-7 of the largest are not resolved.",
)
def spectra(run: Run, record: Record, *, null_samples: int = 32) -> None:
    """Ranks and Schatten norms of every end-to-end map.

    Args:
        null_samples: random weight sets behind the chance bands.
    """
    model = run.model
    inputs = run.task.inputs[run.task.train_rows]
    lacking = run.lacks("function", "split")  # gates are taken on training samples
    absent = dict.fromkeys(GATED, lacking.reason) if lacking else _why_no_gated_maps(model)
    shapes = _shapes(model, [name for name in GATED if name not in absent])
    # chance needs no more samples than that: means over gates settle quickly
    some = inputs[:: max(1, len(inputs) // _NULL_INPUTS)]

    def compute_null() -> Values:
        parts = [_reader(model, shapes, some)(params) for params in random_params(model, null_samples)]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    found = per_save(run, "spectra", _reader(model, shapes, inputs))
    chance = once(run, "spectra.null", compute_null, options={"null_samples": null_samples})
    for name, of in shapes.items():
        size = found[SIZE.format(name)]
        unit = chance[name] / chance[SIZE.format(name)][:, None]
        _record(record, name, of, found[name], size, unit, run.dtype)
    for name, reason in absent.items():
        for quantity in ("singular_values", *RANKS, "numerical_rank", *NORMS, "factor_norms"):
            record.skip(f"spectra.{name}.{quantity}", reason)
    record.notes["spectra"] = {
        name: {"shape": list(of.shape), "factors": of.depth, "note": of.note} for name, of in shapes.items()
    }
    if BALANCE in found:
        record_series(record, f"spectra.{BALANCE}", found[BALANCE], NOT_FINITE)
        _record_balance_null(record, found, chance, shapes[PRODUCT].depth)
    else:
        record.skip(f"spectra.{BALANCE}", MASKED)
        record.skip(f"spectra.{BALANCE}.null", MASKED)


def _shapes(model: Model, gated: Sequence[str]) -> dict[str, _Shape]:
    """Every map by name, those of ``gated`` among them."""
    params, shapes = no_params(model), dict[str, _Shape]()
    for name, view in model.maps(params).items():
        widths = [view.factors[0].shape[-2], *(factor.shape[-1] for factor in view.factors)]
        shapes[name] = _Shape((widths[0], widths[-1]), len(view.factors), min(widths), view.note)
    if gated:
        form, slots = model.gated(params), model.slots(params)
        assert not isinstance(form, Absent)
        classes, width, depth = form.n_classes, form.input_width, len(form.weights) + 1
        several, roots = form.direct is not None, "square roots of its eigenvalues"
        known = {
            "mean_active": _Shape((classes, width), depth, min(classes, width), sum_of_paths=several),
            "agop": _Shape((width, width), depth, width, roots, several),
        }
        if not isinstance(slots, Absent):
            ends = (classes, slots.shape[-1])
            known["token_to_logit"] = _Shape(ends, depth + 1, min(*ends, width), sum_of_paths=several)
        shapes |= {name: known[name] for name in gated}
    return shapes


def _reader(model: Model, shapes: Mapping[str, _Shape], inputs: Tensor) -> Callable[[Params], Values]:
    """What reads the singular values (width,) of every map by name, and the balance gap of a product's layers.

    Beside each map under ``SIZE`` what random weights are scaled by, beside the gap the squared norm of its layers.
    NaN where a factor is not finite. ``inputs`` are those at which gates are taken.
    """
    gated = [name for name in GATED if name in shapes]
    missing = torch.tensor(torch.nan, dtype=torch.float64)

    @by_save
    def read(params: Params) -> Values:
        found: Values = {}
        known: dict[tuple[object, ...], Tensor] = {}
        views = model.maps(params)
        for name, view in views.items():
            same = tuple((f.data_ptr(), f.shape, f.stride()) for f in view.factors)
            if same not in known:
                width = (shapes[name].width,)
                known[same] = unless_refused(_product_values, width, *view.factors)
            found[name] = known[same]
            found[SIZE.format(name)] = factor_norms(view.factors)
        if gated:
            try:
                of_regions = _gated_maps(model, params, inputs)
            except ValueError:  # weights that are not finite
                of_regions = {}
            for name in gated:
                found[name] = of_regions.get(name, missing.expand(shapes[name].width))
                found[SIZE.format(name)] = of_regions.get(SIZE.format(name), missing)
        if PRODUCT in views:
            layers = list(reversed(views[PRODUCT].factors))
            found[ENERGY] = torch.stack([layer.square().sum() for layer in layers]).sum()
            found[BALANCE] = unless_refused(lambda *of: measures.balance_gap(of), (), *layers)
        return found

    return read


def _product_values(*factors: Tensor) -> Tensor:
    return measures.factored_singular_values(factors)


def _gated_maps(model: Model, params: Params, inputs: Tensor) -> Values:
    """Singular values of the mean map, of the average gradient outer product and of the map from tokens, with
    their sizes.

    Raises ValueError for weights that are not finite.
    """
    form, slots = model.gated(params), model.slots(params)
    assert not isinstance(form, Absent)
    mean, outer = mean_active_and_agop(form, gate_pattern(model, form, params, inputs))
    found = {"mean_active": measures.singular_values(mean), "agop": measures.second_moment_scales(outer)}
    if not isinstance(slots, Absent):
        found["token_to_logit"] = measures.factored_singular_values((mean, slots))
    sizes = {}
    for name, sigma in found.items():
        if form.direct is not None:  # of two paths no one number scales the sum but its own norm
            sizes[SIZE.format(name)] = measures.frobenius(sigma)
        else:
            outer_factors = (slots,) if name == "token_to_logit" and isinstance(slots, Tensor) else ()
            sizes[SIZE.format(name)] = factor_norms((form.head, *form.weights, *outer_factors))
    return {**found, **sizes}


def _why_no_gated_maps(model: Model) -> dict[str, str]:
    """Which of the maps of fixed regions do not exist here, and why."""
    params = no_params(model)
    form = model.gated(params)
    if isinstance(form, Absent):
        return dict.fromkeys(GATED, form.reason)
    if form.activation != "relu":
        reason = (
            f"with {form.activation.upper()} gates no region is affine, so there are no fixed-region maps"
        )
        return dict.fromkeys(GATED, reason)
    slots = model.slots(params)
    return {"token_to_logit": slots.reason} if isinstance(slots, Absent) else {}


def _record(
    record: Record,
    name: str,
    found: _Shape,
    sigma: Tensor,
    size: Tensor,
    chance: Tensor,
    dtype: torch.dtype,
) -> None:
    """Every quantity of one map from its singular values (T, r) and the norms (T,) of its factors; its chance bands
    from the singular values (S, r) of random weights whose factors have norm 1."""
    prefix = f"spectra.{name}"
    dim = f"rank.{name}"
    record.coordinate(dim, range(1, sigma.shape[-1] + 1))
    record_series(record, f"{prefix}.singular_values", sigma, NOT_FINITE, ("step", dim))
    record_series(record, f"{prefix}.factor_norms", torch.where(size.isfinite(), size, torch.nan), NOT_FINITE)
    if bool(chance.isfinite().all()):
        record.coordinate(NULL_DIM, NULL_LEVELS)
        record.add(f"{prefix}.singular_values.null", quantiles_of(chance), (NULL_DIM, dim))
    else:
        record.skip(f"{prefix}.singular_values.null", NO_CHANCE)
    if min(found.shape) == 1:
        for quantity in (*RANKS, "numerical_rank", *NORMS):
            record.skip(f"{prefix}.{quantity}", ONE_ROW)
        return
    # one spectrum for every rank and norm: with what is below the tolerance in some of them only, the effective
    # rank of a rank-deficient map would exceed its numerical one
    sigma, chance = (
        rowwise(lambda s: measures.above_tolerance(s, found.shape, dtype), (values.shape[-1],), values)
        for values in (sigma, chance)
    )
    for rank, measure in RANKS.items():
        record_series(record, f"{prefix}.{rank}", rowwise(measure, (), sigma), ZERO)
        if record.get(f"{prefix}.{rank}") is not None:
            record_null(record, f"{prefix}.{rank}", rowwise(measure, (), chance))
    count, by_chance = (
        rowwise(lambda s: measures.numerical_rank(s, found.shape, dtype), (), values)
        for values in (sigma, chance)
    )
    whole = count.to(torch.int64) if bool(count.isfinite().all()) else count
    record_series(record, f"{prefix}.numerical_rank", whole, ZERO)
    if record.get(f"{prefix}.numerical_rank") is not None:
        record_null(record, f"{prefix}.numerical_rank", by_chance)

    def schatten(exponent: float) -> Callable[[Tensor], Tensor]:
        return lambda s: measures.schatten_power(s, exponent, found.shape, dtype)

    norms: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
        "schatten_two_over_depth": (2.0 / found.depth, schatten(2.0 / found.depth)),
        "schatten_half": (0.5, schatten(0.5)),
        "nuclear": (1.0, schatten(1.0)),
        "frobenius": (1.0, measures.frobenius),
        "spectral": (1.0, measures.spectral),
    }
    for norm, (degree, measure) in norms.items():
        record_series(record, f"{prefix}.{norm}", rowwise(measure, (), sigma), NOT_FINITE)
        if record.get(f"{prefix}.{norm}") is None:
            continue
        if norm == "frobenius" and (found.depth == 1 or found.sum_of_paths):
            record.skip(f"{prefix}.{norm}.null", GIVEN)
        else:
            draws = rowwise(measure, (), chance)
            _record_band(record, f"{prefix}.{norm}", draws, lambda u, p=degree: band_at_norms(u, p, size))


def _record_band(record: Record, name: str, draws: Tensor, at_saves: Callable[[Tensor], Tensor]) -> None:
    """Record the band (T, 3) that ``at_saves`` makes of draws (S,) at unit norms; nothing where a draw is NaN."""
    if bool(draws.isfinite().all()):
        record.coordinate(NULL_DIM, NULL_LEVELS)
        record_series(record, f"{name}.null", at_saves(draws), NOT_FINITE, ("step", NULL_DIM))
    else:
        record.skip(f"{name}.null", NO_CHANCE)


def _record_balance_null(record: Record, found: Values, chance: Values, depth: int) -> None:
    """Gaussian layers with the norms of the save: the squared norm of the layers is that of the save's."""
    if record.get(f"spectra.{BALANCE}") is None:
        record.skip(f"spectra.{BALANCE}.null", NOT_FINITE)
        return
    exponent, size = 2.0 / depth, SIZE.format(PRODUCT)
    # of the draws themselves, so that it counts the same singular values as the gap
    draws = (chance[ENERGY] - chance[BALANCE]) / depth / chance[size].pow(exponent)

    def at_saves(draws: Tensor) -> Tensor:
        # the gap is largest where the product is smallest
        return found[ENERGY][:, None] - depth * band_at_norms(draws, exponent, found[size]).flip(-1)

    _record_band(record, f"spectra.{BALANCE}", draws, at_saves)


spectra.figure(
    "Ranks of the end-to-end map",
    "Numbers of directions in use, by five definitions that weigh small singular values less and less. The "
    "grey bands are these on Gaussian weights of the same shapes, in the same order from top to bottom.",
    needs=("spectra",),
)(drawing.draw_ranks)
spectra.figure(
    "Effective rank of every map",
    "Effective rank of each map as a share of its median on Gaussian weights of the same shapes.",
    needs=("spectra",),
)(drawing.draw_relative_ranks)
spectra.figure(
    "Attention heads",
    "Effective rank of each head's value-to-logit map (ov) and query-key map (qk) between residues.",
    needs=("spectra.ov.0", "spectra.qk.0"),
    size=(9.0, 3.6),
)(drawing.draw_heads)
spectra.figure(
    "Singular values of the end-to-end map",
    "The leading singular values, evenly spread over their ranks where there are many. Dotted: 5 to 95 % on "
    "Gaussian weights of the same shapes whose factors have the Frobenius norms of the save.",
    needs=("spectra",),
)(drawing.draw_singular_values)
spectra.figure(
    "Size of the end-to-end map",
    "Schatten energies of the map over their values at the first save. Dotted, in the same colours: 5 to 95 % on "
    "Gaussian weights whose factors have the Frobenius norms of the save, so that what lies off them is not of size.",
    needs=("spectra",),
)(drawing.draw_norms)
spectra.figure(
    "Balance of the layers",
    "How far the layers are from a balanced factorisation of their product: the gap, and as a share of the "
    "squared weight norm. Dotted: the gap of Gaussian layers with the Frobenius norms of the save.",
    needs=("spectra.balance_gap",),
)(drawing.draw_balance)


@spectra.view(
    "singular-values",
    "values",
    "Singular values",
    "Singular values of a map by rank at this step, on a logarithmic scale: all of them up to 32, else 32 of them "
    "evenly spread over the ranks.",
)
def draw_spectrum_at_step(run: Run, record: Record) -> Content | None:
    """The singular values of every map, at keyframes."""
    rows, layers = keyframes(record), []
    for name in record.measurements:
        words = name.split(".")
        if words[0] != "spectra" or words[-1] != "singular_values":
            continue
        values = np.asarray(record[name], dtype=float)
        if not np.isfinite(values).any():
            continue
        chosen = np.unique(
            np.linspace(0, values.shape[1] - 1, min(MOST_RANKS, values.shape[1])).round().astype(int)
        )
        layers.append({
            "label": ".".join(words[1:-1]).replace("_", " "),
            "values": Frames(values[rows][:, chosen], "log16", rows),
            "ranks": [int(rank) + 1 for rank in chosen],
        })  # fmt: skip
    return {"layers": layers, "ylabel": "singular value"} if layers else None
