"""Several runs on one page: groups, sentences, tables, figures, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grokscope.errors import GrokscopeError
from grokscope.measures.crossings import Crossing
from grokscope.probes import Record, Verdict
from grokscope.report.compare import check_count, comparison_name, render_comparison, write_comparison
from grokscope.report.compare_figures import MOST_COLOURS, drawn_groups, end_to_end, styles
from grokscope.report.comparison import Between
from grokscope.report.over_seeds import difference_tables, group_table, quantities_of, shown
from grokscope.report.rows import Row
from grokscope.report.subjects import Group, Subject, differing_settings, event_between, groups_of
from grokscope.runs import open_run

MakeRecord = Callable[..., Record]
Steps = tuple[int | None, int | None]
Make = Callable[..., Subject]


@pytest.fixture
def make(make_record: MakeRecord) -> Make:
    def subject(
        name: str, *, fit: Steps = (150, 160), grok: Steps = (3100, 3300),
        state: str = "grokked", seed: int | None = 0, loss: float = 1e-3, **settings: str,
    ) -> Subject:  # fmt: skip
        record = make_record()
        record.run = name
        record.events = {n: Crossing(*ends, ends[1] is None) for n, ends in (("fit", fit), ("grok", grok))}
        record.events["onset.loss.test"] = Crossing(10, 20, False)
        record.verdict = Verdict(state, (), f"{name} says so.")
        accuracy, test = record["accuracy.test"], np.linspace(4.0, loss, len(record.steps))
        dense = {
            "accuracy.train": (record.steps, record["accuracy.train"]), "accuracy.test": (record.steps, accuracy),
            "loss.train": (record.steps, test), "loss.test": (record.steps, test),
        }  # fmt: skip
        row = Row(name, task="a + b mod 59", model="mlp", seed=seed, state=state, step=10_000, accuracy=0.99,
                  checksum="0123456789", sentence=f"{name} says so.")  # fmt: skip
        return Subject(row, record, dense, {"task.p": "59", "train.weight_decay": "1.0", **settings})

    return subject


def seeds(make: Make, name: str, groks: Sequence[Steps], **options: str) -> list[Subject]:
    return [make(f"{name}-s{i}", grok=grok, seed=i, **options) for i, grok in enumerate(groks)]


def text_of(page: str) -> str:
    body = page.partition("<body>")[2]
    return " ".join(re.sub(r"<svg.*?</svg>|<[^>]*>", " ", body, flags=re.S).split())


def test_runs_of_equal_settings_are_a_group(make: Make) -> None:
    one, two = seeds(make, "a", [(10, 20), (30, 40)])
    other = make("b", **{"train.weight_decay": "0.5"})
    groups = groups_of([one, other, two])
    assert [(g.label, [m.name for m in g.members]) for g in groups] == [
        ("weight_decay 1.0", ["a-s0", "a-s1"]), ("b", ["b"]),
    ]  # fmt: skip
    assert differing_settings([one, two]) == []
    assert differing_settings([one, other]) == ["train.weight_decay"]
    assert [g.label for g in groups_of([one, two])] == ["all runs"]


def test_a_seed_counts_once_and_unknown_seeds_each(make: Make) -> None:
    twice = Group("", (make("a"), make("again"), make("b", seed=1)))
    assert [m.name for m in twice.seeds] == ["a", "b"]
    unknown = Group("", (make("a", seed=None), make("b", seed=None)))
    assert len(unknown.seeds) == 2


def test_groups_whose_labels_agree_are_named_by_their_first_run(make: Make) -> None:
    wide = {f"model.x{i}": "1" for i in range(4)}
    first = seeds(make, "a", [(10, 20)] * 2, **wide)
    second = seeds(make, "b", [(10, 20)] * 2, **{**wide, "model.x3": "2"})
    third = make("c", **{f"model.x{i}": "9" for i in range(4)})
    labels = [g.label for g in groups_of([*first, *second, third])]
    assert len(set(labels)) == 3


def test_events_are_intervals_with_open_ends() -> None:
    assert event_between(None) is None
    assert event_between(Crossing(None, 5, False)) == Between(0, 5)
    assert event_between(Crossing(7, None, True)) == Between(7, math.inf)
    assert shown(Between(7, math.inf), True) == "at least 7"
    assert shown(Between(0, math.inf), False) == "not bounded"
    assert shown(Between(-math.inf, 2), False) == "at most 2"
    assert shown(Between(5, 10_500), True) == "5 to 10\u202f500"


def test_two_runs_are_put_in_order_only_where_their_intervals_allow_it(make: Make) -> None:
    late, early = make("late", grok=(400, 500)), make("early", grok=(100, 200))
    said = text_of(render_comparison([late, early]))
    assert "Both runs grokked." in said
    assert (
        "early generalised first, between steps 100 and 200; late did between steps 400 and 500, 2 to 5 times later"
        in said
    )
    overlapping = make("other", grok=(450, 600))
    said = text_of(render_comparison([late, overlapping]))
    assert (
        "Which generalised first is not decided, since the intervals overlap: late did between steps 400 and 500, other"
        in said
    )
    never = make("never", grok=(9000, None), state="memorised")
    said = text_of(render_comparison([late, never]))
    assert "Of 2 runs 1 grokked and 1 memorised." in said
    assert "never did not by step 9000, at least 18 times later" in said
    nothing = text_of(render_comparison([never, make("nor", grok=(9000, None), state="memorised")]))
    assert "generalised" not in nothing.partition("Settings that differ")[0]


def test_medians_and_changes_over_seeds_carry_their_intervals(make: Make) -> None:
    first = seeds(make, "a", [(100, 110), (120, 130), (90, 100)])
    second = seeds(make, "b", [(200, 220), (230, 240), (9000, None)], **{"train.weight_decay": "0.5"})
    groups = groups_of([*first, *second])
    quantities = quantities_of([*first, *second])
    rows = {row[0]: row[1:] for row in group_table(groups[0], quantities).rows}
    assert rows["grok, step"] == ("3", "100 to 110", "90 to 130", "90 to 130", "75 %")
    rows = {row[0]: row[1:] for row in group_table(groups[1], quantities).rows}
    assert rows["grok, step"] == ("3", "230 to 240", "at least 200", "at least 200", "75 %")
    (table,) = difference_tables(groups, quantities)
    changes = {row[0]: row[1:] for row in table.rows}
    # the extremes of nine ratios: 200/130 below, nothing above; 90 % of the 20 ways to mix two threes
    assert changes["grok, step"] == ("3, 3", "2.09 to 2.44", "at least 1.54", "90 %", "ratio")
    assert changes["fit, step"][-1] == "ratio"
    assert changes["test accuracy at the end"][-1] == "difference"
    said = text_of(render_comparison([*first, *second]))
    assert (
        "The 3 runs with weight_decay 1.0 generalised at a median step of 100 to 110 (75 % interval 90 to 130)"
        in said
    )
    assert "90 % interval at least 1.54" in said


def test_with_fewer_than_three_seeds_no_interval_is_claimed(make: Make) -> None:
    page = text_of(render_comparison(seeds(make, "a", [(100, 110), (120, 130)])))
    assert "none: fewer than 3 seeds" in page
    assert "% interval" not in page.partition("Settings that differ")[0]


def test_settings_that_differ_are_shown_and_equal_ones_not(make: Make) -> None:
    page = text_of(render_comparison([make("a"), make("b", **{"train.weight_decay": "0.5"})]))
    part = page.partition("Settings that differ Everything")[2].partition("Curves One colour")[0]
    assert "train. weight_ decay 1.0 0.5" in part
    assert "task" not in part
    equal = text_of(render_comparison(seeds(make, "a", [(1, 2), (3, 4)])))
    assert "None: the runs differ by their seed alone." in equal


def test_many_or_long_settings_do_not_fill_the_page(make: Make) -> None:
    wide = {f"model.x{i}": str(i) for i in range(20)}
    one, two = make("a", **wide), make("b", **{"train.lr": "z" * 500, "train.weight_decay": "0.5"})
    page = render_comparison([one, two])
    assert "z" * 61 not in page
    assert "(500 characters)" in page
    shown, _, folded = page.partition("More settings that differ</summary>")
    assert ">train.<wbr>weight_<wbr>decay</th>" in shown  # what both have comes first
    assert ">model.<wbr>x19</th>" in folded
    assert ">model.<wbr>x19</th>" not in shown


def test_curves_events_and_parents_are_on_the_page(make: Make) -> None:
    forked = make("fork")
    forked = replace(forked, row=replace(forked.row, origin="forked from a at step 400"))
    page = render_comparison([make("a"), forked], {"a": "a.html"})
    assert "forked from a at step 400" in text_of(page)
    assert '<a href="a.html">' in page
    assert 'href="fork.html"' not in page
    captions = re.findall(r"<b>Figure \d+\. (.*?)\.</b>", page)
    assert captions[:2] == ["Accuracy", "Loss"]
    assert captions[-1] == "Fit and grok"
    assert captions[2:-1] == ["Fourier concentration of the embedding"]
    assert page.count('class="figure"') == 6  # two panels for each of the first two
    assert page.count('class="sample"') == 4  # beside each name, in the table and above the curves
    assert "150 to 160" in page
    assert "onset." in page


def test_every_group_is_told_apart_up_to_eight_by_colour_and_dash(make: Make) -> None:
    eight = [Group(str(i), (make(str(i)),)) for i in range(MOST_COLOURS)]
    assert len(set(map(str, styles(eight)))) == MOST_COLOURS
    many = [Group(str(i), (make(str(i)),)) for i in range(30)]
    assert len({style.colour for style in styles(many)}) == 30
    few = seeds(make, "a", [(1, 2)] * 5)
    assert len(drawn_groups(few, groups_of(few))) == 5
    more = seeds(make, "a", [(1, 2)] * 12)
    assert len(drawn_groups(more, groups_of(more))) == 1


def test_the_map_compared_is_one_that_all_have(make: Make) -> None:
    a, b = make("a"), make("b")
    assert end_to_end([a, b]) is None
    for subject, names in ((a, ("token_to_logit", "embedding")), (b, ("embedding",))):
        for name in names:
            subject.record.measurements[f"spectra.{name}.effective_rank"] = subject.record.measurements[
                "loss.test"
            ]
    assert end_to_end([a]) == "token_to_logit"
    assert end_to_end([a, b]) == "embedding"


def test_sixty_four_runs_fit_and_equal_input_gives_equal_bytes(make: Make) -> None:
    many = [make(f"r{i}", seed=i, **{"train.lr": str(i % 20)}) for i in range(64)]
    page = render_comparison(many)
    assert page == render_comparison(many)
    assert len(page) < 3_000_000
    assert "64 runs" in text_of(page)


@pytest.mark.parametrize("names", [["a"], ["a", "a"], [str(i) for i in range(65)]])
def test_what_cannot_be_compared_is_refused(names: list[str]) -> None:
    with pytest.raises(GrokscopeError, match="comparing runs") as told:
        check_count(names)
    assert "\n" not in str(told.value)


def test_file_names_follow_from_the_runs() -> None:
    assert comparison_name(["a", "b c"]) == "compare-a-b-c.html"
    three = comparison_name(["a", "b", "c"])
    assert re.fullmatch(r"compare-3-runs-[0-9a-f]{6}\.html", three)
    assert three != comparison_name(["a", "b", "d"])


def test_markup_in_names_and_settings_stays_text(make: Make) -> None:
    evil = '<img src=x onerror="alert(1)">'
    page = render_comparison([make(evil, **{"train.lr": evil}), make("b", state=evil)])
    assert "<img" not in page
    assert page.count("<script") == 0
    assert "script-src &#39;none&#39;" in page


def test_stored_runs_are_compared_on_disk(workspace: Path, tmp_path: Path) -> None:
    from grokscope.probes.cache import measure_run

    suite = tmp_path / "two.toml"
    suite.write_text('probes = ["loss", "norms"]\n')
    run = open_run(workspace / "checkpoints" / "little-s3")
    record = measure_run(run, suite)
    other = replace(run, path=run.path.with_name("other"))
    (workspace / "reports").mkdir()
    (workspace / "reports" / "little-s3.html").write_text("")
    out = workspace / "reports" / "compared" / "both.html"
    assert write_comparison([run, other], [record, record], out, pages=workspace / "reports") == out
    page = out.read_text()
    assert '<a href="../little-s3.html">' in page
    assert str(workspace) not in page
