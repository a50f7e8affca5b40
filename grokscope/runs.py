"""A stored run bound to its task, its function and its anatomy."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from grokscope.errors import Absent, GrokscopeError
from grokscope.models import (
    MODEL_SETTINGS,
    MapView,
    Model,
    Params,
    WeightsOnly,
    as_float64,
    build_model,
    named_tensors,
    tensor_factors,
)
from grokscope.tasks import TASK_SETTINGS, ResidueAxis, Task, build_task, check_data, unpack_mask
from grokscope.tasks.unknown import NO_TASK, on_residues
from grokscope.trajectory import Trajectory, choose, read_manifest, read_settings
from grokscope.user_code import UserFunction

# what a probe needs to speak of runs comes from here, so that it imports this module and measures alone
__all__ = [
    "NEEDS",
    "MapView",
    "Model",
    "Need",
    "Params",
    "ResidueAxis",
    "Run",
    "Task",
    "build_from_config",
    "describe_run",
    "open_run",
]

Need = Literal["split", "function", "anatomy"]
NEEDS: tuple[Need, ...] = ("split", "function", "anatomy")
"""What a probe may need of a run and a stranger's run may lack; see :meth:`Run.lacks`."""


@dataclass(frozen=True)
class Run:
    """One run: what was learned, by which function, and the weights at every selected save.

    Attributes:
        path: the run's directory.
        manifest: ``run.json``: config, task, provenance, schema.
        task, model: what was learned and the function that learned it, with the run's own split.
        rows: (T,) indices into the trajectory's saves; see :meth:`select`.
        function: the function of the user's own that the model runs, ``None`` where it runs none.
        remarks: what a reader must know of how the run was opened, a sentence each.
    """

    path: Path
    name: str
    manifest: Mapping[str, Any]
    task: Task
    model: Model
    trajectory: Trajectory
    rows: np.ndarray
    function: UserFunction | None = None
    remarks: tuple[str, ...] = ()

    @property
    def steps(self) -> np.ndarray:
        """(T,) int64: the selected saved steps."""
        return self.trajectory.steps[self.rows]

    @property
    def config(self) -> Mapping[str, Any]:
        """The recipe as stored: ``task``, ``model`` and, for trained runs, ``train`` and ``save``."""
        return self.manifest["config"]

    @property
    def trained_here(self) -> bool:
        """Whether grokscope trained the run from its first step (else it was imported, replayed or forked)."""
        return self.manifest.get("kind") == "trained"

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """Whose state a replay or a fork took up: ``name``, ``at``, ...; ``None`` for other runs."""
        found = self.manifest.get("parent")
        return (
            found
            if self.manifest.get("kind") in ("replayed", "forked") and isinstance(found, Mapping)
            else None
        )

    @cached_property
    def weight_decay(self) -> dict[str, float] | None:
        """Tensor → the weight decay it was trained with, by name; ``None`` where the run does not tell."""
        common = _table(self.config, "train", self.name).get("weight_decay")
        if common is None:
            return None
        changed = _table(self.config, "intervene", self.name)
        where = f"reading {self.name}: intervene"
        factors = tensor_factors(self.model, changed.get("decay", {}), f"{where}.decay")
        factors |= dict.fromkeys(named_tensors(self.model, changed.get("frozen", []), f"{where}.frozen"), 0.0)
        return {name: common * factors.get(name, 1.0) for name in self.model.shapes}

    @cached_property
    def dtype(self) -> torch.dtype:
        """Precision in which the weights were stored."""
        name = self.model.parts[0].name
        return torch.float64 if self.trajectory.dtypes[name] == np.float64 else torch.float32

    @cached_property
    def scalars(self) -> dict[str, np.ndarray]:
        """Evaluations during training, ``step`` among them; empty for runs without any."""
        return self.trajectory.scalars

    def lacks(self, *needs: Need) -> Absent | None:
        """The first of ``needs`` that this run does not have, as the reason why; ``None`` where it has all.

        ``split``: which samples were trained on. ``function``: logits of every input of the task. ``anatomy``:
        what lies between inputs and logits.
        """
        for need in ("function", "split", "anatomy"):
            if need not in needs:
                continue
            if need == "function" and (self.model.no_function or self.task.kind == "unknown"):
                return self.model.no_function or NO_TASK
            found = {"split": self.task.no_split, "anatomy": self.model.no_anatomy}.get(need)
            if found is not None:
                return found
        return None

    def params(self, index: int) -> Params:
        """Parameters (float64) at the ``index``-th selected save."""
        return as_float64(self.trajectory.params_at(int(self.rows[index])))

    def each(self) -> Iterator[tuple[int, Params]]:
        """(index, parameters in float64) of every selected save, read in blocks of bounded memory."""
        per_save = sum(int(np.prod(shape)) for shape in self.model.shapes.values()) * 8
        block = max(1, min(64, 256 * 2**20 // max(per_save, 1)))
        for start in range(0, len(self.rows), block):
            stacked = self.stacked(rows=slice(start, start + block))
            for offset in range(len(self.rows[start : start + block])):
                yield start + offset, {name: values[offset] for name, values in stacked.items()}

    def stacked(self, names: Sequence[str] | None = None, rows: slice = slice(None)) -> Params:
        """Parameters (T, …) in float64 over the selected saves, all tensors or the named ones."""
        wanted = list(self.model.shapes) if names is None else names
        selected = self.rows[rows]
        return {n: torch.from_numpy(self.trajectory.read(n, selected)).to(torch.float64) for n in wanted}

    def logits(self, params: Params) -> Tensor:
        """(N, C) logits (or outputs) of every input of the task, by the broadcast grid where they are one."""
        if self.task.is_grid:
            grid = self.model.forward_grid(params)
            if isinstance(grid, Tensor):
                return grid.flatten(0, 1)
        return self.model.forward(params, self.task.inputs)

    def select(self, text: str | None) -> Run:
        """The same run at the saves with A ≤ step ≤ B and (step − A) divisible by K, from ``A:B:K``.

        Any of the three may be left out. Raises :class:`GrokscopeError` when none is left.
        """
        if not text:
            return self
        steps = self.trajectory.steps
        pieces = text.split(":")
        try:
            if len(pieces) > 3:
                raise ValueError
            numbers = [int(piece) if piece else None for piece in pieces]
            first = numbers[0] if numbers[0] is not None else 0
            last = numbers[1] if len(numbers) > 1 and numbers[1] is not None else int(steps[-1])
            stride = numbers[2] if len(numbers) > 2 and numbers[2] is not None else 1
            if len(numbers) == 1:
                last = first
            if stride < 1:
                raise ValueError
        except ValueError:
            raise GrokscopeError(
                f"selecting steps: --steps was {text!r}, expected A:B:K in whole numbers"
            ) from None
        keep = (steps >= first) & (steps <= last) & ((steps - first) % stride == 0)
        if not keep.any():
            raise GrokscopeError(
                f"selecting steps of {self.name}: --steps {text} matches none of the {len(steps)} saved steps, "
                f"which run from {steps[0]} to {steps[-1]}"
            )
        return dataclasses.replace(self, rows=np.flatnonzero(keep))

    def _repr_html_(self) -> str:
        """How a notebook shows the run: its verdict where it was measured, a few numbers, a small curve."""
        from grokscope.report.display import run_html

        return run_html(self)


def build_from_config(config: Mapping[str, Any], where: str) -> tuple[Task, Model]:
    """The task and the model that a stored or written config describes.

    Raises:
        GrokscopeError: an unknown task or family, an unknown field, or values that do not fit.
    """
    task_table, model_table = _table(config, "task", where), _table(config, "model", where)
    seed = config.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise GrokscopeError(f"reading {where}: seed is {seed!r}, expected a whole number of at least 0")
    task_class = choose(TASK_SETTINGS, task_table.get("name"), "task.name", where)
    model_class = choose(MODEL_SETTINGS, model_table.get("family"), "model.family", where)
    task_settings = read_settings(task_class, task_table, f"{where}: task")
    model_settings = read_settings(model_class, model_table, f"{where}: model")
    task = build_task(task_settings, seed)
    n_inputs = None if task.n_tokens is not None else task.inputs.shape[1]
    temperature = _table(config, "intervene", where).get("temperature", 1.0)
    if not isinstance(temperature, (int, float)):
        raise GrokscopeError(f"reading {where}: intervene.temperature is {temperature!r}, expected a number")
    model = build_model(
        model_settings, n_tokens=task.n_tokens, n_inputs=n_inputs, n_classes=task.n_classes,
        temperature=float(temperature),
    )  # fmt: skip
    if task.kind == "unknown" and isinstance(model, WeightsOnly) and model.n_residues:
        task = on_residues(task, model.n_residues)
    return task, model


def _table(mapping: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    found = mapping.get(name, {})
    if not isinstance(found, Mapping):
        raise GrokscopeError(f"reading {where}: {name} is {found!r}, expected a table")
    return found


def open_run(path: str | Path, function: UserFunction | None = None) -> Run:
    """Open the run in directory ``path``.

    ``run.json`` may hold ``split`` (the mask that was trained on), or ``no_split`` (why nobody knows it);
    ``no_function`` (why a function that was rebuilt may not be used); and ``function`` (name and SHA-256 of a
    function of a user's own, which is never run from there).

    Args:
        function: for weights whose function is code: the code, named by the user on this command line.

    Raises:
        GrokscopeError: no such directory, not a run, a damaged file, nothing committed yet, weights that are
            not those of the declared model, or a function for a run that has its own.
    """
    path = Path(path)
    manifest = read_manifest(path)
    where = str(path / "run.json")
    task, model = build_from_config(_table(manifest, "config", where), where)
    check_data(task, manifest, f"opening run {path}")
    if "split" in manifest:
        task = task.with_split(unpack_mask(manifest["split"]))
    elif "no_split" in manifest:
        task = task.without_split(_sentence(manifest, "no_split", where))
    model, remarks = _with_function(model, manifest, function, path)
    trajectory = Trajectory(path / "trajectory.h5")
    found = {name: tuple(shape) for name, shape in trajectory.shapes.items()}
    if found != model.shapes:
        odd = sorted(set(found.items()) ^ set(model.shapes.items()))[0]
        raise GrokscopeError(
            f"opening run {path}: the stored tensors are not those of its model ({odd[0]} {odd[1]} on one "
            "side only), expected the tensors that run.json declares"
        )
    if not len(trajectory.steps):
        raise GrokscopeError(f"opening run {path}: no step is committed yet, expected at least one")
    return Run(
        path=path,
        name=str(manifest.get("name", path.name)),
        manifest=manifest,
        task=task,
        model=model,
        trajectory=trajectory,
        rows=np.arange(len(trajectory.steps)),
        function=function,
        remarks=remarks,
    )


def _sentence(manifest: Mapping[str, Any], name: str, where: str) -> str:
    found = manifest[name]
    if not isinstance(found, str) or not found.strip():
        raise GrokscopeError(f"reading {where}: {name} is {found!r}, expected the reason in words")
    return found


def _with_function(
    model: Model, manifest: Mapping[str, Any], function: UserFunction | None, path: Path
) -> tuple[Model, tuple[str, ...]]:
    """The model as it may be used, and what to remark about it."""
    recorded = manifest.get("function")
    recorded = recorded if isinstance(recorded, Mapping) else {}
    if "no_function" in manifest:
        model = copy.copy(model)
        model.no_function = Absent(_sentence(manifest, "no_function", str(path / "run.json")))
    if not isinstance(model, WeightsOnly):
        if function is not None:
            raise GrokscopeError(
                f"opening run {path}: --model {function.name} was given, and the function of this run was "
                f"rebuilt as {model.family}; expected no --model, or a new import with it"
            )
        return model, ()
    if function is None:
        if recorded:
            name = str(recorded.get("name", "FUNCTION"))
            reason = f"its function is user code that runs only when named: --model FILE:{name}"
            model = model.without_function(reason)
        return model, ()
    model = model.with_function(function.call)
    if not recorded:
        return model, (
            f"The function {function.name} was given now: the import knew none, and nothing proved it.",
        )
    if recorded.get("sha256") != function.sha256:
        return model, (
            f"The function {function.name} is from another file than the one that was imported and proved: its "
            f"SHA-256 begins {function.sha256[:12]}, the recorded one {str(recorded.get('sha256'))[:12]}.",
        )
    if recorded.get("name") != function.name:
        return model, (
            f"The function {function.name} is not the one that was imported and proved, "
            f"{recorded.get('name')!s}, though it is from the same file.",
        )
    return model, ()


def describe_run(run: Run) -> dict[str, Any]:
    """What a stored run holds, in the shape of ``inspect --json``."""
    steps, task, card = run.trajectory.steps, run.task, dict(run.manifest.get("card", {}))
    hypotheses, split = card.pop("hypotheses", []), card.pop("split", {})
    recognised = {
        **card,
        "kind": run.manifest.get("kind"),
        "task": task.description or task.name,
        "family": run.model.family,
        "parameters": sum(int(np.prod(shape)) for shape in run.model.shapes.values()),
        "tensors": {name: list(shape) for name, shape in run.model.shapes.items()},
        "dtype": str(run.dtype).removeprefix("torch."),
        "steps": [int(step) for step in steps],
        "scalars": sorted(name for name in run.scalars if name != "step"),
        "checksum": run.trajectory.checksum(),
    }
    sizes: dict[str, Any] = {"n_train": int(task.train_mask.sum()), "n": task.train_mask.numel()}
    if task.no_split is not None:
        sizes = {"source": "not known", "why": task.no_split.reason, "n_train": None, "n": sizes["n"]}
    if run.model.no_function is not None:
        recognised["no_function"] = run.model.no_function.reason
    entry = {
        "name": run.name,
        "recognised": recognised,
        "hypotheses": hypotheses,
        "proof": run.manifest.get("proof", []),
        "split": {"source": "stored", **split, **sizes},
        "audit": run.manifest.get("audit", []),
    }
    return {"runs": [entry], "skipped": []}
