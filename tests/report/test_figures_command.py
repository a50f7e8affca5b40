"""A run's figures as files for a paper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from grokscope.errors import GrokscopeError
from grokscope.probes import FigureSpec, Probe, Record
from grokscope.report import paper
from grokscope.report.paper import write_figures

STARTS = {"pdf": b"%PDF-", "svg": b"<?xml", "png": b"\x89PNG"}


@pytest.fixture(autouse=True)
def known(probes: list[Probe], monkeypatch: pytest.MonkeyPatch) -> list[Probe]:
    monkeypatch.setattr(paper, "registered", lambda: {probe.name: probe for probe in probes})
    return probes


@pytest.mark.parametrize("kind", STARTS)
def test_every_figure_that_can_be_drawn_is_written_and_equal_records_give_equal_bytes(
    make_record: Callable[..., Record], tmp_path: Path, kind: str
) -> None:
    written, failed = write_figures(make_record(), tmp_path / "one", kind=kind)
    assert failed == []
    names = ["loss-loss-and-accuracy", "fourier-fourier-concentration", "fourier-power-by-frequency"]
    assert written == [tmp_path / "one" / f"{name}.{kind}" for name in names]
    again, _ = write_figures(make_record(), tmp_path / "two", kind=kind)
    for first, second in zip(written, again, strict=True):
        content = first.read_bytes()
        assert content.startswith(STARTS[kind])
        assert content == second.read_bytes()
        assert b"CreationDate" not in content
        assert str(tmp_path).encode() not in content
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(p.name for p in written)


def test_only_some_probes(record: Record, tmp_path: Path) -> None:
    written, _ = write_figures(record, tmp_path, kind="svg", only=["fourier"])
    assert [path.stem.partition("-")[0] for path in written] == ["fourier", "fourier"]
    assert "Gini coefficient" in written[0].read_text()  # text stays text


def test_titles_that_agree_do_not_overwrite_each_other(
    record: Record, known: list[Probe], tmp_path: Path
) -> None:
    known[0].figures.append(known[0].figures[0])
    written, _ = write_figures(record, tmp_path, only=["loss"])
    assert [path.name for path in written] == ["loss-loss-and-accuracy.pdf", "loss-loss-and-accuracy-2.pdf"]


def test_a_plug_ins_failure_is_one_line_and_ours_is_raised(
    record: Record, make_probe: Callable[..., Probe], known: list[Probe], tmp_path: Path
) -> None:
    def fail(record: Record, figure: Figure) -> None:
        raise ValueError("no\ndata")

    spec = FigureSpec("Broken", "", fail)
    known.append(make_probe("strange", (), (spec,), module="somewhere"))
    record.probes = ["loss", "strange"]
    written, failed = write_figures(record, tmp_path)
    assert len(written) == 1
    assert failed == ["drawing 'Broken' of strange: ValueError: no"]
    known[0].figures.append(spec)
    with pytest.raises(ValueError, match="no"):
        write_figures(record, tmp_path)


def test_what_cannot_be_written_is_told_in_one_line(record: Record, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for expected, options in (
        ("the format 'gif'", {"kind": "gif"}),
        ("did you mean 'fourier'|the probe 'fourie'", {"only": ["fourie"]}),
        ("cannot be written", {"out": tmp_path / "file"}),
    ):
        out = options.pop("out", tmp_path)
        assert isinstance(out, Path)
        with pytest.raises(GrokscopeError, match=expected) as told:
            write_figures(record, out, **options)  # pyright: ignore[reportArgumentType]
        assert "\n" not in str(told.value)
    del record.measurements["loss.train"]
    with pytest.raises(GrokscopeError, match="nothing that loss measured can be drawn"):
        write_figures(record, tmp_path, only=["loss"])
    assert list(tmp_path.rglob("*.part")) == []
