"""The settings that the pages show can be used as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.ingest import Ingest
from collector.settings import CollectorSettings
from collector.tenants import Tenants

_DOCS = Path(__file__).parents[2] / "docs"
_EXAMPLES = [
    pytest.param(document["collector"], id=f"{page}-{number}")
    for page in ("collector.md", "redaction.md")
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", (_DOCS / page).read_text(), re.DOTALL))
    if "collector" in (document := yaml.safe_load(block))
]


@pytest.mark.parametrize("section", _EXAMPLES)
def test_an_example_starts(section: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("PSEUDONYM_KEY", "PSEUDONYM_KEY_2026")):
        monkeypatch.setenv(name, str(number) * 32)
    settings = CollectorSettings.model_validate(section)
    Ingest(settings)
    Tenants(settings.tenants)
