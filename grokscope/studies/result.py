"""What a study found: published numbers beside ours, with intervals and verdicts, as JSON and as one page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from grokscope.errors import GrokscopeError
from grokscope.measures.agreement import agreement
from grokscope.probes.record import Record
from grokscope.probes.registry import FigureSpec
from grokscope.report.figures import Drawing, figure_svg
from grokscope.report.formatting import UNDEFINED, number
from grokscope.report.study_frame import StudyRow, study_page
from grokscope.studies.sweep import Scale

Interval = tuple[float | None, float | None]


@dataclass(frozen=True)
class Row:
    """A published value beside ours. An end of ``interval`` that is not known is ``None``.

    ``verdict``: *agrees*, *differs* or *cannot tell*, by :func:`grokscope.measures.agreement.agreement`.
    """

    quantity: str
    published: float | str
    ours: float | str | None
    interval: Interval | None
    verdict: str
    note: str = ""
    published_interval: tuple[float, float] | None = None
    digits: int = 4

    def as_json(self) -> dict[str, Any]:
        """In the shape of ``study --json``; never NaN or infinite."""
        return {
            "quantity": self.quantity,
            "published": self.published,
            "ours": _finite(self.ours),
            "interval": None if self.interval is None else [_finite(end) for end in self.interval],
            "verdict": self.verdict,
            "note": self.note,
        }

    def as_text(self) -> StudyRow:
        """As the page shows it."""
        published = _shown(self.published, self.digits)
        if self.published_interval is not None:
            published += f" ({_ends(self.published_interval, self.digits)})"
        interval = UNDEFINED if self.interval is None else _ends(self.interval, self.digits)
        return StudyRow(
            self.quantity, published, _shown(self.ours, self.digits), interval, self.verdict, self.note
        )


@dataclass(frozen=True)
class Finding:
    """Something measured that the publication has no number for."""

    quantity: str
    ours: float | str | None
    interval: Interval | None = None
    note: str = ""
    digits: int = 4

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        interval = None if self.interval is None else [_finite(end) for end in self.interval]
        return {
            "quantity": self.quantity,
            "ours": _finite(self.ours),
            "interval": interval,
            "note": self.note,
        }

    def as_text(self) -> tuple[str, str, str, str]:
        """Quantity, value, interval and note as the page shows them."""
        interval = UNDEFINED if self.interval is None else _ends(self.interval, self.digits)
        return self.quantity, _shown(self.ours, self.digits), interval, self.note


@dataclass(frozen=True)
class StudyResult:
    """One study at one scale.

    ``chosen`` says what the publication left open and what was taken; ``left_out`` what was not repeated. ``data``
    is what the rows were computed from, run by run.
    """

    study: str
    scale: Scale
    title: str
    sentence: str
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...] = ()
    figures: tuple[Drawing, ...] = ()
    chosen: str = ""
    left_out: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The shape of ``study --json``."""
        return {"study": self.study, "scale": self.scale, "rows": [row.as_json() for row in self.rows]}

    @property
    def stem(self) -> str:
        """Name of the files that hold it."""
        return f"study-{self.study}-{self.scale}"


def compared(
    quantity: str,
    published: float | str,
    ours: float | None,
    interval: Interval | None,
    *,
    published_interval: tuple[float, float] | None = None,
    tolerance: float | None = None,
    no_effect: float | None = None,
    note: str = "",
    digits: int = 4,
) -> Row:
    """A row with its verdict; see :func:`grokscope.measures.agreement.agreement` for the arguments."""
    low, high = interval or (None, None)
    found = agreement(low, high, published, published_interval, tolerance, no_effect)
    said = note if found.verdict == "agrees" else "; ".join(part for part in (found.reason, note) if part)
    return Row(quantity, published, ours, interval, found.verdict, said, published_interval, digits)


def drawing(
    title: str, caption: str, draw: Callable[[Figure], None], key: str, size: tuple[float, float]
) -> Drawing:
    """A figure of a study in the house style."""

    def of(record: Record, figure: Figure) -> None:
        draw(figure)

    nothing = Record("", np.zeros(0, np.int64))
    return Drawing(title, caption, figure_svg(FigureSpec(title, caption, of, size), nothing, key), key=key)


def write_result(
    result: StudyResult,
    reports: Path,
    runs: Mapping[str, Path],
    *,
    links: bool = True,
    recipes: Mapping[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Write ``<stem>.html`` and ``<stem>.json`` into ``reports``; equal results give equal bytes.

    ``runs`` are named on the page, with a link to each page of a run that stands in ``reports``; ``recipes`` are the
    settings of every arm, by which a study that goes on from the JSON knows its runs.
    """
    reports.mkdir(parents=True, exist_ok=True)
    page, data = reports / f"{result.stem}.html", reports / f"{result.stem}.json"
    beside = [
        (name, f"{name}.html" if links and (reports / f"{name}.html").is_file() else "") for name in runs
    ]
    page.write_text(
        study_page(
            result.title,
            result.sentence,
            [row.as_text() for row in result.rows],
            result.figures,
            beside,
            result.left_out,
            findings=[finding.as_text() for finding in result.findings],
            chosen=result.chosen,
        ),
        encoding="utf-8",
    )
    whole = {
        **result.as_json(),
        "findings": [finding.as_json() for finding in result.findings],
        "chosen": result.chosen,
        "left_out": result.left_out,
        "data": plain(result.data),
        "recipes": plain(recipes or {}),
    }
    data.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return page, data


def read_saved(file: Path, study: str, scale: str) -> Mapping[str, Any]:
    """What :func:`write_result` wrote of this study at this scale: its ``data`` and its ``recipes`` among it.

    Raises GrokscopeError where the file cannot be read or is of another study or scale.
    """
    doing = f"reading the saved result {file}"
    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise GrokscopeError(f"{doing}: {error.strerror}, expected the JSON of a study") from None
    except ValueError as error:
        raise GrokscopeError(f"{doing}: {error}, expected the JSON of a study") from None
    told = (whole.get("study"), whole.get("scale")) if isinstance(whole, dict) else (None, None)
    parts = (whole.get("data"), whole.get("recipes")) if isinstance(whole, dict) else ()
    if told != (study, scale) or not all(isinstance(part, dict) for part in parts):
        of = " at scale ".join(map(str, told))
        raise GrokscopeError(
            f"{doing}: it is of {of}, expected {study} at scale {scale} with its data and recipes"
        )
    return whole


def plain(value: Any) -> Any:
    """``value`` as JSON holds it: infinities and NaN as ``null``."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return _finite(value)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: float | str | None, digits: int) -> str:
    return value if isinstance(value, str) else number(value, digits)


def _ends(interval: Interval, digits: int) -> str:
    low, high = (None if end is None or not math.isfinite(end) else end for end in interval)
    if low is None and high is None:
        return UNDEFINED
    if low is None:
        return f"below {number(high, digits)}"
    return (
        f"above {number(low, digits)}" if high is None else f"{number(low, digits)} to {number(high, digits)}"
    )
