-- Verdicts with the evidence they rest on; the whole evidence stands in "evidence" as JSON.
CREATE TABLE IF NOT EXISTS verdicts
(
    time DateTime64(9) CODEC(Delta, ZSTD(1)),
    tenant LowCardinality(String),
    verdict_id String CODEC(ZSTD(1)),
    kind LowCardinality(String),
    rollout LowCardinality(String),
    route LowCardinality(String),
    rubric LowCardinality(String),
    evaluator LowCardinality(String),
    arm LowCardinality(String),
    incumbent String,
    candidate String,
    state LowCardinality(String),
    previous_state LowCardinality(String),
    severity LowCardinality(String),
    action LowCardinality(String),
    reason String CODEC(ZSTD(1)),
    e_value Float64,
    e_threshold Float64,
    sr_value Float64,
    sr_threshold Float64,
    mean_difference Nullable(Float64),
    interval_low Nullable(Float64),
    interval_high Nullable(Float64),
    pairs UInt64,
    candidate_units UInt64,
    incumbent_units UInt64,
    worst_trace_ids Array(String) CODEC(ZSTD(1)),
    evidence String CODEC(ZSTD(1)),
    ingested_at DateTime64(9) CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(ingested_at)
PARTITION BY if(time >= toDateTime64('2020-01-01', 9, 'UTC') AND time < toDateTime64('2050-01-01', 9, 'UTC'), toYYYYMM(time, 'UTC'), 0)
ORDER BY (tenant, rollout, rubric, toStartOfHour(time, 'UTC'), verdict_id)
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1;

-- One row per incident; the highest version is how it stands.
CREATE TABLE IF NOT EXISTS incidents
(
    incident_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    cause String CODEC(ZSTD(1)),
    rollout LowCardinality(String),
    candidate String,
    state LowCardinality(String),
    severity LowCardinality(String),
    opened_at DateTime64(9),
    updated_at DateTime64(9),
    resolved_at Nullable(DateTime64(9)),
    summary String CODEC(ZSTD(1)),
    verdict_id String CODEC(ZSTD(1)),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (tenant, incident_id)
SETTINGS index_granularity = 8192;

CREATE TABLE IF NOT EXISTS rollbacks
(
    rollback_id String CODEC(ZSTD(1)),
    incident_id String CODEC(ZSTD(1)),
    tenant LowCardinality(String),
    rollout LowCardinality(String),
    candidate String,
    target LowCardinality(String),
    mode LowCardinality(String),
    state LowCardinality(String),
    requested_at DateTime64(9),
    called_at Nullable(DateTime64(9)),
    verified_at Nullable(DateTime64(9)),
    attempts UInt32,
    status_code UInt16,
    previous_state String CODEC(ZSTD(1)),
    detail String CODEC(ZSTD(1)),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (tenant, rollback_id)
SETTINGS index_granularity = 8192;

-- Records no stage could use. "value" holds the original bytes, "topic", "partition" and "offset" where they were.
CREATE TABLE IF NOT EXISTS dead_letters
(
    time DateTime64(9) CODEC(Delta, ZSTD(1)),
    tenant LowCardinality(String),
    stage LowCardinality(String),
    reason LowCardinality(String),
    error String CODEC(ZSTD(1)),
    topic LowCardinality(String),
    partition Int32,
    offset Int64,
    key String CODEC(ZSTD(1)),
    value String CODEC(ZSTD(3)),
    headers Map(LowCardinality(String), String) CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(time)
PARTITION BY toYYYYMM(time, 'UTC')
ORDER BY (stage, topic, partition, offset)
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1;

CREATE VIEW IF NOT EXISTS verdicts_latest AS
SELECT * FROM verdicts FINAL
ORDER BY time DESC, verdict_id
LIMIT 1 BY tenant, kind, rollout, route, rubric, candidate;

CREATE VIEW IF NOT EXISTS incidents_open AS
SELECT * FROM incidents FINAL WHERE state != 'resolved';
