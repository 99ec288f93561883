"""What the author of a scorer uses; ``driftgate`` exports these names as its own.

    from driftgate import Interaction, Score, Scorer, Skipped

    class Short(Scorer):
        name = "short"
        version = "1"

        def score(self, interaction: Interaction) -> Score | Skipped:
            if not interaction.output_text:
                return Skipped("no_content")
            return Score(len(interaction.output_text) < 400)

``score`` may be ``async``. A plain function of an interaction is a scorer too; :func:`scorer` names it.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from stream.interaction import Interaction
from stream.records import Evaluator, stable_id
from stream.settings import Settings

Target = Literal["trace", "span"]

PASS_FAIL: Mapping[str, float] = {
    "pass": 1.0, "passed": 1.0, "true": 1.0, "yes": 1.0, "good": 1.0, "correct": 1.0, "positive": 1.0,
    "thumbs_up": 1.0, "up": 1.0, "ok": 1.0, "safe": 1.0, "relevant": 1.0, "faithful": 1.0, "grounded": 1.0,
    "fail": 0.0, "failed": 0.0, "false": 0.0, "no": 0.0, "bad": 0.0, "incorrect": 0.0, "negative": 0.0,
    "thumbs_down": 0.0, "down": 0.0, "unsafe": 0.0, "irrelevant": 0.0, "unfaithful": 0.0,
    "ungrounded": 0.0, "hallucinated": 0.0, "toxic": 0.0,
}  # fmt: skip


class Score(msgspec.Struct, frozen=True):
    """An answer. ``value`` lies in [0, 1], higher is better; ``True`` is 1 and ``False`` is 0.

    With a ``label`` alone the value comes from the scorer's ``labels``, else from the usual words for pass and fail.
    ``explanation`` is for people and is cut at 4,000 characters. ``cost_usd`` and tokens are what giving it cost.
    """

    value: float | None = None
    label: str = ""
    explanation: str = ""
    version: str = ""  # of this answer, if it differs from the scorer's
    cost_usd: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0


class Skipped(msgspec.Struct, frozen=True):
    """The scorer does not apply here; ``reason`` is a short word such as ``no_content``, used as a metric label."""

    reason: str
    explanation: str = ""


class Failed(msgspec.Struct, frozen=True):
    """The scorer applies, and could not answer. What it cost all the same is told."""

    reason: str
    explanation: str = ""
    cost_usd: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0


Answer = Score | Skipped | Failed


class Scorer(ABC):
    """One rubric.

    Class attributes: ``name`` (the rubric's name on scores), ``version`` (raise it whenever answers may change: a new
    version starts a new baseline), ``target`` (one score per ``trace``, or one per LLM ``span``), ``labels`` (label ->
    value), and optionally ``Options``, a settings class that validates keyword arguments and becomes ``self.options``.
    """

    name: str = ""
    version: str = "1"
    target: Target = "trace"
    labels: Mapping[str, float] = {}
    Options: ClassVar[type[Settings] | None] = None
    options: Any = None

    def __init__(self, **options: Any) -> None:
        if self.Options is not None:
            self.options = self.Options(**options)
        elif options:
            raise TypeError(f"scorer {self.name!r} takes no options")

    @abstractmethod
    def score(self, interaction: Interaction) -> Answer | Awaitable[Answer]:
        """Answer about one interaction. What it raises becomes a failed score named after the exception's class."""

    def evaluator(self) -> Evaluator:
        """Who gives the scores. Options that differ from the defaults are part of the version."""
        version = self.version
        if self.Options is not None and self.options is not None:
            given = self.options.model_dump(mode="json", exclude_defaults=True)
            if given:
                text = msgspec.json.encode(given, order="deterministic").decode()
                version = f"{version}+{stable_id(text)[:8]}"
        return Evaluator(id=self.name, version=version)


class FunctionScorer(Scorer):
    """A plain callable as a scorer. It may return a :class:`Score`, a number, a bool, a label, or ``None`` to skip."""

    def __init__(self, function: Callable[[Interaction], Any]) -> None:
        super().__init__()
        self._function = function
        named = getattr(function, "__name__", function.__class__.__name__)
        self.name = getattr(function, "scorer_name", "") or named
        self.version = getattr(function, "scorer_version", "1")
        self.target = getattr(function, "scorer_target", "trace")
        self.labels = getattr(function, "scorer_labels", {})

    def score(self, interaction: Interaction) -> Any:
        """Call the function."""
        return self._function(interaction)


F = TypeVar("F", bound=Callable[..., Any])


def scorer(
    *, name: str = "", version: str = "1", target: Target = "trace", labels: Mapping[str, float] | None = None
) -> Callable[[F], F]:
    """Give a function the attributes of a scorer: ``@scorer(name="short", version="2")``."""

    def mark(function: F) -> F:
        for key, value in {
            "name": name,
            "version": version,
            "target": target,
            "labels": dict(labels or {}),
        }.items():
            setattr(function, f"scorer_{key}", value)
        return function

    return mark


def as_scorer(found: Any, options: Mapping[str, Any]) -> Scorer:
    """Return a scorer from what a plug-in reference names: a class, an instance, or a function.

    Raises
    ------
    TypeError
        It is none of them, or does not take ``options``.
    """
    if inspect.isclass(found):
        found = found(**options)
        options = {}
    if isinstance(found, Scorer):
        if options:
            raise TypeError("options need a scorer class, this is an instance")
        made = found
    elif callable(found):
        if options:
            raise TypeError("options need a scorer class, this is a function")
        made = FunctionScorer(found)
    elif callable(getattr(found, "score", None)):
        raise TypeError("derive the class from driftgate.Scorer, or name its method instead")
    else:
        raise TypeError("a scorer is a subclass of driftgate.Scorer, an instance of one, or a function")
    if not made.name:
        raise TypeError("the scorer has no name: set the class attribute name")
    return made
