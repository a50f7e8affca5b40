"""What are the ranks and norms of the network's end-to-end maps, and do its ranks fall?

Shape legend: T saves, (m, n) a map, r its singular values, C classes, p residues.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.measures import spectra as measures
from grokscope.measures.linear_reduction import agop, mean_active
from grokscope.measures.regions import gates
from grokscope.probes import spectra_drawing as drawing
from grokscope.probes.record import Quantity, Record
from grokscope.probes.registry import register
from grokscope.probes.stepwise import random_params, record_null, record_series, rowwise, step_blocks
from grokscope.runs import MapView, Model, Params, Run

CLOCKS, EFFECTIVE = "arXiv 2606.05863", "Roy and Vetterli, EUSIPCO 2007"

RANKS: dict[str, Callable[[Tensor], Tensor]] = {
    "stable_rank": measures.stable_rank,
    "effective_rank": measures.effective_rank,
    "entropy_rank": measures.entropy_rank,
    "participation": measures.participation_rank,
}
WITH_NULL = ("stable_rank", "effective_rank")
NORMS = ("schatten_two_over_depth", "schatten_half", "nuclear", "frobenius", "spectral")
GATED = ("mean_active", "agop", "token_to_logit")

ONE_ROW = "a map of one row has rank 1, and its one singular value is each of its norms"
ZERO = "the map is zero (or not finite) at every save"
NOT_FINITE = "the map is not finite at any save"
MASKED = "an identity for deep linear networks only: for a masked map it is no more than an inequality"

ABOVE = "over σ above the numerical-rank tolerance"

_NULL_INPUTS = 512

QUANTITIES = (
    Quantity(
        "spectra.<map>.singular_values",
        "1",
        "Singular values in descending order, by a float64 decomposition; for agop the square roots of its "
        "eigenvalues. Zeros beyond the narrowest factor are left out.",
    ),
    Quantity("spectra.<map>.stable_rank", "1", f"‖A‖_F²/‖A‖₂² = Σσ²/σ₁² {ABOVE}.", CLOCKS),
    Quantity("spectra.<map>.effective_rank", "1", f"exp(−Σ q log q) with q = σ/Σσ {ABOVE}.", EFFECTIVE),
    Quantity("spectra.<map>.entropy_rank", "1", f"exp(−Σ q log q) with q = σ²/Σσ² {ABOVE}."),
    Quantity("spectra.<map>.participation", "1", f"(Σσ²)²/Σσ⁴ {ABOVE}."),
    Quantity(
        "spectra.<map>.numerical_rank", "1", "Number of σ > max(m, n)·eps·σ₁, eps that of the stored weights."
    ),
    Quantity(
        "spectra.<map>.schatten_two_over_depth",
        "1",
        f"Σσ^{{2/L}} {ABOVE}, L the number of factors of the map.",
        CLOCKS,
    ),
    Quantity("spectra.<map>.schatten_half", "1", f"Σσ^{{1/2}} {ABOVE}."),
    Quantity("spectra.<map>.nuclear", "1", f"Σσ {ABOVE}."),
    Quantity("spectra.<map>.frobenius", "1", f"(Σσ²)^{{1/2}} {ABOVE}."),
    Quantity("spectra.<map>.spectral", "1", "The largest σ."),
    *[
        Quantity(
            f"spectra.<map>.{rank}.null",
            "1",
            f"5, 50 and 95 % quantiles of the {rank.replace('_', ' ')} over Gaussian weights.",
        )
        for rank in WITH_NULL
    ],
    Quantity(
        "spectra.balance_gap",
        "1",
        "Σ‖W_l‖_F² − L Σσ(A)^{2/L} ≥ 0, zero exactly for balanced factors of the product A.",
        CLOCKS,
    ),
)


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """Singular values (T, r) of a map (m, n) that is a product of ``depth`` factors."""

    sigma: Tensor
    shape: tuple[int, int]
    depth: int
    note: str = ""


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
    inputs = run.task.inputs if run.task.n_tokens is None else run.task.inputs[run.task.train_mask]
    # chance needs no more samples than that: means over gates settle quickly
    some = inputs[:: max(1, len(inputs) // _NULL_INPUTS)]
    null = random_params(run.model, null_samples)
    first = next(null)
    lacking = run.lacks("function", "split")  # gates are taken on training samples
    absent = dict.fromkeys(GATED, lacking.reason) if lacking else _why_no_gated_maps(run.model, first)
    wanted = [name for name in GATED if name not in absent]
    structure = _measure(run.model, first, some, dict.fromkeys(wanted, 0))
    chance = {name: [found.sigma] for name, found in structure.items()}
    for drawn in null:
        for name, found in _measure(run.model, drawn, some, dict.fromkeys(wanted, 0)).items():
            chance[name].append(found.sigma)
    widths = {name: structure[name].sigma.shape[-1] for name in wanted}
    series: dict[str, list[Tensor]] = {name: [] for name in structure}
    for _, params in step_blocks(run):
        for name, found in _measure(run.model, params, inputs, widths).items():
            series[name].append(found.sigma)
    for name, found in structure.items():
        over_saves = replace(found, sigma=torch.cat(series[name]))
        _record(record, name, over_saves, run.dtype, torch.cat(chance[name]))
    for name, reason in absent.items():
        for quantity in ("singular_values", *RANKS, "numerical_rank", *NORMS):
            record.skip(f"spectra.{name}.{quantity}", reason)
    record.notes["spectra"] = {
        name: {"shape": list(found.shape), "factors": found.depth, "note": found.note}
        for name, found in structure.items()
    }
    _balance(run, record)


def _measure(model: Model, params: Params, inputs: Tensor, gated: dict[str, int]) -> dict[str, _Spectrum]:
    """Every map of (T, …) parameters by name; ``gated`` gives the number of singular values of those."""
    found: dict[str, _Spectrum] = {}
    known: dict[tuple[object, ...], Tensor] = {}
    for name, view in model.maps(params).items():
        same = tuple((f.data_ptr(), f.shape, f.stride()) for f in view.factors)
        if same not in known:
            known[same] = _product_values(view)
        shape = (view.factors[0].shape[-2], view.factors[-1].shape[-1])
        found[name] = _Spectrum(known[same], shape, len(view.factors), view.note)
    rows: dict[str, list[Tensor]] = {name: [] for name in gated}
    for row in range(len(next(iter(params.values()))) if gated else 0):
        try:
            one = _gated_maps(model, {name: value[row] for name, value in params.items()}, inputs)
        except ValueError:  # weights that are not finite
            one = {}
        for name, width in gated.items():
            if name in one:
                found[name] = one[name]
                rows[name].append(one[name].sigma)
            else:
                rows[name].append(torch.full((width,), torch.nan, dtype=torch.float64))
    for name, values in rows.items():
        example = found.get(name, _Spectrum(values[0], (0, 0), 0))
        found[name] = replace(example, sigma=torch.stack(values))
    return found


def _product_values(view: MapView) -> Tensor:
    """(T, r), NaN where a factor is not finite."""
    widths = [view.factors[0].shape[-2], *(factor.shape[-1] for factor in view.factors)]

    def values(*factors: Tensor) -> Tensor:
        return measures.factored_singular_values(factors)

    return rowwise(values, (min(widths),), *view.factors)


def _gated_maps(model: Model, params: Params, inputs: Tensor) -> dict[str, _Spectrum]:
    """Mean map, average gradient outer product and the map from tokens, of one save.

    Raises ValueError for weights that are not finite.
    """
    form, slots = model.gated(params), model.slots(params)
    assert not isinstance(form, Absent)
    pattern = gates(form, model.combined(params, inputs))
    width, depth = form.input_width, len(form.weights) + 1
    mean = mean_active(form, pattern)
    scales = measures.second_moment_scales(agop(form, pattern))
    found = {
        "mean_active": _Spectrum(measures.singular_values(mean), (form.n_classes, width), depth),
        "agop": _Spectrum(scales, (width, width), depth, "square roots of its eigenvalues"),
    }
    if not isinstance(slots, Absent):
        sigma = measures.factored_singular_values((mean, slots))
        found["token_to_logit"] = _Spectrum(sigma, (form.n_classes, slots.shape[-1]), depth + 1)
    return found


def _why_no_gated_maps(model: Model, drawn: Params) -> dict[str, str]:
    """Which of the maps of fixed regions do not exist here, and why; ``drawn`` are (T, …) random weights."""
    params = {name: value[0] for name, value in drawn.items()}
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


def _record(record: Record, name: str, found: _Spectrum, dtype: torch.dtype, chance: Tensor) -> None:
    """Every quantity of one map, and its chance bands."""
    prefix, sigma = f"spectra.{name}", found.sigma
    dim = f"rank.{name}"
    record.coordinate(dim, range(1, sigma.shape[-1] + 1))
    record_series(record, f"{prefix}.singular_values", sigma, NOT_FINITE, ("step", dim))
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
        if rank in WITH_NULL and record.get(f"{prefix}.{rank}") is not None:
            record_null(record, f"{prefix}.{rank}", rowwise(measure, (), chance))
    count = rowwise(lambda s: measures.numerical_rank(s, found.shape, dtype), (), sigma)
    whole = count.to(torch.int64) if bool(count.isfinite().all()) else count
    record_series(record, f"{prefix}.numerical_rank", whole, ZERO)

    def schatten(exponent: float) -> Callable[[Tensor], Tensor]:
        return lambda s: measures.schatten_power(s, exponent, found.shape, dtype)

    norms: dict[str, Callable[[Tensor], Tensor]] = {
        "schatten_two_over_depth": schatten(2.0 / found.depth),
        "schatten_half": schatten(0.5),
        "nuclear": schatten(1.0),
        "frobenius": measures.frobenius,
        "spectral": measures.spectral,
    }
    for norm, measure in norms.items():
        record_series(record, f"{prefix}.{norm}", rowwise(measure, (), sigma), NOT_FINITE)


def _balance(run: Run, record: Record) -> None:
    """The balance gap of a deep linear network's layers."""
    values = []
    for _, params in step_blocks(run):
        view = run.model.maps(params).get("product")
        if view is None:
            record.skip("spectra.balance_gap", MASKED)
            return
        values.append(rowwise(lambda *layers: measures.balance_gap(layers), (), *reversed(view.factors)))
    record_series(record, "spectra.balance_gap", torch.cat(values), NOT_FINITE)


spectra.figure(
    "Ranks of the end-to-end map",
    "Numbers of directions in use, by four definitions that weigh small singular values less and less. The "
    "grey band is the effective rank on Gaussian weights of the same shapes.",
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
    "The leading singular values, evenly spread over their ranks where there are many.",
    needs=("spectra",),
)(drawing.draw_singular_values)
spectra.figure(
    "Size of the end-to-end map",
    "Schatten energies of the map over their values at the first save.",
    needs=("spectra",),
)(drawing.draw_norms)
spectra.figure(
    "Balance of the layers",
    "How far the layers are from a balanced factorisation of their product: the gap, and as a share of the "
    "squared weight norm.",
    needs=("spectra.balance_gap",),
)(drawing.draw_balance)
