"""Incidents: their states, the outbox, and the one SQLite file that holds both."""
