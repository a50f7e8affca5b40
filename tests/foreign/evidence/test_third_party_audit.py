"""The conflicts that six public repositories are known to hold, found in their files."""

import json
import random
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from grokscope.errors import Absent
from grokscope.foreign.evidence.audit import AuditContext, Finding, audit
from grokscope.foreign.gathering.facts import Recorded, facts_beside
from grokscope.measures.classification import correct, cross_entropy
from grokscope.models import Model, Params, Transformer, TransformerSettings
from grokscope.models.anatomy import Part
from grokscope.tasks import ModularSettings, Task, modular_task

BARE = "Samar-Talwar+grokking-fourier-circuits/runs/full"
CLASSES = "unixsysdev+grokking-fourier/phase_transition/phase_transition/checkpoints/default"
GROUPS = "bilal-chughtai+rep-theory-mech-interp/rep_theory/batch_experiments"
ORIGINAL = "mechanistic-interpretability-grokking+progress-measures-paper/saved_runs"
SUMS = (
    "Y-Agent+modular-addition-feature-learning/src/saved_models/"
    "p_23_dmlp_512_ReLU_random_scale_0.1_decay_2.0_08180102"
)
ATTENTION, MLP_NAMES = "blocks.0.attn.", "blocks.0.mlp."


class Weights:
    """A model of which only the tensors are known."""

    parts: tuple[Part, ...] = ()
    no_function = Absent("not rebuilt here")

    def __init__(self, tensors: Params) -> None:
        self.parts = tuple(Part(n, tuple(v.shape), "matrix", "head") for n, v in tensors.items())


class Summed(Weights):
    """logits = W_out relu(W_in (e_a + e_b))."""

    no_function = None

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        table = params["mlp.W_in"].mT
        return torch.relu(table[inputs[:, 0]] + table[inputs[:, 1]]) @ params["mlp.W_out"].mT


def load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def adding(p: int, fraction: float = 0.3, seed: int = 0) -> Task:
    return modular_task(ModularSettings(p=p, train_fraction=fraction, split_seed=seed), 0)


def context_of(path: Path, raw: dict[str, Tensor], task: Task, **changes: Any) -> AuditContext:
    given: dict[str, Any] = {
        "task": task,
        "steps": [7],
        "losses": None,
        "right": None,
        "ignored": {},
        "saves": [raw],
        "model": cast(Model, Weights(raw)),
        "facts": facts_beside(path.parent, path.stem, len(list(path.parent.glob("*.pt"))) == 1),
        "inside": {},
        "raw": raw,
        "names": [path.name, path.parent.name],
        "where": str(path),
    }
    return AuditContext(**{**given, **changes})


def outcomes(model: Any, saves: list[Params], task: Task) -> tuple[Tensor, Tensor]:
    losses, right = [], []
    for params in saves:
        wide = {name: value.double() for name, value in params.items()}
        logits = torch.cat([model.forward(wide, pairs) for pairs in task.inputs.split(4096)])
        losses.append(cross_entropy(logits, task.targets))
        right.append(correct(logits, task.targets))
    return torch.stack(losses), torch.stack(right)


def found_in(context: AuditContext) -> dict[str, Finding]:
    found = audit(context)
    json.dumps(found, allow_nan=False)
    return {one["finding"]: one for one in reversed(found)}


def test_the_optimiser_knows_another_decay_than_the_config(third_party: Path) -> None:
    path = third_party / ORIGINAL / "wd_10-1_mod_addition_loss_curve.pth"
    content = load(path)
    raw = content["model"]
    turned: Params = {name: value for name, value in raw.items() if not name.endswith("mask")}
    for name in ("embed.W_E", f"{MLP_NAMES}W_in", f"{MLP_NAMES}W_out"):
        turned[name] = raw[name].mT.contiguous()
    for name in (f"{ATTENTION}W_{x}" for x in "QKV"):
        turned[name] = raw[name].mT.contiguous()
    turned[f"{ATTENTION}W_O"] = raw[f"{ATTENTION}W_O"].mT.reshape(4, 32, 128)
    settings = TransformerSettings(d_model=128, n_heads=4, d_mlp=512, biases=True, d_vocab_out=114)
    model = Transformer(settings, 113, 113)
    params = {name: turned.get(name, torch.zeros(shape)) for name, shape in model.shapes.items()}
    pairs = [(a, b) for a in range(113) for b in range(113)]
    random.Random(1).shuffle(pairs)
    mask = torch.zeros(113, 113, dtype=torch.bool)
    for a, b in pairs[: int(0.3 * 113 * 113)]:
        mask[a, b] = True
    task = adding(113).with_split(mask.reshape(-1))
    losses, right = outcomes(model, [params], task)
    found = found_in(
        context_of(
            path,
            raw,
            task,
            steps=[107790],
            losses=losses,
            right=right,
            ignored={f"{ATTENTION}mask": "the causal mask"},
            saves=[params],
            model=model,
            inside={"config": content["config"], "epoch": content["epoch"]},
            optimizer=content["optimizer"],
        )
    )
    conflict = found["the settings contradict the optimiser state"]
    assert (conflict["setting"], conflict["recorded"], conflict["optimiser"]) == ("weight decay", 1.0, [0.1])
    name = found["the name contradicts the record"]
    assert (name["setting"], name["named"], name["recorded"]) == ("weight decay", 0.1, 1.0)
    assert "and weight_decay in the optimiser state is 0.1" in name["evidence"]
    floor = found["losses under the floor of float32"]["saves"][0]
    assert floor["loss"] == pytest.approx(9.202423536e-9, rel=1e-6)
    assert floor["zero"] > 0.5
    assert found["the step is not the number of updates"]["updates"] == 107791
    assert "the published model does not solve its task" not in found
    assert "nothing proves the rebuild" in found  # none was given


def test_a_metric_that_was_recorded_as_zero(third_party: Path) -> None:
    path = third_party / GROUPS / "C113_T_seed1/model.pt"
    raw = load(path)
    ignored = {
        "x_embed": "a copy of embed.W_E",
        "y_embed": "a copy of embed.W_E",
        f"{ATTENTION}mask": "the causal mask",
        f"{ATTENTION}IGNORE": "the score of masked positions",
    }
    params = {name: value for name, value in raw.items() if name not in ignored}
    norms = [Recorded("norm.squared", 7, 0.0, "sum_of_squared_weights in summary_metrics.json")]
    task = adding(113).without_split("not of interest")
    found = found_in(context_of(path, raw, task, ignored=ignored, saves=[params], norms=norms))
    wrong = found["the recorded norm is not that of these weights"]
    assert wrong["recorded"] == 0.0
    assert wrong["ours"] == pytest.approx(849.56, abs=0.01)
    naive = found["a naive norm would count what is no weight"]
    assert naive["naive"] == pytest.approx(1e5, rel=1e-4)
    assert naive["weights"] == pytest.approx(849.56**0.5, abs=1e-3)
    assert found["the settings contradict the weights"]["setting"] == "embed_dim"
    assert "the name contradicts the record" not in found


@pytest.mark.parametrize(
    ("name", "squared", "p"), [("C113_MLP_seed1", 5459.01, 113), ("S5_MLP_seed2", 5014.4, 120)]
)
def test_networks_on_groups_record_their_norm_rightly(
    name: str, squared: float, p: int, third_party: Path
) -> None:
    path = third_party / GROUPS / name / "model.pt"
    raw = load(path)
    norms = [Recorded("norm.squared", 7, squared, "sum_of_squared_weights in summary_metrics.json")]
    task = adding(p).without_split("not of interest")
    found = found_in(context_of(path, raw, task, norms=norms))
    assert found["the recorded norm is reproduced"]["ours"] == pytest.approx(squared, rel=1e-5)
    assert not {one for one in found if "contradict" in one or "naive" in one}


def test_test_accuracy_that_is_mirrored_pairs(third_party: Path) -> None:
    folder, steps = third_party / SUMS, [0, 4000]
    contents = [load(folder / f"{step}.pth") for step in steps]
    final = load(folder / "final.pth")
    steps, contents = [*steps, 50000], [*contents, final]
    ignored = {"mlp.basis": "a Fourier basis"}
    saves = [{n: v for n, v in one["model"].items() if n not in ignored} for one in contents]
    mask = torch.zeros(23, 23, dtype=torch.bool)
    for a, b in load(folder / "train_data.pth"):
        mask[a, b] = True
    task, model = adding(23).with_split(mask.reshape(-1)), Summed(saves[0])
    losses, right = outcomes(model, saves, task)
    norms = [
        Recorded("norm.total", step, one["param_norm"], "param_norm in the file itself")
        for step, one in zip(steps[:-1], contents[:-1], strict=True)
    ]
    found = found_in(
        context_of(
            folder / "final.pth",
            final["model"],
            task,
            steps=steps,
            losses=losses,
            right=right,
            ignored=ignored,
            saves=saves,
            model=cast(Model, model),
            optimizer=final["optimizer"],
            split={"source": "explicit"},
            norms=norms,
        )
    )
    early = found["early test accuracy is mirrored pairs"]
    assert early["evidence"].startswith("step 4000: 0.707 = 1.000 mirrored, 0.000 unmirrored")
    assert "94 of 133 test pairs" in early["evidence"]
    assert found["the recorded norm is reproduced"]["reproduced"] == 2
    naive = found["a naive norm would count what is no weight"]
    assert naive["evidence"].count("mlp.basis") == 1
    # the folder's name agrees with the optimiser: p_23, decay_2.0
    assert not {one for one in found if "contradict" in one or "not stored" in one}


def test_a_trajectory_with_its_table(third_party: Path) -> None:
    path = third_party / BARE / "ckpt_8500.pt"
    raw = load(path)
    table = {"embed": "embed.W_E", "pos": "pos_embed.W_pos", "unembed": "unembed.W_U"}
    table |= {f"W_{x}": f"{ATTENTION}W_{x}" for x in "QKVO"}
    table |= {"W_in": f"{MLP_NAMES}W_in", "W_out": f"{MLP_NAMES}W_out"}
    params = {table[name]: value for name, value in raw.items()}
    model = Transformer(TransformerSettings(d_model=128, n_heads=4, d_mlp=512, causal=False), 53, 53)
    task = adding(53, 0.4)
    losses, right = outcomes(model, [params], task)
    norms = [Recorded("norm.total", 8500, 31.670, "weight_norm in metrics.csv", 5e-4)]
    found = found_in(
        context_of(
            path,
            raw,
            task,
            steps=[8500],
            losses=losses,
            right=right,
            saves=[params],
            model=model,
            norms=norms,
        )
    )
    assert found["the recorded norm is reproduced"]["norm"] == "the root of the sum of squares"
    floor = found["losses under the floor of float32"]["saves"][0]
    assert floor["loss"] == pytest.approx(1.04095e-7, rel=1e-5)
    assert 0.2 < floor["zero"] < 1
    assert not {one for one in found if "contradict" in one or "not recorded" in one or "not stored" in one}


def test_what_a_repository_never_wrote_down(third_party: Path) -> None:
    path = third_party / CLASSES / "checkpoint_e028000.pt"
    content = load(path)
    raw = content["model_state_dict"]
    task = adding(113).without_split("no seed fits")
    inside = {"epoch": 28000}
    optimizer = content["optimizer_state_dict"]
    context = context_of(path, raw, task, steps=[28000], inside=inside, optimizer=optimizer)
    found = found_in(context)
    assert "the training fraction is not stored" in found
    assert "the seed is not stored" in found
    assert "optimiser settings are not recorded" not in found  # they stand in the optimiser state
    assert found["the step is not the number of updates"]["updates"] == 28001
    assert found["which pairs were trained on is not known"]["evidence"].endswith("--card FILE`")


def test_published_models_without_a_seed_or_a_solution(third_party: Path) -> None:
    path = third_party / "fjzzq2002+pizza/code/save/model_18c9ev5v5p.pt"
    raw = load(path)
    task = adding(59).without_split("random_split without a seed")
    found = found_in(context_of(path, raw, task, ignored={f"{ATTENTION}mask": "the causal mask"}))
    assert "the seed is not stored" in found
    assert "the training fraction is not stored" not in found
    assert not {one for one in found if "contradict" in one}

    path = third_party / "porth-bot+grokking-transformer/runs_test/p13_frac0.50_wd0_seed0.pt"
    raw = load(path)
    task = adding(13, 0.5)
    right = task.train_mask.clone()[None]
    ignored = {f"{ATTENTION}causal_mask": "the causal mask"}
    model = Weights(raw)
    found = found_in(context_of(path, raw, task, right=right, ignored=ignored, model=cast(Model, model)))
    assert found["the published model does not solve its task"]["right"] == 84
    # n_params, p, frac, wd and seed in the name: all as written beside the weights
    assert not {one for one in found if "contradict" in one}
