"""Formulas on a page: what is mathematics is drawn, and nothing that a formula says can act."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from grokscope.probes import Quantity, registered
from grokscope.report.formulas import mathml

CORE = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mfrac", "msqrt", "mroot", "mstyle", "mpadded", "mphantom",
    "msub", "msup", "msubsup", "munder", "mover", "munderover", "mtable", "mtr", "mtd", "code",
}  # fmt: skip
FORBIDDEN = {"href", "src", "style", "class", "id", "mathcolor", "mathbackground", "actiontype", "xmlns"}


class Reader(HTMLParser):
    """What a browser's parser finds: elements, their attributes, and text; unclosed elements are errors."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text, self.open = "", list[str]()
        self.feed(str(markup))  # what a Markup is cut into would be escaped again
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(data)

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(data)


def read(latex: str) -> Reader:
    found = mathml(latex)
    assert isinstance(found, Markup)
    reader = Reader(found)
    assert set(reader.tags) <= CORE
    assert not {name for name, _ in reader.attributes} & FORBIDDEN
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    return reader


def test_every_formula_of_ours_is_drawn():
    formulas = {q.name: q.formula for probe in registered().values() for q in probe.quantities if q.formula}
    assert len(formulas) > 80
    for name, formula in formulas.items():
        reader = read(formula)
        assert "code" not in reader.tags, name
        assert reader.tags.count("math") == formula.count(r" \\ ") + 1, name
        assert "\\" not in reader.text


def test_a_fraction_and_its_symbols():
    reader = read(r"\frac{\sigma_1}{n}\le 0.95")
    assert reader.tags == ["math", "mrow", "mfrac", "mrow", "msub", "mi", "mn", "mrow", "mi", "mo", "mn"]
    assert reader.text == "σ1n≤0.95"
    assert ("display", "block") in reader.attributes


def test_an_empty_formula_is_nothing():
    assert mathml("") == mathml("  ") == ""


@pytest.mark.parametrize("latex", [r"\sum_{i=1}^n x", r"\left(\sum_{i=1}^n x\right)"])
def test_bounds_of_a_sum_are_over_and_under_it(latex):
    assert "munderover" in read(latex).tags
    assert ("movablelimits", "true") in read(latex.replace("sum", "max")).attributes


def test_an_exponent_stays_an_exponent():
    assert "msup" in read(r"x^2").tags
    assert "munder" in read(r"\max_k x").tags
    assert "msub" in read(r"\operatorname{rank}_k x").tags


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "</math><script>alert(1)</script>",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "&#x3c;script&#x3e;",
        "<!-- <b> -->",
        "a < b & c",
        '"><svg onload=alert(1)>',
    ],
)
@pytest.mark.parametrize(
    "around", [r"\text{%s}", r"\mathrm{%s}", "%s", r"\operatorname{%s}", r"\mbox{%s}", r"\foo{%s}"]
)
def test_text_of_a_formula_stays_text(text, around):
    read(around % text)


def test_text_is_shown_as_it_was_written():
    assert read(r"\text{a <b> & c}").text == "a\u00a0<b>\u00a0&\u00a0c"
    assert read(r"\unicode{x3c}b").text == "<b"


@pytest.mark.parametrize(
    "latex",
    [
        r"\href{javascript:alert(1)}{x}",
        r"\style{position:fixed;inset:0}{x}",
        r"\class{big}{x}",
        r"\textcolor{red;}{x}",
        r"\colorbox{red}{x}",
        r"\rule{9999em}{9999em}",
        r"\hspace{99999px}x",
    ],
)
def test_no_link_no_style_and_no_size_out_of_bounds(latex):
    reader = read(latex)
    sizes = [value for name, value in reader.attributes if name in ("width", "height")]
    assert not [size for size in sizes if size and len(size.strip("empx")) > 3]
    assert "javascript" not in str(reader.attributes)


@pytest.mark.parametrize(
    "latex",
    [
        r"\frac",
        r"\left(",
        "x_",
        r"\unknowncommand x",
        r"\href{https://example.org}{x}",
        r"\newcommand{\a}{x}\a",
        r"\def\a{x}\a",
        "{" * 1500,
        "x+" * 1500,
        r"\unicode{d800}",
        r"\unicode{202e}",
    ],
)
def test_what_cannot_be_drawn_is_shown_as_it_was_written(latex):
    reader = read(latex)
    assert reader.tags == ["code"]
    assert reader.text == latex


def test_macros_that_double_are_not_expanded():
    doubling = "".join(
        rf"\newcommand{{\{b}}}{{\{a}\{a}}}" for a, b in zip("abcdefghijkl", "bcdefghijklm", strict=True)
    )
    assert read(r"\newcommand{\a}{xx}" + doubling + r"\m").tags == ["code"]


def test_characters_that_no_file_can_hold_are_left_out():
    mathml("\ud800\\frac\u202e").encode()
    assert "\u202e" not in mathml("\\frac\u202e")


PIECES = r"""
\text{ \href{ \style{ \class{ \frac \left \right \sum \unicode{ \mathrm{ \begin{array}{c} \end{array} \color{ \tag{
\operatorname{ \fbox{ \hspace{ \\ { } _ ^ & < > " ' <script> onload=x &#x3c; x 1 # % $
"""
COMMANDS = st.sampled_from([*PIECES.split(), " "])


@settings(max_examples=300, deadline=None)
@given(st.lists(COMMANDS | st.text(max_size=3), max_size=12).map("".join))
def test_no_formula_becomes_markup(latex):
    read(latex)
    mathml(latex).encode()


def test_equal_formulas_give_equal_markup():
    latex = r"\frac{1}{n}\sum_i x_i"
    first = mathml(latex)
    mathml.cache_clear()
    assert mathml(latex) == first


def test_a_formula_is_given_by_keyword():
    assert Quantity("a", "1", "A.").formula == ""
    assert Quantity("a", "1", "A.", formula="x").source == ""
    with pytest.raises(TypeError):
        Quantity("a", "1", "A.", "source", "x")  # pyright: ignore[reportCallIssue]
