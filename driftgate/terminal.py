"""Prints text that came from outside: names in spans, answers of models, errors of gateways."""

from __future__ import annotations

import click


def say(text: str, *, err: bool = False) -> None:
    """Print one line in which nothing moves the cursor, changes colours or looks like another line."""
    click.echo(printable(text), err=err)


def printable(text: str, *, lines: bool = False) -> str:
    """Return ``text`` with everything escaped that a terminal could obey; ``lines`` keeps line ends and tabs."""
    keep = "\n\t" if lines else ""
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )
