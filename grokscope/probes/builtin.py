"""Importing this module registers every built-in probe, in the order in which reports show them."""

from grokscope.probes import loss, norms, fourier, spectra, regions, gradients, manifold  # noqa: F401, I001
from grokscope.probes import clocks, alignment, robustness  # noqa: F401
