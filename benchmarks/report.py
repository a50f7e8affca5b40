"""What a run's page weighs, part by part, what it costs to write, and whether it comes out the same twice.

    python benchmarks/report.py RUN_DIRECTORY

The run should have been probed before. The page is written three times: with every figure and picture made anew,
again so, and with those kept beside the run. The first two must be equal byte for byte; the run's own folder is
left as it was but for what a report keeps there.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import tempfile
import time
from pathlib import Path

from grokscope.probes.readings import READINGS
from grokscope.report import write_report


def parts(page: str) -> dict[str, int]:
    """Bytes of the page by what they hold."""
    live = re.search(r'<script type="application/json" id="live">(.*?)</script>', page, re.DOTALL)
    held = json.loads(live[1]) if live and live[1] else {}
    weight = {
        "drawings": sum(map(len, re.findall(r"<svg.*?</svg>", page, re.DOTALL))),
        "formulas": sum(map(len, re.findall(r"<math.*?</math>", page, re.DOTALL))),
        "script": sum(map(len, re.findall(r"<script>(.*?)</script>", page, re.DOTALL))),
        "style": sum(map(len, re.findall(r"<style>(.*?)</style>", page, re.DOTALL))),
        "series": len(json.dumps(held.get("series", ""))),
        "charts": len(json.dumps(held.get("charts", ""))),
        **{f"view {view['id']}": len(json.dumps(view)) for view in held.get("views", [])},
    }
    weight["everything else"] = len(page.encode()) - sum(weight.values())
    return weight


def main() -> None:
    """Write, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    print(f"{platform.processor() or platform.machine()}, {run.name}")
    with tempfile.TemporaryDirectory() as folder:
        pages = []
        for what in ("everything drawn", "drawn again", "drawings kept"):
            if what != "drawings kept":
                (run / READINGS / "figures.json").unlink(missing_ok=True)
            began = time.perf_counter()
            pages.append(write_report(run, Path(folder) / "page.html").read_bytes())
            print(f"{what}: {time.perf_counter() - began:.1f} s", flush=True)
        assert pages[0] == pages[1] == pages[2], "the page differs between two equal writes"
        print(f"{len(pages[0]) / 1e6:.2f} MB, the same three times")
        for name, size in sorted(parts(pages[0].decode()).items(), key=lambda pair: -pair[1]):
            print(f"  {name:24s} {size / 1e3:7.1f} kB")


if __name__ == "__main__":
    main()
