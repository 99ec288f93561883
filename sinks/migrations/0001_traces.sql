-- Spans in the column layout of the OpenTelemetry Collector's ClickHouse exporter, so that Grafana's presets and every
-- query written for it work. What is ours comes after: the tenant, and when the log took the span.
-- A span that is delivered twice has the same sorting key, so the engine keeps one row.
-- Times outside 2020..2049 share one partition: a sender with a broken clock must not make thousands of them.
CREATE TABLE IF NOT EXISTS otel_traces
(
    Timestamp DateTime64(9) CODEC(Delta, ZSTD(1)),
    TraceId String CODEC(ZSTD(1)),
    SpanId String CODEC(ZSTD(1)),
    ParentSpanId String CODEC(ZSTD(1)),
    TraceState String CODEC(ZSTD(1)),
    SpanName LowCardinality(String) CODEC(ZSTD(1)),
    SpanKind LowCardinality(String) CODEC(ZSTD(1)),
    ServiceName LowCardinality(String) CODEC(ZSTD(1)),
    ResourceAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ScopeName String CODEC(ZSTD(1)),
    ScopeVersion String CODEC(ZSTD(1)),
    SpanAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    Duration UInt64 CODEC(ZSTD(1)),
    StatusCode LowCardinality(String) CODEC(ZSTD(1)),
    StatusMessage String CODEC(ZSTD(1)),
    Events Nested
    (
        Timestamp DateTime64(9),
        Name LowCardinality(String),
        Attributes Map(LowCardinality(String), String)
    ) CODEC(ZSTD(1)),
    Links Nested
    (
        TraceId String,
        SpanId String,
        TraceState String,
        Attributes Map(LowCardinality(String), String)
    ) CODEC(ZSTD(1)),
    Tenant LowCardinality(String) CODEC(ZSTD(1)),
    RedactionPolicy LowCardinality(String) CODEC(ZSTD(1)),
    IngestedAt DateTime64(9) CODEC(Delta, ZSTD(1)),
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX idx_res_attr_key mapKeys(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_res_attr_value mapValues(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_span_attr_key mapKeys(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_span_attr_value mapValues(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_duration Duration TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(IngestedAt)
PARTITION BY if(Timestamp >= toDateTime64('2020-01-01', 9, 'UTC') AND Timestamp < toDateTime64('2050-01-01', 9, 'UTC'), toDate(Timestamp, 'UTC'), toDate(0))
PRIMARY KEY (ServiceName, SpanName, toDateTime(Timestamp))
ORDER BY (ServiceName, SpanName, toDateTime(Timestamp), TraceId, SpanId, Tenant)
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1;

-- From a trace id to its time. Readers take min(Start) and max(End), so repeated rows change nothing.
CREATE TABLE IF NOT EXISTS otel_traces_trace_id_ts
(
    TraceId String CODEC(ZSTD(1)),
    Start DateTime CODEC(Delta, ZSTD(1)),
    End DateTime CODEC(Delta, ZSTD(1)),
    IngestedAt DateTime64(9) CODEC(Delta, ZSTD(1)),
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(IngestedAt)
PARTITION BY toYYYYMM(Start, 'UTC')
ORDER BY (TraceId, Start, End)
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS otel_traces_trace_id_ts_mv TO otel_traces_trace_id_ts
AS SELECT
    TraceId,
    toDateTime(min(Timestamp)) AS Start,
    toDateTime(max(Timestamp)) AS End,
    max(otel_traces.IngestedAt) AS IngestedAt
FROM otel_traces
WHERE TraceId != ''
GROUP BY TraceId;

-- One row per trace (or late piece of one) that the sampler kept, with the probability it was kept with.
CREATE TABLE IF NOT EXISTS sampled_traces
(
    time DateTime64(9) CODEC(Delta, ZSTD(1)),
    tenant LowCardinality(String),
    trace_id String CODEC(ZSTD(1)),
    lane LowCardinality(String),
    policy LowCardinality(String),
    probability Nullable(Float64),
    late Bool,
    spans UInt32,
    errors UInt32,
    duration_ns UInt64,
    service LowCardinality(String),
    root_name LowCardinality(String),
    chunk_id String CODEC(ZSTD(1)),
    ingested_at DateTime64(9) CODEC(Delta, ZSTD(1)),
    INDEX idx_trace_id trace_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(ingested_at)
PARTITION BY if(time >= toDateTime64('2020-01-01', 9, 'UTC') AND time < toDateTime64('2050-01-01', 9, 'UTC'), toYYYYMM(time, 'UTC'), 0)
ORDER BY (tenant, toStartOfHour(time, 'UTC'), trace_id, chunk_id)
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1;
