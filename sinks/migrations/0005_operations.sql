-- What every trace did, kept or not.
CREATE TABLE IF NOT EXISTS operations
(
    time DateTime64(9) CODEC(Delta, ZSTD(1)),
    tenant LowCardinality(String),
    trace_id String CODEC(ZSTD(1)),
    unit_id String CODEC(ZSTD(1)),
    flags Array(LowCardinality(String)) CODEC(ZSTD(1)),
    latency_s Nullable(Float64),
    first_token_s Nullable(Float64),
    input_tokens Nullable(UInt64),
    output_tokens Nullable(UInt64),
    cached_tokens Nullable(UInt64),
    cost_usd Nullable(Float64),
    tool_calls UInt32,
    tool_failures UInt32,
    cache_hit Nullable(Bool),
    route LowCardinality(String),
    prompt_name LowCardinality(String),
    prompt_version LowCardinality(String),
    model LowCardinality(String),
    user_cohort LowCardinality(String),
    service LowCardinality(String),
    environment LowCardinality(String),
    ingested_at DateTime64(9) CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(ingested_at)
PARTITION BY if(time >= toDateTime64('2020-01-01', 9, 'UTC') AND time < toDateTime64('2050-01-01', 9, 'UTC'), toYYYYMM(time, 'UTC'), 0)
ORDER BY (tenant, route, toStartOfHour(time, 'UTC'), trace_id)
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1;

ALTER TABLE verdicts ADD COLUMN IF NOT EXISTS prompt_name LowCardinality(String) AFTER route;

ALTER TABLE verdicts ADD COLUMN IF NOT EXISTS attribution LowCardinality(String) AFTER action;

ALTER TABLE scores ADD COLUMN IF NOT EXISTS anchor String AFTER policy;

ALTER TABLE scores ADD COLUMN IF NOT EXISTS reference Nullable(Float64) AFTER anchor;

-- Two prompts of one route may have the same version; and a column added to a table is not in a view made before it.
DROP VIEW IF EXISTS verdicts_latest;

CREATE VIEW IF NOT EXISTS verdicts_latest AS
SELECT * FROM verdicts FINAL
ORDER BY time DESC, verdict_id
LIMIT 1 BY tenant, kind, rollout, route, prompt_name, rubric, candidate;

DROP VIEW IF EXISTS scores_latest;

CREATE VIEW IF NOT EXISTS scores_latest AS
SELECT * FROM scores FINAL
WHERE anchor = ''
ORDER BY ingested_at DESC, time DESC, score_id
LIMIT 1 BY tenant, trace_id, span_id, rubric, evaluator;

DROP VIEW IF EXISTS worst_scores;

CREATE VIEW IF NOT EXISTS worst_scores AS
SELECT tenant, time, rubric, value, label, explanation, trace_id, span_id, unit_id, route, prompt_version, model,
    user_cohort, evaluator, lane, probability
FROM scores FINAL
WHERE status = 'scored' AND anchor = ''
ORDER BY value, time DESC;
