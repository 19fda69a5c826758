#!/usr/bin/env bash
#SBATCH --job-name=jaxrl-sweep
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
# One run of a sweep in each task of an array. --list shows how many there are; from the project's folder, for twelve:
#   sbatch --array=0-11 deploy/sweep.sh --config=configs/ablations/kl.py:1.5b --workdir=runs/kl
# Five minutes before the time is up a run gets SIGTERM: it saves, exits with 75, and goes back to the queue, where the same
# command goes on. When all have ended, this makes table and page:
#   .venv/bin/python -m jaxrl.sweep --config=configs/ablations/kl.py:1.5b --workdir=runs/kl --report
#SBATCH --signal=TERM@300
set -uo pipefail
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # srun does not take it from sbatch by itself
srun .venv/bin/python -m jaxrl.sweep "$@" --index="$SLURM_ARRAY_TASK_ID" &
wait $!
status=$?
if [ "$status" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
