"""Recipes: what reads, what is refused and with which line, and the round trip through plain data."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from grokscope.errors import GrokscopeError
from grokscope.training import builtin_recipes, read_recipe, recipe_from


def failure(*overrides: str, recipe: str = "quickstart", seed: int | None = None) -> str:
    with pytest.raises(GrokscopeError) as caught:
        read_recipe(recipe, overrides, seed)
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message or "known are" in message
    return message


REGRESSION = "task={name='regression', d=7, train=5, test=8}"
BUILT_IN = ["deep-linear", "delay-law", "digits", "linear-classifier", "nanda", "quickstart", "two-clocks"]


def test_the_built_in_recipes():
    assert builtin_recipes() == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_recipe_reads_and_builds_what_it_says(name):
    recipe = read_recipe(name)
    task, model = recipe.build()
    assert recipe.name == name
    assert recipe.save_steps()[0] == 0
    assert recipe.save_steps()[-1] == recipe.train.steps
    assert np.isin(recipe.save_steps(), recipe.evaluation_steps()).all()
    expected = {
        "quickstart": ("add mod 59", "mlp", 1392, 64 * 59 + 128 * 256 + 256 + 256 * 59),
        "two-clocks": ("add mod 113", "mlp", 3830, 128 * 113 + 256 * 512 + 512 * 113),
        "nanda": (
            "add mod 113", "transformer", 3830, 114 * 128 + 3 * 128 + 4 * 128 * 128 + 2 * 128 * 512 + 128 * 113
        ),
        "delay-law": ("add mod 59", "mlp", 1392, 59 * 128 + 256 * 256 + 256 + 256 * 59 + 59),
        "digits": ("scikit-learn's digits", "feature-mlp", 500, 64 * 196 + 2 * 196 * 196 + 196 * 10),
        "linear-classifier": ("6 Gaussian classes in 20 dimensions", "deep-linear", 120, 20 * 20 + 20 * 20 + 20 * 6),
        "deep-linear": ("completion of rank 2, 30×30", "deep-linear", 450, 3 * 30 * 30),
    }[name]  # fmt: skip
    parameters = sum(int(np.prod(shape)) for shape in model.shapes.values())
    assert (task.name, model.family, int(task.train_mask.sum()), parameters) == expected


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_config_gives_the_recipe_again(name):
    recipe = read_recipe(name, ["task.split_seed=5", "train.warmup=3"])
    config = recipe.config()
    assert recipe_from(config, "a config") == recipe
    # as it comes back out of run.json
    assert recipe_from(json.loads(json.dumps(config)), "a config") == recipe
    intervened = {"intervene"} if name == "delay-law" else set()
    assert set(config) == {"name", "seed", "task", "model", "train", "save"} | intervened


def test_set_reads_numbers_texts_and_lists_and_changes_nothing_else():
    changed = read_recipe(
        "quickstart",
        [
            "train.lr=0.02",
            "train.weight_decay = 2",
            "train.decay=after",
            'train.optimizer="sgd"',
            "model.hidden=[32, 16]",
            "model.hidden_bias=false",
            "save.schedule=['0:end:7', 'log:0:20:5']",
            "task.op=x2+y2",
            "seed=4",
        ],
    )
    assert (changed.train.lr, changed.train.weight_decay) == (0.02, 2.0)
    assert isinstance(changed.train.weight_decay, float)
    assert (changed.train.decay, changed.train.optimizer) == ("after", "sgd")
    assert changed.config()["model"]["hidden"] == [32, 16]
    assert changed.config()["model"]["hidden_bias"] is False
    assert changed.save.schedule == ("0:end:7", "log:0:20:5")
    assert changed.config()["task"]["op"] == "x2+y2"
    assert changed.seed == 4
    untouched = read_recipe("quickstart").config()
    for section, fields in {
        "train": ("steps", "betas", "loss", "threads"),
        "model": ("d_embed", "activation"),
        "task": ("p", "train_fraction"),
        "save": ("evaluate", "snapshots"),
    }.items():
        for field in fields:
            assert changed.config()[section][field] == untouched[section][field]


def test_the_seed_given_wins_over_the_recipes():
    assert read_recipe("quickstart", ["seed=4"], seed=9).seed == 9
    assert read_recipe("quickstart").seed == 0


def test_a_recipe_file_reads_like_a_built_in_one(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\nseed = 2\n[task]\nname = "modular"\nop = "mul"\np = 11\n'
        '[model]\nfamily = "mlp"\nhidden = [8]\n[train]\nsteps = 10\n'
    )
    recipe = read_recipe(file)
    assert (recipe.name, recipe.seed, recipe.train.steps) == ("mine", 2, 10)
    assert recipe.save_steps().tolist() == [0, 10]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("bogus=1", ["unknown key 'bogus'"]),
        ("trian.lr=1", ["unknown key 'trian'", "did you mean 'train'"]),
        ("train.lrr=1", ["'lrr'", "did you mean 'lr'", "train"]),
        ("model.hiden=[3]", ["'hiden'", "did you mean 'hidden'"]),
        ("task.modulus=7", ["'modulus'"]),
        ("save.shedule=[]", ["'shedule'", "did you mean 'schedule'"]),
        ("train=3", ["train is 3", "a table"]),
        ("train.lr=fast", ["'lr' is 'fast'", "a finite number"]),
        ("train.lr=nan", ["'lr' is nan"]),
        ("train.lr=true", ["'lr' is True"]),
        ("train.steps=10.5", ["'steps' is 10.5", "a whole number"]),
        ("train.steps=0", ["train.steps is 0"]),
        ("train.lr=0", ["train.lr is 0"]),
        ("train.weight_decay=-1", ["train.weight_decay is -1"]),
        ("train.betas=[0.9]", ["'betas' is [0.9]", "a list of 2"]),
        ("train.betas=[0.9, 1.0]", ["train.betas"]),
        ("train.momentum=1", ["train.momentum is 1"]),
        ("train.warmup=-1", ["train.warmup is -1"]),
        ("train.threads=0", ["train.threads is 0"]),
        ("train.batch_size=-1", ["train.batch_size is -1"]),
        ("train.optimizer=adam", ["'adam'", "did you mean 'adamw'"]),
        ("train.loss=mse", ["'mse'", "'cross-entropy'", "'squared'"]),
        ("train.dtype=float16", ["'float16'"]),
        ("train.decay=during", ["'during'", "'before'", "'after'"]),
        ("save.snapshots=0", ["save.snapshots is 0"]),
        ("save.schedule=['0:end']", ["'0:end'", "A:B:K"]),
        ("save.evaluate=['0:end:0']", ["'0:end:0'"]),
        ("save.precision=half", ["'half'"]),
        ("seed=-1", ["seed is -1"]),
        ("seed=1.5", ["seed is 1.5"]),
        ("name=''", ["name is ''"]),
        ("task.p=0", ["task.p is 0", "at least 2"]),
        ("task.p=1", ["task.p is 1"]),
        ("task.p=-7", ["task.p is -7"]),
        ("task.train_fraction=0", ["task.train_fraction is 0", "strictly between 0 and 1"]),
        ("task.train_fraction=1", ["task.train_fraction is 1", "strictly between 0 and 1"]),
        ("task.train_fraction=1.5", ["task.train_fraction is 1.5"]),
        ("task.train_fraction=0.00001", ["leaves 0 training"]),
        ("task.op=ad", ["'ad'", "did you mean 'add'"]),
        ("task.name=modulo", ["task.name is 'modulo'", "did you mean 'modular'"]),
        ("task.name=3", ["task.name is 3"]),
        ("model.family=mpl", ["model.family is 'mpl'", "did you mean 'mlp'"]),
        ("model.hidden=[]", ["model.hidden = []"]),
        ("model.d_embed=0", ["model.d_embed = 0"]),
        ("model.activation=swish", ["'swish'", "'relu'", "'gelu'"]),
    ],
)
def test_what_a_recipe_cannot_hold_is_refused_in_one_line(override, parts):
    message = failure(override)
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("recipe", "overrides", "parts"),
    [
        ("quickstart", ["task.op=div", "task.p=15"], ["'div'", "15", "a prime"]),
        ("deep-linear", ["train.loss=cross-entropy"], ["'cross-entropy'", "completion", "'squared'"]),
        ("deep-linear", ["train.optimizer=sgd", "train.batch_size=8"], ["train.batch_size = 8", "completion"]),
        ("deep-linear", [REGRESSION, "train.loss=cross-entropy"], ["'cross-entropy'", "regression", "'squared'"]),
        ("deep-linear", [REGRESSION, "train.optimizer=sgd", "train.batch_size=2"], ["batch_size = 2", "regression"]),
        ("deep-linear", ["model={family='diagonal'}"], ["30 outputs", "'regression'"]),
        ("deep-linear", ["train.batch_size=8"], ["train.batch_size = 8", "'sgd'"]),
        ("deep-linear", ["train.momentum=0.9"], ["train.momentum = 0.9", "'sgd'"]),
        ("deep-linear", ["task.rank=31"], ["task.rank = 31"]),
        ("deep-linear", ["model.depth=0"], ["model.depth = 0"]),
        ("nanda", ["model.n_heads=3"], ["model.n_heads = 3", "divide d_model"]),
        ("nanda", ["model.d_vocab_out=5"], ["model.d_vocab_out = 5"]),
        ("nanda", ["model={family = 'deep-linear'}"], ["'deep-linear'", "operand pairs"]),
        ("deep-linear", ["model={family = 'mlp'}"], ["'mlp'", "feature inputs"]),
        ("quickstart", ["train.lr"], ["'train.lr'", "FIELD=VALUE"]),
        ("quickstart", ["=1"], ["'=1'", "FIELD=VALUE"]),
        ("quickstart", ["seed.x=1"], ["'seed' is 0", "a table"]),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused_in_one_line(recipe, overrides, parts):
    message = failure(*overrides, recipe=recipe)
    for part in parts:
        assert part in message, message


def test_a_mistyped_recipe_suggests_the_nearest():
    message = failure(recipe="quikstart")
    assert "neither a file nor a built-in recipe" in message
    assert "did you mean 'quickstart'" in message


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"name = ", "expected TOML"), (b"\xff\xfe\x00", "reading recipe"), (b"", "task.name is None")],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(tmp_path, content, part):
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(GrokscopeError) as caught:
        read_recipe(file)
    assert part in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_snapshots_fall_on_their_multiples_and_on_the_end():
    recipe = read_recipe("quickstart", ["train.steps=450"])
    assert recipe.snapshot_steps().tolist() == [0, 200, 400, 450]


def test_a_last_step_off_the_windows_is_saved_and_evaluated():
    recipe = read_recipe("quickstart", ["train.steps=65", "save.schedule=['0:end:10']", "save.evaluate=[]"])
    assert recipe.save_steps().tolist() == [0, 10, 20, 30, 40, 50, 60, 65]
    assert recipe.evaluation_steps().tolist() == recipe.save_steps().tolist()


def test_weights_alone_are_no_recipe(tmp_path) -> None:
    path = tmp_path / "weights.toml"
    path.write_text(
        'name = "w"\n[model]\nfamily = "weights"\n[model.tensors]\nW = [2, 3]\n[task]\nname = "unknown"\n'
    )
    with pytest.raises(GrokscopeError, match=r"weights alone cannot be trained$"):
        read_recipe(str(path))


def test_the_recipe_on_the_page_about_runs_is_one(tmp_path):
    page = (Path(__file__).parents[2] / "checkpoints" / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my.toml").write_text(text, encoding="utf-8")
    recipe = read_recipe(tmp_path / "my.toml")
    assert recipe.intervene.clamp is not None
    assert recipe.train.until_hold == 3
    given = set(tomllib.loads(text)["intervene"])
    assert given == {field.name for field in dataclasses.fields(recipe.intervene)}


@pytest.mark.parametrize(
    ("field", "value"),
    [("model.norm_gain", False), ("model.output_scale", 2.0), ("train.eps", 1e-6), ("task.split_seed", 3)],
)
def test_a_config_that_lacks_a_field_was_made_with_its_default(field, value):
    recipe = read_recipe("nanda", ["model.layer_norm=true"])
    config = recipe.config()
    table, name = field.split(".")
    default = config[table].pop(name, None)
    assert recipe.differences(config) == []
    changed = read_recipe("nanda", ["model.layer_norm=true", f"{field}={json.dumps(value)}"])
    assert changed.differences(config) == [(field, value, default)]
