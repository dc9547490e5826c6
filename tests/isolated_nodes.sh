#!/usr/bin/env bash
# Ray nodes on one machine that share nothing but the network: each worker node has mounts and processes of its own.
#
#   isolated_nodes.sh PYTHON PORT NUM_WORKERS -- COMMAND...
#
# A head without CPUs at 127.0.0.1:PORT and NUM_WORKERS nodes of one CPU, all on loopback. COMMAND runs beside the head,
# with RAY_ADDRESS set, and everything ends with it. In a worker node every path of $PRIVATE is an empty folder of its
# own: what one node writes there no other sees. Killing the process group of a node, which is told as it starts, is the
# loss of a machine. Exits with 77 where nobody may make such nodes: it takes root, or user namespaces.
set -euo pipefail
python=$1 port=$2 workers=$3
shift 4
ray=$(dirname "$python")/ray
private=${PRIVATE:-"$HOME/.cache /mnt /dev/shm"}
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-disabled} RAY_DISABLE_USAGE_STATS=1
common=(--block --object-store-memory 100000000)

alone=(unshare --mount --pid --fork --kill-child --mount-proc)
if ! "${alone[@]}" true 2>/dev/null; then
  alone+=(--user --map-root-user)
  "${alone[@]}" true || { echo "no namespaces of mounts and processes can be made here" >&2; exit 77; }
fi

work=$(mktemp -d /tmp/nodes.XXXX)
groups=()
trap 'for group in "${groups[@]}"; do kill -9 -- "-$group" 2>/dev/null || true; done; rm -rf "$work"' EXIT

setsid "$ray" start --head "${common[@]}" --node-ip-address 127.0.0.1 --port "$port" --num-cpus 0 \
  --include-dashboard false --temp-dir "$work/head" > "$work/head.log" 2>&1 &
groups+=($!)
disown
for _ in $(seq 120); do
  (: < "/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
  sleep 0.5
done

for i in $(seq "$workers"); do
  # each node has its own address of the loopback range, by which Ray tells it from the head
  setsid "${alone[@]}" bash -c 'for path in $1; do mkdir -p "$path"; mount -t tmpfs tmpfs "$path"; done; shift; exec "$@"' \
    _ "$private" "$ray" start "${common[@]}" --address "127.0.0.1:$port" --node-ip-address "127.0.0.$((10 + i))" \
    --num-cpus 1 --resources "{\"node$i\": 1}" > "$work/node$i.log" 2>&1 &
  groups+=($!)
  disown
  # one after the other: two that start at once on two cores may be too slow for Ray
  for _ in $(seq 120); do
    grep -q -e --block "$work/node$i.log" && break
    sleep 0.5
  done
  grep -q -e --block "$work/node$i.log" || { tail -n 5 "$work"/*.log >&2; exit 1; }
  echo "node $i: process group ${groups[-1]}"
done
RAY_ADDRESS=127.0.0.1:$port "$@"
