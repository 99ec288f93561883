-- What the rubrics said. score_id is deterministic, so a score that is delivered twice is one row.
CREATE TABLE IF NOT EXISTS scores
(
    time DateTime64(9) CODEC(Delta, ZSTD(1)),
    tenant LowCardinality(String),
    rubric LowCardinality(String),
    score_id String CODEC(ZSTD(1)),
    trace_id String CODEC(ZSTD(1)),
    span_id String CODEC(ZSTD(1)),
    unit_id String CODEC(ZSTD(1)),
    status LowCardinality(String),
    value Nullable(Float64),
    label LowCardinality(String),
    explanation String CODEC(ZSTD(1)),
    reason LowCardinality(String),
    evaluator LowCardinality(String),
    evaluator_kind LowCardinality(String),
    judge_model LowCardinality(String),
    cost_usd Float64,
    input_tokens UInt64,
    output_tokens UInt64,
    lane LowCardinality(String),
    policy LowCardinality(String),
    probability Nullable(Float64),
    cohort Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    route LowCardinality(String) DEFAULT cohort['route'],
    prompt_name LowCardinality(String) DEFAULT cohort['prompt_name'],
    prompt_version LowCardinality(String) DEFAULT cohort['prompt_version'],
    model LowCardinality(String) DEFAULT cohort['model'],
    user_cohort LowCardinality(String) DEFAULT cohort['user_cohort'],
    service LowCardinality(String) DEFAULT cohort['service'],
    environment LowCardinality(String) DEFAULT cohort['environment'],
    ingested_at DateTime64(9) CODEC(Delta, ZSTD(1)),
    INDEX idx_trace_id trace_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(ingested_at)
PARTITION BY if(time >= toDateTime64('2020-01-01', 9, 'UTC') AND time < toDateTime64('2050-01-01', 9, 'UTC'), toYYYYMM(time, 'UTC'), 0)
ORDER BY (tenant, rubric, toStartOfHour(time, 'UTC'), score_id)
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1;

-- Rolling windows, written by the drift stage; a correction has a higher version and replaces what it corrects.
-- No view sums them up: redelivery would count twice.
CREATE TABLE IF NOT EXISTS cohort_windows
(
    end_time DateTime64(9) CODEC(Delta, ZSTD(1)),
    tenant LowCardinality(String),
    view LowCardinality(String),
    cohort LowCardinality(String),
    attributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    rubric LowCardinality(String),
    evaluator LowCardinality(String),
    window_seconds UInt32,
    n UInt64,
    n_eff Float64,
    mean Nullable(Float64),
    standard_error Nullable(Float64),
    pass_rate Nullable(Float64),
    worst_decile_mean Nullable(Float64),
    weight Float64,
    levels Map(LowCardinality(String), UInt64) CODEC(ZSTD(1)),
    version UInt64,
    ingested_at DateTime64(9) CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY if(end_time >= toDateTime64('2020-01-01', 9, 'UTC') AND end_time < toDateTime64('2050-01-01', 9, 'UTC'), toYYYYMM(end_time, 'UTC'), 0)
ORDER BY (tenant, view, cohort, rubric, evaluator, window_seconds, end_time)
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1;

CREATE VIEW IF NOT EXISTS cohort_means AS
SELECT tenant, view, cohort, attributes, rubric, evaluator, window_seconds, end_time, mean, standard_error, n, n_eff,
    pass_rate, worst_decile_mean, weight, levels
FROM cohort_windows FINAL
ORDER BY end_time DESC, version DESC
LIMIT 1 BY tenant, view, cohort, rubric, evaluator, window_seconds;

CREATE VIEW IF NOT EXISTS scores_latest AS
SELECT * FROM scores FINAL
ORDER BY ingested_at DESC, time DESC, score_id
LIMIT 1 BY tenant, trace_id, span_id, rubric, evaluator;

CREATE VIEW IF NOT EXISTS worst_scores AS
SELECT tenant, time, rubric, value, label, explanation, trace_id, span_id, unit_id, route, prompt_version, model,
    user_cohort, evaluator, lane, probability
FROM scores FINAL
WHERE status = 'scored'
ORDER BY value, time DESC;
