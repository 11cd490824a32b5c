#!/usr/bin/env bash
# One worker's part of launch/tpu_vm.py. It lies in BASE/source/launch; beside source are venv and
# run, which holds the job's command, log, pid and exit status.
#
#   worker.sh install               an environment in BASE/venv that holds groot_jax for TPUs
#   worker.sh mount KIND SOURCE DIR bucket (gcsfuse) or nfs, unless it is mounted already
#   worker.sh start COMMAND         ends what still runs, then starts COMMAND; it outlives the ssh
#   worker.sh follow LINES          its log until it ends; exits as it did
#   worker.sh status                one line
#   worker.sh stop                  SIGTERM, and two minutes later SIGKILL
set -euo pipefail

base=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
run=$base/run
# The name of a TPU VM's worker ends in -w-0, -w-1, ...
name=$(hostname)
me="worker ${name##*-w-}"
pid=

die() {
  echo "$me: $1" >&2
  exit 1
}

# Numbers of processes start anew when the machine does.
boot() { cat /proc/sys/kernel/random/boot_id; }

alive() {
  local machine
  [ -f "$run/pid" ] && [ ! -f "$run/exit" ] || return 1
  read -r pid machine <"$run/pid"
  [ "$machine" = "$(boot)" ] && kill -0 -- "-$pid" 2>/dev/null
}

install() {
  local python new='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
  if [ ! -x "$base/venv/bin/python" ]; then
    for python in python3.12 python3.11 python3.13 python3; do
      "$python" -c "$new" 2>/dev/null && break
      python=
    done
    if [ -n "$python" ]; then
      "$python" -m venv "$base/venv"
    else
      # The images of several TPU generations have no Python that is new enough; uv brings one.
      python3 -m pip install --user --quiet uv ||
        die "no Python 3.11 to 3.13 and no pip: install one with --setup=COMMAND"
      python3 -m uv venv --quiet --seed --python 3.12 "$base/venv"
    fi
  fi
  cd "$base/source"
  "$base/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --editable '.[tpu]' --constraint constraints.txt
}

mount_storage() {
  local kind=$1 source=$2 path=$3
  if mountpoint -q "$path"; then
    return
  fi
  sudo mkdir -p "$path"
  case $kind in
    bucket)
      command -v gcsfuse >/dev/null || die "gcsfuse is missing: install it with --setup=COMMAND"
      sudo chown "$(id -u)" "$path"
      # Workers shall see each other's files at once, and checkpoints are renamed into place.
      gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --rename-dir-limit=200000 \
        "$source" "$path"
      ;;
    nfs)
      command -v mount.nfs >/dev/null || sudo apt-get install --yes --quiet nfs-common
      sudo mount -t nfs "$source" "$path"
      ;;
  esac
}

start() {
  stop
  mkdir -p "$run"
  rm -f "$run/exit" "$run/pid"
  printf '%s\n' "$1" >"$run/command"
  echo "--- $(date -u +%FT%TZ) $1" >>"$run/log"
  # A session of its own: nothing that happens to the ssh connection reaches it.
  setsid bash "${BASH_SOURCE[0]}" supervise "$1" </dev/null >>"$run/log" 2>&1 &
  until [ -f "$run/pid" ]; do sleep 0.05; done
}

supervise() {
  local status=0
  # The job gets the same SIGTERM and ends in its own time; then its status is to be written.
  trap : TERM
  echo "$$ $(boot)" >"$run/pid.new"
  mv "$run/pid.new" "$run/pid"
  cd "$base/source"
  PATH=$base/venv/bin:$PATH PYTHONUNBUFFERED=1 bash -c "$1" || status=$?
  echo "$status" >"$run/exit.new"
  mv "$run/exit.new" "$run/exit"
}

follow() {
  [ -f "$run/log" ] || die "nothing was started here"
  if alive; then
    tail -n "$1" -f --pid="$pid" "$run/log" | sed -u "s/^/[$me] /"
  else
    tail -n "$1" "$run/log" | sed -u "s/^/[$me] /"
  fi
  [ -f "$run/exit" ] || exit 75
  exit "$(cat "$run/exit")"
}

status() {
  if alive; then
    echo "$me: running: $(cat "$run/command")"
  elif [ ! -f "$run/command" ]; then
    echo "$me: idle"
  elif [ ! -f "$run/exit" ]; then
    echo "$me: interrupted"
  else
    case $(cat "$run/exit") in
      0) echo "$me: finished" ;;
      # Signals (129, 130, 143), another process that was lost (75), a process that the system or
      # XLA ended (137 for want of memory, 134, 135, 139): the same command continues.
      75 | 129 | 130 | 134 | 135 | 137 | 139 | 143) echo "$me: interrupted" ;;
      *) echo "$me: failed: exit status $(cat "$run/exit")" ;;
    esac
  fi
}

stop() {
  alive || return 0
  kill -TERM -- "-$pid"
  for _ in $(seq 600); do
    alive || return 0
    sleep 0.2
  done
  kill -KILL -- "-$pid"
}

case ${1:-} in
  install | follow | status | stop | start | supervise) "$@" ;;
  mount) mount_storage "${@:2}" ;;
  *) die "worker.sh: no such action: ${1:-}" ;;
esac
