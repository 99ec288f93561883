"""The configuration that the demo writes for its ``driftgate up``: a user's file, only with shorter times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

INCUMBENT = "support@v17"
CANDIDATE = "support@v18"
ROLLOUT = "support-prompt"


def document(
    data: Path, gateway_port: int, pagerduty_url: str, hosts: list[str], places: dict[str, Any]
) -> dict[str, Any]:
    """Return the configuration file as plain data; secrets are references to variables the demo sets.

    ``places`` holds the sections ``log`` and ``store`` where they are not the default ones.
    """
    gateway = f"http://127.0.0.1:{gateway_port}"
    return {
        "data": str(data),
        **places,
        "logging": {"format": "json"},
        "collector": {"grpc": {"port": 0}, "http": {"port": 0}},
        "query": {"port": 0},
        "web": {"port": 0},
        # A demo cannot wait for minutes: traces are complete after a second, a session after two.
        "sampling": {"completion": {"after_root": "1s", "idle": "4s"}},
        "scorers": {
            "judges": [
                {
                    "rubric": "answer_relevance",
                    "model": "openai/judge",
                    "api_base": f"{gateway}/v1",
                    "api_key": "${env:DEMO_JUDGE_KEY}",
                }
            ]
        },
        "drift": {
            "bucket": "1s",
            "lateness": "3s",
            "report_every": "1s",
            "units": {"idle": "2s", "trace_idle": "1s"},
            "rollouts": [
                {
                    "name": ROLLOUT,
                    "match": {"route": "/support"},
                    "arm": "prompt_version",
                    "incumbent": INCUMBENT,
                    "candidate": "auto",
                    "rubrics": ["groundedness_lexical", "refusal"],
                    "bucket": "2s",
                }
            ],
        },
        "alerts": {
            "group_wait": "1s",
            "keep_firing": "5s",
            "allow_hosts": hosts,
            "channels": [
                {"name": "slack", "type": "slack", "url": "${env:DEMO_SLACK_URL}"},
                {
                    "name": "pagerduty",
                    "type": "pagerduty",
                    "routing_key": "${env:DEMO_PAGERDUTY_KEY}",
                    "url": pagerduty_url,
                },
            ],
        },
        "rollback": {
            "mode": "enforce",
            "allow_hosts": [f"127.0.0.1:{gateway_port}"],
            "targets": [
                {
                    "name": "gateway",
                    "rollout": ROLLOUT,
                    "type": "http",
                    "url": f"{gateway}/rollback",
                    "token": "${env:DEMO_GATEWAY_TOKEN}",
                    "read": {
                        "url": f"{gateway}/prompts/support",
                        "pointer": "/newest_active",
                        "done": INCUMBENT,
                        "expect": CANDIDATE,
                    },
                }
            ],
            "verify": {
                "settle": "2s",
                "hold": "6s",
                "telemetry_lag": "4s",
                "deadline": "45s",
                "interval": "1s",
                "min_incumbent_traffic": 20,
            },
        },
    }
