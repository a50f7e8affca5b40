"""The curvature that the step size is held against: closed form, the whole Hessian, and a real run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from grokscope.probes.manifold_readings import ManifoldReader, flat
from grokscope.runs import Run, open_run
from grokscope.studies.riemannian_modular import ModularGrid
from grokscope.studies.riemannian_runs import Cell, Grid
from grokscope.studies.riemannian_steps import largest_curvature, rate_times_curvature
from grokscope.training import train

GRID = Grid(("linear", "diagonal", "relu"), (0.5,), (0,), span=0.05, early=4)


def run_of(name: str, folder: Path) -> Run:
    arm = GRID.arm(Cell(name, 0.5)) if name != "modular" else ModularGrid(p=5, hidden=4, span=0.01).arm(0.01)
    run_name, recipe = arm.runs()[0]
    train(recipe, folder / run_name, device="cpu")
    return open_run(folder / run_name)


def whole_hessian(reader: ManifoldReader, params: dict[str, torch.Tensor]) -> np.ndarray:
    """Second derivatives of the loss by differentiating its closed-form gradient numerically."""
    centre, names = flat(params, reader.names), reader.names
    sizes = [params[name].numel() for name in names]

    def gradient(vector: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(vector).split(sizes)
        return reader.gradient({n: v.view(params[n].shape) for n, v in zip(names, parts, strict=True)})

    step = 1e-6
    columns = [
        (gradient(centre + step * unit) - gradient(centre - step * unit)) / (2 * step)
        for unit in np.eye(len(centre))
    ]
    return np.stack(columns)


def test_linear_regression_has_the_curvature_of_its_design(tmp_path):
    run = run_of("linear", tmp_path)
    x = run.task.inputs[run.task.train_rows].numpy()
    expected = np.linalg.norm(x, 2) ** 2 / len(x)
    reader = ManifoldReader(run, "exact", 1, 0.5)
    assert largest_curvature(reader, run.params(0)) == pytest.approx(expected, rel=2e-3)
    assert rate_times_curvature(run, reader) == pytest.approx(0.1 * (expected + 0.5), rel=2e-3)


@pytest.mark.parametrize("name", ["diagonal", "relu", "modular"])
def test_the_largest_eigenvalue_of_the_whole_hessian(tmp_path, name):
    run = run_of(name, tmp_path)
    reader = ManifoldReader(run, "exact", 1, None)
    for place in (0, -1):
        params = run.params(place)
        expected = np.linalg.eigvalsh(whole_hessian(reader, params)).max()
        assert largest_curvature(reader, params) == pytest.approx(expected, rel=5e-3)


def test_the_answers_make_the_gradient(tmp_path):
    """J^T (z − y) with the weight of a sample is the gradient of the loss, for numbers and for classes."""
    for name in ("relu", "modular"):
        run = run_of(name, tmp_path)
        reader = ManifoldReader(run, "exact", 1, None)
        params = run.params(0)
        error = (reader.residuals(params) - reader.answers()).numpy()
        made = reader.objective.weight * reader.jacobian(params).T @ error
        np.testing.assert_allclose(made, reader.gradient(params), rtol=1e-10, atol=1e-13)
