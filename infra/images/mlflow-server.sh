#!/bin/sh
# MLflow with its users in a database of their own. Their address holds a password, and MLflow takes it from a file alone.
set -eu

: "${SLIPWAY_USERS_URI:?where the users of MLflow are kept, as postgresql+psycopg://USER:PASSWORD@HOST/mlflow_users}"

umask 077
export MLFLOW_AUTH_CONFIG_PATH="$HOME/basic_auth.ini"
# The file is read with %-interpolation.
users=$(printf '%s' "$SLIPWAY_USERS_URI" | sed 's/%/%%/g')
cat >"$MLFLOW_AUTH_CONFIG_PATH" <<END
[mlflow]
default_permission = READ
database_uri = $users
admin_username = ${MLFLOW_AUTH_ADMIN_USERNAME:-admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
END
unset SLIPWAY_USERS_URI
# One process: each would remember passwords for itself, and go on taking an old one.
exec mlflow server --app-name slipway-auth --workers 1 "$@"
