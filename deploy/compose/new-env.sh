#!/bin/sh
# Writes the variables that the compose files need, with new random values, into a file that only its owner can read:
#
#   sh deploy/compose/new-env.sh .env
#
# A file that is there stays as it is: Grafana's volume keeps the password of its first start.
set -euC
umask 077
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
for name in DRIFTGATE_WEB_TOKEN DRIFTGATE_QUERY_TOKEN CLICKHOUSE_PASSWORD GATEWAY_TOKEN GRAFANA_PASSWORD; do
    printf '%s=%s\n' "$name" "$(random)"
done > "${1:?which file? sh deploy/compose/new-env.sh .env}"
