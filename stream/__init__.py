"""The ground floor: the records that flow, and the log they flow through.

Stages import this package and nothing else of driftgate.
"""
