"""The names that the manifold probe records, with what they mean."""

from __future__ import annotations

from grokscope.probes.manifold_readings import (
    COSINE,
    COSINE_NOW,
    DECAY,
    DISTANCE,
    FRACTION,
    GRADIENT,
    RANK,
    SPEED,
    SPEED_NOW,
    TANGENT,
)
from grokscope.probes.record import Quantity

RN = "arXiv 2505.20172"

NULLS = (f"{FRACTION}.null", f"{COSINE}.null")
# P, and what it is the projection of
_KERNEL = r"P=I-J^{+}J,\quad J=\frac{\partial z}{\partial w}"

QUANTITIES = (
    Quantity(
        TANGENT,
        "1",
        "‖P w‖: the part of the weights in the kernel of J, the Jacobian of the training outputs. There the loss "
        "does not change to second order and weight decay acts alone. Singular values under 1e-8 of the largest "
        "count as zero.",
        RN,
        formula=r"\left\|Pw\right\| \\ " + _KERNEL,
    ),
    Quantity(
        FRACTION,
        "1",
        "‖P w‖/‖w‖: 1 where all of the weights lie along the manifold.",
        RN,
        formula=r"\frac{\left\|Pw\right\|}{\left\|w\right\|} \\ " + _KERNEL,
    ),
    Quantity(
        NULLS[0],
        "1",
        "The same on random weights of the same shapes: 5, 50 and 95 % quantiles.",
        formula=r"W_{ij}\sim N\left(0,\frac{1}{n_{\text{in}}}\right)",
    ),
    Quantity(
        GRADIENT,
        "1",
        "‖∇F‖ over all tensors, F the training loss without weight decay.",
        RN,
        formula=r"\left\|\nabla F(w)\right\|",
    ),
    Quantity(
        DECAY,
        "1",
        "λ‖w‖ over all tensors. Where ‖∇F‖ first drops under it is the event junction.",
        RN,
        formula=r"\lambda\left\|w\right\|",
    ),
    Quantity(
        RANK,
        "1",
        "Rank of J: singular values of at least 1e-8 of the largest. The theory takes it to be constant.",
        RN,
        formula=r"\left|\left\{i:\sigma_i\ge 10^{-8}\sigma_1\right\}\right|,\quad\sigma_i\text{ of }J",
    ),
    Quantity(
        COSINE,
        "1",
        "Cosine between the motion from a save to the next and −P w at the first: 1 where the weights drift as "
        "predicted.",
        RN,
        formula=r"\frac{-\Delta w\cdot Pw}{\left\|\Delta w\right\|\left\|Pw\right\|},\quad \Delta w=w(t')-w(t)",
    ),
    Quantity(
        f"{COSINE}.null",
        "1",
        "The same for a motion in a random direction: 5, 50 and 95 % quantiles.",
    ),
    Quantity(
        SPEED,
        "1",
        "Length of that motion over the predicted λ‖P w‖ times Σ of the learning rates, corrected for discrete "
        "updates: what decay alone takes away is 1 − Π(1 − ηλ).",
        RN,
        formula=r"\frac{\left\|\Delta w\right\|}{\left\|Pw\right\|\left(1-\prod_k(1-\eta_k\lambda)\right)}",
    ),
    Quantity(
        COSINE_NOW,
        "1",
        "The same for the velocity −(∇F + λw) at a save.",
        RN,
        formula=r"\frac{v\cdot Pw}{\left\|v\right\|\left\|Pw\right\|},\quad v=\nabla F(w)+\lambda w",
    ),
    Quantity(
        SPEED_NOW,
        "1",
        "‖∇F + λw‖ over λ‖P w‖.",
        RN,
        formula=r"\frac{\left\|v\right\|}{\lambda\left\|Pw\right\|},\quad v=\nabla F(w)+\lambda w",
    ),
    Quantity(
        DISTANCE,
        "1",
        "‖w − w'‖ at the same step, w' of a run that differs in having no weight decay, named by the option twin.",
        RN,
        formula=r"\left\|w(t)-w'(t)\right\|",
    ),
)
