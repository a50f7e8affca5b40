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
from grokscope.models.neuron_rows import gate_pattern
from grokscope.probes import spectra_drawing as drawing
from grokscope.probes.readings import Values, by_save, once, per_save
from grokscope.probes.record import Quantity, Record
from grokscope.probes.registry import register
from grokscope.probes.stepwise import (
    no_params,
    random_params,
    record_null,
    record_series,
    rowwise,
    unless_refused,
)
from grokscope.probes.views import MOST_RANKS, Content, Frames, keyframes
from grokscope.runs import Model, Params, Run

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
PRODUCT, BALANCE = "product", "balance_gap"

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
        formula=r"A=\sum_i\sigma_i u_i v_i^\top,\quad\sigma_1\ge\sigma_2\ge\cdots\ge 0",
    ),
    Quantity(
        "spectra.<map>.stable_rank",
        "1",
        f"‖A‖_F²/‖A‖₂² = Σσ²/σ₁² {ABOVE}.",
        CLOCKS,
        formula=r"\frac{\left\|A\right\|_F^2}{\left\|A\right\|_2^2}=\frac{\sum_i\sigma_i^2}{\sigma_1^2}",
    ),
    Quantity(
        "spectra.<map>.effective_rank",
        "1",
        f"exp(−Σ q log q) with q = σ/Σσ {ABOVE}.",
        EFFECTIVE,
        formula=r"\exp\left(-\sum_i q_i\ln\,q_i\right),\quad q_i=\frac{\sigma_i}{\sum_j\sigma_j}",
    ),
    Quantity(
        "spectra.<map>.entropy_rank",
        "1",
        f"exp(−Σ q log q) with q = σ²/Σσ² {ABOVE}.",
        formula=r"\exp\left(-\sum_i q_i\ln\,q_i\right),\quad q_i=\frac{\sigma_i^2}{\sum_j\sigma_j^2}",
    ),
    Quantity(
        "spectra.<map>.participation",
        "1",
        f"(Σσ²)²/Σσ⁴ {ABOVE}.",
        formula=r"\frac{\left(\sum_i\sigma_i^2\right)^2}{\sum_i\sigma_i^4}",
    ),
    Quantity(
        "spectra.<map>.numerical_rank",
        "1",
        "Number of σ > max(m, n)·eps·σ₁, eps that of the stored weights.",
        formula=r"\left|\left\{i:\sigma_i>\max(m,n)\,\varepsilon\,\sigma_1\right\}\right|",
    ),
    Quantity(
        "spectra.<map>.schatten_two_over_depth",
        "1",
        f"Σσ^{{2/L}} {ABOVE}, L the number of factors of the map.",
        CLOCKS,
        formula=r"\sum_i\sigma_i^{2/L}",
    ),
    Quantity("spectra.<map>.schatten_half", "1", f"Σσ^{{1/2}} {ABOVE}.", formula=r"\sum_i\sigma_i^{1/2}"),
    Quantity("spectra.<map>.nuclear", "1", f"Σσ {ABOVE}.", formula=r"\sum_i\sigma_i"),
    Quantity(
        "spectra.<map>.frobenius",
        "1",
        f"(Σσ²)^{{1/2}} {ABOVE}.",
        formula=r"\left\|A\right\|_F=\sqrt{\sum_i\sigma_i^2}",
    ),
    Quantity(
        "spectra.<map>.spectral",
        "1",
        "The largest σ.",
        formula=r"\left\|A\right\|_2=\sigma_1",
    ),
    *[
        Quantity(
            f"spectra.<map>.{rank}.null",
            "1",
            f"5, 50 and 95 % quantiles of the {rank.replace('_', ' ')} over Gaussian weights.",
            formula=r"W_{ij}\sim N\left(0,\frac{1}{n_{\text{in}}}\right)",
        )
        for rank in WITH_NULL
    ],
    Quantity(
        "spectra.balance_gap",
        "1",
        "Σ‖W_l‖_F² − L Σσ(A)^{2/L} ≥ 0, zero exactly for balanced factors of the product A.",
        CLOCKS,
        formula=r"\sum_{l=1}^L\left\|W_l\right\|_F^2-L\sum_i\sigma_i(A)^{2/L} \\ A=W_L\cdots W_1",
    ),
)


@dataclass(frozen=True)
class _Shape:
    """A map (m, n) that is a product of ``depth`` factors and has ``width`` singular values."""

    shape: tuple[int, int]
    depth: int
    width: int
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
    model = run.model
    inputs = run.task.inputs if run.task.n_tokens is None else run.task.inputs[run.task.train_mask]
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
        _record(record, name, of, found[name], run.dtype, chance[name])
    for name, reason in absent.items():
        for quantity in ("singular_values", *RANKS, "numerical_rank", *NORMS):
            record.skip(f"spectra.{name}.{quantity}", reason)
    record.notes["spectra"] = {
        name: {"shape": list(of.shape), "factors": of.depth, "note": of.note} for name, of in shapes.items()
    }
    if BALANCE in found:
        record_series(record, f"spectra.{BALANCE}", found[BALANCE], NOT_FINITE)
    else:
        record.skip(f"spectra.{BALANCE}", MASKED)


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
        known = {
            "mean_active": _Shape((classes, width), depth, min(classes, width)),
            "agop": _Shape((width, width), depth, width, "square roots of its eigenvalues"),
        }
        if not isinstance(slots, Absent):
            ends = (classes, slots.shape[-1])
            known["token_to_logit"] = _Shape(ends, depth + 1, min(*ends, width))
        shapes |= {name: known[name] for name in gated}
    return shapes


def _reader(model: Model, shapes: Mapping[str, _Shape], inputs: Tensor) -> Callable[[Params], Values]:
    """What reads the singular values (width,) of every map by name, and the balance gap of a product's layers.

    NaN where a factor is not finite. ``inputs`` are those at which gates are taken.
    """
    gated = [name for name in GATED if name in shapes]

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
        if gated:
            try:
                of_regions = _gated_maps(model, params, inputs)
            except ValueError:  # weights that are not finite
                of_regions = {}
            for name in gated:
                missing = torch.full((shapes[name].width,), torch.nan, dtype=torch.float64)
                found[name] = of_regions.get(name, missing)
        if PRODUCT in views:
            layers = list(reversed(views[PRODUCT].factors))
            found[BALANCE] = unless_refused(lambda *of: measures.balance_gap(of), (), *layers)
        return found

    return read


def _product_values(*factors: Tensor) -> Tensor:
    return measures.factored_singular_values(factors)


def _gated_maps(model: Model, params: Params, inputs: Tensor) -> Values:
    """Singular values of the mean map, of the average gradient outer product and of the map from tokens.

    Raises ValueError for weights that are not finite.
    """
    form, slots = model.gated(params), model.slots(params)
    assert not isinstance(form, Absent)
    mean, outer = mean_active_and_agop(form, gate_pattern(model, form, params, inputs))
    found = {"mean_active": measures.singular_values(mean), "agop": measures.second_moment_scales(outer)}
    if not isinstance(slots, Absent):
        found["token_to_logit"] = measures.factored_singular_values((mean, slots))
    return found


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
    record: Record, name: str, found: _Shape, sigma: Tensor, dtype: torch.dtype, chance: Tensor
) -> None:
    """Every quantity of one map from its singular values (T, r), and its chance bands from (S, r)."""
    prefix = f"spectra.{name}"
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


spectra.figure(
    "Ranks of the end-to-end map",
    "Numbers of directions in use, by five definitions that weigh small singular values less and less. The "
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
