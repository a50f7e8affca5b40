"""The study ``grokalign``: does a penalty on Jacobians make networks generalise sooner (arXiv 2506.12284)?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from grokscope.studies.grokalign_figures import data_of, figures_of
from grokscope.studies.grokalign_readings import Readings, read_case, saved_case
from grokscope.studies.grokalign_rows import alignment_rows, delay_findings, speed_rows, time_rows
from grokscope.studies.grokalign_runs import BASELINE, FEW, Case, cases_of
from grokscope.studies.grokalign_timing import seconds_per_update
from grokscope.studies.published import published
from grokscope.studies.result import Finding, Row, StudyResult
from grokscope.studies.sweep import Bench, Scale, UnfinishedError

TITLE = "Jacobian alignment and the acceleration of grokking (arXiv 2506.12284)"
TIMES = "grokalign-seconds.json"


def run_grokalign(bench: Bench) -> StudyResult:
    """Train every case under every method, read all runs, time a step of each method."""
    cases = cases_of(bench.scale, bench.data)
    known = {case.key: saved_case(bench, case) for case in cases}
    left = {
        case.key: {label: arm for label, arm in case.arms().items() if label not in known[case.key]}
        for case in cases
    }
    if not bench.only_finished:
        bench.train_arms([arm for arms in left.values() for arm in arms.values()])
    found: list[tuple[Case, Readings]] = []
    seconds: dict[str, dict[str, float]] = {}
    for case in cases:
        arms = bench.part(case.words, partial(bench.ready, left[case.key], enough=bool(known[case.key])))
        if arms is None:
            continue
        both = known[case.key] | read_case(bench, case, arms)
        found.append((case, {label: both[label] for label in case.arms() if label in both}))
        seconds[case.key] = _seconds(bench, case, both.keys() - arms.keys(), both.keys())
    return assemble(found, seconds, bench.scale)


def _seconds(bench: Bench, case: Case, saved: Collection[str], known: Collection[str]) -> dict[str, float]:
    """Seconds of an update, of the baseline and the main method; those of the saved result where it holds both."""
    timed = [label for label in (BASELINE, case.main) if label in known]
    if timed and set(timed) <= set(saved):
        return {label: float(bench.saved["data"][case.key]["seconds_per_update"][label]) for label in timed}
    arms = {label: case.arms()[label] for label in timed}
    return seconds_per_update(arms, bench.workspace / "reports" / TIMES)


def assemble(
    found: Sequence[tuple[Case, Readings]], seconds: Mapping[str, Mapping[str, float]], scale: Scale
) -> StudyResult:
    """Rows, findings and figures from what was measured."""
    if not any(readings for _, readings in found):
        raise UnfinishedError("reading grokalign: no run is finished, expected some")
    rows: list[Row] = []
    findings: list[Finding] = []
    for case, readings in found:
        more, besides = speed_rows(case, readings)
        rows += [
            *more,
            *time_rows(case, readings, seconds.get(case.key, {})),
            *alignment_rows(case, readings),
        ]
        findings += [*delay_findings(case, readings), *besides]
    return StudyResult(
        study="grokalign",
        scale=scale,
        title=TITLE,
        sentence=_sentence(found, rows),
        rows=tuple(rows),
        findings=tuple(findings),
        figures=figures_of(found),
        chosen=_chosen([case for case, _ in found]),
        left_out=_left_out(scale, [case for case, _ in found]),
        data=data_of(found, seconds),
    )


def _sentence(found: Sequence[tuple[Case, Readings]], rows: Sequence[Row]) -> str:
    said = []
    for case, _ in found:
        row = next(
            (row for row in rows if row.quantity == f"{case.words}, {case.main}: speed-up in steps"), None
        )
        if row is None:
            continue
        text = row.as_text()
        ends = f" ({text.interval})" if row.interval else ""
        said.append(f"{case.words} {text.ours}{ends}")
    return f"Speed-up in steps with the penalty over training without it: {'; '.join(said)}." if said else ""


def _chosen(cases: Sequence[Case]) -> str:
    facts = published("grokalign")
    theirs = facts["accelerate"]["lambda_J"]["mse"]
    said = [
        "Data, network and optimiser are the published ones but for what is named here. Weights start as N(0, "
        "σ²/fan_in) with the variance of eight times torch's uniform initialisation. Digits: scikit-learn's 1797 "
        "pictures of 8 by 8 pixels, 500 of them in training under squared loss with decay 0.1, 200 under "
        "cross-entropy with decay 0.01 and the full batch, the rest in the test; float32. Squared loss is ½‖z − "
        f"onehot‖², five times the published mean over classes, so that λ_J = {theirs:g} there is five times that "
        "here. Which λ_J is the main one under squared loss was decided after a look at one seed of each; all that "
        "were run are printed.",
        "XOR: fewer coordinates and neurons than published, with noise of the same size over the signal; the stop is "
        "ours.",
    ]
    if any(case.few is not None and case.few < len(case.seeds) for case in cases):
        said.append(
            f"The published {len(cases[0].seeds)} seeds for the baseline and the main λ_J, {FEW} for the rest."
        )
    if any(case.key.startswith("transformer") for case in cases):
        said.append(
            f"Transformers: modulus 59 where the paper has {facts['transformer']['p']}; the penalty is on the Jacobian "
            "in both embedded operands in a row; the stop is a test accuracy of 0.9, ours."
        )
    return " ".join(said)


def _left_out(scale: Scale, cases: Sequence[Case]) -> str:
    said = "Not repeated: adversarial training. "
    if not any(case.key.startswith("mnist") for case in cases):
        said += "MNIST itself, which --data FOLDER adds. "
    if scale == "small":
        said += "At this scale: three seeds, two strengths of the penalty, under squared loss no other method, no "
        said += "transformer."
    return said.strip()
