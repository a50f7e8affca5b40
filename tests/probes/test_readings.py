"""What is kept of a run, when it is believed, and that nothing depends on where it came from."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.models import MLPSettings, Params
from grokscope.probes import readings
from grokscope.probes.readings import READINGS, by_save, once, per_pair, per_save
from grokscope.runs import Run, open_run
from grokscope.tasks import ModularSettings

Values = dict[str, torch.Tensor]


class Reader:
    """A reader that counts the saves it is given."""

    def __init__(self) -> None:
        self.blocks: list[int] = []

    def __call__(self, params: Params) -> Values:
        table = params["embed.W_E"]
        self.blocks.append(len(table))
        return {"sum": table.sum((-2, -1)), "rows": table.norm(dim=-1), "large": table[:, 0, 0] > 0}

    def pairs(self, before: Params, after: Params) -> Values:
        assert before.keys() == after.keys()
        difference = after["embed.W_E"] - before["embed.W_E"]
        self.blocks.append(len(difference))
        return {"moved": difference.square().sum((-2, -1))}


@pytest.fixture
def make(make_run: Callable[..., Run]) -> Callable[..., Run]:
    """``make(count)``: a run of ``count`` saves with weights of their own."""

    def build(count: int = 7, **settings: object) -> Run:
        model = MLPSettings(d_embed=3, hidden=(4,))
        task = ModularSettings(p=5)
        name = f"run-{count}"
        generator = torch.Generator().manual_seed(1)
        shapes = {"embed.W_E": (5, 3), "hidden.1.W": (6, 4), "hidden.1.b": (4,), "head.W_U": (4, 5)}
        saves = [
            {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
            for _ in range(count)
        ]
        return make_run(model, task, saves, name=name, **settings)

    return build


def equal(first: Values, second: Values) -> bool:
    return list(first) == list(second) and all(torch.equal(first[k], second[k]) for k in first)


def test_readings_are_those_of_each_save_in_order(make: Callable[..., Run]) -> None:
    run = make()
    found = per_save(run, "reading", Reader())
    table = run.stacked(["embed.W_E"])["embed.W_E"]
    assert list(found) == ["sum", "rows", "large"]
    assert torch.equal(found["sum"], table.sum((-2, -1)))
    assert found["rows"].shape == (7, 5)
    assert found["large"].dtype == torch.bool
    moved = per_pair(run, "pairs", Reader().pairs)["moved"]
    assert torch.equal(moved, (table[1:] - table[:-1]).square().sum((-2, -1)))


@pytest.mark.parametrize("width", [1, 2])
def test_a_block_of_one_gives_the_bits_of_a_block_of_many(
    make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    run, reader = make(), Reader()

    def measure(name: str) -> Values:
        return per_save(run, name, reader) if width == 1 else per_pair(run, name, reader.pairs)

    many = measure("many")
    assert reader.blocks == [8 - width]
    monkeypatch.setattr(readings, "BLOCK_BYTES", 1)
    one = measure("one")
    assert reader.blocks[1:] == [1] * (8 - width)
    assert equal(many, one)


def test_a_block_holds_what_its_reader_declares(make: Callable[..., Run]) -> None:
    run, reader = make(40), Reader()
    per_save(run, "wide", reader, bytes_per_save=readings.BLOCK_BYTES // 4)
    assert max(reader.blocks) <= 4
    weights = 8 * sum(int(np.prod(shape)) for shape in run.model.shapes.values())
    assert readings.saves_in_block(run) % 16 == 0
    assert readings.saves_in_block(run) * weights <= readings.BLOCK_BYTES
    assert readings.saves_in_block(run, 2 * readings.BLOCK_BYTES) == 1


def test_the_second_time_nothing_is_computed(make: Callable[..., Run]) -> None:
    run, reader = make(), Reader()
    first, pairs = per_save(run, "reading", reader), per_pair(run, "pairs", reader.pairs)
    chance = once(run, "chance", lambda: {"drawn": torch.rand(3), "one": torch.tensor(2.0)})
    blocks = list(reader.blocks)
    again = open_run(run.path)
    assert equal(per_save(again, "reading", reader), first)
    assert equal(per_pair(again, "pairs", reader.pairs), pairs)
    assert reader.blocks == blocks
    kept = once(again, "chance", lambda: {"drawn": torch.rand(3), "one": torch.tensor(2.0)})
    assert set(kept) == set(chance)  # another lambda, so another reading


def test_once_is_kept(make: Callable[..., Run]) -> None:
    run, calls = make(), []

    def draw() -> Values:
        calls.append(1)
        return {"drawn": torch.rand(3), "one": torch.tensor(2.0)}

    first = once(run, "chance", draw)
    assert equal(once(open_run(run.path), "chance", draw), first)
    assert first["one"].shape == ()
    assert len(calls) == 1
    once(run, "chance", draw, options={"samples": 4})
    assert len(calls) == 2


def test_only_missing_saves_are_computed(make: Callable[..., Run]) -> None:
    run, reader = make(9), Reader()
    part = run.select("20:60:20")
    middle = per_save(part, "reading", reader)
    pairs = per_pair(part, "pairs", reader.pairs)["moved"]
    assert reader.blocks == [3, 2]
    whole = per_save(run, "reading", reader)
    assert reader.blocks == [3, 2, 6]
    assert torch.equal(whole["sum"][[2, 4, 6]], middle["sum"])
    # a part read later takes nothing away from what is kept of the whole
    per_save(part, "reading", reader)
    per_save(run, "reading", reader)
    assert reader.blocks == [3, 2, 6]
    # pairs of neighbours among the selected saves are other pairs
    assert len(per_pair(run, "pairs", reader.pairs)["moved"]) == 8
    assert reader.blocks == [3, 2, 6, 8]
    assert torch.equal(per_pair(part, "pairs", reader.pairs)["moved"], pairs)
    assert reader.blocks == [3, 2, 6, 8]


def test_a_longer_run_costs_its_new_saves_only(make: Callable[..., Run]) -> None:
    short, long, reader = make(5), make(8), Reader()
    before = per_save(short, "reading", reader)
    assert torch.equal(per_save(long.select("0:40:10"), "reading", Reader())["sum"], before["sum"])
    # the longer trajectory takes the place of the shorter one, whose saves it begins with
    (long.path / "trajectory.h5").replace(short.path / "trajectory.h5")
    grown = open_run(short.path)
    assert len(grown.rows) == 8
    after = per_save(grown, "reading", reader)
    assert reader.blocks == [5, 3]
    assert torch.equal(after["sum"][:5], before["sum"])


def test_equal_saves_are_computed_once(make_run: Callable[..., Run], make: Callable[..., Run]) -> None:
    source = make(3)
    saves = [source.params(index) for index in (0, 1, 0, 2, 0)]
    run, reader = make_run(MLPSettings(d_embed=3, hidden=(4,)), ModularSettings(p=5), saves), Reader()
    found = per_save(run, "reading", reader)
    assert reader.blocks == [3]
    assert torch.equal(found["rows"], run.stacked(["embed.W_E"])["embed.W_E"].norm(dim=-1))
    assert equal(per_save(open_run(run.path), "reading", reader), found)


def test_options_settings_and_names_tell_readings_apart(make: Callable[..., Run]) -> None:
    run, reader = make(), Reader()
    per_save(run, "reading", reader)
    per_save(run, "reading", reader, options={"share": 0.9})
    per_save(run, "other", reader)
    assert reader.blocks == [7, 7, 7]
    mask = run.task.train_mask.clone()
    mask[0] = ~mask[0]
    per_save(dataclasses.replace(run, task=run.task.with_split(mask)), "reading", reader)
    assert len(reader.blocks) == 4
    manifest = json.loads((run.path / "run.json").read_text())
    manifest["config"]["train"] = {"steps": 100, "loss": "squared"}
    (run.path / "run.json").write_text(json.dumps(manifest))
    per_save(open_run(run.path), "reading", reader)
    assert len(reader.blocks) == 5
    manifest["config"]["train"]["steps"] = 200
    (run.path / "run.json").write_text(json.dumps(manifest))
    per_save(open_run(run.path), "reading", reader)
    assert len(reader.blocks) == 5


@pytest.mark.parametrize("damage", ["cut", "bytes", "foreign", "short", "compressed"])
def test_a_damaged_store_is_computed_again(make: Callable[..., Run], damage: str) -> None:
    run, reader = make(), Reader()
    first = per_save(run, "reading", reader)
    (path,) = (run.path / READINGS).glob("reading-*.npz")
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "bytes":
        where = content.index(first["sum"].numpy().tobytes())
        path.write_bytes(content[:where] + b"\x00\x01\x02\x03" + content[where + 4 :])
    elif damage == "foreign":
        np.savez(path, key=np.array("another"), of=np.zeros((7, 16), np.uint8), sum=np.zeros(7))
    elif damage == "short":
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        np.savez(path, **{**arrays, "sum": arrays["sum"][:3]})
    else:
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("more.npy", b"0" * 1000)
    assert equal(per_save(open_run(run.path), "reading", reader), first)
    assert reader.blocks == [7, 7]
    assert equal(per_save(open_run(run.path), "reading", reader), first)
    assert reader.blocks == [7, 7]


def test_a_store_never_unpickles(make: Callable[..., Run]) -> None:
    run, reader = make(), Reader()
    per_save(run, "reading", reader)
    (path,) = (run.path / READINGS).glob("reading-*.npz")
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez(path, **{**arrays, "sum": np.array([object()] * 7)})  # pyright: ignore[reportArgumentType]
    per_save(open_run(run.path), "reading", reader)
    assert reader.blocks == [7, 7]


def test_a_folder_that_cannot_be_used_costs_time_only(make: Callable[..., Run]) -> None:
    run, reader = make(), Reader()
    (run.path / READINGS).write_text("a file where the folder would be")
    first = per_save(run, "reading", reader)
    assert equal(per_save(run, "reading", reader), first)
    assert once(run, "chance", lambda: {"one": torch.ones(1)})["one"] == 1
    assert reader.blocks == [7, 7]


def test_what_an_interruption_left_is_kept(make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run, given = make(), []
    monkeypatch.setattr(readings, "BLOCK_BYTES", 1)

    def read(params: Params) -> Values:
        given.append(1)
        if len(given) == 4:
            raise KeyboardInterrupt
        return {"first": params["embed.W_E"][:, 0, 0]}

    with pytest.raises(KeyboardInterrupt):
        per_save(run, "reading", read)
    found = per_save(run, "reading", read)["first"]
    assert len(given) == 4 + 4
    assert torch.equal(found, run.stacked(["embed.W_E"])["embed.W_E"][:, 0, 0])


def test_older_versions_do_not_pile_up(make: Callable[..., Run]) -> None:
    run = make(2)
    for share in range(9):
        per_save(run, "reading", Reader(), options={"share": share})
        per_save(run, "reading.of-another", Reader(), options={"share": share})
    kept = [path.name.rpartition("-")[0] for path in (run.path / READINGS).glob("*.npz")]
    assert kept.count("reading") == kept.count("reading.of-another") == 4


def test_one_save_has_no_pairs(make: Callable[..., Run]) -> None:
    assert per_pair(make(1), "pairs", Reader().pairs) == {}


def test_a_reader_of_single_saves(make: Callable[..., Run]) -> None:
    run = make()

    def one(params: Params) -> Values:
        assert params["embed.W_E"].shape == (5, 3)
        return {"sum": params["embed.W_E"].sum(), "row": params["embed.W_E"][0]}

    found = per_save(run, "singly", by_save(one), names=["embed.W_E"])
    assert found["sum"].shape == (7,)
    assert found["row"].shape == (7, 3)


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (lambda params: {"sum": params["embed.W_E"].sum()}, "expected as many rows"),
        (lambda params: {"sum": [1.0]}, "expected a real tensor"),
        (lambda params: {"key": params["embed.W_E"][:, 0, 0]}, "under another name"),
        (lambda params: {f"of-{float(params['embed.W_E'][0, 0, 0])}": torch.ones(1)}, "the same keys"),
    ],
)
def test_a_reader_of_another_form_is_told(
    make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, read: Callable[[Params], Values], told: str
) -> None:
    monkeypatch.setattr(readings, "BLOCK_BYTES", 1)
    with pytest.raises(GrokscopeError, match=told):
        per_save(make(), "reading", read)


def test_options_are_plain_data(make: Callable[..., Run]) -> None:
    with pytest.raises(GrokscopeError, match="expected plain data"):
        per_save(make(), "reading", Reader(), options={"path": Path("x")})
