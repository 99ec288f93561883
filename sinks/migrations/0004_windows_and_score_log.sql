-- Quantiles of windows: exact where levels are counted, within 1 % for metrics without an upper limit.
ALTER TABLE cohort_windows
    ADD COLUMN IF NOT EXISTS p5 Nullable(Float64) AFTER worst_decile_mean,
    ADD COLUMN IF NOT EXISTS p50 Nullable(Float64) AFTER p5,
    ADD COLUMN IF NOT EXISTS p95 Nullable(Float64) AFTER p50;

DROP VIEW IF EXISTS cohort_means;

CREATE VIEW IF NOT EXISTS cohort_means AS
SELECT tenant, view, cohort, attributes, rubric, evaluator, window_seconds, end_time, mean, standard_error, n, n_eff,
    pass_rate, worst_decile_mean, p5, p50, p95, weight, levels
FROM cohort_windows FINAL
ORDER BY end_time DESC, version DESC
LIMIT 1 BY tenant, view, cohort, rubric, evaluator, window_seconds;

-- The verdict as it was published, byte for byte, so that a replay can be compared with it.
ALTER TABLE verdicts ADD COLUMN IF NOT EXISTS record String CODEC(ZSTD(3)) AFTER evidence;

-- Everything the drift stage read, in the order and with the bytes it read: scores, heartbeats, and what it rejected.
-- The table "scores" cannot stand for it, as it holds a score that was written twice once, and no heartbeats.
-- A record delivered again has the same log_time; in a new log, offsets begin again at later times.
CREATE TABLE IF NOT EXISTS score_log
(
    partition Int32,
    offset UInt64 CODEC(Delta, ZSTD(1)),
    log_time DateTime64(9) CODEC(Delta, ZSTD(1)),
    timed Bool,
    value String CODEC(ZSTD(3))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(log_time, 'UTC')
ORDER BY (partition, offset, log_time)
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1;
