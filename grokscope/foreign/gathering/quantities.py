"""What people call the same thing: steps, seeds, learning rates, losses, accuracies and norms.

Scope: tables of names and the reading of one name. Nothing here looks at values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

STEP_NAMES = ("step", "global_step", "epoch", "iteration", "iter")
SEED_NAMES = ("split_seed", "data_seed", "seed")
FRACTION_NAMES = (
    "train_fraction", "frac_train", "train_frac", "training_fraction", "fraction", "train_ratio",
    "training_ratio", "train_pct", "frac",
)  # fmt: skip
LEARNING_RATE_NAMES = ("lr", "learning_rate")
DECAY_NAMES = ("weight_decay", "wd")
OPERATION_NAMES = ("operation", "op", "fn_name", "fn", "group", "task")
ACTIVATION_NAMES = ("act_type", "act_fn", "activation", "act")
RAN_NAMES = ("steps_run", "epochs_run", "final_step", "final_epoch", "last_step", "last_epoch")
"""How far a run really went, where planned lengths are written beside it."""
LENGTH_NAMES = (
    *RAN_NAMES, "num_epochs", "n_epochs", "num_steps", "n_steps", "steps", "epochs", "total_steps",
    "total_epochs", "max_steps", "max_epochs", "train_steps", "num_train_epochs", "n_iters", "iterations",
)  # fmt: skip

_TOKEN = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W_]+")
_KINDS: dict[str, str] = dict.fromkeys(("loss", "losses", "ce", "nll", "xent"), "loss")
_KINDS |= dict.fromkeys(("acc", "accs", "accuracy", "accuracies"), "accuracy")
_SIDES: dict[str, str] = dict.fromkeys(("train", "training", "tr", "trn"), "train")
_SIDES |= dict.fromkeys(("test", "te", "val", "valid", "validation", "eval", "dev", "heldout"), "test")
_SIDES |= dict.fromkeys(("all", "full"), "all")
_PASSING = {"final", "last", "epoch", "step", "mean", "avg", "list", "history", "hist", "curve", "values"}
_GLUED = re.compile(r"^(train|test|val|valid|eval)(loss|losses|acc|accs|accuracy|accuracies)$")

_NORMS: dict[str, str] = dict.fromkeys(
    (
        "weight_norm", "weights_norm", "param_norm", "params_norm", "parameter_norm", "l2_norm", "w_norm",
        "weight_l2", "weight_l2_norm", "total_weight_norm", "total_param_norm", "norm_weights",
    ),
    "norm.total",
)  # fmt: skip
_NORMS |= dict.fromkeys(
    (
        "sum_of_squared_weights", "sum_squared_weights", "sum_sq_weights", "squared_weight_norm",
        "weight_norm_squared", "weight_norm_sq", "l2_squared", "sum_of_squares", "param_norm_squared",
    ),
    "norm.squared",
)  # fmt: skip


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name in lower case: ``trainLoss``, ``train/loss`` and ``train_loss`` have the same."""
    return tuple(word.lower() for word in _TOKEN.findall(name[:200]))


def quantity_of(path: Sequence[str]) -> str | None:
    """Our name of what is recorded under nested names, such as ``("metrics", "train", "loss")``.

    The last name decides; what it leaves open (``loss`` of which pairs) the names above it may say. A name
    with any word besides (``excluded_loss``, ``log_loss``, ``best_acc``) is none of ours.
    """
    return _quantity(tuple(path[-4:]))


@lru_cache(maxsize=4096)
def _quantity(path: tuple[str, ...]) -> str | None:
    if not path:
        return None
    norm = norm_of(path[-1])
    if norm is not None:
        return norm
    kind, side, others = _read(path[-1])
    if others or kind == "?" or side == "?" or (kind is None and side is None):
        return None
    for above in reversed(path[:-1]):
        if kind is not None and side is not None:
            break
        its_kind, its_side, _ = _read(above)
        kind = kind or (its_kind if its_kind != "?" else None)
        side = side or (its_side if its_side != "?" else None)
    return f"{kind}.{side}" if kind and side else None


def bare_kind(name: str) -> str | None:
    """``loss`` or ``accuracy`` where that is all the name says, without of which pairs."""
    kind, side, others = _read(name)
    return kind if kind in ("loss", "accuracy") and side is None and not others else None


def norm_of(name: str) -> str | None:
    """``norm.total`` or ``norm.squared`` where a name speaks of the norm of all weights."""
    words = [word for word in words_of(name) if word not in _PASSING]
    joined = "_".join(words).replace("l_2", "l2").removesuffix("s")
    return _NORMS.get(joined) or _NORMS.get(joined + "s")


def side_of(name: str) -> str | None:
    """``train`` or ``test`` where exactly one of them is among the words of a name."""
    sides = {_SIDES[word] for word in words_of(name) if word in _SIDES} - {"all"}
    return sides.pop() if len(sides) == 1 else None


def _read(name: str) -> tuple[str | None, str | None, bool]:
    """(kind, side, whether there are other words); "?" where a name says two things."""
    words: list[str] = []
    for word in words_of(name.replace("cross_entropy", "ce")):
        glued = _GLUED.match(word)
        words += glued.groups() if glued else (word,)
    kinds = {_KINDS[word] for word in words if word in _KINDS}
    sides = {_SIDES[word] for word in words if word in _SIDES}
    if len(kinds) > 1 and "ce" in words:
        kinds = {"loss"} if kinds == {"loss"} else kinds
    others = any(word not in _KINDS and word not in _SIDES and word not in _PASSING for word in words)
    return _single(kinds), _single(sides), others


def _single(found: set[str]) -> str | None:
    return None if not found else found.pop() if len(found) == 1 else "?"
