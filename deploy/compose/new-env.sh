#!/bin/sh
# Prints the variables that the compose files need, with new random values: sh deploy/compose/new-env.sh > .env
set -eu
umask 077
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
for name in DRIFTGATE_WEB_TOKEN DRIFTGATE_QUERY_TOKEN CLICKHOUSE_PASSWORD GATEWAY_TOKEN GRAFANA_PASSWORD; do
    printf '%s=%s\n' "$name" "$(random)"
done
