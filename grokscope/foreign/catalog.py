"""The catalogue of public checkpoints: where they are, which files with which hashes, and how to read them.

A card of the catalogue holds no weights. It names a repository at a commit, its files with size and SHA-256,
and for each run in it a card (see ``card``) that leaves nothing to guess, with what was proved and what was
found wrong when it was first imported.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from grokscope.errors import GrokscopeError, nearest
from grokscope.foreign.function.card import MAX_CARD_BYTES, Card, card_of
from grokscope.foreign.gathering.containers import Skipped, gather
from grokscope.foreign.imported import ImportedRun, ImportResult
from grokscope.foreign.importer import name_runs, store_runs
from grokscope.foreign.reading.safe_read import SUFFIXES
from grokscope.foreign.understand import Reading, understand

_FIELDS = {
    "": ("name", "repository", "files", "runs"),
    "repository": ("url", "commit", "date", "licence", "summary"),
    "files": ("path", "size", "sha256"),
    "runs": ("name", "files", "card", "proved", "wrong"),
}


@dataclass(frozen=True)
class CatalogFile:
    """One file of a repository: its path in it, its size in bytes, its SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class CatalogRun:
    """One run: its weight files (or the folder of them), the card to read it by, and what is known of it."""

    name: str
    files: tuple[str, ...]
    card: Card
    proved: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class CatalogEntry:
    """One public repository."""

    name: str
    url: str
    commit: str
    licence: str
    files: tuple[CatalogFile, ...]
    runs: tuple[CatalogRun, ...]
    date: str = ""
    summary: str = ""
    source: str = field(default="", compare=False)

    def as_json(self) -> dict[str, Any]:
        """The entry without its cards, in plain data."""
        return {
            "name": self.name,
            "url": self.url,
            "commit": self.commit,
            "licence": self.licence,
            "summary": self.summary,
            "files": [{"path": one.path, "size": one.size, "sha256": one.sha256} for one in self.files],
            "runs": [
                {
                    "name": run.name,
                    "files": list(run.files),
                    "proved": list(run.proved),
                    "wrong": list(run.wrong),
                }
                for run in self.runs
            ],
        }


def read_catalog(workspace: Path | None = None) -> tuple[CatalogEntry, ...]:
    """Every card of the catalogue, those of ``workspace/checkpoints/catalog`` before ours of the same name.

    Raises:
        GrokscopeError: a card that cannot be read, in one line.
    """
    folders = [_own_folder()]
    if workspace is not None:
        folders.insert(0, workspace / "checkpoints" / "catalog")
    found: dict[str, CatalogEntry] = {}
    for folder in folders:
        if folder is not None and folder.is_dir():
            for path in sorted(folder.glob("*.toml")):
                entry = read_entry(path)
                found.setdefault(entry.name, entry)
    return tuple(sorted(found.values(), key=lambda entry: entry.name))


def _own_folder() -> Path | None:
    """Where this installation keeps the catalogue: inside the wheel, or beside the package in its sources."""
    inside = Path(str(resources.files("grokscope"))) / "catalog"
    beside = inside.parent.parent / "checkpoints" / "catalog"
    return next((folder for folder in (inside, beside) if folder.is_dir()), None)


def read_entry(path: Path) -> CatalogEntry:
    """The catalogue card in a TOML file; every field that no card has is refused."""
    about = f"reading catalogue card {path}"
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise GrokscopeError(f"{about}: more than {MAX_CARD_BYTES} bytes, expected a card")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise GrokscopeError(f"{about}: {str(error).splitlines()[0]}, expected TOML") from None
    _only_known(document, "", about)
    repository = document.get("repository")
    if not isinstance(repository, dict):
        raise GrokscopeError(f"{about}: no [repository], expected url, commit and licence")
    _only_known(repository, "repository", about)
    said = {key: _text(repository, key, about) for key in ("url", "commit", "licence")}
    optional = {key: _text(repository, key, about) for key in ("date", "summary") if key in repository}
    files = tuple(_file(one, about) for one in _tables(document, "files", about))
    runs = tuple(_run(one, about) for one in _tables(document, "runs", about))
    listed = {one.path for one in files}
    for run in runs:
        missing = [one for one in run.files if one not in listed]
        if missing:
            raise GrokscopeError(f"{about}: {missing[0]!r} of run {run.name} is not among its files")
    name = document.get("name", path.stem)
    return CatalogEntry(str(name), files=files, runs=runs, source=str(path), **said, **optional)


def _file(one: Mapping[str, Any], about: str) -> CatalogFile:
    _only_known(one, "files", about)
    path, sha256, size = _text(one, "path", about), _text(one, "sha256", about), one.get("size")
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise GrokscopeError(
            f"{about}: the file {path!r} lies outside its repository, expected a path inside"
        )
    if not isinstance(size, int) or len(sha256) != 64:
        raise GrokscopeError(f"{about}: {path} has size {size!r} and SHA-256 {sha256!r}, expected both")
    return CatalogFile(path, size, sha256)


def _run(one: Mapping[str, Any], about: str) -> CatalogRun:
    _only_known(one, "runs", about)
    name = _text(one, "name", about)
    card = one.get("card")
    if not isinstance(card, dict):
        raise GrokscopeError(f"{about}: run {name} has no card, expected [runs.card]")
    return CatalogRun(
        name=name,
        files=_texts(one, "files", about),
        card=card_of(card, f"{about}: run {name}", name),
        proved=_texts(one, "proved", about),
        wrong=_texts(one, "wrong", about),
    )


def _only_known(table: Mapping[str, Any], section: str, about: str) -> None:
    for key in table:
        if key not in _FIELDS[section]:
            known = ", ".join(_FIELDS[section])
            raise GrokscopeError(
                f"{about}: unknown field {key!r}{nearest(key, _FIELDS[section])}, expected one of {known}"
            )


def _tables(document: Mapping[str, Any], key: str, about: str) -> list[dict[str, Any]]:
    found = document.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
        raise GrokscopeError(f"{about}: no [[{key}]], expected at least one")
    return found


def _text(table: Mapping[str, Any], key: str, about: str) -> str:
    found = table.get(key)
    if not isinstance(found, str) or not found:
        raise GrokscopeError(f"{about}: {key} is {found!r}, expected text")
    return found


def _texts(table: Mapping[str, Any], key: str, about: str) -> tuple[str, ...]:
    found = table.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise GrokscopeError(f"{about}: {key} is {found!r}, expected a list of texts")
    return tuple(found)


def import_from_catalog(
    name: str, paths: Sequence[Path], workspace: Path, run_name: str | None = None
) -> ImportResult:
    """Import the runs of a catalogue entry from a clone of its repository, nothing left to guess.

    ``paths`` are the clone, or folders and files in it. Runs of which a file is missing are skipped.

    Raises:
        GrokscopeError: no such entry, none of its files under ``paths``, a file whose hash is another, or
            as for any import.
    """
    entries = {entry.name: entry for entry in read_catalog(workspace)}
    if name not in entries:
        raise GrokscopeError(
            f"importing from the catalogue: there is no card {name!r}, expected one of {', '.join(entries)}"
            f"{nearest(name, entries)}"
        )
    entry = entries[name]
    located = {one.path: path for one in entry.files if (path := _locate(one, paths)) is not None}
    whole = [run for run in entry.runs if all(file in located for file in run.files)]
    if not whole:
        raise GrokscopeError(
            f"importing {name} from the catalogue: none of its runs is whole under {paths[0]}, expected a clone "
            f"of {entry.url} with files such as {entry.files[0].path}"
        )
    for run in whole:
        for file in run.files:
            _check_hash(next(one for one in entry.files if one.path == file), located[file], entry)
    skipped = [
        Skipped(
            Path(next(file for file in run.files if file not in located)),
            f"not there: run {run.name} is left out",
        )
        for run in entry.runs
        if run not in whole
    ]
    # all at once, so that what lies beside one run is not taken for another's
    given = {located[file].resolve(): run for run in whole for file in run.files}
    weights = [path for path in dict.fromkeys(given) if path.suffix.lower() in SUFFIXES]
    sources, left = gather(weights)
    skipped += left
    found: list[ImportedRun] = []
    for source in sources:
        run = given[source.snapshots[-1].path.resolve()]
        near = [(str(one.path), one.why) for one in left]
        found.append(ImportedRun(run.name, understand(source, Reading(card=run.card), near, str(paths[0]))))
    return store_runs(name_runs(found, run_name or name), skipped, workspace, paths[0])


def _locate(file: CatalogFile, paths: Sequence[Path]) -> Path | None:
    """Where a file of the repository lies under what the user gave, the clone or a part of it."""
    parts = PurePosixPath(file.path).parts
    for path in paths:
        if path.is_file() and path.resolve().parts[-len(parts) :] == parts:
            return path
        for start in range(len(parts)):
            candidate = path.joinpath(*parts[start:])
            # a part of the clone: its own end must be the beginning of the rest of the path
            if candidate.is_file() and (start == 0 or path.resolve().parts[-start:] == parts[:start]):
                return candidate
    return None


def _check_hash(file: CatalogFile, path: Path, entry: CatalogEntry) -> None:
    try:
        with path.open("rb") as raw:
            found = hashlib.file_digest(raw, "sha256").hexdigest()
    except OSError as error:
        raise GrokscopeError(f"reading {path}: {error.strerror or error}, expected a readable file") from None
    if found != file.sha256:
        raise GrokscopeError(
            f"importing {entry.name} from the catalogue: {path} has the SHA-256 {found[:16]}…, expected "
            f"{file.sha256[:16]}… of commit {entry.commit[:12]}; without --catalog it is read as it is"
        )


def catalog_lines(entries: Sequence[CatalogEntry]) -> list[str]:
    """The catalogue for a reader: a repository a paragraph, a run a line."""
    lines: list[str] = []
    for entry in entries:
        lines.append(f"{entry.name}: {entry.url} at {entry.commit[:12]}, {entry.licence}")
        if entry.summary:
            lines.append(f"  {entry.summary}")
        for run in entry.runs:
            count = f"{len(run.files)} file{'s' if len(run.files) > 1 else ''}"
            lines.append(f"  run {run.name}: {run.card.title} ({count})")
            lines += [f"    proved  {one}" for one in run.proved]
            lines += [f"    wrong   {one}" for one in run.wrong]
    return lines or ["the catalogue is empty"]
