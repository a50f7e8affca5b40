"""A run directory written by hand: any weights at any steps, by the real writer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from grokscope.models import ModelSettings, Params
from grokscope.probes import Probe, Record
from grokscope.report.figures import draw_figures
from grokscope.runs import Run, build_from_config, open_run
from grokscope.tasks import TaskSettings, pack_mask
from grokscope.trajectory import TrajectoryWriter, settings_dict, write_manifest

MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """``make_run(model_settings, task_settings, params_per_step, *, steps, dtype, name, seed)``.

    ``steps`` default to 0, 10, 20, …; ``dtype`` is that of the stored weights.
    """

    def make(
        model_settings: ModelSettings,
        task_settings: TaskSettings,
        params_per_step: Sequence[Params],
        *,
        steps: Sequence[int] | None = None,
        dtype: type = np.float64,
        name: str = "planted",
        seed: int = 0,
    ) -> Run:
        directory = tmp_path / name
        directory.mkdir()
        config = {
            "name": name,
            "seed": seed,
            "task": settings_dict(task_settings),
            "model": settings_dict(model_settings),
        }
        task, model = build_from_config(config, name)
        manifest = {
            "name": name,
            "kind": "trained",
            "config": config,
            "split": pack_mask(task.train_mask),
            "provenance": {},
        }
        write_manifest(directory, manifest)
        columns = {tensor: (shape, dtype) for tensor, shape in model.shapes.items()}
        saved = [10 * index for index in range(len(params_per_step))] if steps is None else list(steps)
        with TrajectoryWriter(directory / "trajectory.h5", columns, []) as writer:
            for step, params in zip(saved, params_per_step, strict=True):
                writer.save(step, {tensor: params[tensor].numpy().astype(dtype) for tensor in columns})
        return open_run(directory)

    return make


@pytest.fixture
def drawings() -> Callable[[Probe, Record], dict[str, str]]:
    """Every figure of a probe whose needs are met, as SVG text by title."""

    def draw(probe: Probe, record: Record) -> dict[str, str]:
        found = draw_figures(probe, record, "test", strict=True)
        assert not [drawing.failure for drawing in found if drawing.failure]
        return {drawing.title: drawing.svg for drawing in found}

    return draw
