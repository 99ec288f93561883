"""The configuration file: one model for every section, and errors that name the line, the key and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from collector.settings import CollectorSettings
from drift.direction import STREAMS
from drift.settings import DriftSettings
from driftgate.yaml_source import URL_SECTIONS, Location, Source, read_source
from scorers.sampling.settings import SamplingSettings
from scorers.settings import ScorersSettings
from sinks.alerts_settings import AlertSettings, RollbackSettings
from sinks.store_settings import QuerySettings, StoreSettings
from stream.errors import ConfigError
from stream.kafka.settings import SCHEME as KAFKA
from stream.kafka.settings import KafkaSettings
from stream.secret import Secret
from stream.settings import ByteSize, Seconds, Settings


class LogSettings(Settings):
    """The log between the stages."""

    url: str = "sqlite:///"
    """`sqlite:///` (a file in the data folder), `sqlite:///relative/file.db`, `sqlite:////absolute/file.db` (four slashes), or
    `kafka://host:port[,host:port]/?option=value&…` for `driftgate collector` and `driftgate worker` (docs/kafka.md)."""
    max_age: Seconds = Field(default=7 * 86400.0, gt=0)
    """How long records are kept for replay after every stage has handled them."""
    max_bytes: ByteSize = Field(default=20 << 30, ge=1 << 20)
    """Size above which handled records are removed early; if only unhandled ones are left, spans are refused."""

    @field_validator("url")
    @classmethod
    def _known(cls, url: str) -> str:
        if url.startswith(KAFKA):
            KafkaSettings.from_url(url)  # a ValueError says which option is wrong
        elif not url.startswith("sqlite://"):
            raise ValueError(
                "use sqlite:///, sqlite:///relative/file.db, sqlite:////absolute/file.db or kafka://host:port/?option=value"
            )
        return url

    @property
    def kafka(self) -> KafkaSettings:
        """What the URL says.

        Raises
        ------
        ConfigError
            It is not a kafka:// URL.
        """
        if not self.url.startswith(KAFKA):
            raise ConfigError(
                "this command works on Kafka: set `log: kafka://host:port/?…`; "
                "one process without servers is `driftgate up`"
            )
        return KafkaSettings.from_url(self.url)


class WebSettings(Settings):
    """The administration port: metrics, health, status, incidents and pull gates."""

    enabled: bool = True
    """Serve it at all."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on; 0 picks a free one."""
    token: Secret | None = None
    """Bearer token asked for everything but health. Needed where `host` is not loopback."""

    @model_validator(mode="after")
    def _guarded(self) -> WebSettings:
        loopback = self.host in ("localhost", "::1") or self.host.startswith("127.")
        if self.enabled and self.token is None and not loopback:
            raise ValueError(f"listening on {self.host} needs a token: set token: ${{env:NAME}}")
        return self


class LoggingSettings(Settings):
    """What driftgate says about itself."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages to write."""
    format: Literal["console", "json"] = "console"
    """For people or for machines."""


class Config(Settings):
    """Everything driftgate can be told. Every section may be missing."""

    data: Path = Path("driftgate-data")
    """Folder for everything that is stored; created if missing, readable by its owner only. A relative path starts in the
    working directory."""
    log: LogSettings = LogSettings()
    store: StoreSettings = StoreSettings()
    collector: CollectorSettings = CollectorSettings()
    sampling: SamplingSettings = SamplingSettings()
    scorers: ScorersSettings = ScorersSettings()
    drift: DriftSettings = DriftSettings()
    alerts: AlertSettings = AlertSettings()
    rollback: RollbackSettings = RollbackSettings()
    query: QuerySettings = QuerySettings()
    web: WebSettings = WebSettings()
    logging: LoggingSettings = LoggingSettings()
    shutdown_grace: Seconds = Field(default=30.0, gt=0)
    """Longest time a stop may take: receivers close, stages drain, then everything is closed."""

    @model_validator(mode="before")
    @classmethod
    def _short_urls(cls, data: Any) -> Any:
        """Let `log:` and `store:` be a URL where nothing else is said."""
        if isinstance(data, dict):
            data = dict(data)
            for key in URL_SECTIONS:
                if isinstance(data.get(key), str):
                    data[key] = {"url": data[key]}
        return data

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Let editors accept the short form, too."""
        made = handler(schema)
        properties = handler.resolve_ref_schema(made)["properties"]
        for key in URL_SECTIONS:
            properties[key] = {"anyOf": [{"type": "string", "format": "uri"}, properties[key]]}
        return made

    @model_validator(mode="after")
    def _names_stay_out_of_the_store(self) -> Config:
        if self.collector.redaction.ner is not None and self.store.spans == "all":
            raise ValueError(
                "with collector.redaction.ner names are replaced in sampled traces only, but store.spans: all writes "
                "every span before it was sampled; set store.spans: none"
            )
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        """What needs two sections is checked here, where both are known."""
        if not self.sampling.operations.enabled and any(
            budget.of == "application" for budget in self.drift.budgets
        ):
            raise ValueError(
                "drift.budgets sum what sampling.operations tells, and that is switched off: set "
                "sampling.operations.enabled: true, or give the budgets of: judges"
            )
        taken = {rubric.name or rubric.use for rubric in self.scorers.rubrics}
        taken |= {judge.name or judge.rubric for judge in self.scorers.judges}
        if clash := taken & set(STREAMS):
            raise ValueError(
                f"scorers: {min(clash)!r} is the name of an operational stream; give the rubric another name"
            )
        return self

    @property
    def log_path(self) -> Path:
        """Where the SQLite log stands.

        Raises
        ------
        ConfigError
            The log is on Kafka.
        """
        if self.log.url.startswith(KAFKA):
            raise ConfigError(
                "this command works on the log of one process, and `log` is on Kafka: "
                "use `driftgate collector` and `driftgate worker STAGE`, or set `log: sqlite:///`"
            )
        given = self.log.url.removeprefix("sqlite://").removeprefix("/")
        return Path(given) if given else self.data / "log.db"

    @property
    def store_folder(self) -> Path:
        """Where the embedded store stands."""
        given = self.store.target.path
        return Path(given) if given else self.data / "store"


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Config:
    """Return the configuration in ``path`` (none: all defaults) with the environment laid over it.

    Raises
    ------
    ConfigError
        One message that lists every mistake: where it stands, which key, what is wrong, how to fix it.
    """
    source = read_source(path, environment)
    try:
        return Config.model_validate(source.data)
    except ValidationError as error:
        raise ConfigError(explain(error, source)) from error


def explain(error: ValidationError, source: Source) -> str:
    """Return what is wrong, one line a mistake: ``file: line 7: `collector.grpc.prot`: unknown key; did you mean …``."""
    lines = []
    found = error.errors(include_url=False)
    # A value that may be an object or its text fails as both; only the text can be mended in a file.
    told = {item["loc"][:-1] for item in found if item["type"] == "value_error"}
    for item in found:
        if item["type"] == "is_instance_of" and item["loc"][:-1] in told:
            continue
        location: Location = item["loc"]
        written, where = source.where(location)
        key = ".".join(str(part) for part in written) or "(top)"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = _unknown(location)
        elif item["type"] == "missing":
            message = f"`{location[-1]}` is missing here"
        elif item["type"] == "model_type":
            message = "expected `key: value` pairs"
            if item["input"] is None:
                message += "; leave the section out for its defaults"
        elif item["type"] == "path_type":
            message = "expected a path"
        place = f"{source.name}: {where}" if where.startswith("line") else where or source.name
        lines.append(f"{place}: `{key}`: {message}")
    return "\n".join(lines)


def _unknown(location: Location) -> str:
    model = _model_at(location[:-1])
    known = sorted(model.model_fields) if model else []
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f"unknown key; did you mean `{close[0]}`?"
    return f"unknown key; known here: {', '.join(known)}" if known else "unknown key"


def _model_at(location: Location) -> type[BaseModel] | None:
    """Return the model that describes ``location``, following lists and unions as far as they are unambiguous."""
    candidates: list[type[BaseModel]] = [Config]
    for part in location:
        found: list[type[BaseModel]] = []
        for model in candidates:
            if isinstance(part, str) and part in model.model_fields:
                found.extend(_models_in(model.model_fields[part].annotation))
        named = [model for model in candidates if model.__name__ == part]
        candidates = found or named or candidates
    return candidates[0] if candidates else None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
