"""XOR among signs against its definition, and its accuracy against numpy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.probes import Suite, probe
from grokscope.runs import open_run
from grokscope.tasks import XorSettings, build_task
from grokscope.training import read_recipe, train

SMALL = ("task={name='xor', d=30, train=20, test=25, noise=0.2}",
         "model={family='feature-mlp', hidden=[16], activation='relu', hidden_bias=false, head_bias=false}",
         "train.loss=squared", "train.optimizer=gd",
         "train.lr=0.2", "train.weight_decay=0.05", "train.steps=40", "train.dtype=float64",
         "save.schedule=['0:end:10']", "save.evaluate=['0:end:10']")  # fmt: skip


def test_the_answer_is_the_product_of_the_first_two_signs() -> None:
    task = build_task(XorSettings(d=12, train=40, test=30, noise=0.3), 0)
    assert task.inputs.shape == (70, 12)
    signs, rest = task.inputs[:, :2], task.inputs[:, 2:]
    assert set(signs.flatten().tolist()) == {-1.0, 1.0}
    assert set(rest.flatten().tolist()) == {-0.3, 0.3}
    assert torch.equal(task.targets[:, 0], signs[:, 0] * signs[:, 1])
    assert task.train_mask[:40].all()
    assert not task.train_mask[40:].any()
    # all four corners are there, and no coordinate alone tells the answer
    assert len({tuple(row) for row in signs.tolist()}) == 4
    large = build_task(XorSettings(d=3, train=4000, test=1), 1)
    assert float((large.inputs[:, :2] * large.targets).mean(0).abs().max()) < 0.1


def test_seeds_decide_the_sample() -> None:
    one, two = (build_task(XorSettings(d=9), seed) for seed in (0, 1))
    assert not torch.equal(one.inputs, two.inputs)
    assert torch.equal(build_task(XorSettings(d=9, split_seed=1), 5).inputs, two.inputs)


@pytest.mark.parametrize("settings", [XorSettings(d=1), XorSettings(test=0), XorSettings(noise=-1.0)])
def test_settings_that_cannot_be_are_one_line(settings: XorSettings) -> None:
    with pytest.raises(GrokscopeError, match="building a task of XOR"):
        build_task(settings, 0)


def test_an_answer_is_right_where_its_sign_is(tmp_path: Path) -> None:
    train(read_recipe("deep-linear", SMALL, 3), tmp_path / "run")
    run = open_run(tmp_path / "run")
    record = probe(run, Suite("xor", ("loss", "clocks")))
    x, y = run.task.inputs.numpy(), run.task.targets.numpy()[:, 0]
    for save, params in enumerate(
        {k: v.numpy() for k, v in run.params(i).items()} for i in range(len(run.steps))
    ):
        output = (np.maximum(x @ params["hidden.1.W"], 0) @ params["head.W_U"])[:, 0]
        right = np.sign(output) == y
        for name, part in (("train", right[:20]), ("test", right[20:]), ("all", right)):
            assert record[f"accuracy.{name}"][save] == part.mean()
        assert record["loss.train"][save] == pytest.approx(0.5 * np.mean((output - y)[:20] ** 2), rel=1e-12)
    logged = run.trajectory.scalars
    assert np.array_equal(logged["accuracy.test"], record["accuracy.test"])
    assert np.array_equal(logged["accuracy.train"], record["accuracy.train"])
    assert record.verdict is not None
    assert "pairs" not in record.verdict.sentence
    assert "grok_unmirrored" not in record.events
    assert {"fit", "grok", "grok_90"} <= record.events.keys()
    assert "margin.min" in record.absent


def test_a_batch_or_another_loss_is_refused_in_one_line() -> None:
    with pytest.raises(GrokscopeError, match=r"train.batch_size = 5 was given for task.name 'xor'"):
        read_recipe("deep-linear", (*SMALL, "train.optimizer=sgd", "train.batch_size=5"), 0)
    with pytest.raises(GrokscopeError, match=r"train.loss 'cross-entropy' was given for task.name 'xor'"):
        read_recipe("deep-linear", (*SMALL, "train.loss=cross-entropy"), 0)
