"""Cards: what they may say, and that nothing else passes."""

from pathlib import Path

import pytest

from grokscope.errors import GrokscopeError
from grokscope.foreign.function.card import builtin_cards, parse_card, read_card
from grokscope.foreign.function.vocabulary import axis_count

WHOLE = """
name = "theirs"
title = "their transformer"

[function]
family = "transformer"
activation = "gelu"
norm = "layer"
norm_place = "pre"
prompt = ["a", "b", "token:97"]

[task]
operation = "add"
p = 97

[split]
seed = 0
train_fraction = 0.3

[tensors]
"tok_emb.weight" = "embedding: v d"
"blocks.{layer}.attn.qkv.weight" = "query key value: (3 H k) d"
"blocks.{layer}.heads.{head}.out" = "output: k d | d k"
"top" = "hidden.2: i o"

[ignored]
"blocks.{layer}.attn.causal_mask" = "a mask"

[copies]
"lm_head.weight" = "tok_emb.weight"
"""


def test_what_a_card_says() -> None:
    card = parse_card(WHOLE, "the test")
    assert (card.name, card.family, card.function["activation"]) == ("theirs", "transformer", "gelu")
    assert card.task == {"operation": "add", "p": 97}
    embedding, packed, heads, top = card.rules
    assert (embedding.roles, embedding.axes) == (("embedding",), ("v d",))
    assert packed.roles == ("query", "key", "value")
    match = packed.pattern.match("blocks.3.attn.qkv.weight")
    assert match is not None
    assert match["layer"] == "3"
    assert packed.pattern.match("blocks.3.attn.qkv.bias") is None
    assert packed.pattern.match("xblocks.3.attn.qkv.weight") is None
    assert heads.axes == ("k d", "d k")
    match = heads.pattern.match("blocks.0.heads.12.out")
    assert match is not None
    assert (match["layer"], match["head"]) == ("0", "12")
    assert (top.roles, top.layer) == (("hidden",), 2)
    assert card.ignored[0][0].match("blocks.0.attn.causal_mask")
    assert card.copies[0][1] == "tok_emb.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("operation =", "op ="), ("unknown task field 'op'", "operation")),
        (("p = 97", "p = 1"), ("task.p is 1", "at least 2")),
        (('activation = "gelu"', 'activatoin = "gelu"'), ("'activatoin'", "activation")),
        (('family = "transformer"', 'family = "lstm"'), ("'lstm'", "transformer, mlp")),
        (("embedding: v d", "embeddings: v d"), ("'embeddings'", "embedding")),
        (("embedding: v d", "v d"), ("expected 'role: axes'",)),
        (("embedding: v d", "embedding: v q"), ("'v q'", "expected letters")),
        (("embedding: v d", "embedding: (v d"), ("expected letters",)),
        (("[copies]", "[coppies]"), ("unknown section 'coppies'", "copies")),
        (("[tensors]", "[ignored2]"), ("unknown section",)),
        (('title = "their transformer"', "title = 3"), ("title is 3", "expected text")),
        (('name = "theirs"', 'name = "theirs'), ("expected TOML",)),
        (("seed = 0", "sed = 0"), ("unknown split field 'sed'", "seed")),
    ],
)
def test_what_no_card_can_say(change: tuple[str, str], words: tuple[str, ...], one_line) -> None:
    assert change[0] in WHOLE
    with pytest.raises(GrokscopeError) as caught:
        parse_card(WHOLE.replace(*change), "their.toml")
    one_line(caught.value, "their.toml", *words)


def test_files_that_are_no_cards(tmp_path: Path, one_line) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large.toml").write_bytes(b"#" * (2**20 + 1))
    (tmp_path / "deep.toml").write_text("x = " + "[" * 5000)
    for name in ("missing.toml", "binary.toml", "large.toml", "deep.toml", "."):
        with pytest.raises(GrokscopeError) as caught:
            read_card(tmp_path / name)
        one_line(caught.value, "reading card", "expected")
    (tmp_path / "good.toml").write_text(WHOLE.replace('name = "theirs"', ""))
    assert read_card(tmp_path / "good.toml").name == "good"


def test_the_built_in_dialects_are_cards() -> None:
    cards = builtin_cards()
    names = [card.name for card in cards]
    assert len(set(names)) == len(names) >= 7
    assert {"transformer-lens ≤3", "transformer-lens 4", "progress measures", "bare parameters"} <= set(names)
    for card in cards:
        for rule in card.rules:
            assert len({axis_count(one) for one in rule.axes}) >= 1
            packed = len(rule.roles)
            assert packed == 1 or all(str(packed) in one for one in rule.axes), (card.name, rule.roles)
