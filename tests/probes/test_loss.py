"""The loss probe on lookup tables whose accuracies can be counted."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from grokscope.models import DeepLinearSettings, MLPSettings
from grokscope.probes import Record, probe
from grokscope.tasks import BlobsSettings, ModularSettings, modular_task
from tests.probes.lookup import answers_for, lookup_settings, memoriser, perfect, predicted, silent_network

P = 11


@pytest.fixture
def task():
    return modular_task(ModularSettings(p=P, train_fraction=0.4), 0)


def measured(make_run, task, networks) -> Record:
    run = make_run(lookup_settings(P), ModularSettings(p=P, train_fraction=0.4), networks)
    return probe(run, only=["loss"])


def test_silent_network_has_loss_log_p_and_no_margin(make_run, task):
    record = measured(make_run, task, [silent_network(P)])
    for subset in ("train", "test", "all"):
        assert record[f"loss.{subset}"][0] == pytest.approx(math.log(P), rel=1e-14)
    assert record["margin.min"][0] == record["margin.mean"][0] == 0
    assert record["logits.norm"][0] == 0
    share = float((task.targets[task.train_mask] == 0).double().mean())
    assert record["accuracy.train"][0] == share


def test_memoriser_is_right_on_mirrored_pairs_alone(make_run, task):
    record = measured(make_run, task, [memoriser(task), perfect(task)])
    assert record["accuracy.train"].tolist() == [1, 1]
    assert record["accuracy.test_mirrored"].tolist() == [1, 1]
    answers = answers_for(task, task.train_mask.nonzero().flatten().tolist())
    right = predicted(task, answers) == task.targets
    others = ~task.train_mask & ~task.mirrored()
    assert record["accuracy.test_unmirrored"][0] == float(right[others].double().mean())
    assert record["accuracy.test_unmirrored"][0] < 0.3
    assert record["accuracy.test_unmirrored"][1] == 1
    test = right[~task.train_mask].double().mean()
    assert record["accuracy.test"][0] == pytest.approx(float(test), rel=1e-14)


def test_mirrored_pairs_are_counted_by_hand(make_run, task):
    record = measured(make_run, task, [memoriser(task)])
    trained = {tuple(pair) for pair in task.inputs[task.train_mask].tolist()}
    tested = {tuple(pair) for pair in task.inputs[~task.train_mask].tolist()}
    mirrored = {(a, b) for a, b in tested if a != b and (b, a) in trained}
    pairs = record.notes["loss.pairs"]
    assert pairs["test_mirrored"] == len(mirrored)
    assert pairs["test_unmirrored"] == len(tested) - len(mirrored)
    assert pairs["test_diagonal"] == sum(a == b for a, b in tested)


@pytest.mark.parametrize("op", ["sub", "div"])
def test_where_the_swap_changes_the_answer_everything_is_unmirrored(make_run, op):
    settings = ModularSettings(op=op, p=7, train_fraction=0.5)
    model = MLPSettings(d_embed=3, hidden=(4,))
    task = modular_task(settings, 0)
    generator = torch.Generator().manual_seed(1)
    from grokscope.models import MLP

    run = make_run(model, settings, [MLP(model, 7, 7).init(generator, torch.float64)])
    record = probe(run, only=["loss"])
    assert "swapping the operands changes the answer" in record.absent["accuracy.test_mirrored"]
    assert record["accuracy.test_unmirrored"] == record["accuracy.test"]
    assert record.notes["loss.pairs"]["test_unmirrored"] == int((~task.train_mask).sum())
    assert record["accuracy.test_equivariant"] is not None


def test_squared_loss_is_half_the_distance_to_one_hot(make_run, task):
    run = make_run(lookup_settings(P), ModularSettings(p=P, train_fraction=0.4), [silent_network(P)])
    run.manifest["config"]["train"] = {"loss": "squared"}
    assert probe(run, only=["loss"])["loss.test"][0] == 0.5


def test_the_loss_of_stablemax_is_that_of_its_probabilities(make_run, task):
    run = make_run(lookup_settings(P), ModularSettings(p=P, train_fraction=0.4), [memoriser(task)])
    run.manifest["config"]["train"] = {"loss": "stablemax"}
    found, logits = probe(run, only=["loss"])["loss.test"][0], run.logits(run.params(0))
    s = torch.where(logits >= 0, logits + 1, 1 / (1 - logits))
    right = s[torch.arange(len(s)), task.targets] / s.sum(1)
    assert found == pytest.approx(float(-right[~task.train_mask].log().mean()))


def test_every_declared_quantity_is_recorded_or_absent_with_a_reason(make_run, task):
    record = measured(make_run, task, [memoriser(task)])
    from grokscope.probes.loss_quantities import QUANTITIES

    for quantity in QUANTITIES:
        assert quantity.name in record.measurements or record.absent[quantity.name]
    text = json.dumps(record.to_json(), allow_nan=False)
    assert json.loads(text)["measurements"]["loss.train"]["dims"] == ["step"]


def test_collapse_is_counted_in_the_stored_precision(make_run, task):
    """Logits of 2000 leave a float32 softmax sum of exactly 1."""
    record = measured(make_run, task, [memoriser(task)])
    diagonal = task.inputs[task.train_mask]
    share = float((diagonal[:, 0] == diagonal[:, 1]).double().mean())
    assert record["softmax.collapsed"][0] >= share
    assert np.all(record["softmax.collapsed"] <= 1)


def test_features_collapse_in_the_training_precision(make_run):
    """A linear map on features trained in float32: its logits are so large that every softmax sum is exactly 1."""
    task = BlobsSettings(d=6, classes=4, rank=2, per_class=10, noise=0.0)
    means = torch.zeros(6, 4, dtype=torch.float64)
    run = make_run(DeepLinearSettings(depth=1), task, [{"layer.1.W": means}], name="empty")
    means = torch.stack([run.task.inputs[run.task.targets == label][0] for label in range(4)]).T
    for scale, share in ((1e4, 1.0), (1.0, 0.0)):
        run = make_run(DeepLinearSettings(depth=1), task, [{"layer.1.W": scale * means}], dtype=np.float32,
                       name=f"scale{scale:g}")  # fmt: skip
        record = probe(run, only=["loss"])
        assert record["accuracy.train"][0] == 1
        assert record["softmax.collapsed"][0] == share
