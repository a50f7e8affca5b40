"""Findings that a reader needs before trusting the curves."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from grokscope.errors import Absent
from grokscope.foreign.evidence.audit import AuditContext, audit, audit_proof, compare_norms
from grokscope.foreign.evidence.audit_conflicts import NAME_WORDS, numbers_in_name
from grokscope.foreign.evidence.findings import quoted
from grokscope.foreign.evidence.verdicts import Comparison
from grokscope.foreign.gathering.facts import Facts, Recorded
from grokscope.models import MLP, MLPSettings
from grokscope.models.anatomy import Part
from grokscope.tasks import ModularSettings, modular_task

P = 13
SETTINGS = {"p": P, "lr": 1e-3, "weight_decay": 1.0, "train_fraction": 0.4, "seed": 3, "betas": [0.9, 0.98]}


def task_of(op: str = "add"):
    return modular_task(ModularSettings(op=op, p=P, train_fraction=0.4), 3)


def optimiser(**changes: Any) -> dict[str, Any]:
    group = {"lr": 1e-3, "weight_decay": 1.0, "betas": (0.9, 0.98), "params": [0], **changes}
    return {"state": {0: {"step": torch.tensor(900.0)}}, "param_groups": [group]}


def context_of(op: str = "add", documents: dict[str, Any] | None = None, **changes: Any) -> AuditContext:
    """A small MLP whose record is complete and agrees with itself."""
    task = task_of(op)
    model = MLP(MLPSettings(d_embed=4, hidden=(6,)), P, P)
    params = model.init(torch.Generator().manual_seed(0))
    given: dict[str, Any] = {
        "task": task,
        "steps": [900],
        "losses": torch.full((1, P * P), 0.5, dtype=torch.float64),
        "right": torch.ones(1, P * P, dtype=torch.bool),
        "ignored": {},
        "saves": [params],
        "model": model,
        "facts": Facts({"config.json": SETTINGS} if documents is None else documents),
        "inside": {},
        "raw": params,
        "proof": [comparison("reproduced")],
    }
    return AuditContext(**{**given, **changes})


def comparison(verdict, difference: float = 0.0, **changes: Any) -> Comparison:
    row = Comparison(
        "loss.test", 5, 1.0, 1.0 + difference, difference, verdict, "test_loss in a.csv", relative=difference
    )
    return replace(row, **changes)


UNRECORDED = Comparison("loss", 6, None, 2.0, None, "nothing recorded", "")


def told(context: AuditContext) -> dict[str, str]:
    found = audit(context)
    json.dumps(found, allow_nan=False)
    assert all(one["severity"] in ("note", "warning") for one in found)
    assert all("\n" not in one["evidence"] and one["evidence"] for one in found)
    return {one["finding"]: one["evidence"] for one in found}


def test_a_run_that_agrees_with_itself_has_no_warning() -> None:
    found = audit(context_of(optimizer=optimiser(), names=["ckpt_900.pt", "p13_frac0.40_wd1_seed3"]))
    assert [one for one in found if one["severity"] == "warning"] == []
    assert found[0]["finding"] == "the rebuild reproduces everything recorded"


def test_early_test_accuracy_is_mirrored_pairs() -> None:
    task = task_of()
    mirrored = task.mirrored()
    assert mirrored is not None
    memorised = task.train_mask | mirrored
    right = torch.stack([torch.zeros_like(mirrored), memorised, torch.ones_like(mirrored)])
    found = audit(context_of(steps=[0, 50, 900], right=right, losses=None))
    test = ~task.train_mask
    accuracy = (mirrored.sum() / test.sum()).item()
    early = next(one for one in found if one["finding"] == "early test accuracy is mirrored pairs")
    assert early["evidence"].startswith(f"step 50: {accuracy:.3f} = 1.000 mirrored, 0.000 unmirrored")
    assert f"{int(mirrored.sum())} of {int(test.sum())}" in early["evidence"]
    assert early["severity"] == "warning"
    rows = [one for one in found if one["finding"] == "test accuracy by mirrored pairs"]
    assert [one["step"] for one in rows] == [0, 50, 900]
    assert rows[1]["test"] == pytest.approx(accuracy)
    assert (rows[1]["mirrored"], rows[1]["unmirrored"], rows[2]["unmirrored"]) == (1.0, 0.0, 1.0)


def test_no_claim_where_unmirrored_pairs_rise_too() -> None:
    half = torch.rand(P * P, generator=torch.Generator().manual_seed(0)) < 0.5
    right = torch.stack([half, torch.ones(P * P).bool()])
    assert "early test accuracy is mirrored pairs" not in told(
        context_of(steps=[10, 20], right=right, losses=None)
    )


def test_mirrored_is_absent_where_the_swap_changes_the_answer() -> None:
    assert "sub" in told(context_of("sub"))["mirrored pairs do not apply"]


def test_what_is_unknown_says_how_to_make_it_known() -> None:
    context = context_of()
    context.model.no_function = Absent("no dialect knows these names")
    unknown = replace(
        context,
        task=context.task.without_split("no seed of 12 fits"),
        losses=None,
        right=None,
        proof=[],
        where="a b/run.pt",
    )
    found = told(unknown)
    assert found["the function is not known"] == (
        "no dialect knows these names; to resolve: `grokscope import 'a b/run.pt' --card FILE` or "
        "`--model FILE:FUNCTION`"
    )
    assert found["which pairs were trained on is not known"].startswith("no seed of 12 fits; to resolve")
    assert "nothing proves the rebuild" not in found


def test_a_published_model_that_does_not_solve_its_task() -> None:
    context = context_of()
    right = context.task.train_mask.clone()[None]
    right[0, context.task.train_mask.nonzero()[0]] = False
    found = told(replace(context, right=right))
    n_train = int(context.task.train_mask.sum())
    solved = found["the published model does not solve its task"]
    assert f"{n_train - 1} of 169 pairs" in solved
    assert f"{n_train - 1} of {n_train} training pairs, 0 of {169 - n_train} test pairs" in solved
    assert "nothing recorded confirms" not in solved
    assert "1 of 67 training pairs" in found["the last save does not fit its training pairs"]
    unproved = told(replace(context, right=right, proof=[]))["the published model does not solve its task"]
    assert unproved.endswith("to resolve: `grokscope import PATH --card FILE`")


@pytest.mark.parametrize(
    ("settings", "group", "expected"),
    [
        ({"weight_decay": 1.0}, {"weight_decay": 0.1}, ("weight decay", 1.0, [0.1])),
        ({"lr": 1e-3}, {"lr": 2e-3, "initial_lr": 5e-3}, ("learning rate", 1e-3, [2e-3])),
        ({"betas": [0.9, 0.98]}, {"betas": (0.9, 0.999)}, ("betas", [0.9, 0.98], [0.9, 0.999])),
        ({"beta1": 0.9, "beta2": 0.95}, {"betas": (0.9, 0.999)}, ("betas", [0.9, 0.95], [0.9, 0.999])),
    ],
)
def test_settings_against_the_optimiser_state(settings, group, expected) -> None:
    context = context_of(documents={"config.json": settings}, optimizer=optimiser(**group))
    name = "the settings contradict the optimiser state"
    (one,) = (one for one in audit(context) if one["finding"] == name)
    assert (one["setting"], one["recorded"], one["optimiser"]) == expected
    assert one["severity"] == "warning"


def test_a_schedule_and_spared_biases_are_no_contradiction() -> None:
    scheduled = optimiser(lr=2e-5, initial_lr=1e-3)
    scheduled["param_groups"].append({"lr": 2e-5, "initial_lr": 1e-3, "weight_decay": 0.0, "params": []})
    context = context_of(optimizer=scheduled, names=["run_wd1"])
    assert not {one for one in told(context) if "contradict" in one}
    (one,) = (
        one
        for one in audit(context_of(optimizer=optimiser(lr=2e-5)))
        if one["finding"] == "the settings contradict the optimiser state"
    )
    assert one["severity"] == "note"
    assert "schedule" in one["evidence"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wd_10-1_mod_addition_loss_curve.pth", {("weight decay", 0.1)}),
        (
            "p97_frac0.30_wd1_seed0.pt",
            {("modulus", 97), ("training fraction", 0.3), ("weight decay", 1), ("seed", 0)},
        ),
        (
            "p_23_dmlp_512_ReLU_random_scale_0.1_decay_2.0_08180102",
            {("modulus", 23), ("hidden width", 512), ("weight decay", 2.0)},
        ),
        ("lr=1e-3,frac=30", {("learning rate", 1e-3), ("training fraction", 0.3)}),
        ("frac0p3-lr0.001", {("training fraction", 0.3), ("learning rate", 0.001)}),
        ("weight_decay_0.5 P=113", {("weight decay", 0.5), ("modulus", 113)}),
        ("wd0_seed0_wdsnon_embeddings_memorize", {("weight decay", 0), ("seed", 0)}),
        ("model_18c9ev5v5p.pt", set()),
        ("checkpoint_e020000.pt", set()),
        ("mod_addition_frac_train_sweep.pth", set()),
        ("dropout_p0.1", set()),
        ("ckpt_8500.pt", set()),
    ],
)
def test_numbers_in_names(name: str, expected: set) -> None:
    assert {(about, readings[0]) for about, _, readings in numbers_in_name(name)} == expected


@given(st.text("wdplrseefracmod_=-^. 0123456789٣é", max_size=40))
def test_no_name_breaks_the_reading(name: str) -> None:
    for about, _, readings in numbers_in_name(name):
        assert about in NAME_WORDS
        assert readings
        assert all(math.isfinite(one) for one in readings)


def test_numbers_beyond_all_bounds_are_none() -> None:
    assert numbers_in_name("p1e999 wd1e999") == []


def test_names_against_the_record() -> None:
    context = context_of(names=["wd_10-1_run.pth", "p13_frac0.30_seed3", "seed7"], optimizer=optimiser())
    found = [one for one in audit(context) if one["finding"] == "the name contradicts the record"]
    assert [(one["setting"], one["named"], one["recorded"]) for one in found] == [
        ("weight decay", 0.1, 1.0),
        ("training fraction", 0.3, 0.4),
        ("seed", 7, 3),
    ]
    assert "'" not in found[0]["evidence"]
    assert found[0]["evidence"].startswith(
        "wd_10-1_run.pth says weight decay 0.1, but weight_decay in config.json is 1"
    )
    # the split itself speaks where no fraction is written
    from_split = context_of(documents={"config.json": {"seed": 1}}, names=["frac0.4"])
    assert "the name contradicts the record" not in told(from_split)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"p": 17}, "the weights know 13 residues"),
        ({"C": 59}, "the weights have 13 answers"),
        ({"group_parameter": 6}, "the weights know 13 elements"),
        ({"embed_dim": 32}, "no weight has such an axis (axes: 4, 6, 8, 13)"),
        ({"model": {"d_mlp": 5}}, "no weight has such an axis"),
        ({"n_params": 100}, "the weights are 184 numbers"),
    ],
)
def test_settings_against_the_weights(settings, word: str) -> None:
    assert (
        word in told(context_of(documents={"config.json": settings}))["the settings contradict the weights"]
    )


def test_settings_that_fit_the_weights() -> None:
    fitting = {
        "p": 13,
        "C": 13,
        "d_model": 4,
        "d_mlp": 6,
        "n_params": 184,
        "group_parameter": 13,
        "vocab_size": 13,
    }
    assert "the settings contradict the weights" not in told(context_of(documents={"config.json": fitting}))
    # packed projections, a vocabulary with "=", layers by name
    raw = {"blocks.0.attn.qkv.weight": torch.zeros(12, 4), "blocks.1.mlp.up.weight": torch.zeros(14, 4)}
    packed = {"d_model": 4, "n_layers": 3, "vocab_size": 14}
    found = told(context_of(documents={"config.json": packed}, raw=raw))
    assert "the weights have 2 layers" in found["the settings contradict the weights"]
    assert "axis" not in found["the settings contradict the weights"]


def test_documents_against_each_other() -> None:
    context = context_of(documents={"config.json": {"lr": 1e-3}, "args.yaml": {"optim": {"lr": 3e-4}}})
    evidence = told(context)["the record contradicts itself"]
    assert evidence.startswith("learning rate: lr in config.json is 0.001, lr in args.yaml is 0.0003")
    # one document with several values speaks of several runs
    many = context_of(documents={"sweep.json": {"a": {"lr": 1e-3}, "b": {"lr": 3e-4}}})
    assert "the record contradicts itself" not in told(many)


def test_what_is_not_stored() -> None:
    found = told(context_of(documents={}, split={"source": "searched", "train_fraction": 0.4, "seed": 3}))
    assert found["the training fraction is not stored"].endswith("; 0.4 is searched")
    assert "seed" in found["the seed is not stored"]
    settings = found["optimiser settings are not recorded"]
    assert "the learning rate and the weight decay stand neither" in settings
    assert settings.endswith("`grokscope import PATH --name NAME`")
    explicit = told(context_of(documents={}, split={"source": "explicit"}, optimizer=optimiser()))
    assert not {name for name in explicit if "stored" in name or "not recorded" in name}


def test_a_split_that_contradicts_its_seed() -> None:
    context = context_of(split={"contradiction": "seed 42 draws\nother pairs"})
    assert told(context)["the split contradicts the recorded seed"].startswith("seed 42 draws other pairs")


def test_losses_under_the_floor_of_float32() -> None:
    context = context_of()
    params = {name: value.clone() for name, value in context.saves[0].items()}
    # every neuron sees both operands, and a head bias would be simpler: make the right answer win by far
    params["head.W_U"] = torch.zeros(6, P)
    losses = torch.full((2, P * P), 1e-9, dtype=torch.float64)
    losses[0] = 0.5
    found = audit(replace(context, steps=[0, 900], losses=losses, saves=[params, params], right=None))
    (one,) = (one for one in found if one["finding"] == "losses under the floor of float32")
    assert one["under"] == 1
    assert one["saves"] == [{"step": 900, "loss": pytest.approx(1e-9), "zero": 0.0}]
    assert "below 1.2e-07; at step 900 it is 1e-09" in one["evidence"]


def test_saves_one_update_away() -> None:
    proof = [
        comparison("one step off", 0.1, shift=1, note="told so"),
        comparison("reproduced", 0.0, step=7, shift=1),
        comparison("one step off", 0.1, step=9, quantity="loss.train", source="train_loss in a.csv"),
    ]
    found = [one for one in audit(context_of(proof=proof)) if one["finding"].startswith("saved one update")]
    assert [(one["quantity"], one["shift"], one["steps"]) for one in found] == [
        ("loss.test", 1, [5, 7]),
        ("loss.train", None, [9]),
    ]
    assert found[0]["evidence"].startswith("test_loss in a.csv belongs to weights one update after the saved")


def test_the_optimiser_s_count_of_updates() -> None:
    found = told(context_of(optimizer=optimiser(), steps=[899]))
    assert "900 updates when the save called step 899" in found["the step is not the number of updates"]
    assert "the step is not the number of updates" not in told(context_of(optimizer=optimiser()))


def test_buffers_zero_biases_and_what_was_left_out() -> None:
    context = context_of()
    raw = {**context.raw, "mask": torch.ones(3, 3), "IGNORE": torch.tensor(-1e5)}
    ignored = {"mask": "the causal mask", "IGNORE": "the score of masked positions"}
    found = told(replace(context, raw=raw, ignored=ignored, skipped=[("b.pt", "step 5 is\nalready there")]))
    assert "mask (the causal mask)" in found["not every tensor of the file is a weight"]
    assert found["all biases are zero"] == "at the last save: hidden.1.b"
    assert found["not every file or step was taken"] == "1 left out: b.pt: step 5 is already there"
    naive = found["a naive norm would count what is no weight"]
    assert naive.startswith("over all tensors of the last file it is 100000")
    assert "IGNORE (the score of masked positions)" in naive
    small = replace(context, raw={**context.raw, "mask": torch.zeros(3, 3)}, ignored={"mask": "the mask"})
    assert "a naive norm would count what is no weight" not in told(small)


def test_the_proof_as_a_whole() -> None:
    assert audit_proof([])[0]["finding"] == "nothing proves the rebuild"
    assert audit_proof([UNRECORDED])[0]["severity"] == "warning"
    assert (
        audit_proof([comparison("reproduced")])[0]["finding"] == "the rebuild reproduces everything recorded"
    )
    mixed = audit_proof([comparison("reproduced"), comparison("one step off"), UNRECORDED])[0]
    assert mixed["finding"] == "some recorded numbers belong to weights one step away"
    assert mixed["evidence"] == "of 2 recorded numbers at saved steps: 1 reproduced, 1 one step off"
    wrong = audit_proof([comparison("conflict", 0.1), comparison("conflict", 3.0)])[0]
    assert wrong["finding"] == "most recorded numbers contradict the rebuild"
    some = audit_proof([comparison("conflict", 0.1), comparison("reproduced")])[0]
    assert some["finding"] == "the rebuild does not reproduce everything recorded"
    assert "loss.test at step 5: 1, rebuilt 4" in wrong["evidence"]
    nameless = audit_proof([replace(UNRECORDED, recorded=1.0, ours=None, verdict="conflict")])[0]
    assert "rebuilt not finite" in nameless["evidence"]


WEIGHTS = {"W": torch.tensor([[3.0, 4.0]]), "b": torch.tensor([12.0])}
PARTS = (Part("W", (1, 2), "matrix", "head"), Part("b", (1,), "bias", "head"))


def norm_findings(value: float, quantity: str = "norm.total", raw: dict[str, Tensor] | None = None):
    record = [Recorded(quantity, 5, value, "weight_norm in metrics.csv", 5e-4)]
    return compare_norms(record, [5], [WEIGHTS], PARTS, [raw] if raw else ())[0]


def test_which_norm_was_recorded() -> None:
    assert norm_findings(13.0)["finding"] == "the recorded norm is reproduced"
    assert norm_findings(13.0)["tensors"] == "all parameters"
    assert norm_findings(5.0)["tensors"] == "the matrices alone"
    assert norm_findings(169.0, "norm.squared")["finding"] == "the recorded norm is reproduced"
    squared = norm_findings(169.0)
    assert squared["finding"] == "the recorded norm is another than its name says"
    assert squared["norm"] == "the sum of squares"
    assert norm_findings(17.0)["norm"] == "the sum of the tensors' norms"
    buffered = norm_findings(20.0, raw={**WEIGHTS, "mask": torch.tensor([231.0]).sqrt()})
    assert buffered["tensors"].startswith("every tensor of the file")
    assert buffered["severity"] == "warning"


def test_a_norm_that_nothing_gives() -> None:
    broken = norm_findings(0.0, "norm.squared")
    assert broken["finding"] == "the recorded norm is not that of these weights"
    assert (broken["recorded"], broken["ours"], broken["severity"]) == (0.0, 169.0, "warning")
    record = [Recorded("norm.total", 5, value, f"a in {index}") for index, value in enumerate((13.0, 13.1))]
    record += [Recorded("norm.total", 6, 13.0, "a in 0"), Recorded("norm.total", 5, float("nan"), "a in 0")]
    found = compare_norms(record, [5], [WEIGHTS], PARTS)
    assert [one["reproduced"] for one in found] == [1, 0]


def test_a_stranger_s_words_stay_on_one_short_line() -> None:
    assert quoted("a\nb\x1b[31m\u202e") == "a b?[31m?"
    assert len(quoted("x" * 500)) == 80
