#!/bin/bash
# Machines with ssh: one process per machine, started again on the machines of the file `hosts` until the run has ended.
#   docs/launch/hosts.sh hosts /path/of/morphism --config experiments/imagenet_resnet.py:50 --workdir /shared/r50
# A machine that is lost is taken out of the file, or another one written there: the next start sees it.
list=$1 folder=$2
shift 2

while true; do
    mapfile -t hosts < "$list"
    processes=()
    for index in "${!hosts[@]}"; do
        # -tt: the process ends when this script does. A file of hosts holds one name per line.
        ssh -tt "${hosts[$index]}" cd "$folder" '&&' python train.py --stopped_status 75 --distributed \
            --coordinator "${hosts[0]}:1234" --num_processes "${#hosts[@]}" --process_id "$index" "$@" &
        processes+=($!)
    done
    failed=0
    for process in "${processes[@]}"; do
        wait "$process" || failed=1
    done
    [ "$failed" -eq 0 ] && break
    sleep "${PAUSE:-10}"
done
