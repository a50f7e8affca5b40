"""Findings that a reader needs before trusting the curves."""

import pytest
import torch

from grokscope.foreign.audit import audit, audit_proof
from grokscope.foreign.proof import Comparison
from grokscope.tasks import ModularSettings, modular_task


def task_of(op: str = "add"):
    return modular_task(ModularSettings(op=op, p=13, train_fraction=0.4), 3)


def test_early_test_accuracy_is_mirrored_pairs() -> None:
    task = task_of()
    mirrored = task.mirrored()
    assert mirrored is not None
    untrained = torch.zeros_like(mirrored)
    memorised = task.train_mask | mirrored
    findings = audit(
        task, [0, 50, 900], torch.stack([untrained, memorised, torch.ones_like(mirrored)]), {}, {}
    )
    test = ~task.train_mask
    accuracy = (mirrored.sum() / test.sum()).item()
    assert findings[0]["finding"] == "early test accuracy is mirrored pairs"
    assert findings[0]["evidence"].startswith(f"step 50: {accuracy:.3f} = 1.000 mirrored, 0.000 unmirrored")
    assert f"{int(mirrored.sum())} of {int(test.sum())}" in findings[0]["evidence"]
    rows = [one for one in findings if one["finding"] == "test accuracy by mirrored pairs"]
    assert [one["step"] for one in rows] == [0, 50, 900]
    assert rows[1]["test"] == pytest.approx(accuracy)
    assert (rows[1]["mirrored"], rows[1]["unmirrored"], rows[2]["unmirrored"]) == (1.0, 0.0, 1.0)


def test_no_claim_where_unmirrored_pairs_rise_too() -> None:
    task = task_of()
    half = torch.rand(169, generator=torch.Generator().manual_seed(0)) < 0.5
    findings = audit(task, [10, 20], torch.stack([half, torch.ones(169).bool()]), {}, {})
    assert all(one["finding"] != "early test accuracy is mirrored pairs" for one in findings)


def test_mirrored_is_absent_where_the_swap_changes_the_answer() -> None:
    findings = audit(task_of("sub"), [0], torch.ones(1, 169).bool(), {}, {})
    assert findings[0]["finding"] == "mirrored pairs do not apply"
    assert "sub" in findings[0]["evidence"]


def test_buffers_and_zero_biases() -> None:
    tensors = {
        "unembed.b_U": torch.zeros(3),
        "blocks.0.mlp.b_in": torch.ones(3),
        "embed.W_E": torch.zeros(2, 2),
    }
    findings = audit(task_of("sub"), [0], torch.ones(1, 169).bool(), {"mask": "the causal mask"}, tensors)
    told = {one["finding"]: one["evidence"] for one in findings}
    assert "mask (the causal mask)" in told["not every tensor of the file is a weight"]
    assert told["some biases are zero"] == "at the last save: unembed.b_U"


def comparison(verdict, difference: float = 0.0) -> Comparison:
    return Comparison("loss.test", 5, 1.0, 1.0 + difference, difference, verdict, "test_loss in metrics.csv")


def test_the_proof_as_a_whole() -> None:
    assert audit_proof([])[0]["finding"] == "nothing proves the rebuild"
    assert audit_proof([comparison("agrees")])[0]["finding"] == "the rebuild reproduces everything recorded"
    mixed = audit_proof([comparison("agrees"), comparison("one step off")])[0]
    assert mixed["finding"] == "some recorded numbers belong to weights one step away"
    assert "1 agrees, 1 one step off, 0 differs" in mixed["evidence"]
    wrong = audit_proof([comparison("differs", 0.1), comparison("differs", 3.0)])[0]
    assert "does not reproduce" in wrong["finding"]
    assert "loss.test at step 5: 1, rebuilt 4" in wrong["evidence"]
