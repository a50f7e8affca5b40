"""What the Fourier probe records: names, units, meanings, formulas and sources."""

from __future__ import annotations

from grokscope.probes.record import Quantity

NANDA, CLOCK_PIZZA, GROMOV = "arXiv 2301.05217", "arXiv 2306.17844", "arXiv 2301.02679"
DELAY_LAW = "arXiv 2606.13753"

WITH_NULL = ("gini", "gini_norm", "participation", "circularity")
NEURONS_WITH_NULL = ("neuron_explained", "ipr", "ipr_complex", "phase_cosine", "phase_resultant")

# LaTeX of the weights of a chance band
_GAUSSIAN = r"W_{ij}\sim N\left(0,\frac{1}{n_{\text{in}}}\right)"

# LaTeX of a neuron's energy at a frequency, over the pairs of the two functions of it and the constant
_BLOCK_ENERGY = (
    r"E_{h,k}=\sum_{u,v}\left(\sum_{a,b}u(a)v(b)x_h(a,b)\right)^2 \\ "
    r"u,v\in\left\{1,\cos_k,\sin_k\right\}\text{ of norm 1},\,(u,v)\ne(1,1)"
)

QUANTITIES = (
    Quantity(
        "fourier.<map>.fraction",
        "1",
        "Share of the map's power in each frequency along its residue axis, the constant dropped. For x²+y² "
        "in the frequencies of a²: the pair {cos, sin}(w a²) of each is orthonormalised before projecting, "
        "and as pairs of different frequencies overlap, so do their shares.",
        DELAY_LAW,
        formula=r"f_k=\frac{P_k}{\sum_{l=1}^F P_l},\quad F=\left\lfloor n/2\right\rfloor \\ "
        r"P_k=\frac{c_k}{n}\sum_j\left|\sum_{a=0}^{n-1}M_{aj}e^{-2\pi\text{i}ka/n}\right|^2 \\ "
        r"c_k=2,\quad c_{n/2}=1",
    ),
    Quantity(
        "fourier.<map>.gini",
        "1",
        "Gini coefficient of the power over frequencies.",
        DELAY_LAW,
        formula=r"\frac{2\sum_{i=1}^F i\,f_{(i)}}{F\sum_{i=1}^F f_{(i)}}-\frac{F+1}{F} \\ "
        r"f_{(1)}\le\cdots\le f_{(F)}",
    ),
    Quantity(
        "fourier.<map>.gini_norm",
        "1",
        "Gini coefficient of the norm over frequencies.",
        NANDA,
        formula=r"\frac{2\sum_{i=1}^F i\sqrt{f_{(i)}}}{F\sum_{i=1}^F\sqrt{f_{(i)}}}-\frac{F+1}{F} \\ "
        r"f_{(1)}\le\cdots\le f_{(F)}",
    ),
    Quantity(
        "fourier.<map>.participation",
        "1",
        "Effective number of frequencies, 1/Σ fraction².",
        formula=r"\frac{1}{\sum_{k=1}^F f_k^2}",
    ),
    Quantity(
        "fourier.<map>.circularity",
        "1",
        "How circular the four leading principal components of the embedding are, 0 to 1.",
        CLOCK_PIZZA,
        formula=r"\frac{1}{4}\sum_{l=1}^4\,\max_{1\le k<n/2}\frac{2}{n\left\|v_l\right\|^2}"
        r"\left|\sum_{a=0}^{n-1}v_{l,a}e^{2\pi\text{i}ka/n}\right|^2 \\ "
        r"\text{where }v_l\text{ has no variance, }0",
    ),
    *[
        Quantity(
            f"fourier.{quantity}.null",
            "1",
            f"5, 50 and 95 % quantiles of {quantity} over Gaussian weights of the same shapes.",
            formula=_GAUSSIAN,
        )
        for quantity in NEURONS_WITH_NULL
    ],
    *[
        Quantity(
            f"fourier.<map>.{quantity}.null",
            "1",
            f"5, 50 and 95 % quantiles of {quantity} over Gaussian weights of the same shapes.",
            formula=_GAUSSIAN,
        )
        for quantity in WITH_NULL
    ],
    Quantity(
        "fourier.<map>.fraction.null",
        "1",
        "5, 50 and 95 % quantiles of the largest share of a frequency over Gaussian weights of the same shapes.",
        formula=_GAUSSIAN,
    ),
    Quantity(
        "fourier.key_frequencies.by_neuron.null",
        "1",
        "5, 50 and 95 % quantiles of the share of neurons at the commonest frequency over Gaussian weights of the "
        "same shapes.",
        formula=_GAUSSIAN,
    ),
    Quantity(
        "fourier.key_frequencies.by_embedding.null",
        "frequency",
        "5, 50 and 95 % quantiles of the number of frequencies in the set over Gaussian weights of the same shapes.",
        formula=_GAUSSIAN,
    ),
    Quantity(
        "fourier.ipr",
        "1",
        "Mean over neurons and operands of Σ fraction² of a neuron's input weights, 1/F to 1.",
        GROMOV,
        formula=r"\operatorname*{mean}_h\,\sum_{k=1}^F f_{h,k}^2",
    ),
    Quantity(
        "fourier.ipr_complex",
        "1",
        "The same as Σ|w̃|⁴ over signed frequencies of the normalised complex transform, the constant "
        "dropped; a pure cosine gives 0.5.",
        GROMOV,
        formula=r"\operatorname*{mean}_h\,\sum_{\nu=1}^{n-1}\left|\tilde{w}_{h,\nu}\right|^4 \\ "
        r"\tilde{w}_{h,\nu}=\frac{\hat{w}_{h,\nu}}"
        r"{\sqrt{\sum_{\mu=1}^{n-1}\left|\hat{w}_{h,\mu}\right|^2}} \\ "
        r"\hat{w}_{h,\nu}=\sum_{a=0}^{n-1}w_{h,a}e^{-2\pi\text{i}\nu a/n}",
    ),
    Quantity(
        "fourier.key_frequencies.by_neuron",
        "1",
        "Share of the neurons whose activation over all inputs has most energy in each frequency, among "
        "those that vary and have one such frequency (no ties).",
        NANDA,
        formula=r"\frac{\left|\left\{h:k_h=k\right\}\right|}{\left|\left\{h:k_h\text{ exists}\right\}\right|},"
        r"\quad k_h=\argmax_k E_{h,k} \\ " + _BLOCK_ENERGY,
    ),
    Quantity(
        "fourier.key_frequencies.by_embedding",
        "1",
        "The smallest set of frequencies that holds 95 % of the embedding's power; separate embeddings are "
        "taken together.",
        formula=r"\argmin_K\left\{\left|K\right|:\sum_{k\in K}f_k\ge 0.95\right\}",
    ),
    Quantity(
        "fourier.neuron_explained",
        "1",
        "Mean share of a neuron's variance in its best frequency, over all neurons that vary.",
        NANDA,
        formula=r"\operatorname*{mean}_h\,\max_k\frac{E_{h,k}}{\sum_{a,b}(x_h(a,b)-\bar{x}_h)^2} \\ "
        + _BLOCK_ENERGY,
    ),
    Quantity(
        "fourier.phase_cosine",
        "1",
        "Mean of cos θ over neurons, θ = φ_a ± φ_b − ψ the misfit of input and output phases, weighted by "
        "the three amplitudes.",
        formula=r"\frac{\sum_h w_h\cos\,\theta_h}{\sum_h w_h},\quad w=\alpha_a\alpha_b\alpha_\psi",
    ),
    Quantity(
        "fourier.phase_resultant",
        "1",
        "|mean e^{iθ}| over neurons, with the same weights.",
        formula=r"\left|\frac{\sum_h w_h e^{\text{i}\theta_h}}{\sum_h w_h}\right|",
    ),
    Quantity(
        "fourier.phase_angle",
        "rad",
        "Argument of the mean e^{iθ}; 0 where phases fit the task. It has no chance band: random phases give any "
        "angle.",
        formula=r"\operatorname{arg}\,\sum_h w_h e^{\text{i}\theta_h}",
    ),
    Quantity(
        "fourier.phase_chance",
        "1",
        "√(π/4n), the mean resultant of n random phases, n the effective number of neurons.",
        formula=r"\sqrt{\frac{\pi}{4n}},\quad n=\frac{\left(\sum_h w_h\right)^2}{\sum_h w_h^2}",
    ),
)
