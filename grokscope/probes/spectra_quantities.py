"""What the spectra probe records: names, units, meanings, formulas and sources."""

from __future__ import annotations

from grokscope.probes.record import Quantity

CLOCKS, EFFECTIVE = "arXiv 2606.05863", "Roy and Vetterli, EUSIPCO 2007"

RANKS_WITH_NULL = ("stable_rank", "effective_rank", "entropy_rank", "participation", "numerical_rank")
NORMS = ("schatten_two_over_depth", "schatten_half", "nuclear", "frobenius", "spectral")

ABOVE = "over σ above the numerical-rank tolerance"
OF_SAME_NORMS = (
    "over Gaussian weights, each factor of the map scaled to the Frobenius norm that it has at the save. A map "
    "that adds a path past the gates to one through them is scaled as a whole, and the embeddings of a map from "
    "tokens are one factor. Gates are those of the random weights, without biases."
)

# LaTeX of the weights of a chance band, and of those with the norms of a save t
_GAUSSIAN = r"W_{ij}\sim N\left(0,\frac{1}{n_{\text{in}}}\right)"
_SCALED = (
    r"A=F_1\cdots F_q,\quad F_i=\left\|F_i(t)\right\|_F\frac{G_i}{\left\|G_i\right\|_F} \\ "
    r"G_i\text{ of weights }W_{ij}\sim N\left(0,\frac{1}{n_{\text{in}}}\right)"
)

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
    Quantity(
        "spectra.<map>.factor_norms",
        "1",
        "Product of the Frobenius norms of the map's factors, by which random weights of these norms are scaled; "
        "of a map that adds a path past the gates to one through them, its own Frobenius norm.",
        formula=r"\prod_{i=1}^q\left\|F_i\right\|_F,\quad A=F_1\cdots F_q",
    ),
    Quantity(
        "spectra.<map>.singular_values.null",
        "1",
        "5, 50 and 95 % quantiles of each singular value over Gaussian weights, divided by the product of the "
        "factors' Frobenius norms: times factor_norms it is the band of a save.",
        formula=_GAUSSIAN,
    ),
    *[
        Quantity(
            f"spectra.<map>.{rank}.null",
            "1",
            f"5, 50 and 95 % quantiles of the {rank.replace('_', ' ')} over Gaussian weights.",
            formula=_GAUSSIAN,
        )
        for rank in RANKS_WITH_NULL
    ],
    *[
        Quantity(
            f"spectra.<map>.{norm}.null", "1", f"5, 50 and 95 % quantiles {OF_SAME_NORMS}", formula=_SCALED
        )
        for norm in NORMS
    ],
    Quantity(
        "spectra.balance_gap",
        "1",
        "Σ‖W_l‖_F² − L Σσ(A)^{2/L} ≥ 0, zero exactly for balanced factors of the product A.",
        CLOCKS,
        formula=r"\sum_{l=1}^L\left\|W_l\right\|_F^2-L\sum_i\sigma_i(A)^{2/L} \\ A=W_L\cdots W_1",
    ),
    Quantity(
        "spectra.balance_gap.null",
        "1",
        "5, 50 and 95 % quantiles over Gaussian layers with the Frobenius norms of the layers at the save.",
        formula=_SCALED,
    ),
)
