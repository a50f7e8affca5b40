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
from grokscope.report.citation import citation
from grokscope.report.evidence import evidence_of_claims, shown_quantities
from grokscope.report.figures import Drawing, draw_figures
from grokscope.report.formatting import as_toml, flattened, slug, whole
from grokscope.report.formulas import mathml
from grokscope.report.interventions import interventions
from grokscope.report.kept_drawings import KeptDrawings
from grokscope.report.live import LiveView, live_json
from grokscope.report.origin import alerts_of_audit, origin_of
from grokscope.report.tables import (
    Holdings,
    Table,
    array_table,
    claim_rows,
    event_tables,
    figure_tables,
    series_table,
    share_out,
    single_table,
    small_arrays,
    unit,
    vitals,
)

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{hash}'"

_SCRIPTS = (
    "core", "conveniences", "decode", "time", "panels", "timebar", "scales", "chart", "printed", "downloads",
    "views", "view-answers", "view-spectra", "view-maps", "start",
)  # fmt: skip
"""The page's script in the order in which its files are put together: each uses only what stands before it."""

TONES = {
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
_OFF_THE_PAGE = ("started", "finished", "seconds", "imported")
_FOLDERS = re.compile(r"(?<![\w./~-])/(?:[^\s'\"/]+/)+")
"""The folders of an absolute path; what they hold keeps its name."""
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
    before those of the manifest; ``checksum`` is the SHA-256 of the trajectory's content; ``command`` names the
    run on the command line; ``data`` names the file beside the page that holds every number.
    """

    task: str = ""
    provenance: tuple[tuple[str, str], ...] = ()
    checksum: str = ""
    command: str = ""
    data: str = ""


@dataclass(frozen=True)
class _Figure:
    number: int
    title: str
    caption: str
    svg: Markup
    failure: str
    key: str
    definitions: list[Quantity]
    tables: list[Table]


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
    digest = hashlib.sha256(_script().encode()).digest()
    return _POLICY.format(hash=base64.b64encode(digest).decode("ascii"))


def render_page(
    record: Record,
    probes: Sequence[Probe],
    manifest: Mapping[str, Any],
    facts: Facts | None = None,
    *,
    strict: bool = False,
    kept: KeptDrawings | None = None,
    views: Sequence[LiveView] = (),
) -> str:
    """The report as one self-contained HTML file: no request, readable without its script, all text escaped.

    Args:
        record: what was measured.
        probes: the probes that measured it, in the order of their sections.
        manifest: the run's ``run.json``; its ``config`` and ``provenance`` are shown.
        facts: what else there is to say of the run.
        strict: raise where a figure of one of grokscope's own probes cannot be drawn.
        kept: drawings that need not be made again, and those that are made now.
        views: what follows the time cursor.
    """
    facts = facts or Facts()
    held, others = share_out(record, probes)
    sections, charts = _sections(record, probes, held, others, strict=strict, kept=kept)
    numbers = {figure.key: figure.number for section in sections for figure in section.figures}
    section_of = {probe.name: _section_id(position, probe) for position, probe in enumerate(probes, 1)}
    recipe = _recipe(manifest)
    verdict = record.verdict or _UNSTATED
    events, further_events = event_tables(record)
    run = shlex.quote(facts.command or record.run)
    context = {
        "policy": policy(),
        "script": Markup(_script()),
        "version": version("grokscope"),
        "style": Markup(_resource("page.css")),
        "run": record.run,
        "kicker": _kicker(record, manifest, facts),
        "verdict": verdict,
        "tone": TONES.get(verdict.state, ""),
        "vitals": vitals(record),
        "alerts": [*record.alerts, *alerts_of_audit(manifest, run)],
        "origin": origin_of(manifest, run),
        "claims": list(zip(claim_rows(record), evidence_of_claims(record, charts, numbers), strict=True)),
        "citation": citation(record, facts.task, facts.checksum, version("grokscope")),
        "data_file": facts.data,
        "events": events,
        "further_events": further_events,
        "sections": sections,
        "live": Markup(live_json(record, charts, views, section_of)),
        "recipe": as_toml(recipe) if recipe else "",
        "provenance": _provenance(record, probes, manifest, facts),
        "full_command": f"grokscope probe {run} --json FILE",
        "csv_command": f"grokscope probe {run} --csv DIR",
        "left": _LEFT_COLUMNS,
        "caption_of": lambda table: f"Table of {table.head[0]}",
    }
    return visible(_template().render(context))


def visible(text: str) -> str:
    """``text`` with a picture in the place of every character that shows nothing."""
    return _UNSEEN.sub(_seen, text)


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
) -> tuple[list[_Section], dict[str, Mapping[str, Any]]]:
    """The sections of the page, and what its figures show over time by the key of each."""
    made: list[_Section] = []
    charts: dict[str, Mapping[str, Any]] = {}
    count = 0
    for position, probe in enumerate(probes, 1):
        figures: list[_Figure] = []
        for drawing in draw_figures(probe, record, f"f{position}", strict=strict, kept=kept):
            count += 1
            figures.append(_numbered(count, drawing, record, probe))
            if drawing.chart is not None:
                charts[drawing.key] = drawing.chart
        mine = held[probe.name]
        made.append(
            _Section(
                id=_section_id(position, probe),
                title=probe.title,
                question=probe.question,
                caveat=probe.caveat,
                figures=figures,
                tables=_tables(record, mine.measured),
                arrays=array_table(record, mine.measured),
                notes=_notes(record, [probe.name]),
                absent=mine.absent,
                nothing=_why_nothing(mine),
                definitions=_defined(record, probe, mine, {q for f in figures for q in f.definitions}),
            )
        )
    rest = _notes(record, [p.name for p in probes], inside=False)
    if others.measured or others.absent or rest:
        title = "Further quantities" if others.measured or others.absent else "Notes"
        made.append(
            _Section(
                "others", title, "", "", [], _tables(record, others.measured),
                array_table(record, others.measured), rest, others.absent,
            )
        )  # fmt: skip
    return made, charts


def _section_id(position: int, probe: Probe) -> str:
    return f"probe-{position}-{slug(probe.name)}"


def _why_nothing(mine: Holdings) -> str:
    """The one reason why a probe measured nothing at all; empty where it measured, or had several reasons."""
    reasons = {reason for _, reason in mine.absent}
    return reasons.pop() if len(reasons) == 1 and not mine.measured else ""


def _numbered(count: int, drawing: Drawing, record: Record, probe: Probe) -> _Figure:
    # the one text that is not escaped: an <svg> built from a parsed tree, every string in it escaped there
    return _Figure(
        count,
        drawing.title,
        drawing.caption,
        Markup(drawing.svg),
        drawing.failure,
        drawing.key,
        shown_quantities(drawing, record, probe),
        figure_tables(record, drawing.chart) if drawing.chart else [],
    )


def _tables(record: Record, names: Sequence[str]) -> list[Table]:
    found = [series_table(record, names), single_table(record, names), *small_arrays(record, names)]
    return [table for table in found if table is not None]


def _defined(record: Record, probe: Probe, mine: Holdings, before: Collection[Quantity]) -> list[Quantity]:
    """The quantities of ``probe`` that appear in its section, measured or absent, and not ``before``."""
    used = {record.measurements[name].quantity for name in mine.measured}
    gone = [name for name, _ in mine.absent]
    shown = [q for q in probe.quantities if q in used or any(n == q.name or q.matches(n) for n in gone)]
    return [quantity for quantity in shown if quantity not in before]


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
    if isinstance(config, Mapping):
        pieces += interventions(config)
    return " · ".join(piece for piece in pieces if piece)


def _provenance(
    record: Record, probes: Sequence[Probe], manifest: Mapping[str, Any], facts: Facts
) -> list[tuple[str, str]]:
    shown = list(facts.provenance)
    stored = manifest.get("provenance")
    if isinstance(stored, Mapping):
        # what differs between equal runs, or tells of the machine's folders, stays off the page
        shown += [
            (key, _FOLDERS.sub("", text))
            for key, text in flattened(stored)
            if key.split(".")[0] not in _OFF_THE_PAGE
        ]
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
    environment.filters["formula"] = lambda quantity: mathml(quantity.formula)
    return environment.from_string(_resource("page.html.j2"))


@cache
def _script() -> str:
    return "".join(_resource(f"page/{name}.js") for name in _SCRIPTS)


@cache
def _resource(name: str) -> str:
    return (resources.files("grokscope.report") / name).read_text(encoding="utf-8")
