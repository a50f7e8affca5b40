"""One line to copy: what a run showed, how sure that is, and the checksum of what it was read from."""

from __future__ import annotations

from grokscope.probes.record import Record
from grokscope.report.formatting import crossing, ratio


def citation(record: Record, task: str, checksum: str, version: str) -> str:
    """Verdict, intervals of fit and generalisation, delay, and content checksum in one line.

    Args:
        task: what was learned, in a few words.
        checksum: SHA-256 of the trajectory's content, in hex; empty where it is not known.
        version: of grokscope.
    """
    state = record.verdict.state if record.verdict else "not judged"
    pieces = [f"{record.run} ({task})" if task else record.run, state]
    counted = "grok_unmirrored" if "grok_unmirrored" in record.events else "grok"
    for name, words in (("fit", "fit"), (counted, "unmirrored grok" if counted != "grok" else "grok")):
        event = record.events.get(name)
        if event is not None:
            when = crossing(event)
            pieces.append(f"{words} {when}" if "step" in when else f"{words} at steps {when}")
    if record.delay is not None and None not in record.delay:
        pieces.append(f"delay {ratio(*record.delay)}" + (" on all test pairs" if counted != "grok" else ""))
    if checksum:
        pieces.append(f"sha256 {checksum}")
    return "; ".join(pieces) + f". Measured with grokscope {version}."
