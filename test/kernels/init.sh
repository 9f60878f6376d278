#!/bin/sh
# The first process of a guest.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root CI=true KUBE_GATEWAY_TEST_APP=/tests/app
busybox mount -t proc proc /proc
busybox --install -s 2>/dev/null
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo '+cpu +memory +pids' >/sys/fs/cgroup/cgroup.subtree_control
ip link set lo up
ulimit -n 65536
exec </dev/null >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 raw
up() { cut -d' ' -f1 /proc/uptime; }
echo "== kernel $(uname -r), up $(up) s"
. /plan
poweroff -f
