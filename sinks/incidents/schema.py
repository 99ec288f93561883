"""Tables of the incident database, and how an older file becomes a newer one."""

from __future__ import annotations

# One entry per schema version; a file at version n gets the scripts after n, each in one transaction.
MIGRATIONS = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value);
    INSERT INTO meta VALUES ('change_seq', 0), ('kill_switch', '');

    CREATE TABLE offsets (
        topic TEXT, partition INTEGER, next_offset INTEGER NOT NULL, PRIMARY KEY (topic, partition)
    );
    CREATE TABLE applied (
        verdict_id TEXT PRIMARY KEY, topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL,
        at INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX applied_at ON applied (at);
    CREATE TABLE totals (
        partition INTEGER, name TEXT, value INTEGER NOT NULL, PRIMARY KEY (partition, name)
    ) WITHOUT ROWID;

    CREATE TABLE incidents (
        incident_id TEXT PRIMARY KEY, tenant TEXT NOT NULL, cause TEXT NOT NULL, kind TEXT NOT NULL,
        rollout TEXT NOT NULL, route TEXT NOT NULL, arm TEXT NOT NULL, incumbent TEXT NOT NULL,
        candidate TEXT NOT NULL, state TEXT NOT NULL, severity TEXT NOT NULL, opened_at INTEGER NOT NULL,
        firing_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, resolved_at INTEGER NOT NULL,
        clear_since INTEGER NOT NULL, last_verdict_at INTEGER NOT NULL, acknowledged_at INTEGER NOT NULL,
        acknowledged_by TEXT NOT NULL, silenced_until INTEGER NOT NULL, silenced_by TEXT NOT NULL,
        summary TEXT NOT NULL, resolution TEXT NOT NULL, verdict_id TEXT NOT NULL, partition INTEGER NOT NULL,
        version INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX one_open_incident ON incidents (cause) WHERE state <> 'resolved';
    CREATE INDEX incidents_version ON incidents (version);
    CREATE INDEX incidents_resolved ON incidents (resolved_at) WHERE state = 'resolved';

    CREATE TABLE conditions (
        incident_id TEXT REFERENCES incidents ON DELETE CASCADE, rubric TEXT, state TEXT NOT NULL,
        severity TEXT NOT NULL, since INTEGER NOT NULL, updated_at INTEGER NOT NULL, verdict_id TEXT NOT NULL,
        reason TEXT NOT NULL, verdict BLOB NOT NULL, PRIMARY KEY (incident_id, rubric)
    ) WITHOUT ROWID;

    CREATE TABLE history (
        seq INTEGER PRIMARY KEY, incident_id TEXT NOT NULL REFERENCES incidents ON DELETE CASCADE,
        at INTEGER NOT NULL, what TEXT NOT NULL, detail TEXT NOT NULL, who TEXT NOT NULL
    );
    CREATE INDEX history_incident ON history (incident_id, seq);

    CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY, message_id TEXT NOT NULL UNIQUE, lane TEXT NOT NULL,
        incident_id TEXT NOT NULL REFERENCES incidents ON DELETE CASCADE, event TEXT NOT NULL,
        severity TEXT NOT NULL, note TEXT NOT NULL, state TEXT NOT NULL, created_at INTEGER NOT NULL,
        due_at INTEGER NOT NULL, lease_until INTEGER NOT NULL, lease_owner TEXT NOT NULL,
        attempts INTEGER NOT NULL, payload BLOB NOT NULL, error TEXT NOT NULL, done_at INTEGER NOT NULL
    );
    CREATE INDEX outbox_due ON outbox (lane, due_at) WHERE state = 'queued';
    CREATE INDEX outbox_incident ON outbox (incident_id, lane, seq);
    CREATE INDEX outbox_done ON outbox (done_at) WHERE state <> 'queued';

    CREATE TABLE attempts (
        message_id TEXT, number INTEGER, lane TEXT NOT NULL, started_at INTEGER NOT NULL,
        severity TEXT NOT NULL, status_code INTEGER NOT NULL, outcome TEXT NOT NULL,
        PRIMARY KEY (message_id, number)
    ) WITHOUT ROWID;
    CREATE INDEX attempts_lane ON attempts (lane, started_at);
    CREATE TABLE lanes (lane TEXT PRIMARY KEY, next_at INTEGER NOT NULL) WITHOUT ROWID;

    CREATE TABLE rollbacks (
        rollback_id TEXT PRIMARY KEY, incident_id TEXT NOT NULL REFERENCES incidents ON DELETE CASCADE,
        tenant TEXT NOT NULL, rollout TEXT NOT NULL, route TEXT NOT NULL, arm TEXT NOT NULL,
        incumbent TEXT NOT NULL, candidate TEXT NOT NULL, target TEXT NOT NULL, mode TEXT NOT NULL,
        state TEXT NOT NULL, automatic INTEGER NOT NULL, decision_id TEXT NOT NULL, reason TEXT NOT NULL,
        requested_at INTEGER NOT NULL, decided_at INTEGER NOT NULL, decided_by TEXT NOT NULL,
        called_at INTEGER NOT NULL, verified_at INTEGER NOT NULL, attempts INTEGER NOT NULL,
        status_code INTEGER NOT NULL, previous_state BLOB NOT NULL, undo BLOB NOT NULL, sent INTEGER NOT NULL,
        detail TEXT NOT NULL, verification BLOB NOT NULL, next_check_at INTEGER NOT NULL,
        partition INTEGER NOT NULL, version INTEGER NOT NULL
    );
    CREATE INDEX rollbacks_incident ON rollbacks (incident_id);
    CREATE INDEX rollbacks_rollout ON rollbacks (tenant, rollout, candidate);
    CREATE INDEX rollbacks_version ON rollbacks (version);
    CREATE INDEX rollbacks_check ON rollbacks (next_check_at) WHERE next_check_at > 0;
    """,
    # Two prompts with the same version on one route are two causes.
    """
    ALTER TABLE incidents ADD COLUMN prompt_name TEXT NOT NULL DEFAULT '';
    ALTER TABLE rollbacks ADD COLUMN prompt_name TEXT NOT NULL DEFAULT ''
    """,
)
