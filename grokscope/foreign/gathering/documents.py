"""Text files beside the weights: which belong to them, and their content as bounded plain data.

Scope: JSON, JSON lines, CSV, TSV, TOML and YAML. Tags in YAML that ask for objects become plain mappings; no
constructor of theirs is called. What the content means is for ``facts`` to say.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import lru_cache
from pathlib import Path
from typing import Any

MAX_BYTES = 16 * 2**20
MAX_YAML_BYTES = 2**20
MAX_VALUES = 1_000_000
MAX_YAML_VALUES = 100_000
MAX_DEPTH = 64
MAX_COLUMNS = 4096
MAX_FILES = 2000
"""Documents of one folder that are looked at."""

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".toml", ".yaml", ".yml")
SEPARATORS = "_-. +"

GENERAL = frozenset({
    "config", "configs", "configuration", "cfg", "conf", "args", "arguments", "hparams", "hyperparameters",
    "params", "hyper", "parameters", "settings", "options", "opt", "opts", "flags", "metrics", "metric",
    "summary", "history", "hist", "log", "logs", "logger", "results", "result", "stats", "statistics",
    "losses", "loss", "accuracy", "accuracies", "acc", "curves", "curve", "training", "train", "test", "val",
    "eval", "model", "run", "info", "meta", "metadata", "experiment", "exp", "trainer", "state", "data",
    "dataset", "split", "splits", "indices", "idx", "pairs", "ckpt", "checkpoint", "checkpoints", "weights",
    "final", "record", "recorded", "measurements", "evaluation", "validation", "progress", "report", "mask",
    "inputs", "set", "and", "x", "y", "labels",
})  # fmt: skip
"""Words that name no run: a document named by them alone belongs to all weights of its folder."""

HOLDERS = frozenset({
    "checkpoints", "checkpoint", "ckpts", "ckpt", "weights", "models", "model", "saved_models", "snapshots",
    "states", "state_dicts", "saves", "saved", "save", "default", "params", "files", "pytorch",
})  # fmt: skip
"""Names of folders that hold nothing but weights, so that what is said of them lies one level up."""

_NO_FACTS = re.compile(
    r"^(package(-lock)?|tsconfig|pyproject|poetry|environment|mkdocs|tokenizer.*|vocab|added_tokens|"
    r"special_tokens.*|.*\.index|pnpm-.*|\.pre-commit.*|docker-compose|citation)$"
)
_SETTINGS = ("config", "cfg", "args", "hparams", "hyper")


@dataclass(frozen=True)
class Documents:
    """Content by name; ``paths`` says where each lies, ``unread`` why some was left alone."""

    plain: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, list[dict[str, str]]] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, Path] = field(default_factory=dict)


def documents_beside(
    folder: Path,
    stems: Collection[str],
    alone: bool,
    read: dict[Path, Any] | None = None,
    without: Collection[str] = (),
) -> Documents:
    """The documents in ``folder``, and above it where it only holds weights, that belong to ``stems``.

    Those of general names (``config.json``, ``train_log.csv``) belong to all weights of the folder, others
    to the weights whose stem they share; where the weights are ``alone`` in the folder, all do. Names are
    relative to ``folder``.

    Args:
        read: what was read before, by path, so that runs of one folder need not read it again.
        without: stems of documents to leave out.
    """
    read = {} if read is None else read
    own = {_core(stem) for stem in stems} - {""}
    left_out = {stem.lower() for stem in without}
    plain: dict[str, Any] = {}
    tables: dict[str, list[dict[str, str]]] = {}
    unread: dict[str, str] = {}
    paths: dict[str, Path] = {}
    for path, name, everything in _candidates(folder, alone):
        stem = path.stem.lower()
        core = _core(stem)
        shares = stem in {one.lower() for one in stems} or core in own
        if stem in left_out or not (everything or core == "" or shares):
            continue
        paths[name] = path
        if path not in read:
            read[path] = _content(path)
        content = read[path]
        if isinstance(content, _Unread):
            unread[name] = content.why
        elif isinstance(content, _Table):
            tables[name] = content.rows
        else:
            plain[name] = content
    # what is looked up should be found in the settings first, then in results
    ordered = sorted(plain, key=lambda name: (name.count("/"), not _is_settings(name), name))
    return Documents({name: plain[name] for name in ordered}, tables, unread, paths)


def documents_named(stem: Path, read: dict[Path, Any]) -> dict[str, Any]:
    """The documents of exactly this name, whatever their format, by file name; tables and unread ones left out."""
    found: dict[str, Any] = {}
    for suffix in SUFFIXES:
        path = stem.parent / f"{stem.name}{suffix}"
        if path.is_file():
            if path not in read:
                read[path] = _content(path)
            if not isinstance(read[path], _Unread | _Table):
                found[path.name] = read[path]
    return found


def belongs(stem: str, stems: Collection[str]) -> bool:
    """Whether a file called ``stem`` speaks of the weights called ``stems``, or of all in its folder."""
    core = _core(stem)
    return core == "" or core in {_core(one) for one in stems}


def _is_settings(name: str) -> bool:
    return Path(name).name.lower().startswith(_SETTINGS)


@lru_cache(maxsize=16384)
def _core(stem: str) -> str:
    """A stem without the general words at its ends."""
    text = stem.lower().strip(SEPARATORS)
    while text:
        head = re.match(r"[^_\-. +]+", text)
        tail = re.search(r"[^_\-. +]+$", text)
        if head and head.group() in GENERAL:
            text = text[head.end() :].strip(SEPARATORS)
        elif tail and tail.group() in GENERAL:
            text = text[: tail.start()].strip(SEPARATORS)
        else:
            break
    return text


def _candidates(folder: Path, alone: bool) -> Iterator[tuple[Path, str, bool]]:
    """(path, name, whether it belongs whatever its name) of the documents in and above a folder."""
    place, prefix = folder.resolve(), ""
    for level in range(3):
        here = place if level else folder
        for path in _files(here):
            if not _NO_FACTS.match(path.stem.lower()):
                yield path, prefix + path.name, alone and level == 0
        for known in (".hydra/config.yaml", "wandb/config.yaml", "wandb/latest-run/files/config.yaml"):
            if (here / known).is_file():
                yield here / known, prefix + known, True
        if place.name.lower() not in HOLDERS or place.parent == place:
            return
        place, prefix = place.parent, prefix + "../"


def _files(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(one.name for one in entries if Path(one.name).suffix.lower() in SUFFIXES)
    except OSError:
        return []
    return [folder / name for name in names[:MAX_FILES] if (folder / name).is_file()]


@dataclass(frozen=True)
class _Unread:
    why: str


@dataclass(frozen=True)
class _Table:
    rows: list[dict[str, str]]


def _content(path: Path) -> Any:
    try:
        size, suffix = path.stat().st_size, path.suffix.lower()
        limit = MAX_YAML_BYTES if suffix in (".yaml", ".yml") else MAX_BYTES
        if size > limit:
            return _Unread(f"larger than {limit} bytes")
        text = path.read_bytes()[: limit + 1].decode("utf-8-sig")
        if suffix in (".csv", ".tsv"):
            return _Table(_table(text, "\t" if suffix == ".tsv" else ","))
        return bounded(_unwrapped(_parsed(text, suffix)))
    except (OSError, ValueError, RecursionError, MemoryError, csv.Error) as error:
        return _Unread((str(error).splitlines() or [type(error).__name__])[0][:120] or type(error).__name__)


def _parsed(text: str, suffix: str) -> Any:
    if suffix == ".toml":
        return tomllib.loads(text)
    if suffix in (".yaml", ".yml"):
        return _yaml(text)
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(text)
    try:
        return _json(text)
    except json.JSONDecodeError as error:
        # rows appended to a file that is called .json
        if error.msg == "Extra data":
            return _json_lines(text)
        raise


def _json(text: str) -> Any:
    return json.loads(text)


def _json_lines(text: str) -> list[Any]:
    return [_json(line) for line in text.splitlines() if line.strip()]


def _unwrapped(content: Any) -> Any:
    """The settings of a Weights & Biases file, where each lies under ``value``."""
    if not isinstance(content, dict) or not content:
        return content
    inner = {key: value for key, value in content.items() if key not in ("wandb_version", "_wandb")}
    wrapped = inner and all(
        isinstance(value, dict) and "value" in value and set(value) <= {"value", "desc"}
        for value in inner.values()
    )
    return {key: value["value"] for key, value in inner.items()} if wrapped else content


def bounded(content: Any, most: int = MAX_VALUES) -> Any:
    """A plain copy: text keys, finite numbers (others become ``None``), dates as text.

    Every occurrence of a shared value counts, so that aliases cannot unfold without bound.

    Raises:
        ValueError: more than ``most`` values, or nested more than ``MAX_DEPTH`` deep.
    """
    count = 0

    def copy(value: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if count > most:
            raise ValueError(f"holds more than {most} values")
        if depth > MAX_DEPTH:
            raise ValueError(f"nests more than {MAX_DEPTH} deep")
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int):
            return value if abs(value) < 2**64 else None
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, Mapping):
            return {str(key): copy(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [copy(item, depth + 1) for item in value]
        return value.isoformat() if isinstance(value, date | datetime | time) else f"<{type(value).__name__}>"

    return copy(content, 0)


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise ValueError("YAML is not read here: PyYAML is not installed") from None
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Inert(base):
        """Safe, and a tag that names an object is no more than the data under it."""

    def inert(loader: Any, _suffix: str, node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(node)

    Inert.add_multi_constructor("", inert)
    try:
        # nothing is built before it is known how deep and how large it is
        depth = 0
        for events, event in enumerate(yaml.parse(text, Loader=base)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH or events > MAX_YAML_VALUES:
                raise ValueError(
                    f"nests more than {MAX_DEPTH} deep or holds more than {MAX_YAML_VALUES} values"
                )
        _check_nodes(yaml.compose(text, Loader=base), {}, set())
        return yaml.load(text, Loader=Inert)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {(str(error).splitlines() or ['?'])[0]}") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"YAML that makes no plain data: {error}") from None


def _check_nodes(node: Any, sizes: dict[int, int], open_nodes: set[int]) -> int:
    """The number of values a node unfolds to, its aliases followed; refused where too many or circular."""
    if node is None or isinstance(node.value, str):
        return 1
    if id(node) in open_nodes:
        raise ValueError("a value that holds itself")
    if id(node) not in sizes:
        open_nodes.add(id(node))
        parts = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        sizes[id(node)] = 1 + sum(_check_nodes(part, sizes, open_nodes) for part in parts)
        open_nodes.discard(id(node))
        if sizes[id(node)] > MAX_YAML_VALUES:
            raise ValueError(f"aliases unfold to more than {MAX_YAML_VALUES} values")
    return sizes[id(node)]


def _table(text: str, separator: str) -> list[dict[str, str]]:
    head = text.partition("\n")[0]
    if separator == "," and "," not in head and (";" in head or "\t" in head):
        separator = ";" if ";" in head else "\t"
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    names: list[str] | None = None
    rows: list[dict[str, str]] = []
    count = 0
    for line in lines:
        if not line:
            continue
        if names is None:
            names = [name.strip().lstrip("#").strip() for name in line]
            if len(names) > MAX_COLUMNS:
                raise ValueError(f"more than {MAX_COLUMNS} columns")
            continue
        count += len(names)
        if count > MAX_VALUES:
            raise ValueError(f"holds more than {MAX_VALUES} values")
        cells = [*line, *[""] * (len(names) - len(line))]
        rows.append({name: cell.strip() for name, cell in zip(names, cells, strict=False) if name})
    return rows
