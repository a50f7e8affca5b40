"""What the pages about other people's checkpoints show is what grokscope says."""

import re
from pathlib import Path

import pytest

from grokscope.foreign import Reading, describe, import_paths, inspect_path
from grokscope.foreign.function.card import parse_card

PAGES = Path(__file__).resolve().parents[2] / "checkpoints"
CLONE = "porth-bot+grokking-transformer"


def shown(page: str) -> list[str]:
    """The lines of output on a page, without the commands."""
    blocks = re.findall(r"```console\n(.*?)```", (PAGES / page).read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if not line.startswith("$ ")]


@pytest.fixture(scope="module")
def said(third_party: Path) -> list[str]:
    return describe(inspect_path(third_party / CLONE / "runs"))


def test_the_walk_through_shows_what_is_printed(said: list[str]) -> None:
    lines = [line for line in shown("from-clone-to-report.md") if not line.startswith(("run ", "report "))]
    assert len(lines) >= 10
    for line in lines:
        pieces = [re.escape(piece) for piece in line.split("…")]
        pattern = re.compile(".*".join(pieces))
        assert any(pattern.match(one) for one in said), line


def test_the_card_on_the_page_imports_the_run(third_party: Path, tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (PAGES / "catalog/README.md").read_text("utf-8"), re.DOTALL)
    card = parse_card(text, "the page")
    (run,) = import_paths([third_party / CLONE / "runs"], tmp_path, how=Reading(card=card)).runs
    assert [row.verdict for row in run.found.proof] == ["reproduced"] * 8
