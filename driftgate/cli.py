"""The command line. Commands are imported when they are called, so that every start is quick."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from driftgate.terminal import printable
from driftgate.version import installed_version
from stream.errors import ConfigError, DriftgateError, StartError

_COMMANDS = {
    "up": ("driftgate.commands.up", "Run everything in one process."),
    "collector": ("driftgate.commands.collector", "Receive and redact spans, and write them to Kafka."),
    "worker": (
        "driftgate.commands.worker",
        "Run one stage on Kafka: intake, sampler, scorer, drift, store or alerter.",
    ),
    "topics": ("driftgate.commands.topics", "Create and check the topics on Kafka."),
    "demo": ("driftgate.commands.demo", "From an OTLP span to a verified rollback, on this machine."),
    "config": ("driftgate.commands.config", "Check, show and describe the configuration."),
    "doctor": (
        "driftgate.commands.doctor",
        "Check the ledger, lags, store and disk; fails when the books do not balance.",
    ),
    "query": ("driftgate.commands.query", "Run SQL on the store."),
    "verdicts": ("driftgate.commands.verdicts", "List the decisions of the drift stage."),
    "explain": ("driftgate.commands.explain", "Print and draw how a verdict came about."),
    "replay": (
        "driftgate.commands.replay",
        "Run the drift stage again over log, store or file; check that verdicts are reproduced.",
    ),
    "digest": (
        "driftgate.commands.digest",
        "Which watched cohorts got worse in the last period, found together.",
    ),
    "redact": ("driftgate.commands.redact", "Remove personal data and secrets from standard input."),
    "pseudonym": ("driftgate.commands.pseudonym", "What a text is called in the data, under every key."),
    "dead-letters": ("driftgate.commands.dead_letters", "List, show and replay records no stage could use."),
    "quarantine": (
        "driftgate.commands.quarantine",
        "What could not be redacted: list it, decrypt it, make the keys.",
    ),
    "incidents": (
        "driftgate.commands.incidents",
        "List, acknowledge, silence and close incidents; approve and stop rollbacks.",
    ),
}

_NOBODY_READS = 141  # 128 + SIGPIPE


class LazyGroup(click.Group):
    """A group that imports a command only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0])
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that goes away ends it as it ends any command of a shell, not as a failure."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _drop_output()
            raise click.exceptions.Exit(_NOBODY_READS) from None
        return result


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(installed_version(), prog_name="driftgate")
def cli() -> None:
    """Watch the quality of an LLM application from its OpenTelemetry spans, and take a bad release back."""


def config_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-c/--config FILE``; without it ``driftgate.yaml`` is used if it is there, else the defaults."""
    return click.option(
        "-c",
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="DRIFTGATE_CONFIG",
        help="Configuration file [default: driftgate.yaml if there is one].",
    )(function)


def chosen(path: Path | None) -> Path | None:
    """Return the configuration file to use."""
    if path is not None:
        return path
    default = Path("driftgate.yaml")
    return default if default.is_file() else None


def main() -> None:
    """Run the command line: errors are one clear message and an exit code, never a traceback.

    Exit codes: 0 done, 1 it failed, 2 wrong use or configuration; 130 and 141 as shells say it, for Ctrl-C and for output that
    nobody reads any more.
    """
    _fill_streams()
    try:
        code = cli(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except (ConfigError, StartError, DriftgateError) as error:
        _fail(str(error), 2 if isinstance(error, ConfigError) else 1)
    except UnicodeError as error:
        # An argument or a line of the input, neither of which has to be text.
        _fail(f"this is not UTF-8: {error}", 1)
    except OSError as error:
        if error.filename is not None:
            # A file or folder that the user named, or that we were told to use.
            _fail(f"{error.filename}: {error.strerror}", 1)
        if error.errno == errno.EPIPE:
            _drop_output()
            sys.exit(_NOBODY_READS)
        if error.errno == errno.ENOSPC:
            _drop_output()
            _fail("no space left on the device for what was to be written", 1)
        raise


def _fail(text: str, code: int) -> NoReturn:
    click.echo(f"driftgate: {printable(text, lines=True)}", err=True)
    sys.exit(code)


def _fill_streams() -> None:
    """Open the streams that we were started without, or the next file opened would take a stream's number."""
    nothing = Path(os.devnull)
    sys.stdin = sys.stdin or nothing.open()
    sys.stdout = sys.stdout or nothing.open("w")
    sys.stderr = sys.stderr or nothing.open("w")


def _drop_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter's last flush does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
