#!/usr/bin/env bash
# The hooks of deploy/mariadb with two real servers on loopback, through what happens to a pair.
#
# Usage: tests/databases/mariadb.sh [SCENARIO...]      (default: all; needs root, for a small disk)
#
# The group is played here, by its rules: an epoch begins at the position that its holder told, who
# has more than that rebuilds, a holder that is lost is followed only by who is in sync, in the same
# life. Writers count: what a client was told is written must be in every later holder's data, and
# a write with a former epoch in nobody's. Prints a line for each scenario; keeps its directory when
# one fails.
set -Eeuo pipefail
shopt -s inherit_errexit

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
scratch=$(mktemp -d /tmp/cfgsvc-mariadb-XXXXXX)
chmod 755 "$scratch"
# The servers' user may not be able to read the clone.
cp -r "$root/deploy/mariadb" "$scratch/hooks"
hooks=$scratch/hooks/hooks

# Where this says what went wrong, wherever a hook's own words go.
exec {words}>&2
die() {
  printf 'error: %s (line %s)\n' "$*" "${BASH_LINENO[*]}" >&"$words"
  exit 1
}
trap 'die "$BASH_COMMAND"' ERR

# --- the hosts ------------------------------------------------------------------------------

declare -A port=()

# as_server COMMAND...: as the servers' user.
as_server() { setpriv --reuid=mysql --regid=mysql --clear-groups "$@"; }

# hook HOST NAME [VARIABLE=VALUE...]: as the agent runs it.
hook() {
  local host=$1 name=$2; shift 2
  as_server timeout -k 1 60 env CFGSVC_DB_ENV="$scratch/$host.env" CFGSVC_HOST="$host" \
    CFGSVC_ROLE=db/orders EPOCH="$epoch" CFGSVC_HOLDER="$holder" \
    CFGSVC_ADDRESSES="127.0.0.1:${port[$holder]:-0}" CFGSVC_REASON=test "$@" "$hooks/$name" \
    2>>"$scratch/$host.log"
}

# ask HOST SQL: by the agent's user.
ask() {
  as_server timeout 20 mariadb --defaults-file="$scratch/$1/server.cnf" -N -B -e "$2"
}

# server HOST: its process.
server() {
  local at
  for at in /proc/[0-9]*; do
    [ "$at/cwd" -ef "$scratch/$1/data" ] || continue
    [[ $(readlink "$at/exe") != */mariadbd ]] || echo "${at#/proc/}"
  done
}
killed() {
  local pid
  pid=$(server "$1")
  kill -KILL "$pid"
  until_true 10 gone "$pid"
}
gone() { [ ! -e "/proc/$1" ] || [[ $(cat "/proc/$1/stat" 2>/dev/null) == *') Z '* ]]; }

# until_true SECONDS COMMAND...
until_true() {
  local until=$((SECONDS + $1)); shift
  until "$@"; do
    [ "$SECONDS" -lt "$until" ] || die "not in time: $*"
    sleep 0.1
  done
}

free_port() {
  local number
  while :; do
    number=$((10000 + RANDOM % 20000))
    (: <"/dev/tcp/127.0.0.1/$number") 2>/dev/null || { echo "$number"; return; }
  done
}

# settings HOST SERVER-ID [LINE...]
settings() {
  local host=$1 id=$2; shift 2
  port[$host]=${port[$host]:-$(free_port)}
  {
    printf '%s\n' "DB_DIR=$scratch/$host" DB_IDENTITY=orders-of-the-test 'DB_PAIR="a1 w1"' \
      "DB_SERVER_ID=$id" "DB_PORT=${port[$host]}" DB_REPLICATION_USER=cfgsvc_replica \
      DB_REPLICATION_PASSWORD=one DB_APPLICATION=orders DB_APPLICATION_PASSWORD=two "$@"
  } >"$scratch/$host.env"
}

# set_up HOST [--existing]
set_up() {
  local host=$1
  mkdir -p "$scratch/$host"
  chown mysql: "$scratch/$host"
  as_server tee "$scratch/$host/local.cnf" >/dev/null <<'CNF'
[mariadbd]
bind_address = 127.0.0.1
innodb_buffer_pool_size = 32M
innodb_log_file_size = 16M
CNF
  as_server env CFGSVC_DB_ENV="$scratch/$host.env" "$scratch/hooks/setup" "$@" \
    >>"$scratch/$host.log" 2>&1
}

unmounted() { umount "$1" 2>/dev/null; }

# Ends what a scenario left, and forgets its hosts.
clear_hosts() {
  local host pid
  stop_writers
  for host in a1 w1; do
    for pid in $(server "$host"); do
      kill -KILL "$pid"
      until_true 10 gone "$pid"
    done
    if mountpoint -q "$scratch/$host"; then until_true 10 unmounted "$scratch/$host"; fi
    rm -rf "${scratch:?}/$host" "$scratch/$host.env"
  done
  rm -f "$scratch"/acked.* "$scratch"/tried.*
}

# --- the group ------------------------------------------------------------------------------

epoch=0 holder=nobody synced='' synced_life=''
declare -A known=() start=() position=() life=()

# tell HOST: the agent's question.
tell() {
  local said
  said=$(hook "$1" position) || return 1
  read -r _ "position[$1]" "life[$1]" <<<"$said"
  [[ $said =~ ^orders-of-the-test\ (0|[0-9]+-[0-9]+-[0-9]+(,[0-9]+-[0-9]+-[0-9]+)*)\ [^\ ]+$ ]] ||
    die "$1 says '$said'"
  # Whoever comes in another life is in sync no more.
  if [ "$1" = "$synced" ] && [ "${life[$1]}" != "$synced_life" ]; then synced=''; fi
}

# covers START POSITION
covers() {
  awk -v start="$1" -v position="$2" 'BEGIN {
    if (start != "0") split(start, parts, ",")
    for (i in parts) { split(parts[i], p, "-"); has[p[1] "-" p[2]] = p[3] }
    if (position == "0") exit 0
    count = split(position, wanted, ",")
    for (i = 1; i <= count; i++) {
      split(wanted[i], p, "-")
      if (!((p[1] "-" p[2]) in has) || has[p[1] "-" p[2]] + 0 < p[3] + 0) exit 1
    }
  }'
}

# serve HOST: the next epoch begins there.
serve() {
  until_true 30 tell "$1"
  epoch=$((epoch + 1 + RANDOM % 3)) holder=$1 synced=''
  start[$epoch]=${position[$1]}
  hook "$1" on-serve
  known[$1]=$epoch
}

# come HOST: it is told what it may do; sets `verdict`.
come() {
  local next
  until_true 60 tell "$1"
  verdict=standby
  for next in $(printf '%s\n' "${!start[@]}" | sort -n); do
    [ "$next" -gt "${known[$1]:-0}" ] || continue
    covers "${start[$next]}" "${position[$1]}" || verdict=rebuild
    break
  done
  until_true 120 hook "$1" "on-$verdict"
  known[$1]=$epoch
  until_true 30 tell "$1"
}

# yield: the holder is asked for the role, and says where its data ends.
yield() {
  local before
  before=$(date +%s%N)
  hook "$holder" on-fence
  fence_ms=$((($(date +%s%N) - before) / 1000000))
  fences+=" $fence_ms"
  until_true 30 tell "$holder"
  left=${position[$holder]}
}
has_left() { tell "$1" && covers "${position[$1]}" "$left"; }

# sync_once: a run of the holder's hook, and the commit of what it says.
sync_once() {
  local said
  # Its own agent asks the other one, which does not hold up this one.
  [ -n "${frozen:-}" ] || tell "$other" || :
  said=$(hook "$holder" sync CFGSVC_SYNCED="$synced")
  [ "$said" = "$synced" ] || synced_life=${life[$other]:-}
  synced=$said
}
is_synced() { sync_once && [ "$synced" = "$1" ]; }

# lost: the holder is lost; the other one follows if it may.
lost() {
  tell "$other"
  [ "$synced" = "$other" ] || die "$other is not in sync: life $synced_life, now ${life[$other]}"
  serve "$other"
}

# --- the writers ----------------------------------------------------------------------------

writers=()
next_id=1

app() {
  MYSQL_PWD=two timeout -k 1 "$1" mariadb --no-defaults -h 127.0.0.1 -P "${port[$2]}" -u orders \
    orders -N -B --unbuffered "${@:3}"
}

# write HOST EPOCH ID [SECONDS]: one row; success: acknowledged.
write() {
  app "${4:-10}" "$1" -e "INSERT INTO writes VALUES ($3, cfgsvc.at_epoch($2))" >/dev/null 2>&1
}

# later COMMAND...: beside what follows; its end is for whoever waits for `last`.
later() {
  {
    trap - ERR
    "$@"
  } &
  last=$!
}

# start_writers HOST: four, each with numbers of its own, until the first error.
start_writers() {
  local from before
  before=$(acked | wc -l)
  for _ in 1 2 3 4; do
    from=$next_id
    next_id=$((next_id + 1000000))
    seq "$from" $((from + 99999)) |
      awk -v epoch="$epoch" '{
        print "INSERT INTO writes VALUES (" $1 ", cfgsvc.at_epoch(" epoch "));"
        print "SELECT " $1 ";" }' |
      MYSQL_PWD=two mariadb --no-defaults -h 127.0.0.1 -P "${port[$1]}" -u orders orders \
        -N -B --unbuffered >"$scratch/acked.$from" 2>>"$scratch/writers.log" &
    writers+=($!)
  done
  until_true 10 acked_more_than $((before + 20))
}
acked() { find "$scratch" -maxdepth 1 -name "acked.*" -exec cat {} + | sort; }
acked_more_than() { [ "$(acked | wc -l)" -gt "$1" ]; }
stop_writers() {
  local pid
  for pid in "${writers[@]}"; do
    kill "$pid" 2>/dev/null || :
    wait "$pid" 2>/dev/null || :
  done
  writers=()
}

# judge HOST: it has all that any client was told is written.
judge() {
  local missing
  ask "$1" 'SELECT id FROM orders.writes' | sort >"$scratch/rows"
  missing=$(acked | comm -23 - "$scratch/rows" | wc -l)
  [ "$missing" = 0 ] || die "$missing acknowledged writes are not at $1"
  judged=$((judged + $(acked | wc -l)))
}
# refused HOST EPOCH: a write with this epoch is refused by the database itself.
refused() {
  local why
  if why=$(app 10 "$1" -e "INSERT INTO writes VALUES (-1, cfgsvc.at_epoch($2))" 2>&1); then
    die "$1 took a write of epoch $2"
  fi
  [[ $why == *"epoch $2 is not the one that serves"* ]] || die "$1 refused for another reason: $why"
}
# alike: both have the same rows, when the standby has caught up.
alike() {
  local at sum
  at=$(ask "$holder" 'SELECT @@gtid_binlog_pos')
  [ "$(ask "$other" "SELECT MASTER_GTID_WAIT('$at', 20)")" = 0 ] || die "$other does not catch up"
  sum='CHECKSUM TABLE orders.writes EXTENDED'
  [ "$(ask a1 "$sum")" = "$(ask w1 "$sum")" ] || die "a1 and w1 differ"
  [ "$(ask "$other" 'SELECT @@read_only')" = 1 ] || die "$other is open as well"
}
orphans() { find "$scratch/$1/orphans" -mindepth 1 -maxdepth 1 | wc -l; }
is_open() { [ "$(ask "$1" 'SELECT @@read_only')" = 0 ]; }

# cut HOST: its replica cannot connect any more; heal HOST: it can.
cut() {
  ask "$1" "SET sql_log_bin = 0; ALTER USER cfgsvc_replica ACCOUNT LOCK; KILL USER cfgsvc_replica"
  until_true 10 connecting "$other"
}
connecting() {
  [ "$(slave "$1" Slave_IO_Running)" = Connecting ]
}
slave() {
  as_server mariadb --defaults-file="$scratch/$1/server.cnf" -e 'SHOW SLAVE STATUS\G' |
    sed -n "s/^ *$2: //p"
}
heal() { ask "$1" 'SET sql_log_bin = 0; ALTER USER cfgsvc_replica ACCOUNT UNLOCK'; }

# pair: a1 serves, w1 follows it and is in sync.
pair() {
  epoch=$((epoch + 10)) synced='' known=() start=()
  settings a1 1
  settings w1 2
  [ -d "$scratch/a1" ] || mkdir "$scratch/a1"
  set_up a1
  set_up w1
  holder=nobody other=w1
  serve a1
  come w1
  [ "$verdict" = standby ] || die "an empty store is told $verdict"
  [ "$(orphans w1)" = 0 ] || die "an empty store is kept for people"
  app 10 a1 -e 'CREATE TABLE writes (id BIGINT PRIMARY KEY, epoch BIGINT)'
  until_true 20 is_synced w1
}
# swap: the roles after another holder began.
swap() { if [ "$other" = w1 ]; then other=a1; else other=w1; fi; }

# --- scenarios ------------------------------------------------------------------------------

# An empty pair starts, the second host joins empty, and has what the first one has.
first_start() {
  local host
  pair
  # A server that starts removes the temporary tables of all that share its directory for them.
  for host in a1 w1; do
    [ "$(ask "$host" 'SELECT @@tmpdir')" = "$scratch/$host/tmp" ] || die "$host shares its tmpdir"
  done
  start_writers a1
  stop_writers
  judge a1
  alike
  tell a1
  [ "${position[a1]}" != 0 ] || die "the holder's position is empty after its first write"
  refused a1 $((epoch - 1))
  refused a1 $((epoch + 1))
}

# The role goes there and back while clients write; nothing is copied, nothing is lost.
switch() {
  local turn former copies
  pair
  copies=$(orphans a1)$(orphans w1)
  for turn in 1 2 3 4; do
    start_writers "$holder"
    former=$holder
    yield
    [ "$fence_ms" -lt 1500 ] || die "it took $fence_ms ms to close"
    until_true 20 has_left "$other"
    serve "$other"
    swap
    come "$former"
    [ "$verdict" = standby ] || die "$former is told $verdict after switch $turn"
    stop_writers
    judge "$holder"
    refused "$holder" "$((epoch - 4))"
    alike
    until_true 20 is_synced "$other"
  done
  [ "$(orphans a1)$(orphans w1)" = "$copies" ] || die "a switch made a copy"
}

# The holder's server is killed while clients write; the standby has all that they were told.
holder_killed() {
  local turn former
  pair
  for turn in 1 2 3; do
    start_writers "$holder"
    is_synced "$other" || die "$other is not in sync while writers run"
    former=$holder
    killed "$former"
    lost
    swap
    stop_writers
    judge "$holder"
    write "$holder" "$epoch" $((-epoch)) || die "$holder takes no write"
    come "$former"
    judge "$holder"
    alike
    until_true 20 is_synced "$other"
  done
}

# A host that was killed and has nothing of its own follows without a copy.
return_without_own_writes() {
  local copies
  pair
  copies=$(orphans a1)
  start_writers a1
  stop_writers
  alike
  # The last one is received, and cannot be applied yet.
  as_server mariadb --defaults-file="$scratch/w1/server.cnf" \
    -e 'LOCK TABLES orders.writes WRITE; SELECT SLEEP(8)' >/dev/null &
  until_true 5 locked_at w1
  write a1 "$epoch" -4 || die "a write that w1 has received is not acknowledged"
  killed a1
  lost
  wait $!
  [ -n "$(ask w1 'SELECT id FROM orders.writes WHERE id = -4')" ] || die "w1 has not applied all"
  swap
  write w1 "$epoch" -5 || die "w1 takes no write"
  come a1
  [ "$verdict" = standby ] || die "a1 is told $verdict at ${position[a1]}"
  [ "$(orphans a1)" = "$copies" ] || die "a1 was copied"
  judge w1
  alike
}

# A host that was killed with a write that nobody acknowledged is rebuilt; the write is kept.
return_with_own_writes() {
  local former id kept
  pair
  # Either way: of two servers, the one that writes last is not the one that is named last.
  for former in a1 w1; do
    start_writers "$former"
    stop_writers
    until_true 20 is_synced "$other"
    cut "$former"
    id=-77$epoch
    if write "$former" "$epoch" "$id" 3; then die "a write was acknowledged without $other"; fi
    killed "$former"
    lost
    swap
    [ -z "$(ask "$holder" "SELECT id FROM orders.writes WHERE id = $id")" ] || die "$holder has it"
    write "$holder" "$epoch" "$((-epoch))" || die "$holder takes no write"
    come "$former"
    [ "$verdict" = rebuild ] || die "$former is told $verdict at ${position[$former]}"
    judge "$holder"
    alike
    kept=$(find "$scratch/$former/orphans" -name 'binlog.0*' | sort)
    # shellcheck disable=SC2086  # several files
    mariadb-binlog -v $kept | grep "@1=$id" >/dev/null || die "the write is in none of: $kept"
    until_true 20 is_synced "$other"
  done
}

# The disk was replaced: the host is set up empty, and copies.
return_with_an_empty_disk() {
  pair
  start_writers a1
  is_synced w1 || die "w1 is not in sync"
  killed a1
  rm -rf "$scratch/a1"
  lost
  swap
  stop_writers
  judge w1
  set_up a1
  known[a1]=0
  come a1
  [ "$verdict" = standby ] || die "an empty store is told $verdict"
  alike
  until_true 20 is_synced a1
}

# Both servers are killed while clients write: the holder goes on with all of it, whoever is first.
both_killed() {
  local first
  pair
  for first in a1 w1; do
    start_writers a1
    is_synced w1 || die "w1 is not in sync"
    kill -KILL "$(server a1)" "$(server w1)"
    stop_writers
    until_true 30 tell "$first"
    if is_open "$first"; then die "$first is open after its start"; fi
    # In another life: nobody may take it but the one who had it.
    until_true 30 tell w1
    [ -z "$synced" ] || die "w1 is still in sync after its restart"
    serve a1
    judge a1
    come w1
    [ "$verdict" = standby ] || die "w1 is told $verdict"
    alike
    until_true 20 is_synced w1
  done
}

# Both are killed, and the holder's disk is gone: the standby still has what it had received and
# not applied, though its server was restarted.
both_killed_and_one_lost() {
  pair
  ask w1 'STOP SLAVE SQL_THREAD'
  start_writers a1
  kill -KILL "$(server a1)" "$(server w1)"
  stop_writers
  rm -rf "$scratch/a1"
  serve w1
  judge w1
}

# The fence closes a server whose commits wait for the replica, and answers none of them.
fence_while_commits_wait() {
  local waiting=()
  pair
  cut a1
  for id in -1 -2 -3 -4 -5; do
    later write a1 "$epoch" "$id" 20
    waiting+=("$last")
  done
  later app 20 a1 -e 'CREATE TABLE other (id INT)' 2>>"$scratch/writers.log"
  waiting+=("$last")
  until_true 10 waits_at a1 6
  yield
  [ "$fence_ms" -lt 2500 ] || die "it took $fence_ms ms to close"
  for id in "${waiting[@]}"; do
    if wait "$id"; then die "a commit was acknowledged that w1 has not"; fi
  done
  # The next holder has all of it nevertheless: a1 is up again, closed, and w1 drains it.
  heal a1
  until_true 20 has_left w1
  serve w1
  swap
  come a1
  [ "$verdict" = standby ] || die "a1 is told $verdict"
  # Those that were in the binlog; the others were not written at all.
  [ "$(ask w1 'SELECT COUNT(*) FROM orders.writes WHERE id < 0')" -gt 0 ] || die "w1 has none"
  alike
}
# waits_at HOST COUNT: so many statements are not answered yet, and one waits for the replica.
waits_at() {
  [ "$(ask "$1" "SELECT COUNT(*), SUM(STATE LIKE 'Waiting for semi%') FROM
    information_schema.PROCESSLIST WHERE USER = 'orders' AND COMMAND <> 'Sleep'")" = "$2"$'\t1' ]
}

# The replica dies, or hangs: writes wait until the group does not count on it, and go on then.
replica_lost() {
  local hooked id
  pair
  killed w1
  if write a1 "$epoch" -1 2; then die "a write was acknowledged without w1, which is counted on"; fi
  until_true 10 is_unsynced_by_the_hook
  if write a1 "$epoch" -2 2; then die "a write was acknowledged before the group knew"; fi
  synced=''
  sync_once
  write a1 "$epoch" -3 || die "writes do not go on without w1"
  hook w1 position >/dev/null || :
  come w1
  until_true 20 is_synced w1

  local frozen=1
  kill -STOP "$(server w1)"
  later write a1 "$epoch" -4 30
  until_true 20 is_synced ''
  sync_once
  wait "$last" || die "the write that waited is not acknowledged"
  # One that hangs is not waited for again.
  for id in -5 -6 -7; do
    later hook a1 sync >/dev/null
    hooked=$last
    while kill -0 "$hooked" 2>/dev/null; do
      id=$((id - 10))
      write a1 "$epoch" "$id" 1 || die "writes wait for a host that hangs"
    done
    wait "$hooked"
  done
  kill -CONT "$(server w1)"
  frozen=''
  until_true 20 is_synced w1
  alike
}
is_unsynced_by_the_hook() { [ -z "$(hook a1 sync CFGSVC_SYNCED=w1)" ]; }

# The holder's server stops answering: the check says so, and the fence kills it.
holder_hangs() {
  local former=a1
  pair
  start_writers a1
  is_synced w1 || die "w1 is not in sync"
  hook a1 check || die "a sound server fails the check"
  kill -STOP "$(server a1)"
  if hook a1 check; then die "the check says that a stopped server is sound"; fi
  hook a1 on-fence
  [ -z "$(server a1)" ] || die "the server that could not be closed is still there"
  lost
  swap
  stop_writers
  judge w1
  come "$former"
  alike
}

# The holder's host freezes, nobody fences it, and it thaws when another one serves: nothing that it
# does then counts.
holder_frozen() {
  local thawed before
  pair
  start_writers a1
  is_synced w1 || die "w1 is not in sync"
  thawed=$(server a1)
  kill -STOP "$thawed"
  before=$SECONDS
  lost
  [ $((SECONDS - before)) -lt 10 ] || die "w1 needed $((SECONDS - before)) s to serve"
  swap
  write w1 "$epoch" -1 || die "w1 takes no write"
  kill -CONT "$thawed"
  if write a1 "${known[a1]}" -2 4; then die "a1 acknowledged a write after another began"; fi
  stop_writers
  judge w1
  hook a1 on-fence
  come a1
  [ "$verdict" = rebuild ] || die "a1 is told $verdict at ${position[a1]}"
  alike
}

# The holder's disk is full: the same.
disk_full() {
  local before
  mkdir "$scratch/a1"
  mount -t tmpfs -o size=150m,mode=755 tmpfs "$scratch/a1"
  pair
  start_writers a1
  is_synced w1 || die "w1 is not in sync"
  hook a1 check || die "a sound server fails the check"
  dd if=/dev/zero of="$scratch/a1/fill" bs=64k status=none 2>/dev/null || :
  until_true 20 check_fails a1
  before=$(date +%s%N)
  hook a1 on-fence
  [ $((($(date +%s%N) - before) / 1000000)) -lt 2500 ] || die "it took too long to close"
  lost
  swap
  stop_writers
  judge w1
  rm "$scratch/a1/fill"
  come a1
  judge w1
  alike
}
check_fails() { ! hook "$1" check; }

# What the check must not take for sickness, and what it must.
check_tells() {
  local before
  pair
  cut a1
  later write a1 "$epoch" -1 20
  until_true 10 waits_at a1 1
  hook a1 check || die "a write that waits for the replica is taken for a sick server"
  heal a1
  wait "$last"
  as_server mariadb --defaults-file="$scratch/a1/server.cnf" \
    -e 'FLUSH TABLES WITH READ LOCK; SELECT SLEEP(6)' >/dev/null &
  until_true 5 locked_at a1
  hook a1 check || die "a locked server is taken for a sick one"
  wait $!
  before=$(ask a1 'SELECT @@gtid_binlog_state')
  hook a1 check
  [ "$before" = "$(ask a1 'SELECT @@gtid_binlog_state')" ] || die "the check moves the position"
  ask a1 'SET GLOBAL read_only = ON'
  check_fails a1 || die "a closed server passes the check"
}
locked_at() {
  local sleeping="SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE STATE = 'User sleep'"
  [ "$(ask "$1" "$sleeping")" = 1 ]
}

# A rebuild is killed at any moment, with all it started, and done again: the store is always a
# whole one, the former or the copy.
rebuild_killed() {
  local turn said
  pair
  start_writers a1
  stop_writers
  cut a1
  if write a1 "$epoch" -77 2; then die "a write was acknowledged without w1"; fi
  killed a1
  lost
  swap
  until_true 30 tell a1
  for turn in 1 2 3 4 5 6 7 8 9 10; do
    hook_for "$(awk -v turn="$turn" 'BEGIN { print turn * 0.25 }')" a1 on-rebuild
    if said=$(hook a1 position); then
      [[ $said == "orders-of-the-test "*-*-*" "* ]] || die "half of a copy says: $said"
      ask a1 'SELECT COUNT(*) FROM orders.writes' >/dev/null || die "the store is not whole"
    fi
  done
  until_true 60 hook a1 on-rebuild
  known[a1]=$epoch
  judge w1
  alike
}
# hook_for SECONDS HOST NAME: then it is killed, with all that it has started and not let go.
hook_for() {
  local seconds=$1; shift
  {
    # A session of its own, by which all of it is found.
    setsid bash -c "$(declare -p port scratch hooks epoch holder); $(declare -f hook as_server)
      $(printf '%q ' hook "$@")" &
    sleep "$seconds"
    pkill -KILL -s $! || :
    wait $! || :
  } 2>/dev/null
}

# on-serve is killed at any moment, and on-fence closes whatever it left.
serve_killed() {
  local turn
  pair
  yield
  for turn in 2 3 4 5 6 7 8 9; do
    epoch=$((epoch + 1))
    hook_for "0.0$turn" a1 on-serve
    hook a1 on-fence
    if is_open a1; then die "open after on-fence"; fi
  done
  serve a1
  write a1 "$epoch" -1 || die "a1 takes no write"
  if hook a1 on-serve EPOCH=$((epoch - 1)); then die "an epoch before the last was taken"; fi
}

# More data than a dump can carry is copied by mariabackup.
copy_by_backup() {
  pair
  settings w1 2 "DB_COPY='mariabackup --defaults-file=$scratch/a1/server.cnf --backup \
--stream=mbstream --target-dir=$scratch/w1 2>$scratch/w1/backup.log'"
  start_writers a1
  until_true 60 hook w1 on-rebuild
  stop_writers
  judge a1
  alike
  [ "$(orphans w1)" = 1 ] || die "no copy was made"
}

# A server that was there before becomes the first holder's; the other one copies it.
existing_server() {
  epoch=$((epoch + 10)) synced='' known=() start=() holder=nobody other=w1
  settings a1 1
  settings w1 2
  set_up a1
  until_true 20 hook a1 position >/dev/null
  ask a1 'SET sql_log_bin = 0; DROP DATABASE cfgsvc; CREATE DATABASE old;
    CREATE TABLE old.x (i INT);
    INSERT INTO old.x VALUES (7)'
  if hook a1 position >/dev/null; then die "a store that is not set up has a position"; fi
  killed a1
  set_up a1 --existing
  until_true 20 tell a1
  [ "${position[a1]}" != 0 ] || die "a store with data says that it is empty"
  serve a1
  set_up w1
  come w1
  [ "$(ask w1 'SELECT i FROM old.x')" = 7 ] || die "w1 lacks what was there before"
}

all=(first_start switch holder_killed return_without_own_writes return_with_own_writes
  return_with_an_empty_disk both_killed both_killed_and_one_lost fence_while_commits_wait
  replica_lost holder_hangs holder_frozen disk_full check_tells rebuild_killed serve_killed
  copy_by_backup existing_server)
for scenario in "${@:-${all[@]}}"; do
  [[ " ${all[*]} " == *" $scenario "* ]] ||
    { echo "no such scenario; there are: ${all[*]}"; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "error: needs root, to mount a small disk and become mysql"; exit 2; }
for tool in mariadbd mariadb mariadb-dump mariabackup setpriv; do
  command -v "$tool" >/dev/null || { echo "error: no $tool: apt-get install mariadb-server \
mariadb-backup"; exit 2; }
done

# What is left when this ends; kept for people when a scenario failed.
finish() {
  local status=$?
  trap - ERR EXIT
  set +e
  [ "$status" = 0 ] || printf 'FAILED  %s; its logs are in %s\n' "${scenario:-}" "$scratch/kept"
  mkdir "$scratch/kept"
  for host in a1 w1; do
    cp "$scratch/$host.log" "$scratch/kept"
    cp "$scratch/$host/error.log" "$scratch/kept/$host.error.log"
    [ "$status" = 0 ] ||
      ask "$host" 'SELECT @@gtid_binlog_state; SHOW SLAVE STATUS\G SHOW PROCESSLIST' \
      >"$scratch/kept/$host.status"
  done 2>/dev/null
  clear_hosts
  [ "$status" != 0 ] || rm -rf "$scratch"
  exit "$status"
}
trap finish EXIT
for scenario in "${@:-${all[@]}}"; do
  began=$SECONDS judged=0 fences='' epoch=$((epoch + 10))
  "$scenario"
  clear_hosts
  printf 'ok      %-28s %4d s  %d acknowledged writes judged%s\n' "$scenario" \
    $((SECONDS - began)) "$judged" "${fences:+; closed in ms:$fences}"
done
