"""``driftgate query``: SQL on the store, whether a process is running or not."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from driftgate.cli import chosen, config_option
from driftgate.terminal import printable


@click.command("query")
@click.argument("sql")
@click.option(
    "--format", "form", default="PrettyCompactMonoBlock", show_default=True, help="Any ClickHouse format."
)
@config_option
def command(sql: str, form: str, config_path: Path | None) -> None:
    """Run SQL (read only) on the store: through the running process if there is one, else on the folder itself."""
    from driftgate.config import load
    from driftgate.store_access import run_query

    answer = run_query(load(chosen(config_path)), sql, form)
    if sys.stdout.isatty():
        click.echo(printable(answer.decode("utf-8", "replace"), lines=True).removesuffix("\n"))
        return
    sys.stdout.buffer.write(answer if answer.endswith(b"\n") or not answer else answer + b"\n")
    sys.stdout.buffer.flush()
