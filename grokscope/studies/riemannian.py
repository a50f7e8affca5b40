"""The study ``riemannian``: norm minimisation on the manifold of interpolators (arXiv 2505.20172)."""

from __future__ import annotations

from collections.abc import Sequence

from grokscope.studies.published import published
from grokscope.studies.result import Finding, Row, StudyResult
from grokscope.studies.riemannian_figures import junction_figure, phases_figure
from grokscope.studies.riemannian_readings import Reading, read_run
from grokscope.studies.riemannian_rows import (
    collapse_rows,
    drift_rows,
    end_rows,
    exact_rows,
    flow_finding,
    junction_rows,
    rank_finding,
)
from grokscope.studies.riemannian_runs import EXPERIMENTS, Grid, grid_of
from grokscope.studies.sweep import Bench, Scale, UnfinishedError

TITLE = "Norm minimisation on the interpolators (arXiv 2505.20172)"


def run_riemannian(bench: Bench) -> StudyResult:
    """Linear regression, a diagonal network, completion and a ReLU network over a sweep of weight decay."""
    grid = grid_of(bench.scale)
    return assemble(measure(bench, grid), grid, bench.scale)


def measure(bench: Bench, grid: Grid) -> list[Reading]:
    """Train what is missing and read all of it.

    An experiment of which only some arms are finished is read as far as it goes, where nothing is to be trained.
    """
    arms = bench.ready(grid.arms())
    bench.train_arms(list(arms.values()))
    logs = [(name, log) for (name, _), arm in arms.items() for log in bench.logs(arm)]
    return [
        read_run(name, log, bench.workspace / "checkpoints" / log.name)
        for name, log in bench.counted("reading runs", logs)
    ]


def assemble(readings: Sequence[Reading], grid: Grid, scale: Scale) -> StudyResult:
    """Rows, findings and figures from what was measured."""
    groups = {
        EXPERIMENTS[name].words: [one for one in readings if one.experiment == name]
        for name in grid.experiments
    }
    groups = {words: group for words, group in groups.items() if any(one.decay > 0 for one in group)}
    if not groups:
        raise UnfinishedError("reading riemannian: no run with weight decay is finished, expected some")
    rows: list[Row] = []
    findings: list[Finding] = []
    for words, group in groups.items():
        rows += exact_rows(group, words)
        for made in (collapse_rows, drift_rows):
            more, besides = made(group, words)
            rows, findings = [*rows, *more], [*findings, *besides]
        rows += junction_rows(group, words)
        more, besides = end_rows(group, words)
        rows, findings = [*rows, *more], [*findings, *besides]
        findings += flow_finding(group, words)
        findings.append(rank_finding(group, words))
    return StudyResult(
        study="riemannian",
        scale=scale,
        title=TITLE,
        sentence=_sentence(rows),
        rows=tuple(rows),
        findings=tuple(findings),
        figures=(phases_figure(groups), junction_figure(groups)),
        chosen=_chosen(grid),
        left_out=_left_out(scale),
        data={"runs": [one.as_json() for one in readings]},
    )


def _sentence(rows: Sequence[Row]) -> str:
    counts = {
        verdict: sum(row.verdict == verdict for row in rows)
        for verdict in ("agrees", "differs", "cannot tell")
    }
    against = [row.quantity for row in rows if row.verdict == "differs"]
    said = f"Of {len(rows)} predictions {counts['agrees']} agree, {counts['differs']} differ"
    said += f" and {counts['cannot tell']} cannot be told." if counts["cannot tell"] else "."
    return said + (f" Not as predicted: {'; '.join(against)}." if against else "")


def _chosen(grid: Grid) -> str:
    open_points = "; ".join(published("riemannian")["not_published"])
    models = "; ".join(
        f"{EXPERIMENTS[name].words}: task {EXPERIMENTS[name].task}, model {EXPERIMENTS[name].model}, rate "
        f"{EXPERIMENTS[name].rate:g}"
        for name in grid.experiments
    )
    return (
        f"The paper leaves open: {open_points}. Taken: gradient descent with decoupled decay in float64, decays "
        f"{', '.join(f'{decay:g}' for decay in grid.decays)} and 0, {len(grid.seeds)} seeds, runs up to Σ lr × decay = "
        f"{grid.span:g}. {models}."
    )


def _left_out(scale: Scale) -> str:
    said = (
        "Not repeated: the initial variance 4 of every weight of the ReLU network and its 10^6 iterations at decay "
        "0.001 from there; a run on modular addition with squared loss."
    )
    if scale == "small":
        said += " At this scale: decays down to 0.001 and not 0.0001, three seeds of eight."
    return said
