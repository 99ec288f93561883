"""Stage 3: units -> cohorts -> windows -> sequential tests -> verdicts."""
