"""Draft the catalogue card of a public repository from a clone of it.

    python checkpoints/catalog/draft.py CLONE --name NAME --url URL --commit SHA --licence TEXT > NAME.toml

Every run under CLONE is imported without storing it; what was recognised, searched and found wrong is written
as a card that leaves nothing to guess. Read it before you keep it: the card says what it proved and how.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from grokscope.foreign import Reading, gather, understand
from grokscope.foreign.importer import declared_card
from grokscope.foreign.splitting.find import Split
from grokscope.foreign.understand import Understood


def draft(clone: Path, name: str, repository: dict[str, str]) -> str:
    """The card as TOML."""
    sources, _ = gather([clone])
    runs: list[dict[str, Any]] = []
    files: dict[str, Path] = {}
    for source in sources:
        found = understand(source, Reading(), [], str(clone))
        if found.function is None:
            continue
        read = [one.path for one in source.snapshots] + list(source.facts.paths.values())
        inside = {
            str(path.relative_to(clone)): path for path in dict.fromkeys(read) if path.is_relative_to(clone)
        }
        files |= inside
        runs.append(
            {
                "name": re.sub(r"[^A-Za-z0-9._+-]+", "-", source.stem),
                "files": sorted(inside, key=_by_number),
                "proved": _proved(found),
                "wrong": _wrong(found, clone),
                "card": declared_card(found) | ({"split": split} if (split := _split(found)) else {}),
            }
        )
    listed = []
    for path in sorted(files, key=_by_number):
        content = files[path].read_bytes()
        listed.append({"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    return toml({"name": name, "repository": repository, "runs": runs, "files": listed})


def _by_number(path: str) -> list[Any]:
    return [
        (0, int(piece), "") if piece.isdigit() else (1, 0, piece)
        for piece in re.split(r"(\d+)", path)
        if piece
    ]


def _proved(found: Understood) -> list[str]:
    assert found.function is not None
    counted: dict[str, int] = {}
    for row in found.proof:
        if row.recorded is not None:
            counted[row.verdict] = counted.get(row.verdict, 0) + 1
    told = ", ".join(
        f"{count} {verdict}" for verdict, count in sorted(counted.items(), key=lambda one: -one[1])
    )
    numbers = f"recorded numbers: {told}" if told else f"nothing recorded; {found.function.answers}"
    if isinstance(found.split, Split):
        return [numbers, f"split: {found.split.recipe} ({found.split.source})"]
    return [numbers, "split: not known"]


def _wrong(found: Understood, clone: Path) -> list[str]:
    """The warnings of the audit without their commands and without this clone's path."""
    told = [f"{one['finding']}: {one['evidence']}" for one in found.audit if one.get("severity") == "warning"]
    return [re.sub(r"; to resolve: .*$", "", text).replace(f"{clone}/", "") for text in told]


def _split(found: Understood) -> dict[str, Any]:
    if isinstance(found.split, Split) and found.split.seed is not None:
        return {
            "seed": found.split.seed,
            "train_fraction": found.split.fraction,
            "recipe": found.split.recipe,
        }
    return {}


def toml(document: dict[str, Any], prefix: str = "") -> str:
    """A document of texts, numbers, lists and tables as TOML."""
    lines, tables = [], []
    for key, value in document.items():
        name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
        if isinstance(value, dict):
            tables.append(f"\n[{prefix}{name}]\n{toml(value, f'{prefix}{name}.')}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            tables += [f"\n[[{prefix}{name}]]\n{toml(one, f'{prefix}{name}.')}" for one in value]
        elif (
            isinstance(value, list | tuple) and len(value) > 1 and all(isinstance(one, str) for one in value)
        ):
            items = "".join(f"    {json.dumps(one, ensure_ascii=False)},\n" for one in value)
            lines.append(f"{name} = [\n{items}]\n")
        else:
            plain = list(value) if isinstance(value, tuple) else value
            lines.append(f"{name} = {json.dumps(plain, ensure_ascii=False)}\n")
    return "".join(lines + tables)


def main() -> None:
    """Print the card of the clone given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clone", type=Path)
    for option in ("name", "url", "commit", "licence"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--date", default="")
    parser.add_argument("--summary", default="")
    given = parser.parse_args()
    repository = {key: getattr(given, key) for key in ("url", "commit", "date", "licence", "summary")}
    print(draft(given.clone, given.name, {key: value for key, value in repository.items() if value}), end="")


if __name__ == "__main__":
    main()
