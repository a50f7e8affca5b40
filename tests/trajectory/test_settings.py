from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grokscope.errors import GrokscopeError
from grokscope.trajectory import apply_overrides, read_settings, settings_dict


@dataclass(frozen=True)
class Inner:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    decay: Literal["before", "after"] = "before"
    warmup: int | None = None

    def __post_init__(self) -> None:
        if self.lr < 0:
            raise ValueError(f"lr {self.lr} is negative")


@dataclass(frozen=True)
class Outer:
    name: str
    seed: int = 0
    dense: bool = False
    windows: tuple[str, ...] = ("0:end:10",)
    train: Inner = field(default_factory=Inner)
    extra: Inner | None = None
    level: int | float = 0
    order: Literal[1, 2] = 1
    weights: dict[str, float] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    card: Any = None


def test_defaults_and_given_fields():
    read = read_settings(
        Outer,
        {
            "name": "x",
            "windows": ["0:10:1", "log:0:end:5"],
            "train": {"lr": 1, "betas": [0, 1.0], "warmup": 10},
            "extra": {"decay": "after"},
            "weights": {"a": 2},
            "names": ["p"],
            "card": {"any": [1]},
        },
        "recipe.toml",
    )
    assert read.train == Inner(lr=1.0, betas=(0.0, 1.0), warmup=10)
    assert isinstance(read.train.lr, float)
    assert isinstance(read.train.betas[0], float)
    assert read.windows == ("0:10:1", "log:0:end:5")
    assert read.extra == Inner(decay="after")
    assert (read.weights, read.names, read.card, read.seed) == ({"a": 2.0}, ["p"], {"any": [1]}, 0)
    assert read_settings(Outer, {"name": "x", "extra": None}, "recipe.toml").extra is None


@pytest.mark.parametrize(("given_level", "kind"), [(3, int), (3.5, float)])
def test_a_union_keeps_the_type_given(given_level, kind):
    level = read_settings(Outer, {"name": "x", "level": given_level}, "here").level
    assert (level, type(level)) == (given_level, kind)


@pytest.mark.parametrize(
    ("mapping", "parts"),
    [
        ({"name": "x", "sede": 1}, ["'sede'", "did you mean 'seed'", "known are name, seed, dense"]),
        ({"name": "x", "train": {"rl": 1}}, ["'train.rl'", "known are lr, betas"]),
        ({}, ["'name' is missing", "expected text"]),
        ({"name": 3}, ["'name' is 3, expected text"]),
        ({"name": "x", "seed": 1.0}, ["'seed' is 1.0, expected a whole number"]),
        ({"name": "x", "seed": True}, ["'seed' is True, expected a whole number"]),
        ({"name": "x", "dense": 1}, ["'dense' is 1, expected true or false"]),
        ({"name": "x", "train": 5}, ["'train' is 5, expected a table"]),
        ({"name": "x", "train": {"lr": "fast"}}, ["'train.lr' is 'fast', expected a finite number"]),
        ({"name": "x", "train": {"lr": float("nan")}}, ["'train.lr' is nan"]),
        ({"name": "x", "train": {"lr": float("inf")}}, ["'train.lr' is inf"]),
        ({"name": "x", "train": {"lr": 10**400}}, ["'train.lr' is 1000"]),
        ({"name": "x", "train": {"lr": True}}, ["'train.lr' is True"]),
        ({"name": "x", "train": {"lr": -1}}, ["train: lr -1.0 is negative"]),
        ({"name": "x", "train": {"betas": [0.9]}}, ["'train.betas' is [0.9]", "a list of 2"]),
        ({"name": "x", "train": {"betas": [0.9, "b"]}}, ["'train.betas[1]' is 'b'"]),
        ({"name": "x", "train": {"decay": "befor"}}, ["one of 'before', 'after'", "did you mean 'before'"]),
        (
            {"name": "x", "train": {"warmup": 1.5}},
            ["'train.warmup' is 1.5, expected a whole number or nothing"],
        ),
        ({"name": "x", "extra": {"lr": "a"}}, ["'extra.lr' is 'a'"]),
        ({"name": "x", "extra": {"rate": 1}}, ["'extra.rate'"]),
        ({"name": "x", "order": True}, ["'order' is True, expected one of 1, 2"]),
        ({"name": "x", "windows": "0:1:1"}, ["'windows' is '0:1:1', expected a list"]),
        ({"name": "x", "windows": [1]}, ["'windows[0]' is 1"]),
        ({"name": "x", "weights": {"a": "b"}}, ["'weights.a' is 'b'"]),
        ({"name": None}, ["'name' is None"]),
    ],
)
def test_wrong_settings_are_refused_in_one_line(mapping, parts):
    with pytest.raises(GrokscopeError) as refused:
        read_settings(Outer, mapping, "recipe.toml")
    text = str(refused.value)
    assert text.startswith("read recipe.toml: ")
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_a_prefix_goes_before_every_name():
    with pytest.raises(GrokscopeError, match=r"'train\.rl'"):
        read_settings(Inner, {"rl": 1}, "recipe.toml", prefix="train")
    with pytest.raises(GrokscopeError, match="expected a table"):
        read_settings(Inner, [1], "recipe.toml")  # pyright: ignore[reportArgumentType]


def test_only_dataclasses_of_known_field_types_are_read():
    @dataclass(frozen=True)
    class Odd:
        when: complex = 0j

    with pytest.raises(TypeError, match="'when'"):
        read_settings(Odd, {"when": 1}, "here")
    with pytest.raises(TypeError, match="dataclass"):
        read_settings(int, {}, "here")
    with pytest.raises(TypeError, match="instance"):
        settings_dict(Odd)


finite = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(
    Inner,
    lr=st.floats(0, 1e6),
    betas=st.tuples(finite, finite),
    decay=st.sampled_from(["before", "after"]),
    warmup=st.none() | st.integers(),
)
outers = st.builds(
    Outer,
    name=st.text(max_size=5),
    seed=st.integers(),
    dense=st.booleans(),
    windows=st.lists(st.text(max_size=3), max_size=3).map(tuple),
    train=inners,
    extra=st.none() | inners,
    level=st.integers() | finite,
    order=st.sampled_from([1, 2]),
    weights=st.dictionaries(st.text(max_size=3), finite, max_size=2),
    names=st.lists(st.text(max_size=3), max_size=2),
)


@given(outers)
def test_settings_survive_json(settings):
    plain = json.loads(json.dumps(settings_dict(settings), allow_nan=False))
    assert read_settings(Outer, plain, "run.json") == settings


def test_settings_dict_leaves_out_what_toml_cannot_say():
    @dataclass(frozen=True)
    class Optional:
        a: int | None = None
        b: int | None = 3

    assert settings_dict(Optional()) == {"b": 3}
    assert settings_dict(Optional(b=None)) == {"b": None}
    assert read_settings(Optional, {"b": None}, "here") == Optional(b=None)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=3", {"seed": 3}),
        ("train.lr=1e-2", {"train": {"lr": 0.01, "steps": 5}}),
        ("train.decay=before", {"train": {"decay": "before", "steps": 5}}),
        ('name="a b"', {"name": "a b"}),
        ("name=a=b", {"name": "a=b"}),
        ("name=", {"name": ""}),
        ("a.b.c=[1, 2]", {"a": {"b": {"c": [1, 2]}}}),
        ("dense=true", {"dense": True}),
        ("dense=True", {"dense": "True"}),
        ("save.windows=['0:end:10']", {"save": {"windows": ["0:end:10"]}}),
        ("when=2020-01-01", {"when": "2020-01-01"}),
        ("name=1\nother = 2", {"name": "1\nother = 2"}),
        ("table={x = 1}", {"table": {"x": 1}}),
        (" train . steps = 9 ", {"train": {"steps": 9}}),
    ],
)
def test_overrides_are_toml_values_or_bare_text(override, expected):
    original = {"train": {"steps": 5}}
    changed = apply_overrides(original, [override])
    assert changed == {"train": {"steps": 5}, **expected}
    assert original == {"train": {"steps": 5}}


def test_the_last_override_wins():
    assert apply_overrides({}, ["a.b=1", "a.b=2", "a.c=3"]) == {"a": {"b": 2, "c": 3}}


@pytest.mark.parametrize("override", ["seed", "=3", "a..b=1", ".a=1", "train.steps.x=1", ""])
def test_malformed_overrides_are_refused(override):
    with pytest.raises(GrokscopeError) as refused:
        apply_overrides({"train": {"steps": 5}}, [override])
    assert repr(override) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_overrides_of_a_toml_recipe_are_read():
    recipe = tomllib.loads('name = "quick"\n[train]\nlr = 1\n')
    changed = apply_overrides(recipe, ["train.warmup=3", "windows=['0:5:1']"])
    assert read_settings(Outer, changed, "quick.toml") == Outer(
        name="quick", windows=("0:5:1",), train=Inner(lr=1.0, warmup=3)
    )
