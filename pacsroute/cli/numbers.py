"""The numbers of a command line, with errors in plain words."""

from __future__ import annotations

import click

_SHORTEST, _LONGEST = 0.01, 1_000_000


class WholeNumber(click.IntRange):
    """An integer within bounds; click would call it an "integer range" in its errors."""

    name = "whole number"


def duration(context: click.Context, option: click.Parameter, text: str) -> float:
    """Return the time of an option for a timeout, in seconds."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not _SHORTEST <= number <= _LONGEST:  # so it is for nan, too
        raise click.BadParameter(f"use {_SHORTEST} to {_LONGEST:,} seconds, not {text}")
    return number
