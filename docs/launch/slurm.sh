#!/bin/bash
# SLURM: one process per GPU; the job requeues itself until the run has ended, on as many nodes as there are then.
#   sbatch docs/launch/slurm.sh --config experiments/imagenet_resnet.py:50 --workdir /shared/r50
#SBATCH --nodes=1-4
#SBATCH --ntasks-per-node=8
#SBATCH --gres=gpu:8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

# Five minutes before the time limit the processes get SIGTERM: they save, and exit with 75.
# --kill-on-bad-exit ends all processes with the first that fails. Each process must see all GPUs of its node.
srun --kill-on-bad-exit=1 --gpu-bind=none \
    python train.py --distributed --stopped_status 75 --config.data.threads=8 "$@"
status=$?
[ "$status" -eq 0 ] && exit 0
[ "$status" -ne 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -ge 20 ] && exit "$status"
scontrol requeue "$SLURM_JOB_ID"
