"""What the weights do not say: found where the weights or the record tell, reported as assumed where not."""

import dataclasses

import pytest
import torch
from torch.nn.functional import cross_entropy as torch_loss

from grokscope.foreign.hypotheses import find_activation, find_operation, operation_task, pair_outcomes
from grokscope.measures.classification import cross_entropy
from grokscope.models import Transformer, as_float64


def fitted(settings, op: str, p: int) -> dict[str, torch.Tensor]:
    """A small transformer that answers every pair of one operation."""
    model, task = Transformer(settings, p, p), operation_task(op, p)
    params = model.init(torch.Generator().manual_seed(1))
    leaves = {name: value.requires_grad_() for name, value in params.items()}
    optimiser = torch.optim.Adam(list(leaves.values()), lr=2e-2)
    for _ in range(120):
        optimiser.zero_grad()
        torch_loss(model.forward(leaves, task.inputs), task.targets).backward()
        optimiser.step()
    return {name: value.detach() for name, value in leaves.items()}


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "x2+xy+y2"])
def test_the_operation_shows_in_the_weights(their, op: str) -> None:
    settings = their.settings(d_mlp=48)
    operation, hypotheses = find_operation(settings, 7, [fitted(settings, op, 7)], None)
    assert operation == op
    assert hypotheses[0].basis == "tested"
    assert hypotheses[1].basis == ("tested" if op in ("sub", "div") else "assumed")


def test_untrained_weights_do_not_tell(their) -> None:
    params = Transformer(their.settings(), 7, 7).init(torch.Generator().manual_seed(0))
    operation, hypotheses = find_operation(their.settings(), 7, [params], None)
    assert (operation, hypotheses[0].basis) == ("add", "assumed")
    assert "do not tell" in hypotheses[0].evidence


def test_a_recorded_operation_is_taken(their) -> None:
    params = Transformer(their.settings(), 7, 7).init(torch.Generator().manual_seed(0))
    operation, hypotheses = find_operation(
        their.settings(), 7, [params], ("Subtraction", "op in config.json")
    )
    assert (operation, hypotheses[0].basis) == ("sub", "recorded")
    assert "op in config.json" in hypotheses[0].evidence
    # a word that means nothing to us settles nothing
    operation, hypotheses = find_operation(their.settings(), 7, [params], ("train", "task in config.json"))
    assert hypotheses[0].basis == "assumed"


def test_the_activation_comes_from_the_record() -> None:
    assert find_activation(("GELU", "act_fn in config.json"), {"relu": 1e-7, "gelu": 1.0})[0] == "gelu"
    found, hypothesis = find_activation(None, {"relu": 0.3, "gelu": 1e-6})
    assert (found, hypothesis.basis) == ("gelu", "tested")
    found, hypothesis = find_activation(None, {"relu": 1e-6, "gelu": 0.3})
    assert (found, hypothesis.basis) == ("relu", "tested")
    for relu, gelu in ((0.3, 0.2), (None, None), (0.0, 0.0)):
        found, hypothesis = find_activation(None, {"relu": relu, "gelu": gelu})
        assert (found, hypothesis.basis) == ("relu", "assumed")


def test_outcomes_in_blocks_are_those_of_the_whole(their, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = Transformer(their.settings(), 7, 7), operation_task("add", 7)
    params = as_float64(model.init(torch.Generator().manual_seed(0)))
    logits = model.forward(params, task.inputs)
    monkeypatch.setattr("grokscope.foreign.hypotheses._BLOCK_ELEMENTS", 250)
    losses, right = pair_outcomes(model, params, task)
    assert torch.allclose(losses, cross_entropy(logits, task.targets), atol=1e-12)
    assert torch.equal(right, logits.argmax(-1) == task.targets)


def test_hypotheses_are_json(their) -> None:
    _, hypothesis = find_activation(None, {"relu": None, "gelu": None})
    assert hypothesis.as_json() == dataclasses.asdict(hypothesis)
    assert set(hypothesis.as_json()) == {"about", "value", "basis", "evidence"}
