#!/bin/sh
# SeaweedFS with two identities: the service account makes buckets, MLflow's server sees its own alone. The keys come from
# the environment; SeaweedFS takes them from a file alone.
set -eu

umask 077
config="${TMPDIR:-/tmp}/s3.json"
cat >"$config" <<END
{"identities": [
  {"name": "slipway",
   "credentials": [{"accessKey": "$SLIPWAY_KEY_ID", "secretKey": "$SLIPWAY_KEY"}],
   "actions": ["Admin"]},
  {"name": "mlflow",
   "credentials": [{"accessKey": "$MLFLOW_KEY_ID", "secretKey": "$MLFLOW_KEY"}],
   "actions": ["Read:mlflow", "Write:mlflow", "List:mlflow", "Tagging:mlflow"]}
]}
END
# Its parts, all in this process, show each other who asks by HTTP; without that the filer asks nobody.
key=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export WEED_JWT_FILER_SIGNING_KEY="$key" WEED_JWT_FILER_SIGNING_READ_KEY="$key"
export WEED_JWT_SIGNING_KEY="$key" WEED_JWT_SIGNING_READ_KEY="$key"
unset SLIPWAY_KEY_ID SLIPWAY_KEY MLFLOW_KEY_ID MLFLOW_KEY
exec weed -logtostderr=true server "-s3.config=$config" "$@"
