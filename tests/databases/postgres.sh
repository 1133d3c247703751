#!/usr/bin/env bash
# The hooks of deploy/postgres with two real servers on loopback, while applications write: the
# script plays the group and the agents. Each scenario is one that a host or a person brings about.
# Everywhere: what was acknowledged is in the server that serves, and no write of an older epoch is.
#
# Usage: tests/databases/postgres.sh [SCENARIO...]     as root; all, if none is named
#
# Needs PostgreSQL 15 of Debian. Its servers run as the user postgres, on a small file system each
# (tmpfs), so that a disk can be full. Prints a line for each scenario; keeps nothing.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/postgres-common"

# The group --------------------------------------------------------------------------------------

epoch=10 holder=none left=
declare -A began=() known=([a]=0 [b]=0)

lsn() { echo $((16#${1%/*} * 0x100000000 + 16#${1#*/})); }
# covers S P: the contract's rule, written anew. Of each only the last twenty timelines are there.
covers() {
  local s p i
  [ "$2" != 0 ] || return 0
  [ "$1" != 0 ] || return 1
  IFS=, read -ra s <<<"$1"
  IFS=, read -ra p <<<"$2"
  # From the first timeline that both name.
  while [ ${#p[@]} -gt 1 ] && [ "${p[0]%@*}" -lt "${s[0]%@*}" ]; do p=("${p[@]:1}"); done
  while [ ${#s[@]} -gt 1 ] && [ "${s[0]%@*}" -lt "${p[0]%@*}" ]; do s=("${s[@]:1}"); done
  [ ${#p[@]} -le ${#s[@]} ] || return 1
  for ((i = 0; i < ${#p[@]} - 1; i++)); do [ "${p[i]}" = "${s[i]}" ] || return 1; done
  [ "${s[i]%@*}" = "${p[i]%@*}" ] && [ "$(lsn "${p[i]#*@}")" -le "$(lsn "${s[i]#*@}")" ]
}
# verdict HOST: what it is told while another holds the role.
verdict() {
  local at next
  at=$(position_of "$1") || { echo "unknown"; return; }
  for ((next = known[$1] + 1; next <= epoch; next++)); do
    [ -n "${began[$next]:-}" ] || continue
    if [ "$at" = 0 ] || covers "${began[$next]}" "$at"; then break; fi
    echo "at $at, and epoch $next began at ${began[$next]}" >>"$1.log/verdict"
    echo rebuild
    return
  done
  echo standby
}
# told HOST [VERDICT]: it is told, and does so; prints the verdict.
told() {
  local what
  what=${2:-$(verdict "$1")}
  echo "$what"
  case $what in
    standby | rebuild)
      hook "$1" "on-$what" || fail "$1: on-$what: $(tail -n 1 "$1.log/on-$what")"
      ;;
    *) fail "$1 is told $what" ;;
  esac
}
follows() { # HOST VERDICT: it must be told that, and follows then
  local found
  found=$(told "$1") || exit 1
  [ "$found" = "$2" ] || fail "$1 was told $found, not $2"
  known[$1]=$epoch
}
# give HOST: it begins an epoch, if it has what the last one left. Nobody is in step at first.
give() {
  local at
  at=$(position_of "$1") || fail "$1 has no position: $(tail -n 1 "$1.log/position")"
  [ -z "$left" ] || covers "$at" "$left" || return 1
  epoch=$((epoch + 1)) holder=$1 left=
  began[$epoch]=$at known[$1]=$epoch
  : >synced
  hook "$1" on-serve EPOCH=$epoch || fail "$1: on-serve: $(tail -n 1 "$1.log/on-serve")"
  echo "$1 $epoch" >serves
}
in_step() { # the agent's turn: what the hook prints is what the group counts on
  local printed
  printed=$(hook "$holder" sync EPOCH=$epoch CFGSVC_SYNCED="$(paste -sd, synced)") || return 1
  tr -s ' ' '\n' <<<"$printed" | sed '/^$/d' >synced
}
is_in_step() { in_step && grep -qx "$1" synced; }
nobody_in_step() { in_step && [ ! -s synced ]; }
# switch HOST: in order.
switch() {
  local from=$holder
  echo nobody >serves
  hook "$from" on-fence || fail "on-fence: $(tail -n 1 "$from.log/on-fence")"
  left=$(position_of "$from") || fail "$from does not say where it ends"
  await "$1 to have what $from left ($left)" give "$1"
}
lose() { # the holder's lease is over: whoever may, begins
  grep -qx "$1" synced || fail "$1 is not in step and would lose writes"
  left=
  give "$1"
}

# Scenarios: each begins and ends with one that serves and one that is in step -------------------

# It may have gone on with a holder that began again, before it is judged; or have what nobody was
# told of.
settle_any() { settle "$(verdict "$(other "$holder")")"; }
settle() { # VERDICT: the other is told so, follows, and is counted on
  local host
  host=$(other "$holder")
  follows "$host" "$1"
  await "$host to be in step" is_in_step "$host"
  write_more 20
  verify
}
pause() { echo nobody >serves; sleep 0.2; } # writes that had begun end
resume() { echo "$holder $epoch" >serves; }
# fills HOST PATTERN: whether it has set something aside.
fills() { [ -n "$(find "$place/$1/aside" -mindepth 1 -maxdepth 1 -name "$2")" ]; }
given_up() { # the agent's turn: three failures of check in a row
  local n
  for n in 1 2 3; do
    if hook "$holder" check EPOCH=$epoch; then return 1; fi
  done
}

first_start() {
  local host
  for host in a b; do
    if hook $host position; then fail "$host says something of a volume that is not there"; fi
    CFGSVC_DB_ENV=$place/$host.env "$hooks/../setup" 2>>$host.log/setup
    [ "$(hook $host position)" = 'orders 0' ] || fail "$host is not empty"
    hook $host on-fence || fail "on-fence of what never ran"
  done
  if hook a on-serve EPOCH=; then fail "on-serve without an epoch"; fi
  give a
  hook a check EPOCH=$epoch || fail "check: $(tail -n 1 a.log/check)"
  if hook a check EPOCH=$((epoch + 1)); then fail "check takes another epoch for its own"; fi
  begin_writing
  write_more 20
  nobody_in_step || fail "somebody is in step with nobody there"
}

standby_joins_empty() { settle standby; }

# How the hooks compare, and how this script does: MINE THEIRS, covered or not, the last in common.
paths_are_compared() {
  local mine theirs is timeline end found
  while read -r mine theirs is timeline end; do
    found=no
    if covers "$theirs" "$mine"; then found=yes; fi
    [ $found = "$is" ] || fail "the script: $mine by $theirs: $found"
    found=$(
      export CFGSVC_DB_ENV=$place/a.env
      . "$hooks/../lib"
      if is_covered "$mine" "$theirs"; then is=yes; else is=no; fi
      echo "$is $(fork "$mine" "$theirs")"
    )
    [ "$found" = "$is $timeline${end:+ $end}" ] || fail "lib: $mine by $theirs: $found"
  done <<'ROWS'
1@0/50 1@0/50 yes 1 0/50
1@0/51 1@0/50 no 1 0/50
1@0/50 1@0/50,2@0/90 yes 1 0/50
1@0/FF 1@1/0 yes 1 0/FF
1@1/0 1@0/FFFFFFFF no 1 0/FFFFFFFF
1@0/50,2@0/60 1@0/50,2@0/90 yes 2 0/60
1@0/50,2@0/60 1@0/40,2@0/90 no 1 0/40
1@0/50,2@0/91 1@0/50,2@0/90 no 2 0/90
1@0/50,2@0/60 1@0/70 no 1 0/50
2@0/60,3@0/70 3@0/80,4@0/90 yes 3 0/70
2@0/60,3@0/81 3@0/80,4@0/90 no 3 0/80
2@0/60,3@0/70 1@0/50,2@0/60,3@0/80 yes 3 0/70
2@0/60 3@0/80,4@0/90 no
1@0/50,3@0/60 1@0/50,2@0/60 no 1 0/50
ROWS
}

switch_and_back() {
  local host
  for host in b a; do
    switch $host
    settle standby
  done
  if fills a '*' || fills b '*'; then
    fail "a switch in order made a host set something aside"
  fi
}

killed_and_nothing_more() {
  local old=$holder next
  next=$(other "$holder")
  pause
  equal() { [ "$(position_of "$old")" = "$(position_of "$next")" ]; }
  await "$next to have all" equal
  kill_all "$old"
  lose "$next"
  settle standby
}

# lose_with_more: the holder is killed with a write that nobody else has; the other serves.
lose_with_more() {
  local old=$holder next
  next=$(other "$holder")
  # Nothing is sent any more. (What was sent is in the standby's socket, and is not lost.)
  kill -STOP "$(super "$old" postgres -c "SELECT pid FROM pg_stat_activity
    WHERE backend_type = 'walsender' AND application_name = '$next'")"
  super "$old" app -c 'SET synchronous_commit = local' \
    -c "INSERT INTO orders VALUES ('only-here-$epoch', $epoch)"
  kill_all "$old"
  lose "$next"
}

killed_with_more() {
  local old=$holder next wal host
  next=$(other "$holder")
  lose_with_more
  # As one that has asked the new holder already: its own timeline does not lead to that one, and
  # its server would not start any more.
  position_of "$old" >/dev/null
  kill_all "$old"
  cp "$place/$next/data/pg_wal/"*.history "$place/$old/data/pg_wal/"
  settle rebuild
  # As the hook said it can be read.
  wal=$(grep -o 'pg_waldump -p .*' "$old.log/on-rebuild" | tail -n 1)
  # It ends with an error where the WAL ends.
  # shellcheck disable=SC2086
  { "$bin"/$wal 2>/dev/null || true; } | grep -q COMMIT || fail "what only $old wrote is not kept"
  ! fills "$old" '*-data' || fail "it was copied whole; pg_rewind would do"
  for host in a b; do
    [ -z "$(super $host app -c "SELECT id FROM orders WHERE id LIKE 'only-here-%'")" ] ||
      fail "$host has what was set aside"
  done
}

back_with_an_empty_disk() {
  local old=$holder
  kill_all "$old"
  lose "$(other "$old")"
  find "$place/$old" -mindepth 1 -delete
  if hook "$old" position; then fail "$old says something of a volume that is not there"; fi
  CFGSVC_DB_ENV=$place/$old.env "$hooks/../setup" 2>>"$old.log/setup"
  [ "$(hook "$old" position)" = 'orders 0' ] || fail "$old is not empty"
  settle standby
}

both_killed_holder_first() {
  local old=$holder
  kill_all "$old"
  kill_all "$(other "$old")"
  left=
  give "$old"
  settle standby
}

both_killed_standby_first() {
  local old=$holder
  kill_all "$old"
  kill_all "$(other "$old")"
  lose "$(other "$old")"
  settle_any
}

standby_away_and_back() {
  local next
  next=$(other "$holder")
  kill_all "$next"
  await "the group to count on nobody" nobody_in_step
  await "commits to wait for nobody" in_step
  write_more 20
  settle standby
}

a_waiting_commit_is_not_acknowledged() {
  local next client how
  next=$(other "$holder")
  for how in on-fence kill_all; do
    pause
    freeze "$next" STOP
    as_app "$holder" -c "INSERT INTO orders VALUES ('$how', $epoch)" 2>/dev/null &
    client=$!
    waits() {
      [ -n "$(super "$holder" postgres -c "SELECT 1 FROM pg_stat_activity
        WHERE wait_event = 'SyncRep' AND query LIKE '%$how%'")" ]
    }
    await "a commit to wait" waits
    if [ $how = on-fence ]; then hook "$holder" on-fence; else kill_all "$holder"; fi
    if wait $client; then fail "acknowledged at $how, and not on $next"; fi
    [ -z "$(server_pids "$holder")" ] || fail "processes are left after $how"
    freeze "$next" CONT
    # It holds it again by itself: it has the same data.
    left=
    give "$holder"
    [ -n "$(super "$holder" app -c "SELECT 1 FROM orders WHERE id = '$how'")" ] ||
      fail "what was committed is gone"
    settle_any
  done
}
third_standby() {
  local sender receiver
  sender=$(super "$holder" postgres -c "SELECT pid FROM pg_stat_replication
    WHERE application_name = '$(other "$holder")'")
  # It would go on to count by the list that it has read: commits wait for its own host alone.
  kill -STOP "$sender"
  mkdir third
  PGPASSWORD='a:b\c' "$bin/pg_receivewal" -D third --synchronous -d "host=127.0.0.1
    port=${port[$holder]} user=cfgsvc_replica application_name=c" 2>third.log &
  receiver=$!
  there() { [ -n "$(super "$holder" postgres -c "SELECT 1 FROM pg_stat_replication
    WHERE application_name = 'c' AND state = 'streaming'")" ]; }
  await "a third standby" there
  if is_in_step c; then fail "c is named, and commits do not wait for it"; fi
  kill -CONT "$sender"
  await "c to be in step" is_in_step c
  await "$(other "$holder") to be in step" is_in_step "$(other "$holder")"
  write_more 20
  # It is gone: waited for until nobody counts on it.
  kill "$receiver"
  wait "$receiver" || true
  gone() { in_step && ! grep -qx c synced; }
  await "c to be left out" gone
  [[ $(super "$holder" postgres -c 'SHOW synchronous_standby_names') == *'"c"'* ]] ||
    fail "c is not waited for any more while the group counts on it"
  in_step
  [[ $(super "$holder" postgres -c 'SHOW synchronous_standby_names') != *'"c"'* ]] ||
    fail "c is waited for, and nobody counts on it"
  rm -r third
  write_more 20
  verify
}

in_step_only_when_commits_wait() {
  local checkpointer next
  next=$(other "$holder")
  kill_all "$next"
  await "the group to count on nobody" nobody_in_step
  await "commits to wait for nobody" in_step
  # It says in shared memory whether commits wait, and does not come to it.
  checkpointer=$(super "$holder" postgres -c "SELECT pid FROM pg_stat_activity
    WHERE backend_type = 'checkpointer'")
  kill -STOP "$checkpointer"
  hook "$next" position >/dev/null
  hook "$next" on-standby || fail "on-standby: $(tail -n 1 "$next.log/on-standby")"
  if is_in_step "$next"; then fail "$next is named, and commits do not wait for it"; fi
  if is_in_step "$next"; then fail "$next is named at the second try, and nothing has changed"; fi
  kill -CONT "$checkpointer"
  settle standby
}

in_step_only_with_everything() {
  local receiver next
  next=$(other "$holder")
  kill_all "$next"
  await "the group to count on nobody" nobody_in_step
  await "commits to wait for nobody" in_step
  position_of "$next" >/dev/null
  hook "$next" on-standby || fail "on-standby: $(tail -n 1 "$next.log/on-standby")"
  # It is connected, and does not receive what is acknowledged now.
  receiver=$(super "$next" postgres -c "SELECT pid FROM pg_stat_activity
    WHERE backend_type = 'walreceiver'")
  kill -STOP "$receiver"
  write_more 5
  if is_in_step "$next"; then fail "$next is named, and lacks what was acknowledged"; fi
  kill -CONT "$receiver"
  settle_any
}

full_disk() {
  local old=$holder free
  free=$(($(stat -f -c '%a * %S' "$place/$old") >> 20))
  fallocate -l $((free - 20))M "$place/$old/ballast"
  given_up || fail "check does not mind a disk with 20 MB"
  switch "$(other "$old")"
  if hook "$old" on-serve EPOCH=$((epoch + 1)); then fail "$old serves with a full disk"; fi
  rm "$place/$old/ballast"
  settle standby
}

disk_full_to_the_last_byte() {
  local old=$holder
  { cat /dev/zero >"$place/$old/ballast" || true; } 2>/dev/null
  stopped() { ! as_app "$old" -c "INSERT INTO orders SELECT 'full-' || gen_random_uuid(), $epoch
    FROM generate_series(1, 20000)" 2>/dev/null; }
  await "the disk to be too full for a write" stopped
  given_up || fail "check does not mind a full disk"
  echo nobody >serves
  hook "$old" on-fence || fail "a full disk keeps $old from being fenced"
  [ -z "$(server_pids "$old")" ] || fail "processes are left"
  lose "$(other "$old")"
  rm "$place/$old/ballast"
  settle_any
}

gray_failure() {
  local old=$holder began_at
  freeze "$old" STOP
  given_up || fail "check does not mind a server that is stopped"
  echo nobody >serves
  began_at=$(now_ms)
  hook "$old" on-fence || fail "on-fence: $(tail -n 1 "$old.log/on-fence")"
  [ $(($(now_ms) - began_at)) -lt 1500 ] || fail "fenced after $(($(now_ms) - began_at)) ms"
  [ -z "$(server_pids "$old")" ] || fail "processes are left"
  lose "$(other "$old")"
  settle_any
}

postmaster_killed_alone() {
  local old=$holder
  kill -KILL "$(head -n 1 "$place/$old/data/postmaster.pid")"
  given_up || fail "check does not mind a server without its postmaster"
  echo nobody >serves
  hook "$old" on-fence || fail "on-fence: $(tail -n 1 "$old.log/on-fence")"
  [ -z "$(server_pids "$old")" ] || fail "processes are left"
  lose "$(other "$old")"
  settle_any
}

on_serve_killed_anywhere() {
  local old delay client
  for delay in 0.05 0.15 0.25 0.35 0.5 0.7; do
    old=$holder
    echo nobody >serves
    hook "$old" on-fence
    left=
    epoch=$((epoch + 1)) began[$epoch]=$(position_of "$old") known[$old]=$epoch
    : >synced
    setsid env CFGSVC_DB_ENV="$place/$old.env" CFGSVC_HOST="$old" EPOCH=$epoch "$hooks/on-serve" \
      2>>"$old.log/on-serve" &
    client=$!
    sleep "$delay"
    # The group of processes: what the guard does.
    kill -KILL -- -$client 2>/dev/null || true
    wait $client 2>/dev/null || true
    if [ "$delay" = 0.35 ]; then
      # Run again in the same epoch.
      hook "$old" on-serve EPOCH=$epoch || fail "on-serve: $(tail -n 1 "$old.log/on-serve")"
      hook "$old" check EPOCH=$epoch || fail "check: $(tail -n 1 "$old.log/check")"
    fi
    hook "$old" on-fence || fail "on-fence: $(tail -n 1 "$old.log/on-fence")"
    position_of "$old" >/dev/null || fail "position: $(tail -n 1 "$old.log/position")"
    if as_app "$old" -c 'SELECT 1' >/dev/null 2>&1; then fail "open after on-fence"; fi
  done
  give "$old"
  settle_any
}

# killed_by PROGRAM: a directory of PostgreSQL's programs, in which this one kills who runs it after
# it has changed everything, or half.
killed_by() {
  local program
  rm -rf killing
  mkdir killing
  ln -s "$bin"/* killing/
  rm "killing/$1"
  case $1 in
    pg_rewind) program='"$real" "$@" || exit; case $* in *--dry-run*) exit ;; esac' ;;
    pg_basebackup) program='timeout --foreground 0.3 "$real" "$@"' ;;
  esac
  printf '#!/bin/bash\nreal=%s\n%s\nkill -KILL 0\n' "$bin/$1" "$program" >"killing/$1"
  chmod +x "killing/$1"
}

rebuild_killed_half_way() {
  local old=$holder program hook
  lose_with_more
  for program in pg_rewind pg_basebackup; do
    killed_by $program
    hook=on-standby
    if [ $program = pg_rewind ]; then hook=on-rebuild; fi
    [ "on-$(verdict "$old")" = $hook ] || fail "$old is told $(verdict "$old") before $hook"
    if (
      export DB_BIN=$place/killing
      # A process group of its own, as an agent gives it.
      set -m
      hook "$old" $hook & wait $!
    ); then fail "$hook was to be killed"; fi
    # Half of something: it counts as empty.
    [ "$(hook "$old" position)" = 'orders 0' ] || fail "killed in $hook, it is not empty"
  done
  settle standby
}

standby_away_for_too_long() {
  local next
  next=$(other "$holder")
  kill_all "$next"
  await "the group to count on nobody" nobody_in_step
  await "commits to wait for nobody" in_step
  recycle_wal
  settle standby
  grep -q 'has not kept what comes then' "$next.log/on-standby" || fail "its WAL was still there"
}
recycle_wal() { # the holder keeps nothing of what it has written until now
  local at
  for at in 1 2 3 4 5 6 7 8; do
    super "$holder" postgres -c 'SELECT pg_switch_wal()' -c CHECKPOINT \
      -c "SELECT pg_logical_emit_message(false, 'x', repeat('x', 15000000))" >/dev/null
  done
}

# Its server runs all the time, and nobody tells it anything: the hook position must say that it is
# another one now, so that the agent tells it again.
standby_left_out() {
  local next life
  next=$(other "$holder")
  life=$(hook "$next" position | cut -d ' ' -f 3)
  freeze "$next" STOP
  await "the group to count on nobody" nobody_in_step
  await "commits to wait for nobody" in_step
  recycle_wal
  freeze "$next" CONT
  another() { [ "$(hook "$next" position | cut -d ' ' -f 3)" != "$life" ]; }
  await "another word for its life" another
  life=$(hook "$next" position | cut -d ' ' -f 3)
  sleep 1.1
  ! another || fail "its life changes all the time"
  settle standby
}

# A holder that is gone makes no other of who waits for its role.
standby_of_a_dead_holder() {
  local old=$holder next life end=$((SECONDS + 25))
  next=$(other "$holder")
  life=$(hook "$next" position | cut -d ' ' -f 3)
  kill_all "$old"
  echo nobody >serves
  while [ $SECONDS -lt $end ]; do
    [ "$(hook "$next" position | cut -d ' ' -f 3)" = "$life" ] || fail "it is another after a while"
    sleep 0.5
  done
  lose "$next"
  settle_any
}

another_database() {
  local next
  next=$(other "$holder")
  kill_all "$next"
  rm -rf "${place:?}/$next/data"
  "$bin/initdb" -D "$place/$next/data" -A trust >/dev/null
  rm "$place/$next/data/"{postgresql,pg_hba,pg_ident}.conf
  if hook "$next" on-standby; then fail "$next follows what is another database"; fi
  grep -q 'another database' "$next.log/on-standby" || fail "it does not say so"
  [ "$(told "$next" rebuild)" = rebuild ] || exit 1
  known[$next]=$epoch
  fills "$next" '*-data' || fail "the other database was not kept"
  settle standby
}

# Two that were promoted from one point, each without the other.
timelines_of_one_number() {
  local old=$holder next paths
  next=$(other "$holder")
  pause
  equal() { [ "$(position_of "$old")" = "$(position_of "$next")" ]; }
  await "$next to have all" equal
  kill_all "$next"
  kill_all "$old"
  left=
  give "$old"
  pause
  super "$old" app -c "INSERT INTO orders VALUES ('lost', $epoch)"
  paths=$(position_of "$old")
  kill_all "$old"
  # A person accepts the loss.
  give "$next"
  [ "$(tr -dc , <<<"$paths")" = "$(position_of "$next" | tr -dc ,)" ] || fail "other timelines"
  # So far that the one that comes back is not beyond it.
  super "$next" postgres -c "SELECT pg_switch_wal()" -c CHECKPOINT >/dev/null
  settle rebuild
  [ -z "$(super "$old" app -c "SELECT id FROM orders WHERE id = 'lost'")" ] ||
    fail "$old has what $next never had"
  super "$old" app -c 'SELECT * FROM orders ORDER BY id' >rows.old
  pause
  await "$old to have all" equal
  super "$old" app -c 'SELECT * FROM orders ORDER BY id' >rows.old
  super "$next" app -c 'SELECT * FROM orders ORDER BY id' >rows.next
  cmp -s rows.old rows.next || fail "the two differ"
  resume
}

an_older_epoch_does_not_begin() {
  hook "$holder" on-fence
  pause
  if hook "$holder" on-serve EPOCH=$((epoch - 1)); then fail "an older epoch began"; fi
  grep -q "is before that of this database" "$holder.log/on-serve" || fail "it does not say so"
  if as_app "$holder" -c 'SELECT 1' >/dev/null 2>&1; then fail "open all the same"; fi
  hook "$holder" on-fence
  left=
  give "$holder"
  settle_any
}

epoch_in_every_isolation_level() {
  local level said
  for level in 'READ COMMITTED' 'REPEATABLE READ' 'SERIALIZABLE'; do
    # The snapshot is older than the epoch.
    said=$(as_app "$holder" -c "BEGIN ISOLATION LEVEL $level" -c 'SELECT count(*) FROM orders' \
      -c "\\! psql -XAtqd 'host=$place/$holder/run port=${port[$holder]} dbname=app' \
        -c 'SELECT cfgsvc.begin_epoch($((epoch + 1)))'" \
      -c "INSERT INTO orders VALUES ('snapshot', cfgsvc.at_epoch($epoch))" -c COMMIT 2>&1) || true
    epoch=$((epoch + 1))
    [[ $said == *"is not the epoch of this database"* ]] || fail "$level: $said"
  done
  if as_app "$holder" -c "INSERT INTO orders VALUES ('null', cfgsvc.at_epoch(NULL))" 2>/dev/null
  then
    fail "no epoch was taken for one"
  fi
  if as_app "$holder" -c "SELECT cfgsvc.begin_epoch($((epoch + 1)))" 2>/dev/null; then
    fail "an application can begin an epoch"
  fi
  hook "$holder" on-fence
  left=
  give "$holder"
  settle_any
}

scenarios=(switch_and_back killed_and_nothing_more killed_with_more back_with_an_empty_disk
  both_killed_holder_first both_killed_standby_first standby_away_and_back
  a_waiting_commit_is_not_acknowledged third_standby in_step_only_when_commits_wait
  in_step_only_with_everything full_disk
  disk_full_to_the_last_byte gray_failure postmaster_killed_alone on_serve_killed_anywhere
  rebuild_killed_half_way standby_away_for_too_long standby_left_out
  standby_of_a_dead_holder another_database timelines_of_one_number
  an_older_epoch_does_not_begin epoch_in_every_isolation_level)

for scenario in first_start paths_are_compared standby_joins_empty "${@:-${scenarios[@]}}"; do
  before=$(now_ms)
  $scenario
  printf 'ok  %-40s %6d ms\n' "$scenario" $(($(now_ms) - before))
done
printf '%s writes acknowledged, none lost, in %s epochs\n' "$(acked)" $((epoch - 10))
