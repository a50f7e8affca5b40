"""What the loss probe records: names, units, meanings, formulas and sources."""

from __future__ import annotations

from grokscope.probes.record import Quantity

SUBSETS = ("train", "test", "all")

# LaTeX of what the model answers, and of the share of a set that it answers right
_ANSWER = r" \\ \hat{y}_i=\argmax_m z_{i,m}"


def _share(of: str) -> str:
    return rf"\frac{{\left|\left\{{i\in {of}:\hat{{y}}_i=y_i\right\}}\right|}}{{\left|{of}\right|}}"


_MIRRORED = r" \\ M=\left\{(a,b)\in\text{test}:a\ne b,\,(b,a)\in\text{train}\right\}"
_IMAGE = r" \\ V=\left\{i\in\text{test}:g(i)\in\text{train}\text{ for a }g\in G\right\}"

QUANTITIES = (
    *[
        Quantity(
            f"loss.{s}",
            "nat",
            f"Training objective over {what}: mean cross-entropy, or ½‖z − onehot‖² under squared loss "
            "(then in squared logits), or that of StableMax where the run was trained on it; for completion and "
            "regression ½ Σ (ŷ − y)² over the entries, divided by their number where the task's loss is a mean.",
            formula=rf"\operatorname*{{mean}}_{{i\in\text{{{s}}}}}\,\ln\sum_m e^{{z_{{i,m}}-z_{{i,y_i}}}}"
            rf"\quad\text{{(cross-entropy)}} \\ "
            rf"\operatorname*{{mean}}_{{i\in\text{{{s}}}}}\,\frac{{1}}{{2}}\left\|z_i-\text{{onehot}}(y_i)\right\|^2"
            rf"\quad\text{{(squared)}} \\ "
            rf"\frac{{1}}{{2}}\sum_{{(i,j)\in\text{{{s}}}}}(\hat{{y}}_{{ij}}-y_{{ij}})^2\quad\text{{(completion)}}",
        )
        for s, what in zip(
            SUBSETS, ("the training samples", "the test samples", "the whole input grid"), strict=True
        )
    ],
    *[
        Quantity(
            f"accuracy.{s}",
            "1",
            f"Share of {s} samples whose largest logit is the answer's; where the answers are signs, whose output has "
            "the answer's.",
            formula=_share(rf"\text{{{s}}}") + _ANSWER,
        )
        for s in SUBSETS
    ],
    Quantity(
        "accuracy.test_mirrored",
        "1",
        "Accuracy on test pairs (a, b) whose swap (b, a) is another pair with the same answer in training.",
        formula=_share("M") + _MIRRORED,
    ),
    Quantity(
        "accuracy.test_unmirrored",
        "1",
        "Accuracy on all other test pairs; pairs on the diagonal count here.",
        formula=_share(r"\text{test}\setminus M") + _MIRRORED,
    ),
    Quantity(
        "accuracy.test_symmetry",
        "1",
        "Accuracy on test pairs with an image in training under any known map that keeps the answer.",
        formula=_share("V") + _IMAGE + r" \\ y_{g(j)}=y_j\text{ for all }j",
    ),
    Quantity(
        "accuracy.test_equivariant",
        "1",
        "Accuracy on test pairs with an image in training under a map that changes the answer in a known way.",
        formula=_share("V") + _IMAGE + r" \\ y_{g(j)}=h_g(y_j)\text{ for all }j",
    ),
    Quantity(
        "margin.min",
        "logit",
        "Smallest margin z_y − max_{m≠y} z_m over the training samples.",
        formula=r"\min_{i\in\text{train}}\left(z_{i,y_i}-\max_{m\ne y_i}z_{i,m}\right)",
    ),
    Quantity(
        "margin.mean",
        "logit",
        "Mean margin over the training samples.",
        formula=r"\operatorname*{mean}_{i\in\text{train}}\left(z_{i,y_i}-\max_{m\ne y_i}z_{i,m}\right)",
    ),
    Quantity(
        "logits.norm",
        "logit",
        "Mean over all inputs of ‖z/τ‖₂.",
        "arXiv 2606.18465",
        formula=r"\operatorname*{mean}_{i}\left\|z_i/\tau\right\|_2,\quad\tau=1",
    ),
    Quantity(
        "softmax.collapsed",
        "1",
        "Share of training samples whose softmax sum is exactly 1 and whose argmax is the answer, in the "
        "training precision.",
        "arXiv 2501.04697",
        formula=r"\frac{\left|\left\{i\in\text{train}:s_i=1,\,\hat{y}_i=y_i\right\}\right|}"
        r"{\left|\text{train}\right|} \\ s_i=\sum_m e^{z_{i,m}-\max_k z_{i,k}}\text{, rounded}",
    ),
    *[
        Quantity(
            name,
            "1",
            f"Relative squared error on the {entries} entries, Σ(ŷ − y)²/Σy².",
            formula=rf"\frac{{\sum_{{(i,j)\in\text{{{entries}}}}}(\hat{{y}}_{{ij}}-y_{{ij}})^2}}"
            rf"{{\sum_{{(i,j)\in\text{{{entries}}}}}y_{{ij}}^2}}",
        )
        for name, entries in (("error.train", "observed"), ("error.test", "hidden"))
    ],
)
