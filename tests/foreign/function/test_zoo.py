"""Every network of the zoo comes in without any option, as the function that its author ran."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import grokscope
from grokscope.errors import GrokscopeError
from grokscope.foreign import import_paths
from grokscope.foreign.gathering.containers import gather
from grokscope.foreign.splitting.find import Split
from grokscope.foreign.understand import Reading, Understood, understand
from grokscope.models import as_float64
from grokscope.runs import open_run
from tests.foreign.function import zoo
from tests.foreign.function.zoo import Specimen

SMALL = 1e-6
"""Relative difference of logits that are the same function in float64: tables of sinusoids are float32."""


def marked(specimens: tuple[Specimen, ...]) -> list:
    return [pytest.param(one, id=one.name, marks=[pytest.mark.slow] * one.slow) for one in specimens]


@pytest.fixture(scope="module")
def understood(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Specimen], Understood]:
    """What is found out about a specimen from the files of its author, once a test run."""

    @cache
    def found(one: Specimen) -> Understood:
        folder = tmp_path_factory.mktemp(one.name)
        sources, skipped = gather([one.save(folder, zoo.grown(one))])
        assert not skipped
        assert len(sources) == 1
        return understand(sources[0], Reading(), [], str(folder))

    return found


def difference(found: Understood, one: Specimen) -> float:
    """The largest difference between our logits and the author's on all pairs, relative to the largest."""
    ours, theirs = found.model.forward_grid(as_float64(found.saves[-1])), zoo.grown(one).logits()
    assert isinstance(ours, Tensor)
    if swapped(found):
        theirs = theirs.transpose(0, 1)
    settings = found.model.settings  # pyright: ignore[reportAttributeAccessIssue]
    first = getattr(settings, "out_offset", 0)
    if ours.shape[-1] == theirs.shape[-1]:
        # logits before those of the residues come behind them where they are classes
        first, theirs = 0, theirs.roll(-getattr(zoo.grown(one).module, "first_class", 0), dims=-1)
    theirs = theirs[..., first : first + ours.shape[-1]]
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def swapped(found: Understood) -> bool:
    assert found.function is not None
    return any(one.about == "operand order" and one.value == "b, a" for one in found.function.hypotheses)


def doubtful(found: Understood) -> set[str]:
    assert found.function is not None
    return {one.about for one in found.function.hypotheses if one.basis == "ambiguous"}


@pytest.mark.parametrize("one", marked(zoo.SPECIMENS))
def test_function_is_found(one: Specimen, understood: Callable[[Specimen], Understood]):
    assert zoo.grown(one).numbers["train_acc"] > 0.97
    found = understood(one)
    assert found.function is not None, found.why
    assert found.why == ""
    assert found.function.p == one.p
    if isinstance(one.rule, str):
        assert (found.function.operation, swapped(found)) == zoo.OPERATIONS[one.rule]
    else:
        assert found.function.operation in ("S3", "S4", "A4")
        assert found.function.operation in one.name
    if one.recorded:
        assert difference(found, one) < SMALL
        good = {"reproduced", "at the printed precision", "at the precision floor", "nothing recorded"}
        assert {row.verdict for row in found.proof} <= good
        assert not doubtful(found) - HARMLESS
    elif difference(found, one) > SMALL:
        assert doubtful(found) & {"activation", "read", "score scale"}


HARMLESS = {"operand order", "norm epsilon", "attention", "read", "softmax over"}
"""What no answer may depend on: the epsilon of a norm, a mask that the read position does not see."""


@pytest.mark.parametrize("one", marked(tuple(one for one in zoo.SPECIMENS if one.recorded)))
def test_what_the_recorded_loss_is(one: Specimen, understood: Callable[[Specimen], Understood]):
    found = understood(one)
    assert found.function is not None
    names = {
        zoo.mean_squared: "the squared error, its mean over classes",
        zoo.half_squared: "half the squared error, summed over classes",
    }
    assert found.function.loss.name == names.get(one.loss, "cross-entropy")
    told = [row.value for row in found.function.hypotheses if row.about == "recorded loss"]
    assert told == ([names[one.loss]] if one.loss in names else [])


def test_a_squared_error_is_stored_as_the_training_loss(tmp_path: Path):
    one = next(one for one in zoo.SPECIMENS if one.name == "mlp-half-squared")
    (run,) = import_paths([one.save(tmp_path, zoo.grown(one))], tmp_path / "home").runs
    assert run.path is not None
    assert open_run(run.path).config["train"]["loss"] == "squared"
    assert run.card()["recorded_loss"] == "half the squared error, summed over classes"


@pytest.mark.parametrize("one", marked(zoo.SPECIMENS))
def test_split_is_found(one: Specimen, understood: Callable[[Specimen], Understood]):
    found = understood(one)
    grown = zoo.grown(one)
    assert isinstance(found.split, Split)
    theirs = grown.pairs[grown.train]
    ours = found.task.inputs[torch.as_tensor(found.split.mask)]
    if swapped(found):
        ours = ours.flip(-1)
    assert set(map(tuple, ours.tolist())) == set(map(tuple, theirs.tolist()))


@pytest.mark.slow
@pytest.mark.parametrize("one", [pytest.param(one, id=one.name) for one in zoo.SPECIMENS if one.recorded])
def test_without_a_record_nothing_wrong_is_called_tested(
    one: Specimen, understood: Callable[[Specimen], Understood], tmp_path: Path
):
    """The state dict alone: what differs from the function that the record tells is called ambiguous."""
    (source,), _ = gather([zoo.bare(tmp_path, zoo.grown(one))])
    found, known = understand(source, Reading(), [], str(tmp_path)), understood(one).function
    assert known is not None
    if found.function is None:
        assert "not proved" in found.why
        return
    assert (found.function.operation, found.function.p) == (known.operation, known.p)
    names = {"tokens": "modulus and prompt", "chain": "chain and modulus"}
    basis = {row.about: row.basis for row in found.function.hypotheses}
    for about, value in known.assignment.items():
        mine = found.function.assignment.get(about)
        if mine != value and about not in ("tokens", "chain"):
            assert basis.get(names.get(about, about.replace("_", " ")), "ambiguous") == "ambiguous"


@pytest.mark.parametrize("one", marked(zoo.UNKNOWN))
def test_what_is_not_known_is_not_claimed(one: Specimen, understood: Callable[[Specimen], Understood]):
    found = understood(one)
    assert found.function is None
    assert found.split is None
    assert found.why
    assert "\n" not in found.why
    assert len(found.why) < 400


def test_weights_that_are_not_numbers(tmp_path: Path, one_line):
    state = zoo.grown(zoo.SPECIMENS[0]).state()
    state["fc_out.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(GrokscopeError) as error:
        import_paths([tmp_path / "model.pt"], tmp_path)
    one_line(error.value, "fc_out.weight", "not finite")


def test_a_tied_head_is_counted_once(understood: Callable[[Specimen], Understood]):
    one = next(one for one in zoo.SPECIMENS if one.name == "nano-tied-bare")
    found = understood(one)
    assert found.model.tied
    assert "embed" not in "".join(name for name in found.saves[-1] if name.startswith("unembed"))
    assert any("tied" in why for why in found.ignored.values())


@pytest.mark.parametrize("name", ["encoder-post-relu-mean", "mlp-two-tables", "mlp-S3", "recurrent"])
def test_imports_are_measured(name: str, tmp_path: Path):
    one = next(one for one in (*zoo.SPECIMENS, *zoo.UNKNOWN) if one.name == name)
    result = import_paths([one.save(tmp_path, zoo.grown(one))], tmp_path / "home")
    assert result.runs[0].path is not None
    run = open_run(result.runs[0].path)
    record = grokscope.probe(run, only=["norms"])
    assert record.measurements
    if run.model.no_function is None:
        logits = run.model.forward(as_float64(run.params(len(run.steps) - 1)), run.task.inputs)
        right = (logits.argmax(-1) == run.task.targets)[run.task.train_mask]
        assert float(right.double().mean()) > 0.99


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("of_original", [False, True])
def test_a_bridge_and_what_it_wraps(of_original: bool, tmp_path: Path):
    pytest.importorskip("transformer_lens")
    from transformer_lens.model_bridge import TransformerBridge

    p = 11
    sizes = {"n_layers": 1, "d_model": 32, "n_ctx": 3, "d_head": 8, "n_heads": 4, "d_mlp": 64}
    config = {
        **sizes,
        "act_fn": "relu",
        "d_vocab": p + 1,
        "d_vocab_out": p,
        "normalization_type": None,
        "seed": 0,
    }
    with torch.random.fork_rng(devices=[]):
        bridge = TransformerBridge.boot_native(config, device="cpu")  # pyright: ignore[reportAttributeAccessIssue]
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    tokens = torch.cat([pairs, torch.full((p * p, 1), p)], dim=1)
    answers = pairs.sum(dim=1) % p
    train = torch.randperm(p * p, generator=torch.Generator().manual_seed(0))[:72]
    optimizer = torch.optim.AdamW(bridge.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        cross_entropy(bridge(tokens[train])[:, -1], answers[train]).backward()
        optimizer.step()
    with torch.no_grad():
        logits = bridge(tokens)[:, -1]
    state = (bridge.original_model if of_original else bridge).state_dict()
    loss = cross_entropy(logits[train], answers[train]).item()
    torch.save({"model_state_dict": state, "train_loss": loss}, tmp_path / "model.pt")
    (source,), _ = gather([tmp_path / "model.pt"])
    found = understand(source, Reading(), [], str(tmp_path))
    assert found.function is not None, found.why
    assert found.function.operation == "add"
    ours = found.model.forward(found.saves[-1], pairs)
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-4)
