"""Find plug-ins: those that ship as one file in a package, and those a user names.

A user names a plug-in by entry point (``my-scorer``), by ``package.module:attr``, or by ``path/to/file.py:attr``. The
last is loaded by path, so that a user's own folder called ``scorers`` never clashes with ours.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from stream.errors import ConfigError
from stream.records import stable_id


def load(reference: str, group: str, *, base: Path | None = None) -> Any:
    """Return the object that ``reference`` names.

    Parameters
    ----------
    reference
        Entry point name, ``package.module:attr`` or ``path/to/file.py:attr``.
    group
        Entry-point group, for example ``driftgate.scorers``.
    base
        Folder that relative paths start from; the working directory if not given.

    Raises
    ------
    ConfigError
        Nothing by that name, or it fails on import; the message says which and how to fix it.
    """
    target, colon, attribute = reference.rpartition(":")
    if not colon:
        for point in entry_points(group=group):
            if point.name == reference:
                return _guard(reference, point.load)
        raise ConfigError(
            f"no plug-in called {reference!r}: install a package with an entry point of that name in {group!r}, "
            "or name it as package.module:attr or path/to/file.py:attr"
        )
    if target.endswith(".py"):
        path = (base or Path.cwd()) / target
        if not path.is_file():
            raise ConfigError(f"plug-in file {path} does not exist (named by {reference!r})")
        module = _guard(reference, lambda: _load_path(path))
    else:
        module = _guard(reference, lambda: importlib.import_module(target))
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise ConfigError(f"{target} has no {attribute!r} (named by {reference!r})") from error


def _load_path(path: Path) -> Any:
    name = f"driftgate_plugin_{stable_id(str(path.resolve()))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _guard(reference: str, importer: Any) -> Any:
    try:
        return importer()
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # a script that ends the interpreter is no plug-in
        raise ConfigError(
            f"plug-in {reference!r} fails on import: {error.__class__.__name__}: {error}"
        ) from error


def subclasses_in(package: str, base: type[Any]) -> dict[str, type[Any]]:
    """Import every module of ``package`` and return its concrete subclasses of ``base`` by their ``name`` attribute.

    This is how "adding a scorer, a rule, a target or a channel is adding one file" works.
    """
    found: dict[str, type[Any]] = {}
    root = importlib.import_module(package)
    for info in sorted(pkgutil.iter_modules(root.__path__), key=lambda item: item.name):
        module = importlib.import_module(f"{package}.{info.name}")
        for value in vars(module).values():
            if not (
                inspect.isclass(value) and value.__module__ == module.__name__ and issubclass(value, base)
            ):
                continue
            name = getattr(value, "name", None)
            if inspect.isabstract(value) or not isinstance(name, str) or not name:
                continue
            if name in found:
                raise ConfigError(f"{package} has two plug-ins called {name!r}")
            found[name] = value
    return found
