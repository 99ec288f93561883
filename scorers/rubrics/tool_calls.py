"""Are the tool calls valid against the tools that were declared?"""

from __future__ import annotations

from scorers.api import Score, Scorer, Skipped
from scorers.schema import MAX_STEPS, InstanceTooLarge, SchemaCache, SchemaUnusable
from stream.interaction import Interaction, ToolCall, ToolDefinition


class ToolCalls(Scorer):
    """The share of tool calls that name a declared tool and give arguments its JSON Schema accepts, 0 to 1.

    Skipped without calls (``no_tool_calls``) or without declared tools (``no_tool_definitions``). A call whose
    arguments were not recorded, or whose tool has no usable schema, is judged by its name alone; so are the last ones where
    the checks of one interaction take too many steps.
    """

    name = "tool_calls"

    def __init__(self) -> None:
        super().__init__()
        self._schemas = SchemaCache()
        self._room = 0  # steps left for the interaction in hand

    def score(self, interaction: Interaction) -> Score | Skipped:
        """Check each call."""
        if not interaction.tool_calls:
            return Skipped("no_tool_calls")
        if not interaction.tool_definitions:
            return Skipped("no_tool_definitions")
        declared = {tool.name: tool for tool in interaction.tool_definitions}
        self._room = MAX_STEPS
        problems = [problem for call in interaction.tool_calls if (problem := self._problem(call, declared))]
        value = 1 - len(problems) / len(interaction.tool_calls)
        if problems:
            return Score(value, "invalid", "; ".join(problems)[:1_000])
        return Score(1.0, "valid")

    def _problem(self, call: ToolCall, declared: dict[str, ToolDefinition]) -> str:
        tool = declared.get(call.name)
        if tool is None:
            return f"{call.name[:100]!r} is not declared"
        if call.arguments is None or tool.parameters is None:
            return ""
        # A call without arguments is sent as an empty string by some clients.
        arguments = {} if call.arguments == "" else call.arguments
        if not isinstance(arguments, dict):
            return f"{call.name[:100]}: arguments are no JSON object"
        try:
            schema = self._schemas.get(tool.parameters)
        except SchemaUnusable:
            return ""
        try:
            problem = schema.problem(arguments, self._room)
        except (SchemaUnusable, InstanceTooLarge):
            return ""
        finally:
            self._room -= schema.steps
        return f"{call.name[:100]}: {problem}" if problem else ""
