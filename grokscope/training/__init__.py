"""The trainer: recipes, optimisers, and runs that resume, and are replayed and forked, bit for bit."""

from __future__ import annotations

from grokscope.training.fork import Fork, fork_run, forked_recipe, prepare_forks
from grokscope.training.intervene import ClampSettings, InterveneSettings
from grokscope.training.optimizers import FlatParameters, Optimizer, learning_rate
from grokscope.training.parent import Parent, open_parent
from grokscope.training.plan import Plan, plan_runs
from grokscope.training.recipe import (
    Recipe,
    SaveSettings,
    TrainSettings,
    builtin_recipes,
    read_recipe,
    recipe_from,
)
from grokscope.training.replay import Replay, Stretch, read_stretch, replay_run
from grokscope.training.trainer import Outcome, choose_device, train

__all__ = [
    "ClampSettings",
    "FlatParameters",
    "Fork",
    "InterveneSettings",
    "Optimizer",
    "Outcome",
    "Parent",
    "Plan",
    "Recipe",
    "Replay",
    "SaveSettings",
    "Stretch",
    "TrainSettings",
    "builtin_recipes",
    "choose_device",
    "fork_run",
    "forked_recipe",
    "learning_rate",
    "open_parent",
    "plan_runs",
    "prepare_forks",
    "read_recipe",
    "read_stretch",
    "recipe_from",
    "replay_run",
    "train",
]
