"""Decide which queries may run on the embedded engine.

chDB runs inside this process with all of its rights: a table function, a scalar function or ``INTO OUTFILE`` would read
and write this machine's files. ClickHouse's ``readonly=1`` is set on every handle, but it stops neither ``file()`` as a
scalar function nor ``INTO OUTFILE``, and chDB takes several statements in one text. So each query is parsed by the
engine itself (``parseQueryToJSON``, which refuses several statements), every node of the syntax tree must be of a known
kind, every function in ``functions.txt``, every table in our database or in ``system``. What cannot be parsed or is not
known is refused. The text that runs is the engine's own formatting of the tree that was checked.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import msgspec

from sinks.clickhouse.exceptions import QueryError

Parse = Callable[[str, str], str]  # name of an engine function, its argument -> its result

_STATEMENTS = frozenset(
    {"SelectWithUnionQuery", "SelectIntersectExceptQuery", "SelectQuery", "ExplainQuery", "ShowTablesQuery",
     "ShowColumnsQuery", "ShowIndexesQuery"}
)  # fmt: skip
_NODES = _STATEMENTS | {
    "ArrayJoin", "Asterisk", "ColumnsApplyTransformer", "ColumnsExceptTransformer", "ColumnsListMatcher",
    "ColumnsRegexpMatcher", "ColumnsReplaceTransformer", "ColumnsReplaceTransformerReplacement",
    "ColumnsTransformerList", "Collation", "ExpressionList", "Function", "Identifier", "InterpolateElement", "Literal",
    "OrderByElement", "QualifiedAsterisk", "QualifiedColumnsListMatcher", "QualifiedColumnsRegexpMatcher",
    "QueryParameter", "SampleRatio", "Subquery", "TableExpression", "TableIdentifier", "TableJoin",
    "TablesInSelectQuery", "TablesInSelectQueryElement", "WindowDefinition", "WindowListElement", "WithElement",
}  # fmt: skip
_EXPLAINS = frozenset(
    {"EXPLAIN", "EXPLAIN AST", "EXPLAIN SYNTAX", "EXPLAIN QUERY TREE", "EXPLAIN PIPELINE", "EXPLAIN ESTIMATE"}
)
_TABLE_FUNCTIONS = frozenset(
    {"numbers", "numbers_mt", "zeros", "zeros_mt", "values", "view", "null", "generateseries", "generate_series",
     "generaterandom"}
)  # fmt: skip
_COMBINATORS = (
    "SimpleState", "MergeState", "OrDefault", "OrNull", "Resample", "ForEach", "Distinct", "ArgMin", "ArgMax", "State",
    "Merge", "Array", "Null", "Map", "If",
)  # fmt: skip
_SYSTEM = frozenset({"system", "information_schema"})
_HIDDEN_TABLES = frozenset({"stack_trace", "zookeeper", "zookeeper_connection", "zookeeper_info", "symbols"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")

# Statements the engine has no tree for, as its formatter writes them.
_QUOTED = r"(?:`[A-Za-z0-9_]+`|[A-Za-z_][A-Za-z0-9_]*)"
_PLAIN = re.compile(
    r"(?P<verb>DESCRIBE TABLE|EXISTS TABLE|EXISTS VIEW|EXISTS DATABASE|SHOW CREATE TABLE|SHOW CREATE VIEW|"
    rf"SHOW CREATE DATABASE)\s+(?:(?P<database>{_QUOTED})\.)?(?P<name>{_QUOTED})(?:\s+FORMAT\s+(?P<format>\w+))?"
)


class Approved(msgspec.Struct, frozen=True):
    """A query that may run: its text, the FORMAT it names (or none) and the settings it asks for."""

    sql: str
    format: str = ""
    settings: Mapping[str, str] = {}
    lists_settings: bool = False  # reads nothing but system.settings


class Gate:
    """Checks queries against one database.

    Parameters
    ----------
    database
        The only database whose tables may be read, beside ``system`` and ``information_schema``.
    allowed_setting
        Tells whether a query may change a setting.
    """

    def __init__(self, database: str, allowed_setting: Callable[[str], bool]) -> None:
        self._database = database
        self._allowed_setting = allowed_setting

    def check(self, sql: str, parameters: Mapping[str, str], parse: Parse) -> Approved:
        """Return what may run.

        Raises
        ------
        QueryError
            The query is not allowed (code 164, READONLY), or the engine cannot parse it (the engine's code).
        """
        canonical = parse("formatQuerySingleLine", sql)
        if match := _PLAIN.fullmatch(canonical):
            return self._plain_statement(match)
        try:
            tree = msgspec.json.decode(parse("parseQueryToJSON", sql), type=dict[str, Any])
        except QueryError as error:
            if error.code == 36:  # the engine has no tree for this kind of statement
                raise _refused("this kind of statement") from error
            raise
        except msgspec.DecodeError as error:
            raise _refused("a query whose syntax tree cannot be read") from error
        if tree.get("type") not in _STATEMENTS:
            raise _refused(f"{_words(tree.get('type'))} statements")
        output_format = _take_format(tree)
        changes = _take_settings(tree)
        tables: set[str] = set()
        self._walk(tree, parameters, tables)
        settings = self._settings(changes, parse)
        if changes:
            # The tree without its SETTINGS, as text, must be how the whole begins: so nothing was lost on the way.
            text = parse(
                "formatQuerySingleLine", parse("formatQueryFromJSON", msgspec.json.encode(tree).decode())
            )
            if not canonical.startswith(text):
                raise _refused("SETTINGS in a query of this shape (give them in the URL instead)")
            canonical = text
        elif output_format:
            suffix = f" FORMAT {output_format}"
            if not canonical.endswith(suffix):
                raise _refused("FORMAT at this place")
            canonical = canonical.removesuffix(suffix)
        return Approved(canonical, output_format, settings, tables == {"system.settings"})

    def _plain_statement(self, match: re.Match[str]) -> Approved:
        name = match["name"].strip("`")
        if match["verb"].endswith("DATABASE"):
            self._check_table([name, ""])
        elif match["database"]:
            self._check_table([match["database"].strip("`"), name])
        output_format = match["format"] or ""
        return Approved(match[0].removesuffix(f" FORMAT {output_format}"), output_format)

    def _walk(self, node: Any, parameters: Mapping[str, str], tables: set[str]) -> None:
        pending = [(node, False)]
        while pending:
            item, table_function = pending.pop()
            if isinstance(item, list):
                pending.extend((child, False) for child in item)
                continue
            if not isinstance(item, dict):
                continue
            kind = item.get("type")
            if kind is not None:
                self._check_node(kind, item, table_function, parameters, tables)
            # A literal's value is data: a map in it may well have a key called "type".
            if kind == "Literal":
                continue
            pending.extend((child, key == "table_function") for key, child in item.items())

    def _check_node(
        self,
        kind: Any,
        node: dict[str, Any],
        table_function: bool,
        parameters: Mapping[str, str],
        tables: set[str],
    ) -> None:
        if kind == "SetQuery":
            raise _refused("SETTINGS inside a query (give them at its end or in the URL)")
        if kind not in _NODES:
            raise _refused(_words(kind))
        if "out_file" in node:
            raise _refused("INTO OUTFILE")
        if kind == "Function":
            _check_function(node.get("name"), table_function)
        elif kind == "ColumnsApplyTransformer" and "func_name" in node:
            _check_function(node["func_name"], False)
        elif kind in ("Identifier", "TableIdentifier"):
            parts = _name_parts(node, parameters)
            if kind == "TableIdentifier":
                tables.add(".".join(parts))
            self._check_table(parts, table=kind == "TableIdentifier")
        elif kind == "QueryParameter" and node.get("param_type") == "Identifier":
            value = parameters.get(node.get("name", ""), "")
            if not _NAME.fullmatch(value):
                raise _refused("an Identifier parameter that is not a plain name")
            self._check_table(value.split("."))
        elif kind == "ExplainQuery" and node.get("kind") not in _EXPLAINS:
            raise _refused(str(node.get("kind")))
        elif kind in ("ShowTablesQuery", "ShowColumnsQuery", "ShowIndexesQuery"):
            for key in ("from", "database"):
                if isinstance(name := node.get(key), str):
                    self._check_table([name, ""])
                elif isinstance(name, dict):
                    self._check_table([str(name.get("name", "")), ""])

    def _check_table(self, parts: list[str], table: bool = True) -> None:
        """Check a possibly qualified name. A column may be called like anything, so only a table must be in our databases."""
        if len(parts) < 2:
            return
        first = parts[0]
        if first.lower() in _SYSTEM:
            if parts[1].lower() in _HIDDEN_TABLES:
                raise _refused(f"table {first}.{parts[1]}")
        elif (table or first == "default") and first != self._database:
            raise _refused(f"database {first} (tables are in {self._database})")

    def _settings(self, changes: list[tuple[str, Any]], parse: Parse) -> dict[str, str]:
        settings: dict[str, str] = {}
        for name, value in changes:
            if name == "additional_table_filters":
                settings[name] = self._filters(value, parse)
            elif self._allowed_setting(name) and isinstance(value, (str, int, float)):
                settings[name] = str(int(value)) if isinstance(value, bool) else str(value)
            else:
                raise QueryError(164, f"Setting {name} cannot be changed here", "READONLY")
        return settings

    def _filters(self, value: Any, parse: Parse) -> str:
        """Check the filters Grafana sends: a map from table to expression, as text that the engine will parse."""
        if not isinstance(value, list):
            raise _refused("additional_table_filters that are not a map")
        pairs = []
        for entry in value:
            match entry:
                case {"value": [{"value": str() as table}, {"value": str() as expression}]}:
                    self.check(f"SELECT 1 WHERE ({expression})", {}, parse)
                    pairs.append(f"{quote(table)}: {quote(expression)}")
                case _:
                    raise _refused("additional_table_filters that are not a map from table to expression")
        return "{" + ", ".join(pairs) + "}"


def _take_format(tree: dict[str, Any]) -> str:
    """Take the FORMAT of the outermost query out of the tree."""
    inner = tree.get("query")
    node = tree.pop("format_ast", None)
    if node is None and tree.get("type") == "ExplainQuery" and isinstance(inner, dict):
        node = inner.pop("format_ast", None)
    if node is None:
        return ""
    name = node.get("name", "") if isinstance(node, dict) else ""
    if not isinstance(name, str) or not re.fullmatch(r"\w{1,64}", name):
        raise _refused("this FORMAT")
    return name


def _name_parts(node: dict[str, Any], parameters: Mapping[str, str]) -> list[str]:
    """Return the parts of a name, with parameters in their places."""
    values = [
        parameters.get(str(child.get("name", "")), "")
        for child in node.get("children", [])
        if isinstance(child, dict) and child.get("type") == "QueryParameter"
    ]
    parts = list(node.get("name_parts") or [node.get("name", "")])
    if not values:
        return parts
    filled = [part or (values.pop(0) if values else "") for part in parts]
    return [piece for part in filled for piece in part.split(".")]


def _take_settings(tree: dict[str, Any]) -> list[tuple[str, Any]]:
    """Take the SETTINGS of the outermost query out of the tree; deeper ones stay and are refused."""
    if tree.get("type") == "ExplainQuery":
        tree.pop("settings", None)  # what EXPLAIN shows
        return []
    holders = [tree]
    selects = tree.get("list_of_selects")
    if isinstance(selects, dict) and len(children := selects.get("children", [])) == 1:
        holders.append(children[0])
    changes: list[tuple[str, Any]] = []
    for holder in holders:
        for key in ("settings_ast", "settings"):
            node = holder.get(key)
            if not isinstance(node, dict):
                continue
            del holder[key]
            changes.extend(
                (change["name"], _plain(change.get("value"))) for change in node.get("changes", [])
            )
    return changes


def _plain(value: Any) -> Any:
    return value.get("value") if isinstance(value, dict) else value


def _check_function(name: Any, table_function: bool) -> None:
    if not isinstance(name, str):
        raise _refused("a function without a name")
    lowered = name.lower()
    if table_function:
        if lowered not in _TABLE_FUNCTIONS:
            raise _refused(f"table function {name}")
        return
    if lowered in allowed_functions() or lowered in _TABLE_FUNCTIONS:
        return
    base = name
    while suffix := next(
        (item for item in _COMBINATORS if base.endswith(item) and len(base) > len(item)), ""
    ):
        base = base.removesuffix(suffix)
        if base.lower() in allowed_functions():
            return
    raise _refused(f"function {name}")


@functools.cache
def allowed_functions() -> frozenset[str]:
    """Return the names in ``functions.txt``."""
    text = (files("sinks.clickhouse") / "functions.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


def quote(text: str) -> str:
    """Return ``text`` as a SQL string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _refused(what: str) -> QueryError:
    return QueryError(164, f"The query endpoint does not allow {what}", "READONLY")


def _words(kind: Any) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(kind)).removesuffix(" Query").upper()
