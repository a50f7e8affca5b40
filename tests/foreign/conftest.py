"""Small runs written as strangers write them, and the folder of real third-party files where there is one."""

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from grokscope.models import Transformer, TransformerSettings
from grokscope.tasks import ModularSettings, Task, modular_task

ATTENTION = "blocks.0.attn."
SAVED_STEPS = (0, 60, 150, 300)
RATE, DECAY, SEED, FRACTION, P = 2e-3, 0.1, 3, 0.5, 11


@dataclass(frozen=True)
class LittleRun:
    """A small transformer trained with torch's AdamW on addition, with what its author would have noted.

    ``saves`` hold the weights before the update of their step, the last one after the last update;
    ``rows`` are the numbers after the update of each step.
    """

    model: Transformer
    task: Task
    saves: dict[int, dict[str, Tensor]]
    rows: list[dict[str, float]]


def little_settings(**changes: object) -> TransformerSettings:
    return TransformerSettings(
        **{"d_model": 16, "n_heads": 2, "d_head": 5, "d_mlp": 24, "causal": False, **changes}
    )  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def little_run() -> LittleRun:
    model = Transformer(little_settings(), P, P)
    task = modular_task(ModularSettings(p=P, train_fraction=FRACTION, split_seed=SEED), 0)
    params = model.init(torch.Generator().manual_seed(0), torch.float32)
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    optimiser = torch.optim.AdamW(list(leaves.values()), lr=RATE, weight_decay=DECAY, betas=(0.9, 0.98))
    saves, rows = {}, []
    for step in range(max(SAVED_STEPS) + 1):
        if step in SAVED_STEPS:
            saves[step] = {name: value.detach().clone() for name, value in leaves.items()}
        if step == max(SAVED_STEPS):
            break
        optimiser.zero_grad()
        loss = cross_entropy(
            model.forward(leaves, task.inputs[task.train_mask]), task.targets[task.train_mask]
        )
        loss.backward()
        optimiser.step()
        rows.append(_row(step, model, leaves, task))
    rows.append(_row(max(SAVED_STEPS), model, leaves, task))
    return LittleRun(model, task, saves, rows)


def _row(step: int, model: Transformer, params: dict[str, Tensor], task: Task) -> dict[str, float]:
    with torch.no_grad():
        logits = model.forward({name: value.double() for name, value in params.items()}, task.inputs)
    found: dict[str, float] = {"step": step}
    for name, mask in (("train", task.train_mask), ("test", ~task.train_mask)):
        found[f"{name}_loss"] = cross_entropy(logits[mask], task.targets[mask]).item()
        found[f"{name}_acc"] = (logits[mask].argmax(-1) == task.targets[mask]).double().mean().item()
    return found


def bare_names(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the bare names of a from-scratch transformer."""
    table = {"embed": "embed.W_E", "pos": "pos_embed.W_pos", "unembed": "unembed.W_U"}
    table |= {f"W_{x}": f"{ATTENTION}W_{x}" for x in "QKVO"}
    table |= {"W_in": "blocks.0.mlp.W_in", "W_out": "blocks.0.mlp.W_out"}
    return {theirs: params[ours] for theirs, ours in table.items()}


def lens_names(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights as a TransformerLens ≤3 state dict holds them: with buffers and copies of the embedding."""
    return {
        "x_embed": params["embed.W_E"].clone(),
        "y_embed": params["embed.W_E"].clone(),
        **params,
        f"{ATTENTION}mask": torch.ones(3, 3).tril().bool(),
        f"{ATTENTION}IGNORE": torch.tensor(-1e5),
    }


CONFIG = {"p": P, "frac_train": FRACTION, "seed": SEED, "lr": RATE, "wd": DECAY, "betas": [0.9, 0.98]}


@pytest.fixture
def bare_folder(tmp_path: Path, little_run: LittleRun) -> Path:
    """A folder of numbered files, with a config and a table of metrics beside them."""
    folder = tmp_path / "their runs" / "little"
    folder.mkdir(parents=True)
    for step, params in little_run.saves.items():
        torch.save(bare_names(params), folder / f"ckpt_{step}.pt")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(little_run.rows[0]))
        writer.writeheader()
        for row in little_run.rows:
            writer.writerow(
                {name: f"{value:.6f}" if name != "step" else value for name, value in row.items()}
            )
    return folder


@pytest.fixture
def lens_folder(tmp_path: Path, little_run: LittleRun) -> Path:
    """One final state dict with zero biases, its settings and a summary beside it."""
    folder = tmp_path / "C11_T_seed3"
    folder.mkdir()
    params = dict(little_run.saves[max(SAVED_STEPS)])
    biased = Transformer(little_settings(biases=True), P, P)
    for part in biased.parts:
        if part.kind == "bias":
            params[part.name] = torch.zeros(part.shape)
    torch.save(lens_names(params), folder / "model.pt")
    last = little_run.rows[-1]
    (folder / "cfg.json").write_text(json.dumps({**CONFIG, "group": "CyclicGroup", "num_epochs": 300}))
    summary = {name: value for name, value in last.items() if name != "step"}
    (folder / "summary_metrics.json").write_text(json.dumps(summary))
    return folder


@dataclass(frozen=True)
class Names:
    """The two ways of writing weights down, and the settings of a small model."""

    bare = staticmethod(bare_names)
    lens = staticmethod(lens_names)
    settings = staticmethod(little_settings)
    p = P
    seed = SEED
    fraction = FRACTION
    rate = RATE
    decay = DECAY


@pytest.fixture(scope="session")
def their() -> Names:
    return Names()


@pytest.fixture(scope="session")
def third_party() -> Path:
    """The folder that holds third-party repositories, from ``GROKSCOPE_THIRD_PARTY``."""
    given = os.environ.get("GROKSCOPE_THIRD_PARTY")
    if not given:
        pytest.skip("GROKSCOPE_THIRD_PARTY is not set: no third-party files to read")
    return Path(given)


@pytest.fixture
def one_line():
    """Checks that an error says what it should, in one line."""

    def check(error: BaseException, *words: str) -> None:
        text = str(error)
        assert "\n" not in text
        assert len(text) < 700
        for word in words:
            assert word in text, text

    return check
