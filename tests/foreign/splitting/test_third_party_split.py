"""The splits of six published repositories, by forward passes written here once more, in float64."""

import csv
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, gelu

from grokscope.foreign.gathering.facts import Facts, Recorded
from grokscope.foreign.splitting.evidence import Evidence
from grokscope.foreign.splitting.find import NoSplit, Split, find_split
from grokscope.foreign.splitting.recovery import memorised_saves, mirror_of, recover
from grokscope.tasks import ModularSettings, Task, modular_task

Outcome = tuple[Tensor, Tensor]
NAMES = {
    "train_loss": "loss.train",
    "test_loss": "loss.test",
    "train_acc": "accuracy.train",
    "test_acc": "accuracy.test",
    "train_accuracy": "accuracy.train",
    "test_accuracy": "accuracy.test",
}


def weights_in(path: Path, key: str | None = None) -> dict[str, Tensor]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = content[key] if key else content
    return {name: value.double() if value.is_floating_point() else value for name, value in state.items()}


def task_of(p: int, op: str = "add") -> Task:
    return modular_task(ModularSettings(op=op, p=p, train_fraction=0.5), 0)


def outcome(logits: Tensor, task: Task) -> Outcome:
    return cross_entropy(logits, task.targets, reduction="none"), logits.argmax(dim=-1) == task.targets


def tokens(task: Task) -> Tensor:
    return torch.cat([task.inputs, torch.full((len(task.inputs), 1), task.n_classes)], dim=1)


def attended(table: Tensor, task: Task, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
    """(N, heads, width): what the last of three positions attends to.

    ``table`` (3, vocabulary, d) holds the stream of each token at each place, the weights are (heads, d,
    width). The last token is the same for every pair, so that there is one query.
    """
    query = torch.einsum("d,hdk->hk", table[2, task.n_classes], w_q)
    scores = torch.einsum("hk,svd,hdk->svh", query, table, w_k) / math.sqrt(w_q.shape[-1])
    values, place = torch.einsum("svd,hdk->svhk", table, w_v), torch.arange(3)
    weights = scores[place, tokens(task)].softmax(dim=1)
    return torch.einsum("nsh,nshk->nhk", weights, values[place, tokens(task)])


def plain_transformer(w: dict[str, Tensor], names: Sequence[str], task: Task) -> Outcome:
    """One layer without norms; ``names`` of embedding, positions, unembedding (d, C), W_in, W_out, biases."""
    embed, position, unembed, w_in, w_out = (w[name] for name in names)
    table = embed[None] + position[:, None]
    z = attended(table, task, w["W_Q"], w["W_K"], w["W_V"])
    last = table[2, task.n_classes] + torch.einsum("nhk,hkd->nd", z, w["W_O"])
    hidden = (last @ w_in + w.get("W_in.bias", torch.zeros(1))).relu()
    return outcome((last + hidden @ w_out + w.get("W_out.bias", torch.zeros(1))) @ unembed, task)


def normed(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scale = (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    return centred / scale * w[f"{name}.gamma"] + w[f"{name}.beta"]


def normed_transformer(w: dict[str, Tensor], task: Task) -> Outcome:
    """One layer before which norms come, fused queries, keys and values, four heads."""
    table = w["tok_emb.weight"][None] + w["pos_emb"].reshape(3, 1, -1)
    before, d = normed(table, w, "blocks.0.ln1"), table.shape[-1]
    parts = w["blocks.0.attn.qkv.weight"].reshape(3, 4, d // 4, d).transpose(2, 3)
    z = attended(before, task, *parts)
    last = table[2, task.n_classes] + z.reshape(len(z), d) @ w["blocks.0.attn.proj.weight"].T
    hidden = normed(last, w, "blocks.0.ln2") @ w["blocks.0.mlp.up.weight"].T + w["blocks.0.mlp.up.bias"]
    last = last + gelu(hidden) @ w["blocks.0.mlp.down.weight"].T + w["blocks.0.mlp.down.bias"]
    return outcome(normed(last, w, "ln_f") @ w["unembed.weight"].T, task)


def stacked(outcomes: Sequence[Outcome]) -> Outcome:
    return torch.stack([losses for losses, _ in outcomes]), torch.stack([right for _, right in outcomes])


def recorded_in(path: Path, steps: Sequence[int]) -> list[Recorded]:
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) in steps]
    found = []
    for row in rows:
        for theirs, ours in NAMES.items():
            if theirs in row:
                decimals = len(row[theirs].partition(".")[2])
                resolution = 0.5 * 10.0**-decimals if decimals < 8 else 0.0
                found.append(
                    Recorded(ours, int(row["step"]), float(row[theirs]), "x in metrics.csv", resolution)
                )
    return found


def recorded_inside(content: dict, step: int) -> list[Recorded]:
    return [
        Recorded(ours, step, float(content[theirs]), f"{theirs} in the file itself")
        for theirs, ours in NAMES.items()
        if isinstance(content.get(theirs), float)
    ]


def first_of_randperm(n: int, seed: int, count: int) -> Tensor:
    mask = torch.zeros(n, dtype=torch.bool)
    mask[torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:count]] = True
    return mask


@pytest.fixture(scope="module")
def drawn_elsewhere(third_party: Path) -> tuple[Task, Tensor, Tensor, list[int], list[Recorded], Tensor]:
    """The p = 113 trajectory whose permutation was drawn on another device."""
    root = third_party / "unixsysdev+grokking-fourier"
    folder = root / "phase_transition/phase_transition/checkpoints/default"
    task, steps = task_of(113), [1000, 10000, 20000, 23000]
    names = ("token_embed.weight", "pos_embed.weight", "unembed.weight", "W_in.weight", "W_out.weight")
    outcomes, recorded = [], []
    for step in steps:
        path = folder / f"checkpoint_e{step:06d}.pt"
        w = weights_in(path, "model_state_dict")
        w |= {name: w[name].T for name in names[2:]}
        outcomes.append(plain_transformer(w, names, task))
        recorded += recorded_inside(torch.load(path, map_location="cpu", weights_only=True), step)
    truth = torch.zeros(113**2, dtype=torch.bool)
    told = json.loads((root / "split_recovered.json").read_text())
    truth[torch.tensor(told["phase_p113"]["train_pair_index_a_times_p_plus_b"])] = True
    return task, *stacked(outcomes), steps, recorded, truth


def test_a_split_drawn_on_another_device_is_recovered(drawn_elsewhere) -> None:
    task, losses, right, steps, recorded, truth = drawn_elsewhere
    found = find_split(task, losses, right, steps, Facts(), {}, recorded, most_drawn=10**7)
    assert isinstance(found, Split), found
    assert torch.equal(found.mask, truth)
    assert (found.source, found.seed, found.fraction) == ("recovered", None, 0.3)
    assert found.confidence == 0.99
    for row, step in enumerate(steps):
        told = next(one.value for one in recorded if (one.step, one.quantity) == (step, "loss.test"))
        assert losses[row, ~found.mask].mean().item() == pytest.approx(told, rel=2e-5)
    # without any number, the losses alone tell how many were trained on
    found = find_split(task, losses, right, steps, Facts(), {"seed": 42}, [], most_drawn=10**6)
    assert isinstance(found, Split)
    assert torch.equal(found.mask, truth)
    assert 0.5 < found.confidence < 0.9
    assert "recorded seed 42" in found.contradiction


def test_one_save_alone_says_less(drawn_elsewhere) -> None:
    task, losses, right, *_ = drawn_elsewhere
    evidence = Evidence(losses, right, [0, 1, 2, 3], [])
    assert memorised_saves(evidence, 0.3) == [0, 1, 2, 3]
    few = recover(evidence, [0], mirror_of(task), 3830, task)
    assert 0 < few.expected_wrong < 60


def test_recovery_needs_no_time_of_the_search(drawn_elsewhere) -> None:
    task, losses, right, steps, recorded, truth = drawn_elsewhere
    found = find_split(task, losses, right, steps, Facts(), {}, recorded, most_drawn=0)
    assert isinstance(found, Split)
    assert found.source == "recovered"
    assert torch.equal(found.mask, truth)


@pytest.mark.parametrize("how", ["recorded", "bare"])
def test_a_trajectory_with_metrics_beside_it(third_party: Path, how: str) -> None:
    folder = third_party / "Samar-Talwar+grokking-fourier-circuits/runs/full"
    task, steps = task_of(53), [0, 100, 500, 1000, 2000, 7500, 8500]
    names = ("embed", "pos", "unembed", "W_in", "W_out")
    losses, right = stacked(
        [plain_transformer(weights_in(folder / f"ckpt_{step}.pt"), names, task) for step in steps]
    )
    truth = first_of_randperm(53**2, 0, 1123)
    recorded, inside = (
        recorded_in(folder / "metrics.csv", steps),
        json.loads((folder / "config.json").read_text()),
    )
    if how == "bare":
        recorded, inside = [], {}
    found = find_split(task, losses, right, steps, Facts(), inside, recorded)
    assert isinstance(found, Split)
    assert torch.equal(found.mask, truth)
    assert (found.seed, found.fraction) == (0, 0.4)
    assert found.source == ("recorded" if how == "recorded" else "searched")
    assert found.contradiction == ""
    # the weights alone nearly tell it, and say how nearly
    evidence = Evidence(losses, right, steps, [])
    read = recover(evidence, memorised_saves(evidence, 0.4), mirror_of(task), 1123, task)
    wrong = int((read.mask & ~truth.numpy()).sum())
    assert wrong <= 12
    assert 0.2 * wrong <= read.expected_wrong <= 5 * wrong + 2


@pytest.mark.parametrize(
    ("folder", "stem", "p", "op", "count"),
    [
        ("runs", "p97_frac0.30_wd1_seed0", 97, "add", 2823),
        ("runs_test", "p13_frac0.50_wd0_seed0", 13, "add", 84),
        ("runs_test", "p13_frac0.50_wd1_seed0_wdsnon_embeddings", 13, "add", 84),
        ("runs_test", "p13_frac0.60_wd0_seed0_opmul", 13, "mul", 101),
    ],
)
def test_two_saves_and_a_name(third_party: Path, folder: str, stem: str, p: int, op: str, count: int) -> None:
    root = third_party / "porth-bot+grokking-transformer" / folder
    task, steps = task_of(p, op), [100, 11100 if p == 97 else 600]
    files = [root / f"{stem}_memorize.pt", root / f"{stem}.pt"]
    losses, right = stacked([normed_transformer(weights_in(file), task) for file in files])
    recorded = recorded_in(root / f"{stem}.csv", steps)
    truth = first_of_randperm(p * p, 0, count)
    found = find_split(task, losses, right, steps, Facts(), {}, recorded, names=[f"{stem}.pt"])
    assert isinstance(found, Split)
    assert torch.equal(found.mask, truth)
    assert (found.source, found.seed) == ("recorded", 0)
    if p == 97:
        assert "round(0.3 · N)" in found.recipe
    bare = find_split(task, losses, right, steps, Facts(), {}, [])
    assert isinstance(bare, Split)
    assert torch.equal(bare.mask, truth)


@pytest.mark.parametrize("how", ["recorded", "no numbers"])
def test_a_final_network_of_two_embeddings(third_party: Path, how: str) -> None:
    folder = third_party / "bilal-chughtai+rep-theory-mech-interp/rep_theory/batch_experiments/C113_MLP_seed1"
    task, w = task_of(113), weights_in(folder / "model.pt")
    a, b = task.inputs.T
    hidden = torch.cat([w["W_x"][a], w["W_y"][b]], dim=1) @ w["W"]
    losses, right = stacked([outcome(hidden.relu() @ w["W_U"], task)])
    inside = json.loads((folder / "cfg.json").read_text())
    recorded = recorded_inside(json.loads((folder / "summary_metrics.json").read_text()), 250000)
    found = find_split(task, losses, right, [250000], Facts(), inside, recorded if how == "recorded" else [])
    assert isinstance(found, Split)
    assert torch.equal(found.mask, first_of_randperm(113**2, 1, 3830))
    assert (found.source, found.seed, found.fraction) == ("recorded", 1, 0.3)


def test_a_final_network_with_transposed_weights(third_party: Path) -> None:
    root = third_party / "mechanistic-interpretability-grokking+progress-measures-paper/saved_runs"
    path = root / "wd_10-1_mod_addition_loss_curve.pth"
    w, task = weights_in(path, "model"), task_of(113)
    block = "blocks.0."
    bare = {f"W_{x}": w[f"{block}attn.W_{x}"].transpose(1, 2) for x in "QKV"}
    bare["W_O"] = w[f"{block}attn.W_O"].T.reshape(4, 32, 128)
    bare |= {f"W_{x}.bias": w[f"{block}mlp.b_{x}"] for x in ("in", "out")}
    bare |= {"e": w["embed.W_E"].T, "p": w["pos_embed.W_pos"], "u": w["unembed.W_U"][:, :113]}
    bare |= {"i": w[f"{block}mlp.W_in"].T, "o": w[f"{block}mlp.W_out"].T}
    losses, right = stacked([plain_transformer(bare, ("e", "p", "u", "i", "o"), task)])
    content = torch.load(path, map_location="cpu", weights_only=True)
    numbers = {name: content[name].item() for name in ("train_loss", "test_loss")}
    recorded = recorded_inside(numbers, 107790)
    found = find_split(task, losses, right, [107790], Facts(), content["config"], recorded)
    assert isinstance(found, Split)
    pairs = [(i, j, 113) for i in range(113) for j in range(113)]
    random.seed(1)
    random.shuffle(pairs)
    truth = torch.zeros(113**2, dtype=torch.bool)
    for i, j, _ in pairs[: int(0.3 * 113**2)]:
        truth[i * 113 + j] = True
    assert torch.equal(found.mask, truth)
    assert (found.source, found.seed) == ("recorded", 1)
    assert found.recipe.startswith("random.shuffle after random.seed(1)")


class Listing:
    """A list of pairs as found in a file."""

    kind = "pairs"

    def __init__(self, role: str, path: Path) -> None:
        self.role, self.name, self.source = role, path.stem, path.name
        self.values = torch.tensor(torch.load(path, weights_only=True))


def test_a_split_that_is_listed(third_party: Path) -> None:
    root = third_party / "Y-Agent+modular-addition-feature-learning/src/saved_models"
    (folder,) = root.iterdir()
    task, steps = task_of(23), [0, 1000, 4000, 9600, 20000, 49800]
    a, b = task.inputs.T
    outcomes, recorded = [], []
    for step in steps:
        w = weights_in(folder / f"{step}.pth", "model")
        hidden = (w["mlp.W_in"][:, a] + w["mlp.W_in"][:, b]).relu()
        outcomes.append(outcome((w["mlp.W_out"] @ hidden).T, task))
        recorded += recorded_inside(
            torch.load(folder / f"{step}.pth", weights_only=True, map_location="cpu"), step
        )
    losses, right = stacked(outcomes)
    lists = [Listing(role, folder / f"{role}_data.pth") for role in ("train", "test")]
    truth = torch.zeros(23**2, dtype=torch.bool)
    truth[lists[0].values[:, 0] * 23 + lists[0].values[:, 1]] = True
    found = find_split(task, losses, right, steps, Facts(), {"frac_train": 0.75}, recorded, lists)
    assert isinstance(found, Split)
    assert torch.equal(found.mask, truth)
    assert (found.source, found.seed, found.confidence) == ("explicit", None, 0.99)
    assert int(found.mask.sum()) == 396
    assert found.contradiction == ""
    # a function of the sum of two one-hots cannot tell a pair from its mirror image
    found = find_split(task, losses, right, steps, Facts(), {}, recorded)
    assert isinstance(found, Split)
    assert torch.equal(found.mask, truth)
    assert (found.source, found.seed) == ("searched", 42)
    assert "equally well fits" in found.evidence
    refused = find_split(task, losses, right, steps, Facts(), {}, recorded, most_drawn=0)
    assert isinstance(refused, NoSplit)
    assert "alike" in refused.why


def test_a_split_that_nobody_can_know(third_party: Path) -> None:
    folder = third_party / "fjzzq2002+pizza/code/save"
    task, w = task_of(59), weights_in(folder / "model_amw6ox6bzn.pt")
    a, b = task.inputs.T
    hidden = (w["embed.weight"][a] + w["embed.weight"][b]) @ w["l1.weight"].T + w["l1.bias"]
    hidden = hidden.relu() @ w["l2.weight"].T + w["l2.bias"]
    losses, right = stacked([outcome(hidden.relu() @ w["unembed.weight"].T, task)])
    inside = json.loads((folder / "config_amw6ox6bzn.json").read_text())
    found = find_split(task, losses, right, [20000], Facts(), inside, [])
    assert isinstance(found, NoSplit)
    assert "80.0% of all" in found.why
    assert "the only save answers 100.0% of all pairs" in found.why
