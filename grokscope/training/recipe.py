"""Recipes: everything that determines a run, as frozen settings read from TOML and ``--set``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np

from grokscope.errors import GrokscopeError, nearest
from grokscope.models import MODEL_SETTINGS, Model, ModelSettings, build_model
from grokscope.tasks import TASK_SETTINGS, Task, TaskSettings, build_task
from grokscope.training.intervene import InterveneSettings, check_interventions
from grokscope.training.scalars import scalar_names
from grokscope.training.until import read_condition
from grokscope.trajectory import (
    MANIFEST_NAME,
    apply_overrides,
    choose,
    expand_schedule,
    most_after_onset,
    read_manifest,
    read_settings,
    settings_dict,
    waits_for_onset,
)


@dataclass(frozen=True)
class TrainSettings:
    """``[train]``: how the weights move.

    ``lr`` and ``weight_decay`` act as decoupled decay, w ← w(1 − lr·weight_decay), ``before`` or ``after``
    the optimiser's step; the gradient is at the undecayed weights in both. ``warmup`` steps raise the rate
    linearly. ``batch_size`` 0 is the full batch. ``loss`` is the mean over samples of the cross-entropy, of
    ½‖z − onehot‖² (*squared*), or of the cross-entropy of StableMax (arXiv 2501.04697); for completion it is
    ½ Σ (ŷ − y)² over the observed entries, for regression that sum or its mean, as the task says. ``threads`` is part
    of the recipe because the order of floating-point sums depends on it.

    ``until`` ends the run before its ``steps`` are over: ``"accuracy.test >= 0.9"`` is a scalar of the run, ``>=``
    or ``<=``, and a level; the run ends at the evaluation at which that has held ``until_hold`` times in a row.
    """

    steps: int = 1000
    optimizer: Literal["adamw", "sgd", "gd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    decay: Literal["before", "after"] = "before"
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    momentum: float = 0.0
    loss: Literal["cross-entropy", "squared", "stablemax"] = "cross-entropy"
    dtype: Literal["float32", "float64"] = "float32"
    warmup: int = 0
    batch_size: int = 0
    threads: int = 1
    until: str = ""
    until_hold: int = 1


@dataclass(frozen=True)
class SaveSettings:
    """``[save]``: when weights are saved, when losses are evaluated, when the optimiser is snapshotted.

    ``schedule`` and ``evaluate`` are windows: ``"A:B:K"`` every K steps from A to B, both included,
    ``"log:A:B:N"``, or ``"onset:LENGTH:K"``, which opens once the test loss has fallen, after the fit, by the
    share ``onset_fall`` of its largest value (see :mod:`grokscope.training.onset`); B may be ``end``. Weights
    are also evaluated whenever they are saved. ``snapshots`` is the number of steps between optimiser
    snapshots. ``precision`` is that of the stored weights. ``also`` names scalars that are evaluated besides losses
    and accuracies: ``norm.total``, of the weight matrices, and ``logits.norm``, the mean over all inputs.
    """

    schedule: tuple[str, ...] = ("0:end:10",)
    evaluate: tuple[str, ...] = ("0:end:10",)
    onset_fall: float = 0.4
    snapshots: int = 500
    precision: Literal["train", "float32", "float64"] = "train"
    also: tuple[Literal["norm.total", "logits.norm"], ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a run's bytes on a given device."""

    name: str
    seed: int
    task: TaskSettings
    model: ModelSettings
    train: TrainSettings
    save: SaveSettings = field(default_factory=SaveSettings)
    intervene: InterveneSettings = field(default_factory=InterveneSettings)

    def config(self) -> dict[str, Any]:
        """Every field under its dotted name, as stored in ``run.json``; ``intervene`` where anything is done."""
        config = settings_dict(self)
        if self.intervene == InterveneSettings():
            del config["intervene"]
        return config

    def differences(self, config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
        """(dotted field, its value here, its value in ``config``) wherever a stored config is another.

        A config of an earlier version lacks fields: it was made with what is now their default.
        """
        here, there = dotted(self.config()), dotted(config)
        made = {**_WITH_DEFAULTS, "task": type(self.task), "model": type(self.model)}
        defaults = dotted({name: settings_dict(of()) for name, of in made.items()})
        values = [(name, here.get(name), there.get(name, defaults.get(name))) for name in {**here, **there}]
        return [(name, mine, stored) for name, mine, stored in values if mine != stored]

    def build(self) -> tuple[Task, Model]:
        """The task and the model of this recipe."""
        task = build_task(self.task, self.seed)
        n_inputs = None if task.n_tokens is not None else task.inputs.shape[1]
        model = build_model(
            self.model, n_tokens=task.n_tokens, n_inputs=n_inputs, n_classes=task.n_classes,
            temperature=self.intervene.temperature,
        )  # fmt: skip
        return task, model

    def save_steps(self, onset: int | None = None) -> np.ndarray:
        """Sorted steps at which weights are saved, the last one among them; ``onset`` once it is known."""
        return np.union1d(expand_schedule(self.save.schedule, self.train.steps, onset), [self.train.steps])

    def evaluation_steps(self, onset: int | None = None) -> np.ndarray:
        """Sorted steps at which losses are evaluated: the windows, and every save."""
        windows = expand_schedule(self.save.evaluate, self.train.steps, onset)
        return np.union1d(windows, self.save_steps(onset))

    def most_saves(self) -> int:
        """The number of saves; where a window waits for the onset, an upper bound."""
        waiting = most_after_onset(self.save.schedule, self.train.steps)
        return min(self.train.steps + 1, self.save_steps().size + waiting)

    def most_evaluations(self) -> int:
        """The number of evaluations, or an upper bound like :meth:`most_saves`."""
        waiting = most_after_onset((*self.save.evaluate, *self.save.schedule), self.train.steps)
        return min(self.train.steps + 1, self.evaluation_steps().size + waiting)

    def ends_early(self) -> bool:
        """Whether the run may end before its last step."""
        return bool(self.train.until)

    def waits_for_onset(self) -> bool:
        """Whether any window opens only once the test loss falls."""
        return waits_for_onset((*self.save.evaluate, *self.save.schedule))

    def snapshot_steps(self) -> np.ndarray:
        """Sorted steps at which the optimiser is snapshotted, the last one among them."""
        return np.union1d(np.arange(0, self.train.steps, self.save.snapshots), [self.train.steps])


_WITH_DEFAULTS = {"train": TrainSettings, "save": SaveSettings, "intervene": InterveneSettings}
"""Tables of a recipe that may be left out."""


def dotted(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every field of a config under its dotted name; tuples as lists, as they come back out of JSON."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def builtin_recipes() -> list[str]:
    """Names of the recipes inside the package."""
    folder = resources.files("grokscope") / "recipes"
    return sorted(Path(str(entry)).stem for entry in folder.iterdir() if str(entry).endswith(".toml"))


def read_recipe(name_or_path: str | Path, overrides: Sequence[str] = (), seed: int | None = None) -> Recipe:
    """A built-in recipe by name, a TOML file, or a run's ``run.json``, with overrides by dotted name.

    Args:
        overrides: ``FIELD=VALUE`` strings.
        seed: replaces the recipe's own.

    Raises:
        GrokscopeError: no such recipe, not TOML, an unknown key, or a value of the wrong kind or range.
    """
    text = str(name_or_path)
    known = builtin_recipes()
    if text in known:
        source = (resources.files("grokscope") / "recipes" / f"{text}.toml").read_text()
    elif Path(text).is_file():
        try:
            source = Path(text).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise GrokscopeError(f"reading recipe {text}: {error}") from None
    else:
        raise GrokscopeError(
            f"reading recipe {text!r}: neither a file nor a built-in recipe, expected one of "
            f"{', '.join(known)}{nearest(text, known)}"
        )
    table = apply_overrides(_parsed(text, source), overrides)
    if seed is not None:
        table["seed"] = seed
    return recipe_from(table, f"recipe {text}")


def _parsed(text: str, source: str) -> dict[str, Any]:
    """TOML, or the ``config`` of a run's JSON."""
    if Path(text).name == MANIFEST_NAME:
        config = read_manifest(Path(text).parent).get("config")
        if not isinstance(config, dict):
            raise GrokscopeError(f"reading recipe {text}: it has no config, expected the run.json of a run")
        return config
    try:
        return tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise GrokscopeError(f"reading recipe {text}: {error}, expected TOML") from None


def recipe_from(table: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that a mapping of dotted fields describes; every key must be known."""
    known = ("name", "seed", "task", "model", *_WITH_DEFAULTS)
    for key in table:
        if key not in known:
            raise GrokscopeError(
                f"reading {where}: unknown key {key!r}, expected one of {', '.join(known)}{nearest(key, known)}"
            )
    for key in ("task", "model", *_WITH_DEFAULTS):
        if not isinstance(table.get(key, {}), Mapping):
            raise GrokscopeError(f"reading {where}: {key} is {table[key]!r}, expected a table")
    task_class = choose(TASK_SETTINGS, table.get("task", {}).get("name"), "task.name", where)
    model_class = choose(MODEL_SETTINGS, table.get("model", {}).get("family"), "model.family", where)
    seed, name = table.get("seed", 0), table.get("name", "run")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise GrokscopeError(f"reading {where}: seed is {seed!r}, expected a whole number of at least 0")
    if not isinstance(name, str) or not name:
        raise GrokscopeError(f"reading {where}: name is {name!r}, expected a word")
    recipe = Recipe(
        name=name,
        seed=seed,
        task=read_settings(task_class, table.get("task", {}), f"{where}: task"),
        model=read_settings(model_class, table.get("model", {}), f"{where}: model"),
        train=read_settings(TrainSettings, table.get("train", {}), f"{where}: train"),
        save=read_settings(SaveSettings, table.get("save", {}), f"{where}: save"),
        intervene=read_settings(InterveneSettings, table.get("intervene", {}), f"{where}: intervene"),
    )
    _check(recipe, where)
    return recipe


def _check(recipe: Recipe, where: str) -> None:
    """Ranges that types do not say."""
    train, save = recipe.train, recipe.save
    ranges = [
        ("train.steps", train.steps, train.steps >= 1, "at least 1"),
        ("train.lr", train.lr, train.lr > 0, "above 0"),
        ("train.weight_decay", train.weight_decay, train.weight_decay >= 0, "at least 0"),
        ("train.betas", train.betas, all(0 <= b < 1 for b in train.betas), "two numbers in [0, 1)"),
        ("train.eps", train.eps, train.eps > 0, "above 0"),
        ("train.momentum", train.momentum, 0 <= train.momentum < 1, "in [0, 1)"),
        ("train.warmup", train.warmup, train.warmup >= 0, "at least 0"),
        ("train.batch_size", train.batch_size, train.batch_size >= 0, "at least 0"),
        ("train.until_hold", train.until_hold, train.until_hold >= 1, "at least 1"),
        ("train.threads", train.threads, 1 <= train.threads <= 1024, "between 1 and 1024"),
        ("save.onset_fall", save.onset_fall, 0 < save.onset_fall < 1, "between 0 and 1"),
        ("save.snapshots", save.snapshots, save.snapshots >= 1, "at least 1"),
    ]
    for field_name, value, fine, expected in ranges:
        if not fine:
            raise GrokscopeError(f"reading {where}: {field_name} is {value}, expected {expected}")
    if recipe.model.family == "weights" or recipe.task.name == "unknown":
        raise GrokscopeError(
            f"reading {where}: model.family is {recipe.model.family!r} and task.name {recipe.task.name!r}, expected "
            "a function and a task that are known: weights alone cannot be trained"
        )
    if train.optimizer == "gd" and (train.batch_size or train.momentum):
        raise GrokscopeError(
            f"reading {where}: train.optimizer 'gd' was given train.batch_size = {train.batch_size} and "
            f"train.momentum = {train.momentum}, expected 0 for both (or 'sgd')"
        )
    recipe.evaluation_steps()
    task, model = recipe.build()
    if task.kind == "regression" and train.loss != "squared":
        raise GrokscopeError(
            f"reading {where}: train.loss {train.loss!r} was given for task.name {recipe.task.name!r}, expected "
            "'squared'"
        )
    if task.kind == "regression" and train.batch_size:
        raise GrokscopeError(
            f"reading {where}: train.batch_size = {train.batch_size} was given for task.name {recipe.task.name!r}, "
            "expected 0: single entries are observed, so there is no batch of samples"
        )
    if save.also and task.kind == "regression" and "logits.norm" in save.also:
        raise GrokscopeError(
            f"reading {where}: save.also has 'logits.norm', and the outputs of a regression are no logits, expected "
            "norm.total or nothing"
        )
    read_condition(train.until, [*scalar_names(task), *save.also], f"reading {where}: train.until")
    check_interventions(recipe.intervene, model, where)
