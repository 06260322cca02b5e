#!/usr/bin/env bash
# A timer for containers: every-night.sh HH:MM COMMAND… runs the command every day at that time (UTC).
# A failure is told by the exit code on standard error, and the next night comes all the same: the command
# goes on where it stopped. ONCE=1 ends after the first run, with its exit code.
set -uo pipefail
[[ "${1:-}" =~ ^([01][0-9]|2[0-3]):[0-5][0-9]$ && $# -ge 2 ]] || { echo "every-night.sh HH:MM COMMAND…" >&2; exit 2; }
at=$1; shift
running=
trap '[[ -z $running ]] || kill "$running" 2>/dev/null; exit 143' TERM INT
while true; do
  now=$(date -u +%s)
  next=$(date -u -d "today $at" +%s)
  (( next > now )) || next=$(date -u -d "tomorrow $at" +%s)
  [[ -n "${AT_ONCE:-}" ]] && next=$now
  echo "next run at $(date -u -d "@$next" +%Y-%m-%dT%H:%MZ)" >&2
  sleep $(( next - now )) & running=$!; wait "$running"
  "$@" & running=$!; wait "$running"; code=$?
  # 4: the gate refused the candidate and the champion stays.
  (( code == 0 || code == 4 )) || echo "ended with exit code $code: $*" >&2
  [[ -n "${ONCE:-}" ]] && exit "$code"
done
