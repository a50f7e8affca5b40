"""The trainer: recipes, optimisers, and runs that resume bit for bit."""

from __future__ import annotations

from grokscope.training.optimizers import FlatParameters, Optimizer, learning_rate
from grokscope.training.recipe import (
    Recipe,
    SaveSettings,
    TrainSettings,
    builtin_recipes,
    read_recipe,
    recipe_from,
)
from grokscope.training.trainer import Outcome, choose_device, train

__all__ = [
    "FlatParameters",
    "Optimizer",
    "Outcome",
    "Recipe",
    "SaveSettings",
    "TrainSettings",
    "builtin_recipes",
    "choose_device",
    "learning_rate",
    "read_recipe",
    "recipe_from",
    "train",
]
