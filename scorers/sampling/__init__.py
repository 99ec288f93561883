"""Trace assembly and tail sampling: which whole traces are scored, and with which inclusion probability."""
