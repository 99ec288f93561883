"""Pages that are made from the code agree with it, and examples in them work."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from driftgate import Interaction, Message, Part
from driftgate.config import Config, load
from driftgate.reference import reference

ROOT = Path(__file__).resolve().parents[2]


def test_the_configuration_page_is_what_the_command_prints() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    assert page == reference(Config), "run: driftgate config reference > docs/configuration.md"


def test_every_key_has_a_meaning() -> None:
    rows = [line for line in reference(Config).splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.rstrip(" |").endswith("|")] == []


@pytest.mark.parametrize("path", ["README.md"])
def test_example_configurations_are_valid(path: str, tmp_path: Path) -> None:
    text = (ROOT / path).read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if path.endswith(".md") else [text]
    assert blocks
    schema = Config.model_json_schema()
    for block in blocks:
        file = tmp_path / "driftgate.yaml"
        file.write_text(block)
        load(file, {})
        jsonschema.validate(yaml.safe_load(block), schema)


def test_the_schema_is_a_valid_schema() -> None:
    schema = Config.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    json.dumps(schema)


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)} -> {target}"
        for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_scorer_in_the_readme_scores() -> None:
    text = (ROOT / "README.md").read_text()
    (block,) = (code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class" in code)
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    polite = names["Polite"]()  # type: ignore[operator]
    interaction = Interaction(
        trace_id="1" * 32,
        span_id="2" * 16,
        output_messages=[Message(role="assistant", parts=[Part(type="text", content="Please wait.")])],
    )
    assert polite.score(interaction).value == 1.0
