"""The page's script as text: small files in a fixed order, and nothing in them that a strict policy would stop."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from grokscope.report import page

FOLDER = Path(page.__file__).parent / "page"
FILES = sorted(FOLDER.glob("*.js"))


def test_every_file_is_part_of_the_script_once() -> None:
    assert sorted(page._SCRIPTS) == [file.stem for file in FILES]
    assert page._SCRIPTS[0] == "core"
    assert page._SCRIPTS[-1] == "start"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_is_short_and_says_what_it_is(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert lines[0].startswith("// ")
    assert len(lines) <= 300
    assert max(map(len, lines)) <= 120
    assert not [line for line in lines if line != line.rstrip() or "\t" in line]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_makes_no_markup_from_text_and_reaches_for_nothing(file: Path) -> None:
    text = file.read_text()
    for forbidden in (
        r"\binnerHTML\b", r"\bouterHTML\b", r"\binsertAdjacentHTML\b", r"\bdocument\.write\b", r"\beval\b",
        r"\bnew Function\b", r"\bfetch\(", r"\bXMLHttpRequest\b", r"\bimport\b", r"\bvar\s", r"\bconsole\.",
        r"[^=!]==[^=]", r"https?:(?!//www\.w3\.org/)", r"\bTODO\b", r"\blocalStorage\b", r"</script",
    ):  # fmt: skip
        assert re.search(forbidden, text) is None, forbidden


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_uses_only_what_stands_before_it(file: Path) -> None:
    given: dict[str, str] = {}
    for name in page._SCRIPTS:
        for found in re.findall(
            r"Object\.assign\(grokscope, \{([^}]*)\}\)", (FOLDER / f"{name}.js").read_text()
        ):
            given |= {each.split(":")[0].strip(): name for each in found.split(",") if each.strip()}
    earlier = set(page._SCRIPTS[: page._SCRIPTS.index(file.stem)])
    used: set[str] = set()
    for names in re.findall(r"const \{([^}]*)\} = grokscope;", file.read_text()):
        used |= {name.strip() for name in names.split(",") if name.strip()} - {"time"}
    assert {name for name in used if given.get(name) not in earlier} == set()
    for name in used:
        body = re.sub(r"const \{[^}]*\} = grokscope;", "", file.read_text())
        assert re.search(rf"\b{name}\b", body), f"{name} is taken and not used"


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on the PATH")
def test_the_script_parses() -> None:
    checked = subprocess.run(["node", "--check", "-"], input=page._script(), text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
