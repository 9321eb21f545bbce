#!/bin/sh
# Prometheus with the password of Prefect's API. It comes from the environment; Prometheus takes it from a file alone.
set -eu

umask 077
printf %s "$PREFECT_API_PASSWORD" >"${TMPDIR:-/tmp}/prefect-api-password"
unset PREFECT_API_PASSWORD
exec prometheus "$@"
