#!/bin/sh
# Checks that the files stay that base_link.sh and home_swap.py, which may run at the same time or
# later, put where links led.
are_there() {
    for name in tmp/file home/file out/file tree/file home/a home/b; do
        test -e "foreign/$name" || return 1
    done
}
for _ in $(seq 150); do
    are_there && break
    sleep 0.1
done
sleep 1  # their slots remove what the programs have left
are_there
