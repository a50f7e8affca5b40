"""The catalogue: cards that leave nothing to guess, checked against the files that they name."""

from pathlib import Path

import pytest
import torch

from checkpoints.catalog.draft import draft, toml
from grokscope.errors import GrokscopeError
from grokscope.foreign import import_from_catalog, import_paths, read_catalog
from grokscope.foreign.catalog import catalog_lines, read_entry

REPOSITORY = {"url": "https://example.org/theirs", "commit": "c" * 40, "licence": "MIT"}
FOLDERS = {
    "grokking-fourier": "unixsysdev+grokking-fourier",
    "grokking-fourier-circuits": "Samar-Talwar+grokking-fourier-circuits",
    "grokking-transformer": "porth-bot+grokking-transformer",
    "modular-addition-feature-learning": "Y-Agent+modular-addition-feature-learning",
    "pizza": "fjzzq2002+pizza",
    "progress-measures-paper": "mechanistic-interpretability-grokking+progress-measures-paper",
    "rep-theory-mech-interp": "bilal-chughtai+rep-theory-mech-interp",
}


@pytest.fixture
def workspace(tmp_path: Path, bare_folder: Path) -> Path:
    """A workspace whose catalogue has a card of the folder above the little run, called ``theirs``."""
    home = tmp_path / "ws"
    (home / "checkpoints" / "catalog").mkdir(parents=True)
    text = draft(bare_folder.parent, "theirs", REPOSITORY)
    (home / "checkpoints" / "catalog" / "theirs.toml").write_text(text)
    return home


def test_a_drafted_card_imports_without_guessing(workspace: Path, tmp_path: Path, bare_folder: Path) -> None:
    entry = next(one for one in read_catalog(workspace) if one.name == "theirs")
    (run,) = entry.runs
    assert len(run.files) == 6  # four saves, the config and the table
    assert run.card.split["seed"] == 3
    (imported,) = import_from_catalog("theirs", [bare_folder.parent], workspace).runs
    assert imported.path == workspace / "checkpoints" / "theirs"
    assert imported.found.function is not None
    assert imported.found.function.searched is not None
    assert imported.found.function.searched.size == 1
    (free,) = import_paths([bare_folder], tmp_path / "free").runs
    for one, other in zip(imported.found.saves, free.found.saves, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(imported.found.task.train_mask, free.found.task.train_mask)
    assert [row.verdict for row in imported.found.proof] == [row.verdict for row in free.found.proof]


def test_a_part_of_the_clone_is_enough(workspace: Path, bare_folder: Path) -> None:
    (by_folder,) = import_from_catalog("theirs", [bare_folder], workspace, "by-folder").runs
    files = sorted(bare_folder.iterdir())
    (by_files,) = import_from_catalog("theirs", files, workspace, "by-files").runs
    assert (by_folder.name, by_files.name) == ("by-folder", "by-files")
    assert by_files.found.steps == by_folder.found.steps == (0, 60, 150, 300)


def test_another_version_of_a_file_is_refused(workspace: Path, bare_folder: Path, one_line) -> None:
    with (bare_folder / "ckpt_60.pt").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(GrokscopeError) as caught:
        import_from_catalog("theirs", [bare_folder], workspace)
    one_line(caught.value, "ckpt_60.pt", "SHA-256", "expected", "cccccccccccc")
    assert not (workspace / "checkpoints" / "theirs").exists()


def test_what_is_not_there_is_said(workspace: Path, tmp_path: Path, bare_folder: Path, one_line) -> None:
    with pytest.raises(GrokscopeError) as caught:
        import_from_catalog("their", [bare_folder], workspace)
    one_line(caught.value, "no card 'their'", "theirs")
    (bare_folder / "ckpt_0.pt").unlink()
    with pytest.raises(GrokscopeError) as caught:
        import_from_catalog("theirs", [bare_folder], workspace)
    one_line(caught.value, "none of its runs is whole", "https://example.org/theirs")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('sha256 = "', 'sha255 = "'), ("unknown field 'sha255'", "sha256")),
        (('path = "', 'path = "../'), ("lies outside its repository",)),
        (("[[runs]]", "[[run]]"), ("unknown field 'run'",)),
        (("little/ckpt_60.pt", "little/ckpt_61.pt"), ("not among its files",)),
        (('licence = "MIT"', ""), ("licence", "expected text")),
        (("embedding:", "embeding:"), ("'embeding'", "embedding")),
    ],
)
def test_broken_cards(workspace: Path, change: tuple[str, str], words: tuple[str, ...], one_line) -> None:
    path = workspace / "checkpoints" / "catalog" / "theirs.toml"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    with pytest.raises(GrokscopeError) as caught:
        read_catalog(workspace)
    one_line(caught.value, "reading catalogue card", *words)


def test_the_cards_that_come_with_grokscope() -> None:
    entries = {entry.name: entry for entry in read_catalog()}
    assert set(entries) == set(FOLDERS)
    for entry in entries.values():
        assert entry.url.startswith("https://github.com/")
        assert len(entry.commit) == 40
        assert all(len(one.sha256) == 64 and one.size > 0 for one in entry.files)
        for run in entry.runs:
            assert run.card.task
            assert run.proved
    text = "\n".join(catalog_lines(tuple(entries.values())))
    assert "pizza: https://github.com/fjzzq2002/pizza" in text
    assert len([line for line in text.splitlines() if line.startswith("  run ")]) == 15


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=() if one.startswith("rep") else pytest.mark.slow) for one in FOLDERS]
)
def test_a_clone_is_read_by_its_card(name: str, third_party: Path, tmp_path: Path) -> None:
    entry = next(one for one in read_catalog() if one.name == name)
    result = import_from_catalog(name, [third_party / FOLDERS[name]], tmp_path)
    assert len(result.runs) == len(entry.runs)
    assert not result.skipped
    for one in result.runs:
        assert one.found.function is not None
        assert one.found.function.searched is None or one.found.function.searched.size == 1
        assert "conflict" not in {row.verdict for row in one.found.proof}


def test_toml_is_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    document = {
        "name": 'odd "name" – ü',
        "repository": REPOSITORY,
        "files": [{"path": "a b.pt", "size": 3, "sha256": "0" * 64}],
        "runs": [
            {
                "name": "one",
                "files": ["a b.pt"],
                "card": {
                    "function": {"family": "mlp", "combine": "sum", "output_scale": 1.5},
                    "tensors": {'W.in "x"': "hidden.1: i o", "out": "head: i c"},
                },
            }
        ],
    }
    path.write_text(toml(document))
    entry = read_entry(path)
    assert entry.name == document["name"]
    assert entry.runs[0].card.function == {"combine": "sum", "output_scale": 1.5}
    assert entry.runs[0].card.rules[0].pattern.match('W.in "x"')
