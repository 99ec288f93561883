"""The child processes of the demo: started with their output in files, always ended again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from driftgate.yaml_source import ENV_PREFIX
from stream.errors import StartError


class Child:
    """One child process whose output goes to ``<folder>/<name>.log``.

    Variables that set keys of driftgate's configuration are not passed on: they name somebody's own data folder and log.
    """

    def __init__(self, name: str, arguments: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._output = self.log.open("wb")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(ENV_PREFIX)}
        self._process = subprocess.Popen(  # noqa: S603 - our own programs
            [sys.executable, *arguments],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**inherited, **environment},
        )

    def check(self) -> None:
        """Raise StartError when the process has ended."""
        code = self._process.poll()
        if code is not None:
            raise StartError(f"{self.name} ended with code {code}:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def first_json(self, timeout: float) -> dict[str, Any]:
        """Wait for the first line of its output, which must be a JSON object."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self.check()
            line, newline, _ = self.log.read_text(errors="replace").partition("\n")
            if newline:
                found: dict[str, Any] = json.loads(line)
                return found
            time.sleep(0.05)
        raise StartError(f"{self.name} said nothing within {timeout:.0f} s")

    def ready(self, timeout: float) -> dict[str, Any]:
        """Wait until it logs that it is ready; return that line, which names its addresses."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self.check()
            for line in self.log.read_text(errors="replace").splitlines():
                if '"event": "ready"' in line:
                    found: dict[str, Any] = json.loads(line)
                    return found
            time.sleep(0.1)
        raise StartError(f"{self.name} was not ready within {timeout:.0f} s:\n{self.tail()}")

    def wait(self, timeout: float) -> int:
        """Wait until it has ended; return its exit code.

        Raises
        ------
        StartError
            It still runs.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise StartError(f"{self.name} did not end within {timeout:.0f} s") from error

    def usage(self) -> tuple[float, float]:
        """Return CPU seconds used so far and resident memory in MiB; zeros when it has ended."""
        try:
            process = psutil.Process(self._process.pid)
            times = process.cpu_times()
            return times.user + times.system, process.memory_info().rss / 2**20
        except psutil.NoSuchProcess:
            return 0.0, 0.0

    def stop(self, grace: float) -> int | None:
        """End it with SIGTERM, after ``grace`` seconds with SIGKILL; idempotent. Return its exit code."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._output.close()
        return self._process.returncode
