"""What was done to a run beside its optimiser, in a few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grokscope.report.formatting import whole


def interventions(config: Mapping[str, Any]) -> list[str]:
    """A few words for each intervention that a stored config holds; empty for a run that was left alone."""
    table = config.get("intervene")
    if not isinstance(table, Mapping):
        return []
    said: list[str] = []
    clamp = table.get("clamp")
    if isinstance(clamp, Mapping) and isinstance(clamp.get("norm"), (int, float)):
        size = f"{float(clamp['norm']) * float(clamp.get('rho', 1.0)):.4g}"
        tensors = ", ".join(clamp.get("tensors", ["matrices"]))
        of = "" if tensors == "matrices" else f" of {tensors}"
        start = whole(int(clamp.get("start", 0)))
        said.append(
            f"norm{of} set to {size} at step {start}"
            if clamp.get("once")
            else f"norm{of} held at {size} from step {start}"
        )
    if (temperature := table.get("temperature", 1.0)) != 1.0:
        said.append(f"temperature {float(temperature):.4g}")
    if frozen := table.get("frozen"):
        said.append(f"{', '.join(frozen)} frozen")
    for field, word in (("lr", "rate"), ("decay", "decay")):
        for name, factor in (table.get(field) or {}).items():
            said.append(
                f"no decay of {name}"
                if field == "decay" and factor == 0
                else f"{word} of {name} × {float(factor):.4g}"
            )
    if isinstance(penalty := table.get("jacobian"), Mapping):
        said.append(f"Jacobian penalty {float(penalty.get('strength', 0.0)):.4g}")
    if isinstance(chosen := table.get("filter"), Mapping):
        said.append(_FILTERS.get(str(chosen.get("kind")), "gradient filtered"))
    return said


_FILTERS = {"ema": "Grokfast (average)", "window": "Grokfast (window)", "orthogonal": "orthogonal gradient"}
