"""The command group and how commands end; the commands themselves are in ``grokscope.commands``."""

from __future__ import annotations

import os
import re
import sys

import click

from grokscope.commands.branches import fork, replay
from grokscope.commands.foreign import catalog, import_, inspect
from grokscope.commands.planning import plan
from grokscope.commands.probing import probe
from grokscope.commands.reporting import compare, export, figures, report, watch
from grokscope.commands.stored import lens, verify
from grokscope.commands.studying import study
from grokscope.commands.training import quickstart, train
from grokscope.errors import GrokscopeError, nearest


class Commands(click.Group):
    """The command group, listing commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is None:
            known = self.list_commands(ctx)
            raise GrokscopeError(
                f"running grokscope: {cmd_name!r} is not a command, expected one of {', '.join(known)}"
                f"{nearest(cmd_name, known)}"
            )
        return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="grokscope", prog_name="grokscope")
def cli() -> None:
    """Mechanistic analysis of the training checkpoints of grokking networks."""


for _command in (
    quickstart, train, plan, replay, fork, import_, catalog, inspect, probe, report, watch, compare, study, figures,
    export, verify, lens,
):  # fmt: skip
    cli.add_command(_command)


def main() -> None:
    """Run a command; every expected failure is one line on stderr and exit code 2."""
    try:
        cli.main(standalone_mode=False)
    except GrokscopeError as error:
        _fail(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted: what was committed is kept")
    except (MemoryError, RuntimeError) as error:
        # torch raises a RuntimeError for memory, of the machine or of the GPU
        said = (str(error).splitlines() or [""])[0]
        if not isinstance(error, MemoryError) and not re.search(r"allocate memory|out of memory", said):
            raise
        _fail(f"out of memory, expected a problem that fits this machine: {said or 'the allocation failed'}")
    except BrokenPipeError:
        # the reader of a pipe went away; nothing is left to say, and Python must not try at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)


def _fail(message: str) -> None:
    click.echo("grokscope: " + " ".join(message.split()), err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
