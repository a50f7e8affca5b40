"""Formulas of quantities: LaTeX to MathML that a page may hold, whoever wrote it.

The library that reads LaTeX puts the text of a formula into its output as it is, and links and styles with it.
So its tree is written again here: elements and attributes of MathML Core that are named below, all text escaped.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element
from markupsafe import Markup, escape

__all__ = ["mathml"]

LONGEST = 2000
"""Characters of a formula that are read; nothing that a person can take in is longer."""

_NAMED = """
math mrow mi mn mo mtext mspace mfrac msqrt mroot mstyle mpadded mphantom
msub msup msubsup munder mover munderover mtable mtr mtd
"""
_ALLOWED = """
display displaystyle scriptlevel form fence separator stretchy symmetric largeop movablelimits accent accentunder
minsize maxsize lspace rspace width height depth linethickness mathvariant
"""
_TAGS, _ATTRIBUTES = frozenset(_NAMED.split()), frozenset(_ALLOWED.split())
_VALUE = re.compile(r"[a-z]{1,12}|[+-]?[0-9]{0,2}(\.[0-9]{1,3})?(em|ex|px|pt)?")
_REFERENCE = re.compile(r"&#x([0-9A-Fa-f]{1,6});")
# macros can call each other, and a few of them make a formula without end
_DEFINES = re.compile(r"\\(def|newcommand|newenvironment|DeclareMathOperator)(?![A-Za-z])")
_UNSEEN = frozenset(("Cc", "Cf", "Cn", "Co", "Cs"))

# what stands over and under an operator in a line of its own, and beside it where there is little room
_LIMITS = {"msub": "munder", "msup": "mover", "msubsup": "munderover"}
_WITH_LIMITS = frozenset(("∑", "∏", "⋃", "⋂", "max", "min", "sup", "inf", "lim"))
# symbols that the library takes for names of variables, which have no space around them
_OPERATORS = {":": ":", "±": "±", "~": "∼", "\u29f5": "\u2216"}


@lru_cache(maxsize=1024)
def mathml(latex: str) -> Markup:
    r"""A formula as MathML in display style, safe to put on a page as it is.

    Args:
        latex: LaTeX of mathematics. ``\\`` begins a new line, outside of environments.

    Returns:
        One ``<math display="block">`` a line, equal for equal input; nothing for an empty formula. The escaped
        LaTeX in ``<code>`` where any of it cannot be read, is not plain mathematics (macros, links) or is longer
        than ``LONGEST``. No text of the formula becomes markup, and no attribute of it a style or an address.
    """
    if not latex.strip():
        return Markup("")
    try:
        if len(latex) > LONGEST or _DEFINES.search(latex):
            raise ValueError("not a formula that is read")
        lines = [latex] if r"\begin" in latex else latex.split(r"\\")
        parts = [_written(_set_out(convert_to_element(line, display="block"))) for line in lines]
    except Exception:  # the library raises whatever its parser happens to meet
        seen = "".join(" " if unicodedata.category(c) in _UNSEEN else c for c in latex)
        return Markup("<code>{}</code>").format(seen)
    return Markup("").join(parts)


def _set_out(element: Element) -> Element:
    """The same tree, with bounds under and over sums and extremes also inside brackets, and names set close."""
    for part in element.iter():
        base = part[0] if part.tag in _LIMITS else None
        if base is None or base.tag != "mo":
            continue
        if _text(base) in _WITH_LIMITS or base.get("movablelimits") == "true":
            part.tag = _LIMITS[part.tag]
            base.set("movablelimits", "true")
    for name in element.iter("mo"):
        if _text(name)[:1].isalpha():  # a browser gives an operator that it does not know room on both sides
            name.set("lspace", "0")
            name.set("rspace", "0.167em")
    return element


def _written(element: Element) -> Markup:
    """The element as MathML Core; ValueError for what is not of it."""
    tag, text = element.tag, _text(element)
    if tag not in _TAGS or (element.tail or "").strip():
        raise ValueError(f"a formula with an element {tag!r}")
    if "\\" in text or any(unicodedata.category(c) in _UNSEEN for c in text):
        raise ValueError(f"a formula with the text {text!r}")
    if tag == "mi" and text in _OPERATORS:
        tag, text = "mo", _OPERATORS[text]
    if "href" in element.attrib:
        raise ValueError("a formula with a link")
    kept = [
        f' {name}="{value}"'
        for name, value in element.attrib.items()
        if name in _ATTRIBUTES and _VALUE.fullmatch(value)
    ]
    inside = escape(text) + Markup("").join(_written(child) for child in element)
    return Markup(f"<{tag}{''.join(kept)}>") + inside + Markup(f"</{tag}>")


def _text(element: Element) -> str:
    """The text of an element, in which the library writes symbols as character references."""
    return _REFERENCE.sub(lambda found: chr(int(found[1], 16)), element.text or "")
