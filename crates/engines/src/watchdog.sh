# Ends a server when stdin ends: when its owner drops it, or dies in any way.
#
# Each line of stdin is the process to watch from now on, or empty for none. The arguments: the signal for a clean stop; the
# data directory of a PostgreSQL, or empty; the directory to delete in the end, or empty.

ending=$1 data=$2 scratch=$3

server=
while read -r line; do
  server=$line
done

# Sets `state` and `parent` of a process; fails if there is none. A process's name may contain spaces, in parentheses.
look() {
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
  set -- ${line##*) }
  state=$1 parent=$2
}

# Suspends a process, and waits until it is stopped. Repeats the signal, because the kernel resumes a suspended child when its
# owner dies (its process group is orphaned).
halt() {
  tries=0
  while alive "$1" && [ "$state" != T ] && [ "$tries" -lt 1000 ]; do
    kill -STOP "$1" 2>/dev/null
    tries=$((tries + 1))
    sleep 0.01
  done
}

# Prints a process and all its descendants.
family() {
  echo "$1"
  for process in /proc/[0-9]*; do
    look "${process#/proc/}" && [ "$parent" = "$1" ] && family "${process#/proc/}"
  done
}

# Whether one of the processes is alive; a zombie is not.
alive() {
  for one in "$@"; do
    look "$one" && [ "$state" != Z ] && return 0
  done
  return 1
}

# Waits up to ten seconds until none of the processes is alive.
await() {
  tries=0
  while alive "$@"; do
    tries=$((tries + 1))
    [ "$tries" -lt 1000 ] || return 1
    sleep 0.01
  done
}

if alive $server; then
  # Suspended, it cannot fork further children.
  halt "$server"
  processes=$(family "$server")
  # After the signal PostgreSQL ends at once, with its children and its shared memory. They may be suspended, so resume them.
  kill "-$ending" "$server" 2>/dev/null
  kill -CONT $processes 2>/dev/null
  if ! await $processes; then
    halt "$server"
    kill -KILL $(family "$server") $processes 2>/dev/null
    await $processes
  fi
fi

# Removes the shared memory of a PostgreSQL that was killed: its line has the key and the identifier.
if [ -n "$data" ] && [ -f "$data/postmaster.pid" ]; then
  set -- $(sed -n 7p "$data/postmaster.pid")
  [ -z "$2" ] || ipcrm -m "$2" 2>/dev/null
fi

[ -z "$scratch" ] || rm -rf "$scratch"
