"""A server for ClickHouse's HTTP protocol in front of the embedded store."""
