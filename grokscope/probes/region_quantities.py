"""What the regions probe records: names, units, meanings, formulas and sources."""

from __future__ import annotations

from grokscope.probes.record import Quantity

TC, LC = "arXiv 2606.05863", "arXiv 2402.15555"
SAMPLED = "on a fixed, recorded sample of training samples"
WITH_CHANCE = (
    "regions.class_separation",
    "regions.class_separation.normalised",
    "regions.class_separation.logits",
    "regions.class_separation.logits.normalised",
    "regions.simplex_gap",
    "regions.stable_rank_mean",
    "regions.rule_gap",
    "regions.count",
    "regions.active_fraction",
    "regions.dead_neurons",
    "regions.gate_margin",
    "regions.local_complexity",
)

_SAME = "5, 50 and 95 % quantiles of the same on weights drawn as the model's initial ones are"
_NULLS = {f"{name}.null": f"{_SAME}." for name in WITH_CHANCE} | {
    "regions.gate_margin.null": f"{_SAME}, for each quantile of the margin.",
    "regions.local_complexity.null": f"{_SAME}, with the same radius: it holds for combined inputs of the initial "
    "scale, and weights that grow leave it by their size alone.",
}
_UNITS = {"regions.count": "pattern", "regions.dead_neurons": "neuron", "regions.local_complexity": "gate"}
_SEPARATION = (
    "Scatter within classes over scatter between them, Σ‖z_a − μ_y‖² / Σ_{c≠c'} ‖μ_c − μ_c'‖² over ordered "
    "pairs of classes, of "
)
_SCATTERS = (
    r"S=\frac{\sum_i\left\|z_i-\mu_{y_i}\right\|^2}"
    r"{\sum_{c\ne d}\left\|\mu_c-\mu_d\right\|^2+\delta},\quad\delta=10^{-12}"
)

QUANTITIES = (
    Quantity(
        "regions.reduction_residual",
        "1",
        f"The larger of its two parts, {SAMPLED}: how far the map A_i x + b_i made from weights and gates is "
        "from the network itself, its values relative to max |f| and its Jacobian relative to max |A|. "
        "Rounding level means that the reduction is right, for any weights: there is no chance band.",
        TC,
        formula=r"\max\left(r_{\text{forward}},\,r_{\text{jacobian}}\right)",
    ),
    Quantity(
        "regions.reduction_residual.forward",
        "1",
        "Largest |A_i x + b_i − f(x)| over max |f|, f the model's ordinary forward pass.",
        TC,
        formula=r"\frac{\max_{i,c}\left|(A_i x_i+b_i-f(x_i))_c\right|}{\max_{i,c}\left|f(x_i)_c\right|} \\ "
        r"A_i=W_{L+1}D_{i,L}W_L\cdots D_{i,1}W_1",
    ),
    Quantity(
        "regions.reduction_residual.jacobian",
        "1",
        "Largest |A_i − ∂f/∂x|, relative to max |A| over the same few samples; the Jacobian is by automatic "
        "differentiation.",
        TC,
        formula=r"\frac{\max_{i,c,k}\left|(A_i)_{ck}-\frac{\partial f_c}{\partial x_k}(x_i)\right|}"
        r"{\max_{i,c,k}\left|(A_i)_{ck}\right|}",
    ),
    Quantity(
        "regions.count",
        "pattern",
        "Distinct gate patterns over the training samples.",
        TC,
        formula=r"\left|\left\{D_i:i\in\text{train}\right\}\right|,\quad D_{ij}=\left[\text{pre-activation}>0\right]",
    ),
    Quantity(
        "regions.flipped",
        "1",
        "Share of (training sample, gate) entries changed since the previous save. It has no chance band: what a "
        "random move of the weights flips depends on the length of the move.",
        TC,
        formula=r"\operatorname*{mean}_{i,j}\left|D_{ij}(t)-D_{ij}(t')\right|"
        r",\quad t'\text{ the save before }t",
    ),
    Quantity(
        "regions.frozen_samples",
        "1",
        "Share of training samples whose whole gate pattern is that of the previous save. No chance band, as for "
        "the flipped gates.",
        TC,
        formula=r"\frac{1}{N}\left|\left\{i:D_i(t)=D_i(t')\right\}\right|"
        r",\quad t'\text{ the save before }t",
    ),
    Quantity(
        "regions.frozen_since",
        "step",
        "First save from which 99 % of the training samples hold their final gate pattern.",
        TC,
        formula=r"\min\left\{t:\left|K_t\right|\ge 0.99\,N\right\} \\ "
        r"K_t=\left\{i:D_i(u)=D_i(T)\text{ for all }u\ge t\right\}",
    ),
    Quantity(
        "regions.gate_margin",
        "1",
        "Minimum and 1, 10 and 50 % quantiles of |pre-activation| / (‖w‖‖x‖ + |b|) over all gates and all "
        "training samples, x the input of the gate's layer.",
        formula=r"\frac{\left|w_j^\top x_i+b_j\right|}{\left\|w_j\right\|\left\|x_i\right\|+\left|b_j\right|}",
    ),
    Quantity(
        "regions.active_fraction",
        "1",
        "Share of (training sample, gate) entries that are open.",
        formula=r"\operatorname*{mean}_{i,j}\,D_{ij}",
    ),
    Quantity(
        "regions.dead_neurons",
        "neuron",
        "Neurons whose gate is open for no training sample.",
        formula=r"\left|\left\{j:\sum_i D_{ij}=0\right\}\right|",
    ),
    Quantity(
        "regions.stable_rank_mean",
        "1",
        f"Mean stable rank ‖A_i‖_F²/‖A_i‖₂² of the maps A_i, {SAMPLED}.",
        TC,
        formula=r"\operatorname*{mean}_{i:A_i\ne 0}\frac{\left\|A_i\right\|_F^2}{\left\|A_i\right\|_2^2}",
    ),
    Quantity(
        "regions.class_separation",
        "1",
        _SEPARATION + "what the head reads, on training samples.",
        TC,
        formula=_SCATTERS,
    ),
    Quantity(
        "regions.class_separation.normalised",
        "1",
        "Class separation times 2C²/N, which takes the numbers of classes and samples out.",
        TC,
        formula=r"\frac{2C^2}{N}\,S \\ " + _SCATTERS,
    ),
    Quantity(
        "regions.class_separation.logits",
        "1",
        _SEPARATION + "the logits, on training samples.",
        TC,
        formula=_SCATTERS,
    ),
    Quantity(
        "regions.class_separation.logits.normalised",
        "1",
        "Class separation of the logits times 2C²/N.",
        TC,
        formula=r"\frac{2C^2}{N}\,S \\ " + _SCATTERS,
    ),
    Quantity(
        "regions.simplex_gap",
        "1",
        "Distance of the centred class means of what the head reads from a simplex of their size (0 to √2).",
        "arXiv 2008.08186",
        formula=r"\left\|\frac{G}{\left\|G\right\|_F}-\frac{I-J/C}{\sqrt{C-1}}\right\|_F,\quad J_{cd}=1 \\ "
        r"G_{cd}=(\mu_c-\bar{\mu})^\top(\mu_d-\bar{\mu})",
    ),
    Quantity(
        "regions.rule_gap",
        "1",
        "Share of the mean map over samples that lies outside the key Fourier functions of the class, mean "
        "over classes removed. The key set is by the unembedding of the last save and the same at every save "
        "(not the key set by neuron): the fewest frequencies with 95 % of its power along the class axis. "
        "Absent where these are all frequencies.",
        TC,
        formula=r"\frac{\left\|(I-P)(A-\bar{A})\right\|_F^2}{\left\|A-\bar{A}\right\|_F^2} \\ "
        r"A=\operatorname*{mean}_i A_i,\quad\bar{A}_{ck}=\frac{1}{C}\sum_d A_{dk} \\ "
        r"P=\sum_{k\in K}\left(c_k c_k^\top+s_k s_k^\top\right)",
    ),
    Quantity(
        "regions.local_complexity",
        "gate",
        f"Gates that are not the same at all vertices x ± r·v around a sample, mean {SAMPLED}.",
        LC,
        formula=r"\operatorname*{mean}_i\,\sum_j\left(\max_{x\in V_i}D_j(x)-\min_{x\in V_i}D_j(x)\right) \\ "
        r"V_i=\left\{x_i\pm r\,v_k:k=1,\ldots,P\right\}",
    ),
    *[
        Quantity(name, _UNITS.get(name.removesuffix(".null"), "1"), meaning)
        for name, meaning in _NULLS.items()
    ],
)
