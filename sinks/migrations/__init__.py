"""The store's schema, one file per step.

Files are called ``NNNN_name.sql`` and never change once released. A statement ends with ``;`` at the end of a line and
can be run again without harm, so that a crash in the middle of a step is healed by the next start.
"""
