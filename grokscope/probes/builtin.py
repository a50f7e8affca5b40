"""Importing this module registers every built-in probe, in the order in which reports show them."""

from grokscope.probes import loss, norms, fourier, spectra, regions, gradients, manifold, clocks, alignment  # noqa: F401, I001
