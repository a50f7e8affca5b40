"""What was recorded beside the weights: settings and metrics, as plain data, looked up by name.

Scope: JSON and CSV files in the folder of the weights, and the scalars inside a checkpoint. The names that
people give to the same thing are the tables below.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from torch import Tensor

MAX_BYTES = 16 * 2**20
MAX_KEPT_CHARACTERS = 65536
"""Longest JSON text of one file that is copied into a run; longer ones are only named."""

STEP_NAMES = ("step", "global_step", "epoch", "iteration", "iter")
SEED_NAMES = ("split_seed", "data_seed", "seed")
FRACTION_NAMES = ("train_fraction", "frac_train", "train_frac", "fraction", "train_ratio", "frac")
LEARNING_RATE_NAMES = ("lr", "learning_rate")
DECAY_NAMES = ("weight_decay", "wd")
OPERATION_NAMES = ("operation", "op", "fn_name", "fn", "group", "task")
ACTIVATION_NAMES = ("act_type", "act_fn", "activation", "act")
LENGTH_NAMES = ("num_epochs", "n_epochs", "num_steps", "n_steps", "steps", "epochs")

QUANTITIES: dict[str, tuple[str, ...]] = {
    "loss.train": ("train_loss", "loss_train", "training_loss"),
    "loss.test": ("test_loss", "loss_test", "val_loss", "validation_loss"),
    "loss.all": ("all_loss", "full_loss"),
    "accuracy.train": ("train_acc", "train_accuracy", "acc_train"),
    "accuracy.test": ("test_acc", "test_accuracy", "val_acc", "val_accuracy", "acc_test"),
    "accuracy.all": ("all_acc", "full_acc", "all_accuracy", "full_accuracy"),
}
"""Our name of a quantity → the names under which people record it."""

_GENERIC = {
    "config", "cfg", "args", "hparams", "settings", "metrics", "summary_metrics", "history", "log", "results"
}  # fmt: skip
_PREFIX = re.compile(r"^(config|cfg|args|metrics|model|ckpt|checkpoint)[_\-.]+", re.IGNORECASE)


@dataclass(frozen=True)
class Recorded:
    """A number that the authors wrote down; ``resolution`` is half its last printed digit, 0 if unrounded."""

    quantity: str
    step: int
    value: float
    source: str
    resolution: float = 0.0

    @property
    def place(self) -> str:
        """The file that says so."""
        return self.source.rpartition(" in ")[2]


@dataclass(frozen=True)
class Facts:
    """What lies beside the weights of one run.

    ``documents``: name of a JSON file → its content. ``tables``: name of a CSV file → its rows of text.
    ``unread``: name → why it was left alone.
    """

    documents: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, list[dict[str, str]]] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)

    def find(self, names: tuple[str, ...], inside: Mapping[str, Any] | None = None) -> tuple[Any, str] | None:
        """The value under the first of ``names`` that occurs, and where: inside the file, then beside it."""
        sources: list[tuple[str, Any]] = [("the file itself", inside)] if inside else []
        sources += list(self.documents.items())
        for name in names:
            for source, document in sources:
                for table in _tables_in(document):
                    if name in table and isinstance(table[name], int | float | str) and table[name] != "":
                        return table[name], f"{name} in {source}"
        return None

    def kept(self) -> dict[str, Any]:
        """The documents small enough to copy, JSON-ready; the rest as a remark."""
        found: dict[str, Any] = {}
        for name, document in self.documents.items():
            text = json.dumps(document, allow_nan=False)
            short = len(text) <= MAX_KEPT_CHARACTERS
            found[name] = document if short else f"{len(text)} characters, not copied"
        for name, rows in self.tables.items():
            found[name] = f"{len(rows)} rows: {', '.join(rows[0]) if rows else 'no columns'}"
        return found | {name: f"not read: {why}" for name, why in self.unread.items()}


def facts_beside(folder: Path, stem: str, alone: bool) -> Facts:
    """The JSON and CSV files of ``folder`` that belong to the weights called ``stem``.

    Those of general names (``config.json``, ``metrics.csv``) belong to all weights of the folder, others
    to the weights whose stem they share; where the weights are ``alone`` in the folder, all do.
    """
    documents: dict[str, Any] = {}
    tables: dict[str, list[dict[str, str]]] = {}
    unread: dict[str, str] = {}
    own = _PREFIX.sub("", stem).lower()
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in (".json", ".csv") or not path.is_file():
            continue
        name = path.stem.lower()
        if not (alone or name in _GENERIC or own == _PREFIX.sub("", name)):
            continue
        try:
            if path.stat().st_size > MAX_BYTES:
                unread[path.name] = f"larger than {MAX_BYTES} bytes"
            elif path.suffix.lower() == ".json":
                documents[path.name] = _read_json(path)
            else:
                tables[path.name] = _read_csv(path)
        except (OSError, ValueError, RecursionError, csv.Error) as error:
            unread[path.name] = (str(error).splitlines() or [type(error).__name__])[0][:120]
    # settings before results, so that a name in both means the setting
    settings = ("config", "cfg", "args", "hparams")
    ordered = sorted(documents, key=lambda name: (not name.lower().startswith(settings), name))
    return Facts({name: documents[name] for name in ordered}, tables, unread)


def scalars_of(content: Any) -> dict[str, Any]:
    """Scalars beside the state dict in a checkpoint file, with those of nested settings, no tensors."""
    if not isinstance(content, dict):
        return {}
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Tensor) and value.ndim == 0:
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            continue
        if isinstance(value, bool | int | float | str):
            found[key] = value
        elif key in ("config", "cfg", "args", "hparams", "hyper_parameters") and isinstance(value, dict):
            found[key] = scalars_of(value)
    return found


def recorded_numbers(facts: Facts, inside: Mapping[int, Mapping[str, Any]]) -> list[Recorded]:
    """Every recorded loss and accuracy at a saved step; ``inside`` maps saved steps to a file's scalars.

    Documents without steps are taken to speak of the last save.
    """
    steps = sorted(inside)
    found = [
        Recorded(quantity, step, float(value), f"{name} in the file itself")
        for step, table in inside.items()
        for quantity, name, value in _quantities(table)
    ]
    for source, document in facts.documents.items():
        for table in _tables_in(document):
            step = next((table[name] for name in STEP_NAMES if _is_int(table.get(name))), steps[-1])
            if step in inside:
                found += [
                    Recorded(quantity, step, float(value), f"{name} in {source}")
                    for quantity, name, value in _quantities(table)
                ]
    for source, rows in facts.tables.items():
        found += _recorded_in_rows(source, rows, set(steps))
    return sorted(found, key=lambda one: (one.step, one.quantity, one.source))


def _recorded_in_rows(source: str, rows: list[dict[str, str]], steps: set[int]) -> Iterator[Recorded]:
    column = next((name for name in STEP_NAMES if rows and name in rows[0]), None)
    if column is None:
        return
    names = [(ours, theirs) for ours, known in QUANTITIES.items() for theirs in known if theirs in rows[0]]
    # a column is printed with one number of decimals, which its longest entry shows
    places = {theirs: min((_exponent(row[theirs]) for row in rows), default=0) for _, theirs in names}
    for row in rows:
        try:
            step = int(float(row[column]))
        except (TypeError, ValueError, OverflowError):
            continue
        if step not in steps:
            continue
        for quantity, theirs in names:
            value = _number(row[theirs])
            if value is not None:
                yield Recorded(quantity, step, value, f"{theirs} in {source}", 0.5 * 10.0 ** places[theirs])


def _quantities(table: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    for quantity, names in QUANTITIES.items():
        for name in names:
            value = table.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
                yield quantity, name, value
                break


def _tables_in(document: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """A document's dicts, outermost first: itself, those nested in it, those in a list of rows."""
    if isinstance(document, dict):
        yield document
        nested = document.values()
    elif isinstance(document, list):
        nested = document
    else:
        return
    if depth < 3:
        for value in nested:
            yield from _tables_in(value, depth + 1)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _exponent(text: str | None) -> int:
    try:
        exponent = Decimal((text or "").strip()).as_tuple().exponent
    except InvalidOperation:
        return 0
    return exponent if isinstance(exponent, int) else 0


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _read_json(path: Path) -> Any:
    """JSON with every number finite: what is not becomes null."""

    def finite(text: str) -> float | None:
        value = float(text)
        return value if math.isfinite(value) else None

    return json.loads(path.read_text(encoding="utf-8"), parse_float=finite, parse_constant=lambda _: None)


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {key.strip(): value or "" for key, value in row.items() if key and not isinstance(value, list)}
            for row in csv.DictReader(file)
        ]
