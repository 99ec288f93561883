"""From settings to scorers: built-in rubrics by name, plug-ins by reference, judges."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from scorers.api import Scorer, Target, as_scorer
from scorers.judge import Judge
from scorers.settings import RubricSettings, ScorersSettings
from stream import plugins
from stream.errors import ConfigError, DriftgateError
from stream.records import Evaluator

GROUP = "driftgate.scorers"


class Entry(msgspec.Struct, frozen=True):
    """A scorer as it was configured."""

    scorer: Scorer
    rubric: str  # name on the scores
    target: Target
    evaluator: Evaluator
    plugin: bool
    timeout: float

    @property
    def asynchronous(self) -> bool:
        """True for scorers that need an event loop: judges and plug-ins."""
        return self.plugin or isinstance(self.scorer, Judge)


def builtin() -> dict[str, type[Any]]:
    """Return the built-in rubrics by name."""
    return plugins.subclasses_in("scorers.rubrics", Scorer)


def build(settings: ScorersSettings, base: Path | None = None) -> list[Entry]:
    """Return the configured scorers.

    Parameters
    ----------
    settings
        The ``scorers`` section.
    base
        Folder that plug-in files are relative to.

    Raises
    ------
    ConfigError
        An unknown name, options a scorer does not take, a plug-in that fails on import, or a name used twice.
    """
    known = builtin()
    entries: list[Entry] = []
    for number, rubric in enumerate(settings.rubrics):
        try:
            entries.append(_entry(rubric, known, base))
        except ConfigError as error:
            raise ConfigError(f"scorers.rubrics[{number}]: {error}") from error
    for number, judge in enumerate(settings.judges):
        try:
            made = Judge(judge)
        except ValueError as error:
            raise ConfigError(f"scorers.judges[{number}]: {error}") from error
        entries.append(Entry(made, made.name, judge.target, made.evaluator(), False, 0.0))
    seen: set[str] = set()
    for entry in entries:
        if entry.rubric in seen:
            raise ConfigError(
                f"scorers: two scorers write the rubric {entry.rubric!r}; give one of them another name"
            )
        seen.add(entry.rubric)
    return entries


def _entry(rubric: RubricSettings, known: dict[str, type[Any]], base: Path | None) -> Entry:
    own = known.get(rubric.use)
    if own is None and ":" not in rubric.use:
        found = _entry_point(rubric.use, known)
    else:
        found = own or plugins.load(rubric.use, GROUP, base=base)
    try:
        made = as_scorer(found, rubric.options)
        evaluator = made.evaluator()
    except ValidationError as error:
        raise ConfigError(f"options of {rubric.use}: {_problems(error)}{_signature(found)}") from error
    except (TypeError, ValueError) as error:
        takes = _signature(found)
        raise ConfigError(f"{rubric.use}: {error}{takes}") from error
    except DriftgateError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{rubric.use}: the scorer cannot be made: {error.__class__.__name__}: {error}"
        ) from error
    name = rubric.name or made.name
    return Entry(made, name, rubric.target or made.target, evaluator, own is None, rubric.timeout)


def _entry_point(reference: str, known: dict[str, type[Any]]) -> Any:
    try:
        return plugins.load(reference, GROUP)
    except ConfigError as error:
        raise ConfigError(f"{error}; built in are {', '.join(sorted(known))}") from error


def _problems(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(step) for step in problem['loc']) or 'options'}: {'unknown option' if problem['type'] == 'extra_forbidden' else problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False)
    )


def _signature(found: Any) -> str:
    options = getattr(found, "Options", None)
    if inspect.isclass(found) and options is not None:
        return f"; it takes the options {', '.join(options.model_fields)}"
    return ""
