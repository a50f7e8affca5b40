"""One holder at a time: among threads, processes and machines, and never for ever."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from grokscope import claims
from grokscope.claims import BusyError, Holder, claimed
from grokscope.errors import GrokscopeError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.02)
    monkeypatch.setattr(claims, "SILENCE", 0.4)


def files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def leave(target: Path, holder: Holder | None, number: int = 1) -> Path:
    """A claim file as a holder that is not us would have left it."""
    path = target.parent / f".{target.name}.claim-{number}"
    path.write_bytes(b"" if holder is None else json.dumps(asdict(holder)).encode() + b"\n...")
    return path


def dead() -> Holder:
    """A process of this machine that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return replace(Holder.here(), pid=process.pid, started="1")


ELSEWHERE = Holder("elsewhere", "another machine", 1, "1", "n")


def test_a_claim_is_held_and_let_go(tmp_path):
    with claimed(tmp_path / "deep" / "run") as claim:
        assert files(tmp_path / "deep") == [".run.claim-1"]
        assert not claim.lost
        with claimed(tmp_path / "deep" / "run2"):
            pass
    assert files(tmp_path / "deep") == []


def test_a_second_claim_is_refused_in_one_line_that_names_the_first(tmp_path):
    with claimed(tmp_path / "run"), pytest.raises(BusyError) as caught, claimed(tmp_path / "run"):
        pass
    assert f"process {os.getpid()} on " in str(caught.value)
    assert "\n" not in str(caught.value)
    with claimed(tmp_path / "run"):
        pass
    assert files(tmp_path) == []


def test_it_is_let_go_when_the_work_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "run"):
        _ = 1 / 0
    assert files(tmp_path) == []


def test_one_of_many_threads_gets_it(tmp_path):
    won: list[int] = []
    ready, held = threading.Barrier(8), threading.Event()

    def work(number: int) -> None:
        ready.wait()
        try:
            with claimed(tmp_path / "run"):
                won.append(number)
                held.wait(10)
        except BusyError:
            won.append(-1)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 10
    while len(won) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    held.set()
    for thread in threads:
        thread.join()
    assert sorted(won)[:7] == [-1] * 7
    assert len([number for number in won if number >= 0]) == 1


def test_a_dead_process_of_this_machine_is_succeeded_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "SILENCE", 1000.0)
    leave(tmp_path / "run", dead())
    with claimed(tmp_path / "run"):
        assert files(tmp_path) == [".run.claim-2"]
    assert files(tmp_path) == []


def test_a_process_number_used_again_is_another_process(tmp_path):
    leave(tmp_path / "run", replace(Holder.here(), started="1"))
    with claimed(tmp_path / "run"):
        assert files(tmp_path) == [".run.claim-2"]
    assert files(tmp_path) == []


def test_a_killed_process_is_succeeded(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from grokscope.claims import claimed\n"
        "with claimed(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match=f"process {process.pid} on "), claimed(tmp_path / "run"):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with claimed(tmp_path / "run"):
        pass


@pytest.mark.parametrize("holder", [ELSEWHERE, None])
def test_a_silent_holder_elsewhere_is_succeeded_after_a_while(tmp_path, holder):
    leave(tmp_path / "run", holder)
    began = time.monotonic()
    with claimed(tmp_path / "run"):
        assert time.monotonic() - began >= claims.SILENCE
        assert files(tmp_path) == [".run.claim-2"]


def test_a_holder_elsewhere_that_shows_life_is_busy(tmp_path):
    path = leave(tmp_path / "run", ELSEWHERE)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.05):
            with path.open("ab") as file:
                file.write(b".")

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(BusyError, match="process 1 on elsewhere"), claimed(tmp_path / "run"):
            pass
    finally:
        over.set()
        thread.join()
    # the clock of the file plays no part, only that it grows
    os.utime(path, (0, 0))
    with claimed(tmp_path / "run"):
        pass


def test_a_holder_elsewhere_that_lets_go_is_followed(tmp_path):
    path = leave(tmp_path / "run", ELSEWHERE)
    timer = threading.Timer(0.1, path.unlink)
    timer.start()
    began = time.monotonic()
    with claimed(tmp_path / "run"):
        assert time.monotonic() - began < claims.SILENCE
    timer.join()


def test_watching_can_be_given_up(tmp_path):
    leave(tmp_path / "run", ELSEWHERE)
    with pytest.raises(BusyError), claimed(tmp_path / "run", give_up=lambda: True):
        pass
    assert files(tmp_path) == [".run.claim-1"]


def test_a_holder_shows_life_and_learns_that_it_was_taken_for_dead(tmp_path):
    with claimed(tmp_path / "run") as claim:
        size = claim.path.stat().st_size
        deadline = time.monotonic() + 10
        while claim.path.stat().st_size <= size + 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert claim.path.stat().st_size > size + 3
        assert not claim.lost
        # what a successor does
        claim.path.unlink()
        while not claim.lost and time.monotonic() < deadline:
            time.sleep(0.01)
        assert claim.lost


def contend(target: str, mark: str, rounds: int) -> None:
    """Work under the claim, now and then dying with it held; overlap is written down."""
    for round_number in range(rounds):
        try:
            with claimed(Path(target)):
                descriptor = os.open(mark, os.O_CREAT | os.O_EXCL)
                os.close(descriptor)
                time.sleep(0.002)
                os.unlink(mark)
                if (os.getpid() + round_number) % 5 == 0:
                    os._exit(0)
        except BusyError:
            time.sleep(0.001)
        except FileExistsError:
            Path(mark + ".overlap").touch()


def test_no_two_hold_it_whoever_dies(tmp_path):
    """Many short lives of processes that compete for one claim; the mark in the file system finds overlaps."""
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        processes = [
            context.Process(target=contend, args=(str(tmp_path / "run"), str(tmp_path / "mark"), 30))
            for _ in range(6)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
    assert not (tmp_path / "mark.overlap").exists()
    with claimed(tmp_path / "run"):
        pass


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    wanted = pytest.raises(GrokscopeError, match="expected a writable place")
    with wanted as caught, claimed(tmp_path / "file" / "run"):
        pass
    assert not isinstance(caught.value, BusyError)
    assert "\n" not in str(caught.value)


def test_names_that_begin_alike_are_told_apart(tmp_path):
    with claimed(tmp_path / "run"), claimed(tmp_path / "run.claim-1"), claimed(tmp_path / "run*"):
        assert len(files(tmp_path)) == 3
