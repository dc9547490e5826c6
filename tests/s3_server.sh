#!/bin/bash
# An S3 server on loopback for tests/faults: OpenStack Swift with s3api, from a venv that has swift==2.38.3.
# Usage: s3_server.sh VENV DIR PORT (it takes PORT to PORT+3). Access key mer:ray, secret secretkey. One process group
# per server, its leader's id in DIR/run/*.pid.
set -eu
BIN=$1/bin DIR=$2 PORT=$3
mkdir -p "$DIR/etc" "$DIR/srv/d1" "$DIR/run" "$DIR/log"
cd "$DIR/etc"
cat > swift.conf <<X1
[swift-hash]
swift_hash_path_suffix = merray
swift_hash_path_prefix = merray
[storage-policy:0]
name = gold
default = yes
X1
port=$PORT
for name in object container account; do
  port=$((port + 1))
  "$BIN/swift-ring-builder" $name.builder create 6 1 1 > /dev/null
  "$BIN/swift-ring-builder" $name.builder add r1z1-127.0.0.1:$port/d1 1 > /dev/null
  "$BIN/swift-ring-builder" $name.builder rebalance > /dev/null
  cat > $name-server.conf <<X1
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $port
workers = 1
user = $(id -un)
swift_dir = $DIR/etc
devices = $DIR/srv
mount_check = false
log_address = $DIR/none
fallocate_reserve = 0
[pipeline:main]
pipeline = $name-server
[app:$name-server]
use = egg:swift#$name
X1
done
cat > proxy-server.conf <<X1
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = $PORT
workers = 1
user = $(id -un)
swift_dir = $DIR/etc
log_address = $DIR/none
[pipeline:main]
pipeline = catch_errors proxy-logging cache s3api tempauth bulk slo dlo symlink versioned_writes proxy-logging proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
max_bucket_listing = 100
[filter:tempauth]
use = egg:swift#tempauth
user_mer_ray = secretkey .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:symlink]
use = egg:swift#symlink
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
X1
for name in account container object proxy; do
  setsid "$BIN/swift-$name-server" "$DIR/etc/$name-server.conf" > "$DIR/log/$name.log" 2>&1 < /dev/null &
  echo $! > "$DIR/run/$name.pid"
done
