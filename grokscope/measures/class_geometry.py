"""Geometry of classes in feature space: separation, and the distance from a simplex.

Shape suffixes: N samples, d features, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "ClassMoments",
    "ClassSeparation",
    "class_moments",
    "class_separation",
    "joined",
    "separation_of",
    "simplex_gap",
    "simplex_gap_of",
]

_DELTA = 1e-12  # the constant of arXiv 2606.05863 that keeps the ratio finite when all class means coincide


@dataclass(frozen=True)
class ClassSeparation:
    """Within-class over between-class scatter.

    Attributes:
        value: S.
        normalised: S·2C²/N with C the number of classes present.
        n_present: classes with at least one sample.
    """

    value: float
    normalised: float
    n_present: int


def class_separation(features: Tensor, labels: Tensor, n_classes: int) -> ClassSeparation:
    """Class separation (arXiv 2606.05863): S = Σ_a ‖z_a − μ_{y_a}‖² / (Σ_{c≠c'} ‖μ_c − μ_c'‖² + 1e-12).

    The sum below runs over ordered pairs. Small is separated, 0 is full collapse of every class. Independent
    Gaussian features with n samples a class give about n(n − 1)/(2(C − 1)). A class without a sample has no
    mean: sums and C run over the classes present.

    Args:
        features: (N, d), taken to float64.
        labels: (N,) integer classes in [0, n_classes).
        n_classes: size of the label range.

    Raises:
        ValueError: shapes that do not fit, non-finite features, a label out of range, or fewer than two
            classes present.
    """
    return separation_of(class_moments(features, labels, n_classes))


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """What separation and simplex gap need of the samples of some classes.

    Attributes:
        means: (c, d) float64, of the classes with a sample.
        within: Σ_a ‖z_a − μ_{y_a}‖².
        n_samples: how many samples.
    """

    means: Tensor
    within: float
    n_samples: int


def class_moments(features: Tensor, labels: Tensor, n_classes: int) -> ClassMoments:
    """Means of the classes present, and the scatter about them.

    Arguments and errors as `class_separation`.
    """
    means, counts, features, labels = _class_means("class_separation", features, labels, n_classes)
    within = float((features - means[labels]).square().sum())
    return ClassMoments(means[counts > 0], within, features.shape[0])


def joined(parts: Sequence[ClassMoments]) -> ClassMoments:
    """The moments of all classes from those of disjoint sets of whole classes.

    Raises:
        ValueError: fewer than two classes, or moments that are not finite.
    """
    means, within = torch.cat([part.means for part in parts]), sum(part.within for part in parts)
    if len(means) < 2:
        raise ValueError(f"class_separation: got {len(means)} classes with samples, expected at least 2")
    if not (within < float("inf") and bool(means.isfinite().all())):
        raise ValueError("class_separation: got non-finite features, expected finite ones")
    return ClassMoments(means, within, sum(part.n_samples for part in parts))


def separation_of(moments: ClassMoments) -> ClassSeparation:
    """`class_separation` from moments."""
    n_present = len(moments.means)
    centred = moments.means - moments.means.mean(dim=0)
    between = 2 * n_present * centred.square().sum()  # = the sum over ordered pairs of squared distances
    value = float(moments.within / (between + _DELTA))
    return ClassSeparation(value, value * 2 * n_present**2 / moments.n_samples, n_present)


def simplex_gap(features: Tensor, labels: Tensor, n_classes: int) -> float:
    """Distance of the class means from a simplex equiangular tight frame (neural collapse, arXiv 2008.08186).

    With M (C × d) the class means less their own mean, and G = M Mᵀ:
    ‖ G/‖G‖_F − (I − 11ᵀ/C)/√(C − 1) ‖_F, the published measure of the second collapse property. It is 0 for a
    simplex of any size and orientation and stays below √2. Classes are weighted equally whatever their
    number of samples, and a class without a sample is left out of M and of C.

    Args:
        features: (N, d), taken to float64.
        labels: (N,) integer classes in [0, n_classes).
        n_classes: size of the label range.

    Raises:
        ValueError: shapes that do not fit, non-finite features, a label out of range, fewer than two classes
            present, or class means that all coincide (then they have no shape).
    """
    means, counts, *_ = _class_means("simplex_gap", features, labels, n_classes)
    return simplex_gap_of(means[counts > 0])


def simplex_gap_of(means: Tensor) -> float:
    """`simplex_gap` from the means (c, d) of the classes present.

    Raises:
        ValueError: class means that all coincide.
    """
    centred = means - means.mean(dim=0)
    # means equal up to rounding would otherwise be read as a shape
    if float(centred.abs().max()) <= 1e-14 * float(means.abs().max()):
        raise ValueError("simplex_gap: got class means that all coincide, expected at least two that differ")
    centred = centred / centred.abs().max()
    gram = centred @ centred.T
    n_present = gram.shape[0]
    simplex = torch.eye(n_present, dtype=gram.dtype, device=gram.device) - 1 / n_present
    gap = gram / torch.linalg.matrix_norm(gram) - simplex / (n_present - 1) ** 0.5
    return float(torch.linalg.matrix_norm(gap))


def _class_means(
    name: str, features: Tensor, labels: Tensor, n_classes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if features.ndim != 2 or labels.shape != features.shape[:1] or labels.dtype.is_floating_point:
        raise ValueError(
            f"{name}: got features {tuple(features.shape)} and {labels.dtype} labels {tuple(labels.shape)}, "
            "expected (N, d) and integer (N,)"
        )
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= n_classes):
        raise ValueError(
            f"{name}: got labels from {int(labels.min())} to {int(labels.max())}, expected [0, {n_classes})"
        )
    if not bool(features.isfinite().all()):
        raise ValueError(f"{name}: got non-finite features, expected finite ones")
    features = features.to(torch.float64)
    labels = labels.to(features.device, torch.int64)
    counts = torch.bincount(labels, minlength=n_classes)
    if int((counts > 0).sum()) < 2:
        raise ValueError(f"{name}: got {int((counts > 0).sum())} classes with samples, expected at least 2")
    sums = torch.zeros(n_classes, features.shape[1], dtype=torch.float64, device=features.device)
    sums.index_add_(0, labels, features)
    return sums / counts.clamp(min=1).unsqueeze(1), counts, features, labels
