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
unset SLIPWAY_KEY_ID SLIPWAY_KEY MLFLOW_KEY_ID MLFLOW_KEY
exec weed -logtostderr=true server "-s3.config=$config" "$@"
