"""Pages that are made from the code agree with it, and examples in them work."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
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


def _configurations() -> list[tuple[str, str]]:
    """Return (page, YAML) of every example of driftgate's own configuration."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = [
        (str(page.relative_to(ROOT)), block)
        for page in pages
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    ]
    # Those of an OpenTelemetry Collector, and rules of Prometheus, stand in the pages too.
    return [(page, block) for page, block in found if not block.startswith(("exporters:", "- alert:"))]


def test_example_configurations_are_valid(tmp_path: Path) -> None:
    examples = _configurations()
    assert {"README.md", "docs/collector.md", "docs/rollback.md"} <= {page for page, _ in examples}
    schema = Config.model_json_schema()
    for page, block in examples:
        file = tmp_path / f"{page.replace('/', '-')}.yaml"
        file.write_text(block)
        load(file, {})
        jsonschema.validate(json.loads(json.dumps(yaml.safe_load(block), default=str)), schema)


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
