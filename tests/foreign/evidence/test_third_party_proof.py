"""Every number that six repositories recorded, beside independent recomputations of it: the verdicts."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from grokscope.foreign.evidence.moments import Moments, moments_of
from grokscope.foreign.evidence.proof import Comparison, Optimiser, prove, verdict_by_save
from grokscope.foreign.gathering.facts import Recorded
from grokscope.models import Model, Transformer, TransformerSettings
from grokscope.tasks import ModularSettings, Task, modular_task

BARE = "Samar-Talwar+grokking-fourier-circuits/runs/full"
CLASSES = "unixsysdev+grokking-fourier/phase_transition/phase_transition/checkpoints/default"
SUMS = (
    "Y-Agent+modular-addition-feature-learning/src/saved_models/"
    "p_23_dmlp_512_ReLU_random_scale_0.1_decay_2.0_08180102"
)
NAMES = {
    "train_loss": "loss.train",
    "test_loss": "loss.test",
    "all_loss": "loss.all",
    "train_acc": "accuracy.train",
    "test_acc": "accuracy.test",
    "train_accuracy": "accuracy.train",
    "test_accuracy": "accuracy.test",
}
RECOMPUTED = {
    "loss.train": "train_loss",
    "loss.test": "test_loss",
    "loss.all": "full_loss",
    "accuracy.train": "train_acc",
    "accuracy.test": "test_acc",
}


@dataclass
class Series:
    """A recorded curve."""

    quantity: str
    steps: list[int]
    values: list[float]
    source: str


class Unneeded:
    """A model that must not be asked."""

    n_classes = 0

    def forward(self, params: dict[str, Tensor], inputs: Tensor) -> Tensor:
        raise AssertionError("these verdicts need no evaluation")


class Summed:
    """logits = W_out relu(W_in (e_a + e_b))."""

    n_classes = 23

    def forward(self, params: dict[str, Tensor], inputs: Tensor) -> Tensor:
        table = params["W_in"].mT
        return torch.relu(table[inputs[:, 0]] + table[inputs[:, 1]]) @ params["W_out"].mT


@pytest.fixture(scope="module")
def expected(third_party: Path) -> dict[str, Any]:
    return json.loads((third_party / "expected.json").read_text())


def load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def ours_of(entries: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The independent recomputations of several saves as a proof takes them."""
    return {
        quantity: torch.tensor([one["recomputed_float64"][name] for one in entries], dtype=torch.float64)
        for quantity, name in RECOMPUTED.items()
    }


def recorded_of(entries: list[dict[str, Any]], steps: list[int]) -> list[Recorded]:
    found = []
    for step, one in zip(steps, entries, strict=True):
        for name, value in (one["author_recorded"] or {}).items():
            if name in NAMES and value is not None:
                text = str(value)
                digits = len(text.partition(".")[2]) if isinstance(value, str) else 0
                resolution = 0.5 * 10.0**-digits if digits else 0.0
                source = f"{name} in {'metrics.csv' if digits else 'the file itself'}"
                found.append(Recorded(NAMES[name], step, float(value), source, resolution))
    return found


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def curves_of(rows: list[dict[str, str]], source: str) -> list[Series]:
    steps = [int(row["step"]) for row in rows]
    return [
        Series(NAMES[name], steps, [float(row[name]) for row in rows], f"{name} in {source}")
        for name in rows[0]
        if name in NAMES
    ]


def adding(p: int) -> Task:
    return modular_task(ModularSettings(p=p, train_fraction=0.4), 0)


@pytest.fixture(scope="module")
def bare_proof(third_party: Path, expected: dict[str, Any]) -> list[Comparison]:
    folder = third_party
    files = sorted((folder / BARE).glob("ckpt_*.pt"), key=lambda path: int(path.stem.partition("_")[2]))
    steps = [int(path.stem.partition("_")[2]) for path in files]
    entries = [expected[f"{BARE}/{path.name}"] for path in files]
    attention = "blocks.0.attn."
    table = {"embed": "embed.W_E", "pos": "pos_embed.W_pos", "unembed": "unembed.W_U"}
    table |= {f"W_{x}": f"{attention}W_{x}" for x in "QKVO"}
    table |= {"W_in": "blocks.0.mlp.W_in", "W_out": "blocks.0.mlp.W_out"}
    saves = [{table[name]: value for name, value in load(path).items()} for path in files]
    model = Transformer(TransformerSettings(d_model=128, n_heads=4, d_mlp=512, causal=False), 53, 53)
    curves = curves_of(rows_of(folder / BARE / "metrics.csv"), "metrics.csv")
    recorded, ours = recorded_of(entries, steps), ours_of(entries)
    return prove(recorded, ours, steps, model, saves, adding(53), Optimiser(1e-3, 1.0), curves=curves)


def test_the_bare_trajectory_is_saved_before_its_update(bare_proof: list[Comparison]) -> None:
    proof = bare_proof
    verdicts = {(row.quantity, row.step): row.verdict for row in proof}
    losses = {step: verdicts["loss.train", step] for step in (0, 100, 200, 500, 1000, 2000, 5000, 7500, 8500)}
    assert losses == {
        **dict.fromkeys((0, 100, 200, 500, 2000, 7500), "one step off"),
        **dict.fromkeys((1000, 5000, 8500), "at the printed precision"),
    }
    off = {step for (quantity, step), verdict in verdicts.items() if verdict == "one step off" and step > 100}
    assert off == {200, 500, 2000, 7500}
    assert verdicts["accuracy.train", 0] == verdicts["accuracy.test", 0] == "one step off"
    assert verdicts["loss.test", 100] == verdicts["accuracy.test", 100] == "one step off"
    assert {row.verdict for row in proof if row.step in (10, 20, 50)} == {"nothing recorded"}
    assert "conflict" not in verdicts.values()
    first = next(row for row in proof if (row.quantity, row.step) == ("loss.train", 0))
    assert first.note.startswith("the first update, replayed, gives 3.960557")
    # every step that the curve or a replay gives a side is on the same one
    assert {row.shift for row in proof if row.shift is not None} == {1}


@pytest.fixture(scope="module")
def class_proof(third_party: Path, expected: dict[str, Any]) -> list[Comparison]:
    folder = third_party
    files = sorted((folder / CLASSES).glob("*.pt"))
    steps = [int(path.stem.rpartition("e")[2]) for path in files]
    entries = [expected[f"{CLASSES}/{path.name}"] for path in files]
    attention, mlp = "blocks.0.attn.", "blocks.0.mlp."
    table = {
        "token_embed.weight": ("embed.W_E", False),
        "pos_embed.weight": ("pos_embed.W_pos", False),
        **{f"W_{x}": (f"{attention}W_{x}", False) for x in "QKVO"},
        "W_in.weight": (f"{mlp}W_in", True),
        "W_in.bias": (f"{mlp}b_in", False),
        "W_out.weight": (f"{mlp}W_out", True),
        "W_out.bias": (f"{mlp}b_out", False),
        "unembed.weight": ("unembed.W_U", True),
    }
    model = Transformer(TransformerSettings(d_model=128, n_heads=4, d_mlp=512, biases=True), 113, 113)

    def translate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {table[n][0]: v.mT.contiguous() if table[n][1] else v for n, v in tensors.items()}
        return {name: found.get(name, torch.zeros(shape)) for name, shape in model.shapes.items()}

    contents = [load(path) for path in files]
    saves = [translate(one["model_state_dict"]) for one in contents]
    states = [
        moments_of(one["optimizer_state_dict"], list(one["model_state_dict"]), translate) for one in contents
    ]
    assert all(isinstance(state, Moments) for state in states)
    repository = folder / CLASSES.partition("/")[0]
    pairs = json.loads((repository / "split_recovered.json").read_text())["phase_p113"]
    mask = torch.zeros(113 * 113, dtype=torch.bool)
    mask[pairs["train_pair_index_a_times_p_plus_b"]] = True
    task, recorded = adding(113).with_split(mask), recorded_of(entries, steps)
    return prove(recorded, ours_of(entries), steps, model, saves, task, None, states=states)


def test_losses_of_training_before_the_update_and_of_test_after_it(class_proof: list[Comparison]) -> None:
    proof = class_proof
    assert len(proof) == 24
    assert {row.verdict for row in proof if row.quantity != "loss.train"} == {"reproduced"}
    train = {row.step: row for row in proof if row.quantity == "loss.train"}
    floor = train.pop(20000)
    assert floor.verdict == "at the precision floor"
    assert floor.note.startswith("evaluated in float32 it is 7.66")
    assert {row.verdict for row in train.values()} == {"reproduced"}
    assert train[1000].shift == -1
    assert "AdamW update, undone from the stored moments, gives 0.0142957" in train[1000].note


@pytest.fixture(scope="module")
def sum_proof(third_party: Path, expected: dict[str, Any]) -> list[Comparison]:
    folder = third_party
    entries = [one for name, one in expected.items() if name.startswith(SUMS)]
    entries.sort(key=lambda one: one["step"])
    steps = [one["step"] for one in entries]
    final = load(folder / SUMS / "final.pth")
    names = ("W_in", "W_out")
    saves = []
    for step in steps:
        path = folder / SUMS / f"{'final' if step == 50000 else step}.pth"
        saves.append({name: load(path)["model"][f"mlp.{name}"] for name in names})
    states = [None] * (len(steps) - 1) + [moments_of(final["optimizer"], names, dict)]
    assert isinstance(states[-1], Moments)
    mask = torch.zeros(23, 23, dtype=torch.bool)
    for a, b in load(folder / SUMS / "train_data.pth"):
        mask[a, b] = True
    curves = [
        Series(
            f"loss.{which}",
            list(range(50000)),
            final[f"{which}_losses"],
            f"{which}_losses in the file itself",
        )
        for which in ("train", "test")
    ]
    recorded, ours = recorded_of(entries, steps), ours_of(entries)
    task, model = adding(23).with_split(mask.reshape(-1)), cast(Model, Summed())
    return prove(recorded, ours, steps, model, saves, task, None, curves=curves, states=states)


def test_the_network_on_sums_is_saved_after_its_update(sum_proof: list[Comparison]) -> None:
    proof = sum_proof
    odd = [row for row in proof if row.verdict != "reproduced"]
    assert [(row.quantity, row.step, row.verdict, row.shift) for row in odd] == [
        ("accuracy.train", 600, "one step off", -1)
    ]
    assert "train_losses in the file itself has 2.746477 at step 601" in odd[0].note
    dense = [row for row in proof if row.quantity == "loss.test" and abs(row.relative or 0) > 1e-5]
    assert len(dense) > 25
    assert {row.shift for row in dense} == {-1}


def test_final_models_with_numbers_recorded_beside_them(expected: dict[str, Any]) -> None:
    for name, entry in expected.items():
        if not name.startswith(("mechanistic", "bilal")) or not entry["author_recorded"]:
            continue
        recorded = recorded_of([entry], [7])
        model = cast(Model, Unneeded())
        proof = prove(recorded, ours_of([entry]), [7], model, [{}], adding(113), None)
        assert {row.verdict for row in proof} == {"reproduced"}, name
        assert len(proof) >= 2


def test_forty_of_fifty_entries_are_reproduced(
    bare_proof: list[Comparison],
    class_proof: list[Comparison],
    sum_proof: list[Comparison],
    expected: dict[str, Any],
) -> None:
    """An entry is what its losses are; with every accuracy as well it is 39, the other is one step off."""
    proofs = {"bare": bare_proof, "classes": class_proof, "sums": sum_proof}
    for name, entry in expected.items():
        if name.startswith(("mechanistic", "bilal")) and entry["author_recorded"]:
            model = cast(Model, Unneeded())
            recorded = recorded_of([entry], [7])
            proofs[name] = prove(recorded, ours_of([entry]), [7], model, [{}], adding(113), None)
    verdicts = [one for proof in proofs.values() for one in verdict_by_save(proof).values()]
    verdicts = [one for one in verdicts if one != "nothing recorded"]
    assert len(verdicts) == 50
    assert verdicts.count("reproduced") == 40
    assert "conflict" not in verdicts
    whole = [
        {row.verdict for row in proof if row.step == step} == {"reproduced"}
        for proof in proofs.values()
        for step in {row.step for row in proof}
    ]
    assert sum(whole) == 39


@pytest.mark.parametrize(
    ("run", "last"),
    [
        ("runs/p97_frac0.30_wd1_seed0", 11100),
        ("runs_test/p13_frac0.50_wd0_seed0", 600),
        ("runs_test/p13_frac0.60_wd0_seed0_opmul", 600),
        ("runs_test/p13_frac0.50_wd1_seed0_wdsnon_embeddings", 600),
    ],
)
def test_tables_whose_last_row_is_before_the_last_update(
    run: str, last: int, third_party: Path, expected: dict[str, Any]
) -> None:
    """The save at memorisation fits its row exactly and so earns the last row's step."""
    repository = "porth-bot+grokking-transformer"
    entries = [expected[f"{repository}/{run}{end}.pt"] for end in ("_memorize", "")]
    path = third_party / repository / f"{run}.csv"
    rows, steps = rows_of(path), [100, last]
    curves = curves_of(rows, path.name)
    recorded = [
        Recorded(NAMES[name], int(row["step"]), float(row[name]), f"{name} in {path.name}")
        for row in rows
        if int(row["step"]) in steps
        for name in row
        if name in NAMES
    ]
    task = adding(entries[0]["p"])
    ours, model = ours_of(entries), cast(Model, Unneeded())
    # the losses of training are not float32's floor: given in any dtype, they are not evaluated again
    proof = prove(recorded, ours, steps, model, [{}, {}], task, None, curves=curves, dtype_losses=ours)
    verdicts = {(row.quantity, row.step): row.verdict for row in proof}
    assert {verdict for (_, step), verdict in verdicts.items() if step == 100} == {"reproduced"}
    if last == 600:
        assert verdicts.pop(("loss.train", 600)) == "one step off"
    assert set(verdicts.values()) == {"reproduced"}
