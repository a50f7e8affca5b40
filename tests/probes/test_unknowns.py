"""Runs whose split, whose function or whose task is not known: what is measured, and what is absent and why."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grokscope.models import (
    MLP,
    DeepLinear,
    DeepLinearSettings,
    MLPSettings,
    ModelSettings,
    Params,
    TransformerSettings,
    WeightsOnlySettings,
    build_model,
)
from grokscope.probes import Record, probe
from grokscope.probes.cache import cache_key, measure_run
from grokscope.probes.clocks import clocks
from grokscope.probes.gradients import gradients
from grokscope.probes.loss import loss
from grokscope.probes.registry import registered
from grokscope.probes.suite import read_suite
from grokscope.report.figures import draw_figures
from grokscope.runs import Run, open_run
from grokscope.tasks import CompletionSettings, ModularSettings, UnknownSettings, pack_mask
from grokscope.trajectory import read_manifest, write_manifest
from grokscope.user_code import UserFunction

P = 7
TASK = ModularSettings(p=P, train_fraction=0.5)
MLP_SETTINGS = MLPSettings(d_embed=5, hidden=(8,))
REASON = "the split was drawn without a seed"
SAVES = 5


def weights(settings: ModelSettings, **sizes: Any) -> list[Params]:
    """Random weights at every save, biases and all."""
    model = build_model(settings, **{"n_tokens": P, "n_inputs": None, "n_classes": P, **sizes})
    generator = torch.Generator().manual_seed(0)
    return [
        {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in model.shapes.items()}
        for _ in range(SAVES)
    ]


def changed(run: Run, *, drop: tuple[str, ...] = (), **manifest: Any) -> Run:
    """The same run with another run.json."""
    stored = {k: v for k, v in read_manifest(run.path).items() if k not in ("schema", *drop)}
    write_manifest(run.path, {**stored, **manifest})
    return open_run(run.path)


FEW = {"fourier": {"null_samples": 2}, "spectra": {"null_samples": 2}, "regions": {"null_samples": 2}}
SUITE = dataclasses.replace(read_suite("default"), options=FEW)


def everything(run: Run, *, drawn: bool = False) -> Record:
    """All probes; every number must be finite in JSON, and every figure drawable where that is asked."""
    record = probe(run, SUITE)
    json.dumps(record.to_json(), allow_nan=False)
    for name in record.probes if drawn else ():
        assert not [
            d.failure for d in draw_figures(registered()[name], record, "f", strict=True) if d.failure
        ]
    return record


@pytest.mark.parametrize("settings", [MLP_SETTINGS, TransformerSettings(d_model=8, n_heads=2)])
def test_without_a_split_exactly_what_no_split_changes_is_measured(make_run, settings) -> None:
    run = make_run(settings, TASK, weights(settings))
    masks = [torch.arange(P * P) % 3 == 0, torch.arange(P * P) % 5 < 3]
    under = [everything(changed(run, split=pack_mask(mask))) for mask in masks]
    record = everything(changed(run, drop=("split",), no_split=REASON), drawn=settings is MLP_SETTINGS)
    same = set()
    for name in under[0].measurements:
        values = [one.measurements[name].values for one in under if name in one.measurements]
        if len(values) == 2 and values[0].shape == values[1].shape and np.allclose(*values, equal_nan=True):
            same.add(name)
    # what is taken over samples of a split is told by its definition, whatever its values happen to be
    of_split = ("accuracy.t", "loss.t", "margin.", "softmax.", "regions.", "clocks.", "gradients.b", "gradients.h",
                "spectra.agop", "spectra.mean_active", "spectra.token_to_logit")  # fmt: skip
    assert set(record.measurements) == {name for name in same if not name.startswith(of_split)}
    for name, measured in record.measurements.items():
        np.testing.assert_allclose(measured.values, under[0][name], rtol=1e-12)
    for name in ("loss.all", "accuracy.all", "logits.norm", "norm.total", "fourier.neuron_explained"):
        assert name in record.measurements
    gone = {name: why for name, why in record.absent.items() if why == REASON}
    for name in (
        "loss.train", "loss.test", "accuracy.train", "accuracy.test", "accuracy.test_mirrored",
        "accuracy.test_unmirrored", "accuracy.test_symmetry", "accuracy.test_equivariant", "margin.min",
        "softmax.collapsed", "norm.at_grok", "regions.count", "regions.class_separation", "gradients.<block>.norm",
        "spectra.agop.effective_rank", "spectra.mean_active.effective_rank", "clocks.classifier", "clocks.tail",
    ):  # fmt: skip
        assert name in gone
    assert not record.events
    assert record.delay is None


def test_the_verdict_without_a_split_says_what_can_be_said(make_run) -> None:
    saves = weights(MLP_SETTINGS)
    run = changed(make_run(MLP_SETTINGS, TASK, saves), drop=("split",), no_split=REASON)
    record = probe(run, only=["loss", "clocks"])
    assert record.verdict is not None
    assert (record.verdict.state, record.verdict.flags, record.verdict.claims) == ("inconclusive", (), ())
    right = MLP(MLP_SETTINGS, P, P).forward(saves[-1], run.task.inputs).argmax(-1) == run.task.targets
    share = float(right.double().mean())
    expected = f"over all {P * P} pairs its accuracy is {share:.3f} at the last save"
    assert "training split is not known, so when it fitted cannot be said" in record.verdict.sentence
    assert expected in record.verdict.sentence
    (alert,) = [a for a in record.alerts if "trained on" in a.text]
    assert REASON in alert.text
    assert alert.command == "grokscope import PATH --card FILE"
    assert "cannot be said." in probe(run, only=["clocks"]).verdict.sentence  # pyright: ignore


def test_a_completion_without_a_split_keeps_its_loss_over_all_entries(make_run) -> None:
    settings, task = DeepLinearSettings(depth=2), CompletionSettings(d=5, rank=2)
    saves = weights(settings, n_tokens=None, n_inputs=5, n_classes=5)
    record = everything(changed(make_run(settings, task, saves), drop=("split",), no_split=REASON))
    run = make_run(settings, task, saves, name="known")
    errors = [DeepLinear(settings, 5, 5).forward(p, run.task.inputs) - run.task.targets for p in saves]
    np.testing.assert_allclose(
        record["loss.all"], [float(0.5 * e.square().sum()) for e in errors], rtol=1e-12
    )
    for name in ("loss.train", "loss.test", "error.train", "error.test"):
        assert record.absent[name] == REASON
    assert record.verdict is not None
    assert f"over all 25 entries its loss is {record['loss.all'][-1]:.3g}" in record.verdict.sentence


@pytest.mark.parametrize("settings", [MLP_SETTINGS, TransformerSettings(d_model=8, n_heads=2)])
def test_a_function_that_is_not_proved_is_not_used(make_run, monkeypatch, settings) -> None:
    run = make_run(settings, TASK, weights(settings))
    whole = everything(run)
    unproved = changed(run, no_function="no recorded number is reproduced")
    for part in (
        "forward",
        "forward_grid",
        "neuron_grid",
        "neuron_inputs",
        "head_input",
        "combined",
        "from_z",
    ):
        monkeypatch.delattr(type(unproved.model), part)
    record = everything(unproved)
    groups = {name.split(".")[0] for name in record.measurements}
    assert groups == {"norm", "fourier", "spectra", "gradients"}
    assert {n for n in record.measurements if n.startswith("gradients")} == {
        "gradients.update_ratio", "gradients.update_ratio.relative"
    }  # fmt: skip
    for name, measured in record.measurements.items():
        np.testing.assert_allclose(measured.values, whole[name], rtol=1e-12)
    assert record.absent["loss.all"] == record.absent["regions.count"] == "no recorded number is reproduced"
    assert record.absent["fourier.neuron_explained"] == "no recorded number is reproduced"
    assert record.verdict is not None
    assert record.verdict.state == "not applicable"
    assert record.verdict.sentence.startswith(
        "Weights only: the function was not rebuilt (no recorded number is"
    )


TENSORS = {"emb|table": (P, 5), "W1": (10, 8), "b1": (8,), "W2": (8, P), "net.norm": (3, 3)}
OURS = {"emb|table": "embed.W_E", "W1": "hidden.1.W", "b1": "hidden.1.b", "W2": "head.W_U"}
WEIGHTS = WeightsOnlySettings(
    tensors=TENSORS,
    names={"emb|table": "emb/table"},
    blocks={"W1": "hidden.1", "b1": "hidden.1", "W2": "head"},
    embedding="emb|table",
    reason="no table knows these names",
)


def as_code(params: dict[str, Tensor], inputs: Tensor) -> Tensor:
    x = params["emb/table"][inputs].flatten(1)
    return torch.relu(x @ params["W1"] + params["b1"]) @ params["W2"]


CODE = UserFunction(as_code, "0" * 64, "as_code")


def strangers(make_run: Callable[..., Run], task: Any = TASK, **changes: Any) -> tuple[Run, Run]:
    """The same weights as a run of ours, and under strangers' names with one tensor more."""
    saves = weights(MLP_SETTINGS)
    generator = torch.Generator().manual_seed(1)
    theirs = [
        {name: torch.randn(3, 3, generator=generator, dtype=torch.float64) for name in ("net.norm",)}
        | {name: params[ours] for name, ours in OURS.items()}
        for params in saves
    ]
    settings = dataclasses.replace(WEIGHTS, **changes)
    return make_run(MLP_SETTINGS, TASK, saves, name="ours"), make_run(settings, task, theirs, name="theirs")


def test_weights_of_an_unknown_task_have_norms_spectra_and_a_declared_embeddings_frequencies(
    make_run,
) -> None:
    ours, theirs = strangers(make_run, UnknownSettings(), n_residues=P)
    record, known = everything(theirs, drawn=True), everything(ours)
    for name in (
        "norm.embedding", "norm.hidden.1", "norm.head", "fourier.embedding.fraction",
        "fourier.embedding.circularity", "fourier.key_frequencies.by_embedding", "spectra.embedding.effective_rank",
        "gradients.update_ratio", "gradients.update_ratio.relative",
    ):  # fmt: skip
        np.testing.assert_allclose(record[name], known[name], rtol=1e-10)
    for tensor, ours_name in (("tensor.W2", "unembedding"), ("tensor.emb-table", "embedding")):
        for rank in ("stable_rank", "effective_rank", "frobenius"):
            np.testing.assert_allclose(
                record[f"spectra.{tensor}.{rank}"], known[f"spectra.{ours_name}.{rank}"], rtol=1e-10
            )
    squares = known["norm.total"] ** 2 + theirs.stacked(["net.norm"])["net.norm"].square().sum((1, 2)).numpy()
    np.testing.assert_allclose(record["norm.total"] ** 2, squares, rtol=1e-10)
    np.testing.assert_allclose(record["norm.tensor.net"] ** 2, squares - known["norm.total"] ** 2, rtol=1e-9)
    assert record.absent["loss.all"] == "no table knows these names"
    assert record.verdict is not None
    assert record.verdict.state == "not applicable"
    assert record.verdict.sentence.startswith("Weights only: the function was not rebuilt")
    (alert,) = record.alerts
    assert alert.text.startswith("Weights only: the function was not rebuilt (no table knows these names)")
    assert "--model FILE:FUNCTION" in alert.text
    assert alert.command == "grokscope import PATH --card FILE"


def test_without_a_declared_embedding_or_head_these_are_absent(make_run) -> None:
    _, theirs = strangers(make_run, UnknownSettings(), embedding="", blocks={})
    record = everything(theirs)
    assert {name.split(".")[0] for name in record.measurements} == {"norm", "spectra"}
    assert record.absent["gradients.update_ratio"] == "a weights model has no embedding"
    assert record.absent["fourier.embedding.gini"] == "a weights model has no embedding"
    _, headless = strangers(lambda *a, name, **k: make_run(*a, name=f"{name}-2", **k), blocks={})
    assert "no tensor is declared to be the head" in probe(headless, only=["gradients"]).absent.values()


def test_biases_alone_have_no_norm(make_run) -> None:
    settings = WeightsOnlySettings(tensors={"b": (3,)})
    saves = [{"b": torch.ones(3, dtype=torch.float64)}] * SAVES
    record = everything(make_run(settings, UnknownSettings(), saves))
    assert not record.measurements
    assert record.absent["norm.total"] == "no tensor of it is a weight matrix"


def test_a_function_as_code_gives_the_numbers_of_the_same_function_rebuilt(make_run) -> None:
    ours, theirs = strangers(make_run)
    known = everything(ours)
    stored = {k: v for k, v in read_manifest(theirs.path).items() if k != "schema"}
    write_manifest(theirs.path, {**stored, "function": {"name": "as_code", "sha256": "0" * 64}})
    run = open_run(theirs.path, CODE)
    assert run.remarks == ()
    record = everything(run)
    compared = {n for n in record.measurements if n in known.measurements and not n.endswith(".null")}
    for name in compared - {"norm.total"}:
        np.testing.assert_allclose(record[name], known[name], rtol=1e-8, atol=1e-12, err_msg=name)
    for name in (
        "loss.train", "accuracy.test_unmirrored", "margin.min", "gradients.hidden.1.norm",
        "gradients.head_over_embedding",
    ):  # fmt: skip
        assert name in compared
    unknown = "a function given as code has no known gates, neurons or head"
    for name in ("regions.count", "regions.class_separation.logits", "fourier.neuron_explained",
                 "gradients.bound_slack.head", "spectra.agop.effective_rank"):  # fmt: skip
        assert record.absent[name] == unknown
    assert "float64 alone" in record.absent["softmax.collapsed"]
    assert record.events == known.events
    assert record.verdict is not None
    assert known.verdict is not None
    assert record.verdict.state == known.verdict.state


def test_code_that_cannot_be_differentiated_still_has_losses(make_run) -> None:
    _, theirs = strangers(make_run)
    numpy_code = UserFunction(lambda p, x: as_code(p, x).detach(), "0" * 64, "frozen")
    record = probe(open_run(theirs.path, numpy_code), only=["loss", "gradients"])
    assert "loss.train" in record.measurements
    assert "cannot follow" in record.absent["gradients.<block>.norm"]
    assert "gradients.update_ratio" in record.measurements


def test_code_without_a_task_has_nothing_to_answer(make_run) -> None:
    _, theirs = strangers(make_run, UnknownSettings(), n_residues=P)
    record = everything(open_run(theirs.path, CODE))
    assert record.absent["loss.all"] == "it is not known what was learned, so there are no inputs"
    assert record.verdict is not None
    assert record.verdict.sentence.startswith("Weights and a function, but no task")
    assert any("no task" in alert.text for alert in record.alerts)


def test_user_code_runs_only_when_named_and_another_file_is_remarked(make_run) -> None:
    _, theirs = strangers(make_run)
    run = changed(theirs, function={"name": "as_code", "sha256": "0" * 64})
    record = probe(run, only=["loss", "clocks"])
    why = "its function is user code that runs only when named: --model FILE:as_code"
    assert record.absent["loss.all"] == why
    assert record.verdict is not None
    assert why in record.verdict.sentence
    assert record.alerts[0].command == "grokscope report theirs --model FILE:as_code"
    other = open_run(run.path, CODE._replace(sha256="1" * 64))
    (alert,) = [a for a in probe(other, only=["loss"]).alerts if "another file" in a.text]
    assert alert.command == "grokscope import PATH --model FILE:as_code"
    assert "111111111111" in alert.text


def test_measurements_with_and_without_the_function_are_not_mixed(make_run) -> None:
    _, theirs = strangers(make_run)
    bare, coded = open_run(theirs.path), open_run(theirs.path, CODE)
    suite = read_suite("quick")
    keys = [cache_key(run, suite, [loss], None) for run in (bare, coded)]
    assert keys[0] != keys[1]
    assert "loss.all" in measure_run(coded, "quick").measurements
    assert "loss.all" not in measure_run(bare, "quick").measurements
    assert "loss.all" in measure_run(coded, "quick").measurements


def test_the_import_to_repeat_is_named_by_its_path(make_run, tmp_path: Path) -> None:
    run = make_run(MLP_SETTINGS, TASK, weights(MLP_SETTINGS))

    def command(sources: dict[str, str]) -> str:
        again = changed(run, no_function="unproved", provenance={"sources": sources})
        return probe(again, only=["norms"]).alerts[0].command

    assert command({"/a b/x.pt": "0"}) == "grokscope import '/a b/x.pt' --card FILE"
    assert command({"/a/runs/x.pt": "0", "/a/runs/deep/y.pt": "1"}) == "grokscope import /a/runs --card FILE"
    assert command({}) == "grokscope import PATH --card FILE"


def test_probes_that_need_all_declare_it() -> None:
    needs = {name: set(item.needs) for name, item in registered().items() if item.needs}
    assert needs["loss"] == {"function"}
    assert needs["regions"] == {"function", "split", "anatomy"}
    assert not gradients.needs
    assert not clocks.needs
