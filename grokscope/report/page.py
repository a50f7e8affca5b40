"""One run's measurements as one HTML page. A pure function: a record goes in, text comes out."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from grokscope.probes.record import Quantity, Record, Verdict
from grokscope.probes.registry import Probe
from grokscope.report.downloads import embed
from grokscope.report.figures import Drawing, draw_figures
from grokscope.report.formatting import as_toml, flattened, slug, whole
from grokscope.report.kept_drawings import KeptDrawings
from grokscope.report.origin import alerts_of_audit, origin_of
from grokscope.report.tables import (
    Holdings,
    Table,
    array_table,
    claim_rows,
    event_tables,
    series_table,
    share_out,
    single_table,
    small_arrays,
    unit,
    vitals,
)

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{hash}'"

MOST_BYTES = 1_900_000
"""Size that a page keeps to by leaving data out of its downloads, never by leaving out a figure or table."""

_TONES = {
    "grokked": "good",
    "generalised without delay": "calm",
    "stalled": "open",
    "still moving": "open",
    "inconclusive": "open",
    "memorised": "bad",
    "not fitted": "bad",
    "lost": "bad",
    "unstable": "bad",
}
_LEFT_COLUMNS = ("unit", "axes")
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
"""Characters that show nothing and can change how others show: controls, and overrides of direction."""
_UNSTATED = Verdict(
    "not applicable", (), "The clocks were not among the probes that ran, so no state is claimed."
)


@dataclass(frozen=True)
class Facts:
    """What a page says of a run beside its record and its manifest.

    ``task`` describes what was learned in a few words; ``provenance`` holds (label, value) pairs shown
    before those of the manifest; ``generated`` is the time of writing, the one thing on the page that
    differs between equal runs; ``command`` names the run on the command line.
    """

    task: str = ""
    provenance: tuple[tuple[str, str], ...] = ()
    generated: str = ""
    command: str = ""


@dataclass(frozen=True)
class _Figure:
    number: int
    title: str
    caption: str
    svg: Markup
    failure: str


@dataclass(frozen=True)
class _Section:
    id: str
    title: str
    question: str
    caveat: str
    figures: list[_Figure]
    tables: list[Table]
    arrays: Table | None
    notes: list[tuple[str, str]]
    absent: list[tuple[str, str]]
    nothing: str = ""
    definitions: list[Quantity] = field(default_factory=list)


def policy() -> str:
    """The page's Content-Security-Policy: nothing is fetched, and no script runs but the page's own."""
    digest = hashlib.sha256(_resource("page.js").encode()).digest()
    return _POLICY.format(hash=base64.b64encode(digest).decode("ascii"))


def render_page(
    record: Record,
    probes: Sequence[Probe],
    manifest: Mapping[str, Any],
    facts: Facts | None = None,
    *,
    strict: bool = False,
    kept: KeptDrawings | None = None,
) -> str:
    """The report as one self-contained HTML file: no request, readable without its script, all text escaped.

    Args:
        record: what was measured.
        probes: the probes that measured it, in the order of their sections.
        manifest: the run's ``run.json``; its ``config`` and ``provenance`` are shown.
        facts: what else there is to say of the run.
        strict: raise where a figure of one of grokscope's own probes cannot be drawn.
        kept: drawings that need not be made again, and those that are made now.
    """
    facts = facts or Facts()
    held, others = share_out(record, probes)
    sections = _sections(record, probes, held, others, strict=strict, kept=kept)
    recipe = _recipe(manifest)
    verdict = record.verdict or _UNSTATED
    events, further_events = event_tables(record)
    run = shlex.quote(facts.command or record.run)
    context = {
        "policy": policy(),
        "script": Markup(_resource("page.js")),
        "version": version("grokscope"),
        "style": Markup(_resource("page.css")),
        "run": record.run,
        "kicker": _kicker(record, manifest, facts),
        "verdict": verdict,
        "tone": _TONES.get(verdict.state, ""),
        "vitals": vitals(record),
        "alerts": [*record.alerts, *alerts_of_audit(manifest)],
        "origin": origin_of(manifest, run),
        "claims": claim_rows(record),
        "events": events,
        "further_events": further_events,
        "sections": sections,
        "recipe": as_toml(recipe) if recipe else "",
        "provenance": _provenance(record, probes, manifest, facts),
        "full_command": f"grokscope probe {run} --json FILE",
        "csv_command": f"grokscope probe {run} --csv DIR",
        "generated": facts.generated,
        "left": _LEFT_COLUMNS,
        "caption_of": lambda table: f"Table of {table.head[0]}",
    }
    # the data get the room that figures and tables leave
    bare = _template().render(context, downloads=[], left_out=[], files_left_out=[])
    embedded = embed(record, probes, record.run, max(MOST_BYTES - len(bare.encode("utf-8", "replace")), 0))
    page = _template().render(
        context,
        downloads=embedded.files,
        left_out=embedded.left_out,
        files_left_out=embedded.files_left_out,
    )
    return _UNSEEN.sub(_seen, page)


def _seen(found: re.Match[str]) -> str:
    """A picture of a control character: the one Unicode has for it, else the replacement character."""
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"


def _recipe(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings to show; where the split is not known, not the ones that would draw one."""
    config = manifest.get("config")
    if not isinstance(config, Mapping):
        return {}
    task = config.get("task")
    if "no_split" not in manifest or not isinstance(task, Mapping):
        return config
    drawn = ("train_fraction", "split_seed")
    return {**config, "task": {key: value for key, value in task.items() if key not in drawn}}


def _sections(
    record: Record,
    probes: Sequence[Probe],
    held: Mapping[str, Holdings],
    others: Holdings,
    *,
    strict: bool,
    kept: KeptDrawings | None,
) -> list[_Section]:
    made: list[_Section] = []
    count = 0
    for position, probe in enumerate(probes, 1):
        figures: list[_Figure] = []
        for drawing in draw_figures(probe, record, f"f{position}", strict=strict, kept=kept):
            count += 1
            figures.append(_numbered(count, drawing))
        mine = held[probe.name]
        made.append(
            _Section(
                id=f"probe-{position}-{slug(probe.name)}",
                title=probe.title,
                question=probe.question,
                caveat=probe.caveat,
                figures=figures,
                tables=_tables(record, mine.measured),
                arrays=array_table(record, mine.measured),
                notes=_notes(record, [probe.name]),
                absent=mine.absent,
                nothing=_why_nothing(mine),
                definitions=_defined(record, probe, mine),
            )
        )
    rest = _notes(record, [p.name for p in probes], inside=False)
    if others.measured or others.absent or rest:
        made.append(
            _Section(
                "others", "Further quantities", "", "", [], _tables(record, others.measured),
                array_table(record, others.measured), rest, others.absent,
            )
        )  # fmt: skip
    return made


def _why_nothing(mine: Holdings) -> str:
    """The one reason why a probe measured nothing at all; empty where it measured, or had several reasons."""
    reasons = {reason for _, reason in mine.absent}
    return reasons.pop() if len(reasons) == 1 and not mine.measured else ""


def _numbered(count: int, drawing: Drawing) -> _Figure:
    # the one text that is not escaped: an <svg> built from a parsed tree, every string in it escaped there
    return _Figure(count, drawing.title, drawing.caption, Markup(drawing.svg), drawing.failure)


def _tables(record: Record, names: Sequence[str]) -> list[Table]:
    found = [series_table(record, names), single_table(record, names), *small_arrays(record, names)]
    return [table for table in found if table is not None]


def _defined(record: Record, probe: Probe, mine: Holdings) -> list[Quantity]:
    """The quantities of ``probe`` that appear in its section, measured or absent."""
    used = {record.measurements[name].quantity for name in mine.measured}
    gone = [name for name, _ in mine.absent]
    return [q for q in probe.quantities if q in used or any(n == q.name or q.matches(n) for n in gone)]


def _notes(record: Record, owners: Collection[str], *, inside: bool = True) -> list[tuple[str, str]]:
    """Notes whose first word is (or, not ``inside``, is not) one of ``owners``, short ones only."""
    chosen = {
        key: value for key, value in record.notes.items() if (str(key).split(".")[0] in owners) is inside
    }
    return [(key, text) for key, text in flattened(chosen) if text and len(text) <= 2000]


def _kicker(record: Record, manifest: Mapping[str, Any], facts: Facts) -> str:
    config = manifest.get("config")
    family = ""
    if isinstance(config, Mapping) and isinstance(config.get("model"), Mapping):
        family = str(config["model"].get("family", "")).replace("-", " ")
    pieces = [facts.task, family]
    if len(record.steps):
        saves = f"{whole(len(record.steps))} save{'s' if len(record.steps) != 1 else ''}"
        pieces.append(f"{saves}, steps {whole(int(record.steps[0]))} to {whole(int(record.steps[-1]))}")
    return " · ".join(piece for piece in pieces if piece)


def _provenance(
    record: Record, probes: Sequence[Probe], manifest: Mapping[str, Any], facts: Facts
) -> list[tuple[str, str]]:
    shown = list(facts.provenance)
    stored = manifest.get("provenance")
    if isinstance(stored, Mapping):
        shown += flattened(stored)
    shown += [(str(k), str(manifest[k])) for k in ("kind", "schema") if k in manifest]
    shown.append(("probes", ", ".join(record.probes or [p.name for p in probes])))
    return shown


def _dotted(text: str) -> Markup:
    """A dotted name that may break after a dot or an underscore."""
    safe = str(escape(text))
    return Markup(safe.replace(".", ".<wbr>").replace("_", "_<wbr>"))


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["dotted"] = _dotted
    environment.filters["unit"] = unit
    return environment.from_string(_resource("page.html.j2"))


@cache
def _resource(name: str) -> str:
    return (resources.files("grokscope.report") / name).read_text(encoding="utf-8")
