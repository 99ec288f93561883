"""Never score a scorer: recognise the spans of judges' own calls, or every judgement would be judged again."""

from __future__ import annotations

from scorers.judging.prompt import MARK
from stream.interaction import Interaction

SERVICE = "driftgate"
ATTRIBUTE = "driftgate.judge"


def is_own(interaction: Interaction) -> bool:
    """True for what driftgate itself sent or asked.

    That is service ``driftgate``, the attribute ``driftgate.judge``, or a judge's own system message: the last is how a
    judge call is recognised that went through an instrumented gateway.
    """
    return (
        interaction.service == SERVICE
        or bool(interaction.attributes.get(ATTRIBUTE))
        or interaction.system_text.startswith(MARK)
    )
