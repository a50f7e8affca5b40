"""Seeds times values: every combination once, each under a name that says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.errors import GrokscopeError
from grokscope.training.vary import Varied, read_seeds, read_varied, vary_recipe
from grokscope.workspace import checked_name


@pytest.fixture
def source(tiny, tmp_path) -> Path:
    """The tiny recipe as a file: the run.json of a run."""
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, "config": tiny().config()}))
    return tmp_path / "run.json"


def names(runs: list) -> list[str]:
    return [name for name, _ in runs]


def one_line(caught: pytest.ExceptionInfo[GrokscopeError]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_seeds_alone(source, tiny):
    runs = vary_recipe(source, seeds=range(2, 5))
    assert names(runs) == ["tiny-s2", "tiny-s3", "tiny-s4"]
    assert [recipe for _, recipe in runs] == [tiny(f"seed={seed}") for seed in (2, 3, 4)]


def test_nothing_varied_is_one_run(source, tiny):
    assert vary_recipe(source) == [("tiny-s3", tiny())]
    assert vary_recipe(source, seed=8) == [("tiny-s8", tiny("seed=8"))]
    # a single run takes its name as it is given
    assert vary_recipe(source, name="mine") == [("mine", tiny())]


def test_the_product_of_seeds_and_fields(source, tiny):
    runs = vary_recipe(
        source,
        ["train.steps=20"],
        seeds=range(2),
        vary=[read_varied("train.weight_decay=0.5,1"), read_varied("model.hidden=[8],[8, 4]")],
    )
    assert names(runs) == [
        f"tiny-s{seed}.weight_decay-{decay}.hidden-{hidden}"
        for seed in (0, 1)
        for decay in ("0.5", "1")
        for hidden in ("8", "8+4")
    ]
    assert dict(runs)["tiny-s1.weight_decay-0.5.hidden-8+4"] == tiny(
        "train.steps=20", "seed=1", "train.weight_decay=0.5", "model.hidden=[8, 4]"
    )


def test_a_name_in_place_of_the_recipe_s(source):
    runs = vary_recipe(source, seeds=range(1), vary=[read_varied("train.decay=before,after")], name="sweep")
    assert names(runs) == ["sweep-s0.decay-before", "sweep-s0.decay-after"]


def test_a_seed_that_is_varied_is_in_the_name_already(source):
    assert names(vary_recipe(source, vary=[read_varied("seed=4,7")])) == ["tiny-s4", "tiny-s7"]


def test_fields_that_end_alike_are_named_in_full(source):
    runs = vary_recipe(source, vary=[read_varied("task.name=modular"), read_varied("train.lr=0.1")])
    assert names(runs) == ["tiny-s3.name-modular.lr-0.1"]
    runs = vary_recipe(
        source, vary=[Varied("task.split_seed", ("1",)), Varied("model.d_embed", ("4",))], name="x"
    )
    assert names(runs) == ["x-s3.split_seed-1.d_embed-4"]
    from grokscope.training.vary import _labels

    assert _labels(["train.decay", "intervene.decay", "train.lr"]) == {
        "train.decay": "train.decay", "intervene.decay": "intervene.decay", "train.lr": "lr",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "texts"),
    [("train.lr", ["0.001", "1e-3", "1.0e-3"]), ("train.weight_decay", ["1", "1.0", "1e0"])],
)
def test_one_setting_has_one_name_however_it_is_written(source, field, texts):
    found = {name for text in texts for name in names(vary_recipe(source, vary=[Varied(field, (text,))]))}
    assert len(found) == 1
    with pytest.raises(GrokscopeError) as caught:
        vary_recipe(source, vary=[Varied(field, tuple(texts[:2]))])
    line = one_line(caught)
    assert field in line
    assert found.pop() in line


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"seed": 1, "seeds": range(2)}, ["--seed and --seeds"]),
        ({"vary": [Varied("train.lr", ("1",)), Varied("train.lr", ("2",))]}, ["train.lr", "twice"]),
        ({"vary": [Varied("train.lr", ("1",))], "overrides": ["train.lr=3"]}, ["train.lr", "--set"]),
        ({"vary": [Varied("seed", ("1",))], "seeds": range(2)}, ["seed", "--seeds"]),
        ({"vary": [Varied("train.lr", ("0.1", "0.1"))]}, ["train.lr", "tiny-s3.lr-0.1"]),
        ({"vary": [Varied("train.lrr", ("1",))]}, ["'lrr'", "did you mean 'lr'"]),
        ({"vary": [Varied("train.lr", ("x",))]}, ["'lr' is 'x'"]),
        ({"vary": [Varied("train.lr", ("0.1", "-1"))]}, ["train.lr is -1"]),
        ({"vary": [Varied("bogus.key", ("1",))]}, ["bogus"]),
        ({"vary": [Varied("train.lr.more", ("1",))]}, ["train.lr.more=1"]),
        ({"name": "../out", "seeds": range(2)}, ["'../out-s0'", "letters"]),
        ({"name": "n" * 126, "seeds": range(1)}, ["at most 128"]),
    ],
)
def test_what_cannot_be_varied_is_one_line(source, options, parts):
    with pytest.raises(GrokscopeError) as caught:
        vary_recipe(source, **options)
    line = one_line(caught)
    for part in parts:
        assert part in line, line


def test_seeds_are_read_half_open():
    assert read_seeds("0:16") == range(16)
    assert read_seeds(" 3:4 ") == range(3, 4)


@pytest.mark.parametrize("text", ["", "4", "4:4", "5:2", "-1:3", "a:b", "0:4:2", "0:"])
def test_wrong_seeds_are_one_line(text):
    with pytest.raises(GrokscopeError, match="expected A:B with A below B") as caught:
        read_seeds(text)
    assert repr(text) in one_line(caught)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("train.lr=0.1", ("0.1",)),
        (" train.lr = 0.1 , 0.2", ("0.1", "0.2")),
        ("train.lr=[1, 2],[3]", ("[1, 2]", "[3]")),
        ("train.lr='a,b',\"c,d\"", ("'a,b'", '"c,d"')),
        ("train.lr={a = 1, b = [2, 3]},4", ("{a = 1, b = [2, 3]}", "4")),
    ],
)
def test_values_are_split_at_their_own_commas(text, values):
    assert read_varied(text) == Varied("train.lr", values)


@pytest.mark.parametrize("text", ["", "train.lr", "=1", "train.lr=", "train.lr=1,", "train.lr=,1"])
def test_wrong_lists_are_one_line(text):
    with pytest.raises(GrokscopeError, match="expected FIELD=V,V") as caught:
        read_varied(text)
    assert repr(text) in one_line(caught)


def test_the_name_is_not_a_setting():
    with pytest.raises(GrokscopeError, match="name is not a setting"):
        read_varied("name=a,b")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=6, unique=True))
def test_values_that_differ_have_names_that_differ(values):
    runs = vary_recipe("quickstart", vary=[Varied("train.lr", tuple(map(repr, values)))])
    assert [recipe.train.lr for _, recipe in runs] == values
    assert len({checked_name(name) for name, _ in runs}) == len(values)
