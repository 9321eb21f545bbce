#!/bin/sh
# Run once, by PostgreSQL's image, when its volume is empty: a database and an owner for each of those who keep something.
# Each knows its own password alone: who may keep rollouts cannot change MLflow's users.
set -eu

psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
  --set prefect="$PREFECT_DATABASE_PASSWORD" \
  --set mlflow="$MLFLOW_DATABASE_PASSWORD" \
  --set slipway="$SLIPWAY_DATABASE_PASSWORD" <<'END'
CREATE ROLE prefect LOGIN PASSWORD :'prefect';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE ROLE slipway LOGIN PASSWORD :'slipway';
CREATE DATABASE prefect OWNER prefect;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_users OWNER mlflow;
CREATE DATABASE slipway OWNER slipway;
REVOKE CONNECT ON DATABASE prefect, mlflow, mlflow_users, slipway FROM PUBLIC;
END
