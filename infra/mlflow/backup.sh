#!/bin/sh
# One dump of MLflow's database into $1, where those of the last 14 days are kept. PGHOST, PGUSER, PGPASSWORD: the server's.
# It has the name of a dump only when it is whole. Back: pg_restore --clean --if-exists --dbname=mlflow FILE
set -eu
file="$1/mlflow-$(date -u +%Y%m%dT%H%M%SZ).dump"
pg_dump --format=custom --file="$file.part" mlflow
pg_restore --list "$file.part" >/dev/null
mv "$file.part" "$file"
find "$1" -name 'mlflow-*.dump*' -mtime +14 -delete
