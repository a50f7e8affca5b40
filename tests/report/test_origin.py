"""The section of an imported run: what it says, in which order, and that a stranger's text stays text."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grokscope.probes import Quantity, Record, Verdict
from grokscope.report import render_page, write_report
from grokscope.report.origin import MOST_PROOF_ROWS, alerts_of_audit, origin_of


def row(
    quantity: str, step: int, verdict: str, recorded: float | None = 1.0, ours: float = 1.5
) -> dict[str, Any]:
    difference = None if recorded is None else ours - recorded
    return {
        "quantity": quantity, "step": step, "recorded": recorded, "ours": ours, "difference": difference,
        "verdict": verdict, "source": "test_loss in log.csv", "note": f"note of {quantity}",
    }  # fmt: skip


MANIFEST: dict[str, Any] = {
    "name": "theirs",
    "kind": "imported",
    "config": {"task": {"name": "modular", "op": "add", "p": 53, "train_fraction": 0.4, "split_seed": 3}},
    "card": {
        "dialect": "bare parameters",
        "title": "bare parameters of a one-layer transformer",
        "operation": "add",
        "p": 53,
        "steps": [0, 10],
        "step_from": "the file name ckpt_10.pt",
        "known": ["the modulus is 53"],
        "guessed": ["the prompt is [a, b, =]", "nothing else"],
        "ignored": {"attn.mask": "a buffer"},
        "hypotheses": [
            {"about": "activation", "value": "relu", "basis": "tested", "evidence": "0.0024 with ReLU"},
            {"about": "convention", "value": "the prompt is [a, b, =]", "basis": "assumed", "evidence": "unsaid"},
        ],
        "split": {"seed": 3, "evidence": "z = 44.7", "source": "searched", "confidence": 0.999, "recipe": "randperm"},
    },
    "proof": [
        row("loss.test", 10, "reproduced", 0.0148, 0.01480001),
        row("loss.train", 0, "one step off"),
        row("loss.train", 10, "one step off"),
        row("accuracy.test", 10, "conflict", 0.5, 0.9),
        row("loss.all", 10, "nothing recorded", None),
    ],
    "audit": [
        {"finding": "test accuracy by mirrored pairs", "evidence": f"step {step}"} for step in range(5)
    ]
    + [{"finding": "weight decay of config and optimiser differ", "evidence": "1.0 and 0.1", "severity": "warning",
        "command": "grokscope inspect /their/runs"}],
    "recorded": {"config.json": {"p": 53}},
    "provenance": {"sources": {"/their/runs/a/ckpt_0.pt": "0", "/their/runs/a/ckpt_10.pt": "1", "/their/log.csv": "2"}},
}  # fmt: skip


class Texts(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("wbr", "code", "span"):
            self.pieces.append(" ")

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())


def page(manifest: dict[str, Any]) -> str:
    record = Record("theirs", np.array([0, 10]))
    record.declare([Quantity("loss.all", "nat", "Loss."), Quantity("accuracy.all", "1", "Accuracy.")])
    record.add("loss.all", np.array([4.0, 0.125]))
    record.add("accuracy.all", np.array([0.0, 0.75]))
    record.verdict = Verdict("inconclusive", (), "Inconclusive.")
    return render_page(record, [], manifest)


def section(text: str) -> str:
    found = re.search(r'<section class="probe origin" id="origin">(.*?)\n</section>', text, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_section_says_all_that_the_import_found() -> None:
    shown = Texts(section(page(MANIFEST))).text
    for piece in (
        "/their: 3 files, runs/a/ckpt_0.pt, runs/a/ckpt_10.pt, log.csv",
        "bare parameters of a one-layer transformer", "the modulus is 53", "attn.mask a buffer", "config.json",
        "activation relu tested 0.0024 with ReLU", "the file name ckpt_10.pt",
        "4 numbers are recorded beside the weights: 2 one step off, 1 reproduced, 1 conflict. 1 of ours has none "
        "to compare with.",
        "source searched recipe randperm confidence 0.999 evidence z = 44.7 seed 3",
        "loss.test test_loss in log.csv 10 0.0148 0.01480001 1×10⁻⁸ reproduced note of loss.test",
        "weight decay of config and optimiser differ warning 1.0 and 0.1",
    ):  # fmt: skip
        assert piece in shown
    assert shown.count("the prompt is [a, b, =]") == 1  # a guess that is a hypothesis is told there


def test_conflicts_come_first_and_what_agrees_last() -> None:
    origin = origin_of(MANIFEST, "theirs")
    assert origin is not None
    assert [(r.quantity, r.step, r.tone) for r in origin.proof] == [
        ("accuracy.test", "10", "bad"),
        ("loss.train", "10", "open"),
        ("loss.train", "0", "open"),
        ("loss.test", "10", "good"),
        ("loss.all", "10", ""),
    ]
    assert origin.proof[-1].recorded == origin.proof[-1].difference == "–"


def test_a_long_proof_is_cut_with_a_count_and_the_command_for_the_rest() -> None:
    proof = [row("loss.train", step, "reproduced") for step in range(100)] + [row("loss.test", 3, "conflict")]
    origin = origin_of({**MANIFEST, "proof": proof}, "theirs")
    assert origin is not None
    assert len(origin.proof) + len(origin.proof_folded) == MOST_PROOF_ROWS
    assert origin.proof[0].quantity == "loss.test"
    assert origin.proof_left_out == 61
    shown = Texts(section(page({**MANIFEST, "proof": proof}))).text
    assert "61 more rows" in shown
    assert "grokscope inspect theirs --json FILE" in shown
    assert "16 more rows" in shown  # folded on the page


def test_a_run_without_a_recorded_number_is_not_called_proved() -> None:
    for proof in ([], [row("loss.all", 0, "nothing recorded", None)]):
        shown = Texts(section(page({**MANIFEST, "proof": proof}))).text
        assert "nothing proves the function" in shown


def test_findings_are_grouped_and_warnings_lead() -> None:
    origin = origin_of(MANIFEST, "theirs")
    assert origin is not None
    assert [(g.finding, g.severity, len(g.shown), len(g.rest)) for g in origin.findings] == [
        ("weight decay of config and optimiser differ", "warning", 1, 0),
        ("test accuracy by mirrored pairs", "", 3, 2),
    ]


def test_warnings_and_conflicts_are_alerts_with_their_command() -> None:
    found = alerts_of_audit(MANIFEST)
    assert [(a.text, a.command) for a in found] == [
        ("Weight decay of config and optimiser differ: 1.0 and 0.1.", "grokscope inspect /their/runs"),
        (
            "1 recorded number disagrees with the rebuilt function, most of all accuracy.test at step 10: recorded "
            "0.5, ours 0.9.",
            "grokscope import /their --card FILE",
        ),
    ]
    text = page(MANIFEST)
    alerts = text[text.index('class="alerts"') : text.index('id="origin"')]
    assert "grokscope inspect /their/runs" in alerts
    conflict = {"finding": "it conflicts", "evidence": "so", "severity": "conflict"}
    assert [a.text for a in alerts_of_audit({**MANIFEST, "audit": [conflict, conflict]})] == [
        "It conflicts: so (and 1 more)."
    ]
    bare = {**MANIFEST, "audit": [conflict]}
    assert [a.command for a in alerts_of_audit(bare)] == [""]
    assert [a.command for a in alerts_of_audit(bare, "mine")] == ["grokscope inspect mine"]
    assert alerts_of_audit({"audit": MANIFEST["audit"][:5]}) == []


def test_a_run_trained_here_has_no_origin() -> None:
    assert origin_of({"kind": "trained", "config": {}}, "r") is None
    text = page({"kind": "trained", "config": {"task": {"name": "modular", "train_fraction": 0.4}}})
    assert 'id="origin"' not in text
    assert "train_fraction = 0.4" in text


def test_without_a_split_none_is_shown_and_the_vital_numbers_are_of_all_inputs() -> None:
    text = page({**MANIFEST, "no_split": "the seed is not recorded"})
    assert "train_fraction" not in text
    assert "split_seed" not in text
    shown = Texts(text).text
    assert "not known the seed is not recorded" in shown
    assert "Loss on all inputs 0.125 at step 10" in shown
    assert "Accuracy on all inputs 0.750 at step 10" in shown


HOSTILE = "<script>alert(1)</script>\"'{{ 7*7 }}&amp;\x00\x1b[31m\u202eabc\ud800"


def everywhere(value: Any) -> Any:
    if isinstance(value, dict):
        return {f"{HOSTILE}{key}": everywhere(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [everywhere(inner) for inner in value]
    return HOSTILE if isinstance(value, str) else value


def hostile_manifest() -> dict[str, Any]:
    """Every text of strangers replaced, the keys of ours kept."""
    card = {key: everywhere(value) for key, value in MANIFEST["card"].items()}
    card["hypotheses"] = [dict.fromkeys(h, HOSTILE) for h in MANIFEST["card"]["hypotheses"]]
    proof = [
        {**r, "quantity": HOSTILE, "verdict": HOSTILE, "source": HOSTILE, "note": HOSTILE}
        for r in MANIFEST["proof"]
    ]
    audit = [{"finding": HOSTILE, "evidence": HOSTILE, "severity": "warning", "command": HOSTILE}]
    return {
        **MANIFEST, "card": card, "proof": proof, "audit": audit, "recorded": everywhere(MANIFEST["recorded"]),
        "provenance": {"sources": everywhere(MANIFEST["provenance"]["sources"])}, "no_split": HOSTILE,
        "no_function": HOSTILE, "function": {"name": HOSTILE, "sha256": HOSTILE},
    }  # fmt: skip


def test_a_strangers_text_stays_text_and_no_control_character_reaches_the_page() -> None:
    text = page(hostile_manifest())
    parsed = Texts(text)
    assert parsed.tags.count("script") == 1
    assert "49" not in section(text).replace("19", "")
    assert "&lt;script&gt;alert(1)" in section(text)
    assert "\u2400\u241b[31m\ufffdabc" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    text.encode("utf-8", "replace")


@pytest.mark.parametrize(
    "wrong", [None, 3, "text", [], {}, [3, None, "x"], {"a": None}, [{}], [{"finding": None}]]
)
@pytest.mark.parametrize("field", ["card", "proof", "audit", "recorded", "provenance", "function"])
def test_a_manifest_of_another_shape_still_makes_a_page(field: str, wrong: Any) -> None:
    page({**MANIFEST, field: wrong})
    if field == "card":
        for part in ("known", "guessed", "ignored", "hypotheses", "split", "steps", "title", "step_from"):
            page({**MANIFEST, "card": {**MANIFEST["card"], part: wrong}})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "text", None, [1], 10**400])
def test_numbers_that_are_none_are_shown_as_they_are(value: Any) -> None:
    proof = [
        {**row("loss.train", 3, "conflict"), key: value} for key in ("step", "recorded", "ours", "difference")
    ]
    page({**MANIFEST, "proof": proof})


@pytest.mark.skipif("GROKSCOPE_THIRD_PARTY" not in os.environ, reason="GROKSCOPE_THIRD_PARTY is not set")
def test_a_real_import_makes_the_section(tmp_path: Path) -> None:
    from grokscope.foreign import import_paths

    runs = (
        Path(os.environ["GROKSCOPE_THIRD_PARTY"]) / "Samar-Talwar+grokking-fourier-circuits" / "runs" / "full"
    )
    (run,) = import_paths([runs], tmp_path).runs
    assert run.path is not None
    suite = tmp_path / "few.toml"
    suite.write_text('probes = ["norms"]')
    text = write_report(run.path, tmp_path / "page.html", suite=suite).read_text()
    shown = Texts(section(text)).text
    assert "ckpt_0.pt" in shown
    assert "numbers are recorded beside the weights" in shown
