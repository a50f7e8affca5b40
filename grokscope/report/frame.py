"""What the pages over many runs share: one head, one policy, one look, and text that cannot act."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from grokscope.report.page import visible

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {script}"


def policy_of(script: str) -> str:
    """The Content-Security-Policy of a page: nothing is fetched, no script runs but ``script``."""
    if not script:
        return _POLICY.format(script="'none'")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return _POLICY.format(script=f"'sha256-{digest}'")


def render_frame(template: str, *, style: Sequence[str] = (), script: str = "", **context: Any) -> str:
    """A page from ``template``, a file of this package that extends ``frame.html.j2``.

    Args:
        style: style sheets of this package that follow the report's own.
        script: the file of this package that holds the page's script; without one no script may run.
        context: what the template reads; all text is escaped.
    """
    source = resource(script) if script else ""
    sheets = "\n".join(resource(name) for name in ("page.css", *style))
    page = (
        _environment()
        .get_template(template)
        .render(
            policy=policy_of(source),
            style=Markup(sheets),
            script=Markup(source),
            version=version("grokscope"),
            **context,
        )
    )
    return visible(page)


def dotted(text: str) -> Markup:
    """A dotted name that may break after a dot, an underscore or a hyphen."""
    safe = str(escape(text))
    return Markup(safe.replace(".", ".<wbr>").replace("_", "_<wbr>").replace("-", "-<wbr>"))


def resource(name: str) -> str:
    """The text of a file that ships with this package."""
    return (resources.files("grokscope.report") / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FunctionLoader(resource),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["dotted"] = dotted
    return environment
