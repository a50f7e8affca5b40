"""grokscope: mechanistic analysis of the training checkpoints of grokking networks.

The heavy modules load on first use, so that ``import grokscope`` and the command line's help stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grokscope.errors import GrokscopeError

if TYPE_CHECKING:
    from grokscope import export as export
    from grokscope.probes import probe as probe
    from grokscope.report import write_report as write_report
    from grokscope.runs import open_run as open_run

__version__ = "0.1.0"
__all__ = ["GrokscopeError", "__version__", "open_run", "probe", "write_report"]

_HOMES = {"open_run": "grokscope.runs", "probe": "grokscope.probes", "write_report": "grokscope.report"}


def __getattr__(name: str) -> Any:
    if name in _HOMES or name == "export":
        from importlib import import_module

        return (
            import_module("grokscope.export")
            if name == "export"
            else getattr(import_module(_HOMES[name]), name)
        )
    raise AttributeError(f"module 'grokscope' has no attribute {name!r}")
