#!/usr/bin/env bash
# Two PostgreSQL servers under two real agents and a member of the group, while applications write:
# each scenario ends when one serves, the other is in step, and everything that was acknowledged is
# there.
#
# Usage: tests/databases/postgres-agents.sh [SCENARIO...]     as root; all, if none is named
#
# CFGSVC_BIN: the directory of cfgsvcd, cfgctl and cfgagent; built by cargo if it is not set. Needs
# PostgreSQL 15 of Debian, curl and jq. Prints a line for each scenario; keeps nothing.
set -euo pipefail
tests=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
if [ "$(id -u)" -eq 0 ]; then
  programs=${CFGSVC_BIN:-}
  if [ -z "$programs" ]; then
    . "$tests/../../deploy/build-env"
    (cd "$tests/../.." && cargo build --locked -q -p cfgsvc -p cfgctl -p cfgsvc-agent)
    programs=$CARGO_TARGET_DIR/debug
  fi
fi
. "$tests/postgres-common"

# The group and the agents -----------------------------------------------------------------------

programs=$place/clone/bin
group=$(free_port)
declare -A http=([a]=$(free_port) [b]=$(free_port)) colo=([a]=akl [b]=wlg) agent=()
export CFGCTL_ENDPOINTS=127.0.0.1:$group

start_group() {
  "$programs/cfgsvcd" --data-dir "$place/group" --listen-client "127.0.0.1:$group" \
    >>group.log 2>&1 &
  member=$!
  ctl_answers() { "$programs/cfgctl" status >/dev/null 2>&1; }
  await "the group" ctl_answers
}
start_agent() { # HOST
  CFGSVC_DB_ENV=$place/$1.env "$programs/cfgagent" run --host "$1" --colo "${colo[$1]}" \
    --role db/orders --endpoints "127.0.0.1:$group" --address "127.0.0.1:${port[$1]}" \
    --state-dir "$place/$1.state" --hook-dir "$hooks" --http "127.0.0.1:${http[$1]}" \
    --watchdog off >>"$1.log/agent" 2>&1 &
  agent[$1]=$!
}
# guards HOST: the processes of the agent below the agent itself.
guards() { pgrep -f "^$programs/cfgagent (guard|hold)" -P "${agent[$1]}" || true; }

says() { curl --fail --silent --max-time 1 "http://127.0.0.1:${http[$1]}/role/db/orders"; }
# look: sets holder and epoch to those of the agent that says that it serves.
look() {
  local host said
  for host in a b; do
    if said=$(says $host); then
      holder=$host epoch=$(jq .epoch <<<"$said")
      return
    fi
  done
  return 1
}
# What an application does: asks the agents who serves, again and again.
finder() {
  local found=nobody
  while [ -e writing ]; do
    if look; then found="$holder $epoch"; else found=nobody; fi
    echo "$found" >serves.new
    mv serves.new serves
    sleep 0.05
  done
}
is_open() { as_app "$1" -c 'SELECT 1' >/dev/null 2>&1; }
is_held_by() { look && [ "$holder" = "$1" ] && is_open "$1"; }
is_in_step() {
  super "$holder" postgres -c 'SHOW synchronous_standby_names' | grep -q "\"$1\"" &&
    "$programs/cfgctl" role show db/orders -o json |
    jq -e --arg host "$1" '.grant.synced | has($host)' >/dev/null
}
settled() { # HOST: it serves, the other is in step, and all is there
  await "$1 to serve" is_held_by "$1"
  await "$(other "$1") to be in step" is_in_step "$(other "$1")"
  write_more 20
  look || fail "nobody serves"
  verify
}
kill_host() { # as a power failure does: agent, guard, hooks and server
  local pid
  pid=${agent[$1]}
  # shellcheck disable=SC2046
  kill -KILL "$pid" $(guards "$1") 2>/dev/null || true
  kill_all "$1"
  wait "$pid" 2>/dev/null || true
  # A hook that was at work may have started it again.
  kill_all "$1"
}

# Scenarios ---------------------------------------------------------------------------------------

first_start() {
  local host
  for host in a b; do CFGSVC_DB_ENV=$place/$host.env "$hooks/../setup" 2>>$host.log/setup; done
  start_group
  "$programs/cfgctl" colo add akl >/dev/null
  "$programs/cfgctl" colo add wlg >/dev/null
  "$programs/cfgctl" role create db/orders --candidates a,b --data lsn --sync --term 3s \
    --stop 1s >/dev/null
  start_agent a
  await "a to serve" is_held_by a
  start_agent b
  begin_writing
  finder &
  settled a
}

switched_and_back() {
  local next at
  for at in 1 2; do
    look
    next=$(other "$holder")
    "$programs/cfgctl" role switch db/orders "$next" --reason try >/dev/null 2>&1
    settled "$next"
  done
  if [ -n "$(find a/aside b/aside -mindepth 1)" ]; then
    fail "a switch made a host set something aside"
  fi
}

host_lost() {
  local old=$holder
  kill_host "$old"
  await "$(other "$old") to serve" is_held_by "$(other "$old")"
  start_agent "$old"
  settled "$(other "$old")"
}

host_lost_with_its_disk() {
  local old=$holder
  kill_host "$old"
  await "$(other "$old") to serve" is_held_by "$(other "$old")"
  find "$place/$old" -mindepth 1 -delete
  rm -rf "${place:?}/$old.state"
  CFGSVC_DB_ENV=$place/$old.env "$hooks/../setup" 2>>"$old.log/setup"
  start_agent "$old"
  settled "$(other "$old")"
}

both_lost() {
  local old=$holder next
  next=$(other "$holder")
  kill_host a
  kill_host b
  start_agent "$old"
  await "$old to serve" is_held_by "$old"
  start_agent "$next"
  settled "$old"
  # The other one comes first: a store that was opened anew might be an old copy, so a person says
  # that it is not.
  kill_host a
  kill_host b
  start_agent "$next"
  attends() { "$programs/cfgctl" role show db/orders -o json |
    jq -e --arg host "$next" '[.attending[].host] == [$host]' >/dev/null; }
  await "$next to attend" attends
  sleep 5 # longer than the term: nothing may happen
  if is_open "$next"; then fail "$next serves by itself"; fi
  "$programs/cfgctl" role switch db/orders "$next" --accept-loss --reason try >/dev/null 2>&1
  await "$next to serve" is_held_by "$next"
  start_agent "$old"
  settled "$next"
}

standby_lost() {
  local next
  next=$(other "$holder")
  kill_host "$next"
  write_more 20
  start_agent "$next"
  settled "$holder"
}

# The one whose server fails gives the role up; it may have it again when its server works again.
begun_after() { look && [ "$epoch" -gt "$1" ] && is_open "$holder"; }
server_killed() {
  kill_all "$holder"
  await "somebody to begin anew" begun_after "$epoch"
  settled "$holder"
}

server_stopped() {
  freeze "$holder" STOP
  await "somebody to begin anew" begun_after "$epoch"
  settled "$holder"
}

agent_killed() {
  local old=$holder
  kill -KILL "${agent[$old]}"
  wait "${agent[$old]}" 2>/dev/null || true
  await "the other to serve" is_held_by "$(other "$old")"
  if is_open "$old"; then fail "$old is open, and another serves"; fi
  start_agent "$old"
  settled "$(other "$old")"
}

agent_stopped() {
  local old=$holder
  kill -STOP "${agent[$old]}"
  await "the other to serve" is_held_by "$(other "$old")"
  if is_open "$old"; then fail "$old is open, and another serves"; fi
  kill -CONT "${agent[$old]}"
  settled "$(other "$old")"
}

group_away() {
  kill -STOP "$member"
  closed() { ! is_open a && ! is_open b; }
  await "both to be closed" closed
  kill -CONT "$member"
  await "somebody to serve" look
  settled "$holder"
}

disk_full() {
  local old=$holder free # which does not begin before there is room
  free=$(($(stat -f -c '%a * %S' "$place/$old") >> 20))
  fallocate -l $((free - 20))M "$place/$old/ballast"
  await "the other to serve" is_held_by "$(other "$old")"
  rm "$place/$old/ballast"
  settled "$(other "$old")"
}

scenarios=(switched_and_back host_lost host_lost_with_its_disk both_lost standby_lost server_killed
  server_stopped agent_killed agent_stopped group_away disk_full)
for scenario in first_start "${@:-${scenarios[@]}}"; do
  before=$(now_ms)
  $scenario
  printf 'ok  %-40s %6d ms\n' "$scenario" $(($(now_ms) - before))
done
printf '%s writes acknowledged, none lost\n' "$(acked)"
