# Ends a server when the standard input ends: when its owner drops it, or is gone, however it went.
#
# Each line of the input is the process to watch from now on, or empty for none. The arguments: the signal that asks the
# server to end; the data directory of a PostgreSQL, or nothing; the directory to delete in the end, or nothing.

ending=$1 data=$2 scratch=$3

server=
while read -r line; do
  server=$line
done

# Sets `state` and `parent` of a process; fails if there is none. A name in the file may have spaces, in parentheses.
look() {
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
  set -- ${line##*) }
  state=$1 parent=$2
}

# Stops a process where it is, and waits until it does nothing more. When the owner ends, the kernel wakes a stopped
# child of it up again (its process group is orphaned), so that once is not enough.
halt() {
  tries=0
  while alive "$1" && [ "$state" != T ] && [ "$tries" -lt 1000 ]; do
    kill -STOP "$1" 2>/dev/null
    tries=$((tries + 1))
    sleep 0.01
  done
}

# A process, its children and theirs.
family() {
  echo "$1"
  for process in /proc/[0-9]*; do
    look "${process#/proc/}" && [ "$parent" = "$1" ] && family "${process#/proc/}"
  done
}

# Whether one of the processes lives; a zombie does not.
alive() {
  for one in "$@"; do
    look "$one" && [ "$state" != Z ] && return 0
  done
  return 1
}

# Waits up to ten seconds until none of the processes lives.
await() {
  tries=0
  while alive "$@"; do
    tries=$((tries + 1))
    [ "$tries" -lt 1000 ] || return 1
    sleep 0.01
  done
}

if alive $server; then
  # Stopped, it has no more children than we find.
  halt "$server"
  processes=$(family "$server")
  # Asked to, PostgreSQL ends at once, its children and its shared memory with it. They may have been paused.
  kill "-$ending" "$server" 2>/dev/null
  kill -CONT $processes 2>/dev/null
  if ! await $processes; then
    halt "$server"
    kill -KILL $(family "$server") $processes 2>/dev/null
    await $processes
  fi
fi

# The shared memory of a PostgreSQL that was killed: its line has the key and the identifier.
if [ -n "$data" ] && [ -f "$data/postmaster.pid" ]; then
  set -- $(sed -n 7p "$data/postmaster.pid")
  [ -z "$2" ] || ipcrm -m "$2" 2>/dev/null
fi

[ -z "$scratch" ] || rm -rf "$scratch"
