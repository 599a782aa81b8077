#!/bin/bash
# Cloud TPU VMs: one process per host of the slice; JAX finds the others by itself.
#   docs/launch/tpu_vm.sh NAME ZONE --config experiments/imagenet_resnet.py:50 --config.model.dtype=bfloat16 \
#       --workdir gs://bucket/r50
# NAME is a TPU VM, or a queued resource's node; the repository is in ~/morphism on each host.
name=$1 zone=$2
shift 2

until gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd morphism && python train.py --distributed --stopped_status 75 $*"; do
    sleep "${PAUSE:-30}"  # preempted or stopped: the same command goes on from the last checkpoint
done
