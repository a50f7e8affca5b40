"""Opening stored runs: what is bound to what, the split that counts, and the runs that do not open."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grokscope.errors import Absent, GrokscopeError
from grokscope.models import DeepLinear, Transformer
from grokscope.runs import Run, build_from_config, describe_run, open_run
from grokscope.tasks import ResidueAxis, pack_mask
from grokscope.trajectory import TrajectoryWriter, write_manifest
from grokscope.user_code import UserFunction

CONFIG: dict[str, Any] = tomllib.loads("""
seed = 3
[task]
name = "modular"
op = "add"
p = 7
train_fraction = 0.6
[model]
family = "mlp"
d_embed = 4
hidden = [5]
""")
STEPS = (0, 3, 6, 9, 12, 20, 100)


def store(
    directory: Path, config: dict[str, Any] = CONFIG, steps: tuple[int, ...] = STEPS, **manifest: Any
) -> Path:
    """A run of random weights, one draw a save; the scalar is the step itself."""
    _, model = build_from_config(config, "a test")
    directory.mkdir(parents=True)
    write_manifest(directory, {"name": directory.name, "kind": "trained", "config": config, **manifest})
    columns = {name: (shape, np.float32) for name, shape in model.shapes.items()}
    with TrajectoryWriter(directory / "trajectory.h5", columns, ["loss.train"]) as writer:
        for step in steps:
            draw = np.random.default_rng(step)
            writer.save(step, {n: draw.normal(size=s).astype(np.float32) for n, (s, _) in columns.items()})
            writer.scalar(step, {"loss.train": float(step)})
    return directory


def failure(action: Callable[[], object]) -> str:
    with pytest.raises(GrokscopeError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return open_run(store(tmp_path / "run"))


def test_a_run_is_its_task_its_model_and_its_weights(run):
    assert run.name == "run"
    assert run.trained_here
    assert run.steps.tolist() == list(STEPS)
    assert run.task.description == "a + b mod 7"
    assert run.model.family == "mlp"
    assert run.dtype == torch.float32
    assert run.scalars["loss.train"].tolist() == list(STEPS)
    params = run.params(2)
    draw = np.random.default_rng(6)
    for name, shape in run.model.shapes.items():
        expected = draw.normal(size=shape).astype(np.float32)
        assert params[name].dtype == torch.float64
        np.testing.assert_array_equal(params[name].numpy(), expected)
    assert run.logits(params).shape == (49, 7)
    torch.testing.assert_close(run.logits(params), run.model.forward(params, run.task.inputs))


def test_reading_all_saves_is_reading_each(run):
    stacked = run.stacked()
    for index, params in run.each():
        for name, value in run.params(index).items():
            assert torch.equal(params[name], value)
            assert torch.equal(stacked[name][index], value)
    assert [index for index, _ in run.each()] == list(range(len(STEPS)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, STEPS),
        ("", STEPS),
        ("3:12", (3, 6, 9, 12)),
        ("3:12:1", (3, 6, 9, 12)),
        ("0:12:6", (0, 6, 12)),
        ("3:12:6", (3, 9)),
        ("9:100:91", (9, 100)),
        (":9", (0, 3, 6, 9)),
        ("9:", (9, 12, 20, 100)),
        ("::20", (0, 20, 100)),
        ("20", (20,)),
        ("1:11", (3, 6, 9)),
    ],
)
def test_select_includes_both_ends(run, text, expected):
    chosen = run.select(text)
    assert tuple(chosen.steps.tolist()) == expected
    assert run.steps.tolist() == list(STEPS)
    assert len(chosen.stacked()["head.W_U"]) == len(expected)
    for index, step in enumerate(expected):
        position = STEPS.index(step)
        assert torch.equal(chosen.params(index)["head.W_U"], run.params(position)["head.W_U"])


@pytest.mark.parametrize("text", ["a", "1:b", "0:10:0", "0:10:-1", "0:10:1:2", "1.5:3", "0:10:2.0"])
def test_select_refuses_what_is_no_range(run, text):
    message = failure(lambda: run.select(text))
    assert repr(text) in message
    assert "expected A:B:K" in message


@pytest.mark.parametrize("text", ["1", "1:2", "12:3", "200:300", "1:100:50"])
def test_select_refuses_a_range_without_saves(run, text):
    message = failure(lambda: run.select(text))
    assert text in message
    assert "from 0 to 100" in message


def test_the_stored_split_counts_and_not_the_drawn_one(tmp_path):
    drawn = open_run(store(tmp_path / "drawn")).task.train_mask
    mask = torch.arange(49) % 3 == 0
    assert not torch.equal(mask, drawn)
    run = open_run(store(tmp_path / "own", split=pack_mask(mask)))
    assert torch.equal(run.task.train_mask, mask)
    # the symmetries follow the split that counts
    mirrored = run.task.mirrored()
    assert mirrored is not None
    a, b = run.task.inputs.T
    assert torch.equal(mirrored, ~mask & mask[b * 7 + a] & (a != b))


@pytest.mark.parametrize(
    "split",
    [
        pack_mask(torch.ones(48, dtype=torch.bool)),
        {"shape": [49], "bits": "AAAA"},
        {"shape": [49], "bits": "?"},
        {},
        3,
    ],
)
def test_a_stored_split_that_does_not_fit_is_refused(tmp_path, split):
    directory = store(tmp_path / "run", split=split)
    message = failure(lambda: open_run(directory))
    assert "split" in message


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"model": {"family": "mlp", "d_embed": 4, "hidden": [6]}}, "head.W_U|hidden.1"),
        ({"model": {"family": "mlp", "d_embed": 4, "hidden": [5], "head_bias": True}}, "head.b_U"),
        ({"model": {"family": "mlp", "d_embed": 4, "hidden": [5], "hidden_bias": False}}, "hidden.1.b"),
        ({"task": {"name": "modular", "p": 11}}, "embed.W_E|head.W_U"),
        ({"model": {"family": "transformer", "d_model": 8, "n_heads": 2}}, "blocks.0|embed"),
    ],
)
def test_tensors_that_are_not_those_of_the_model_are_refused(tmp_path, change, part):
    directory = store(tmp_path / "run")
    write_manifest(directory, {"name": "run", "kind": "trained", "config": {**CONFIG, **change}})
    message = failure(lambda: open_run(directory))
    assert "the stored tensors are not those of its model" in message
    assert any(one in message for one in part.split("|")), message


def test_a_run_without_a_committed_step_is_refused(tmp_path):
    directory = store(tmp_path / "run", steps=())
    assert "no step is committed yet" in failure(lambda: open_run(directory))


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({}, "task.name is None"),
        ({"task": {"name": "modulus"}}, "did you mean 'modular'"),
        ({"task": {"name": "modular"}, "model": {"family": "mpl"}}, "did you mean 'mlp'"),
        ({"task": {"name": "modular", "q": 3}, "model": {"family": "mlp"}}, "'q'"),
        ({"task": {"name": "modular"}, "model": {"family": "mlp", "hiden": []}}, "did you mean 'hidden'"),
        ({"task": {"name": "modular", "p": 0}, "model": {"family": "mlp"}}, "task.p is 0"),
        ({"task": 3}, "task is 3"),
        ({"task": {"name": "modular"}, "model": []}, "model is []"),
        ({"task": {"name": "modular"}, "model": {"family": "mlp"}, "seed": "x"}, "seed is 'x'"),
        ({"task": {"name": "modular"}, "model": {"family": "mlp"}, "seed": -1}, "seed is -1"),
    ],
)
def test_a_config_that_describes_nothing_is_refused(config, part):
    message = failure(lambda: build_from_config(config, "run.json"))
    assert part in message
    assert "run.json" in message or "building" in message


def test_a_place_that_is_no_run_is_refused(tmp_path):
    assert "not a run" in failure(lambda: open_run(tmp_path))
    assert "not a run" in failure(lambda: open_run(tmp_path / "nowhere"))
    directory = store(tmp_path / "run")
    (directory / "trajectory.h5").unlink()
    assert "trajectory.h5" in failure(lambda: open_run(directory))


def test_other_families_are_bound_to_their_tasks():
    completion = {"task": {"name": "completion", "d": 5}, "model": {"family": "deep-linear", "depth": 2}}
    task, model = build_from_config(completion, "a test")
    assert isinstance(model, DeepLinear)
    assert (task.kind, model.shapes) == ("regression", {"layer.1.W": (5, 5), "layer.2.W": (5, 5)})
    task, model = build_from_config(
        {"task": {"name": "modular", "p": 5}, "model": {"family": "transformer", "d_model": 8, "n_heads": 2}},
        "a test",
    )
    assert isinstance(model, Transformer)
    assert model.shapes["embed.W_E"] == (6, 8)


def test_describe_says_what_is_stored(run):
    found = describe_run(run)
    assert found["skipped"] == []
    (entry,) = found["runs"]
    assert entry["name"] == "run"
    assert entry["recognised"]["steps"] == list(STEPS)
    assert entry["recognised"]["parameters"] == 7 * 4 + 8 * 5 + 5 + 5 * 7
    assert entry["recognised"]["dtype"] == "float32"
    assert re.fullmatch(r"(sha256:)?[0-9a-f]{64}", entry["recognised"]["checksum"])
    assert (entry["split"]["n_train"], entry["split"]["n"]) == (29, 49)


def test_a_run_without_a_split_says_why(tmp_path):
    run = open_run(store(tmp_path / "run", no_split="drawn without a seed"))
    assert run.task.no_split is not None
    assert not run.task.train_mask.any()
    assert run.lacks("split") == run.task.no_split
    assert run.lacks("function") is None
    assert run.lacks() is None
    entry = describe_run(run)["runs"][0]
    assert entry["split"] == {
        "source": "not known", "why": "drawn without a seed", "n_train": None, "n": 49
    }  # fmt: skip


@pytest.mark.parametrize("given", [3, "", "  ", None, ["x"]])
@pytest.mark.parametrize("field", ["no_split", "no_function"])
def test_a_reason_that_is_no_sentence_is_refused(tmp_path, field, given):
    directory = store(tmp_path / "run", **{field: given})
    assert f"{field} is {given!r}" in failure(lambda: open_run(directory))


def test_a_function_that_is_not_proved_is_marked_on_this_run_alone(tmp_path):
    run = open_run(store(tmp_path / "run", no_function="nothing is reproduced"))
    assert run.lacks("split", "function") == Absent("nothing is reproduced")
    assert open_run(store(tmp_path / "other")).lacks("function") is None
    assert describe_run(run)["runs"][0]["recognised"]["no_function"] == "nothing is reproduced"


WEIGHTS: dict[str, Any] = {
    "task": {"name": "modular", "p": 7},
    "model": {"family": "weights", "tensors": {"a.weight": [7, 4], "b": [4]}, "reason": "no table knows it"},
}
CODE = UserFunction(
    lambda params, inputs: params["a.weight"][inputs[:, 0]].double() @ torch.ones(4, 7), "ab" * 32, "f"
)


def test_weights_only_open_without_a_function_and_with_one(tmp_path):
    directory = store(tmp_path / "run", WEIGHTS)
    run = open_run(directory)
    assert run.lacks("function") == run.lacks("anatomy") == Absent("no table knows it")
    assert run.function is None
    coded = open_run(directory, CODE)
    assert coded.lacks("function") is None
    assert coded.lacks("function", "split", "anatomy") is not None
    assert coded.function == CODE
    assert "the import knew none" in coded.remarks[0]


@pytest.mark.parametrize(
    ("recorded", "remark"),
    [
        ({"name": "f", "sha256": "ab" * 32}, ""),
        ({"name": "f", "sha256": "cd" * 32}, "from another file"),
        ({"name": "g", "sha256": "ab" * 32}, "from the same file"),
    ],
)
def test_the_function_of_an_import_is_compared_with_the_one_given(tmp_path, recorded, remark):
    directory = store(tmp_path / "run", WEIGHTS, function=recorded)
    why = open_run(directory).lacks("function")
    assert why is not None
    assert why.reason.endswith(f"runs only when named: --model FILE:{recorded['name']}")
    assert [remark in text for text in open_run(directory, CODE).remarks] == ([True] if remark else [])


def test_a_function_for_a_run_that_has_its_own_is_refused(tmp_path):
    directory = store(tmp_path / "run")
    assert "was rebuilt as mlp" in failure(lambda: open_run(directory, CODE))


def test_an_unknown_task_takes_the_residues_of_a_declared_embedding(tmp_path):
    model = {**WEIGHTS["model"], "embedding": "a.weight", "n_residues": 6}
    task, _ = build_from_config({"task": {"name": "unknown"}, "model": model}, "a test")
    assert isinstance(task.token_axis, ResidueAxis)
    assert task.token_axis.rows.tolist() == [0, 1, 2, 3, 4, 5]
    bare, _ = build_from_config({"task": {"name": "unknown"}, "model": WEIGHTS["model"]}, "a test")
    assert isinstance(bare.token_axis, Absent)
    run = open_run(store(tmp_path / "run", {"task": {"name": "unknown"}, "model": model}))
    assert run.lacks("split") is not None
    assert describe_run(run)["runs"][0]["split"]["n"] == 0
