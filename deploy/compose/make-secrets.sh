#!/bin/sh
# Makes the passwords that compose.yaml names, beside it; what is there is kept.
set -eu
folder="$(dirname "$0")/secrets"
mkdir -p "$folder"
chmod 700 "$folder"

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

for name in web-token valkey-password grafana-password; do
    [ -s "$folder/$name" ] || random > "$folder/$name"
done
printf 'redis://:%s@valkey:6379/0' "$(cat "$folder/valkey-password")" > "$folder/redis-url"
# Containers read them under users of their own.
chmod 644 "$folder"/*
