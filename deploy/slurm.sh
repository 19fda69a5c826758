#!/usr/bin/env bash
#SBATCH --job-name=jaxrl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
# One run on all GPUs of these nodes, one process a node. From the project's folder, in a file system that all nodes share:
#   sbatch deploy/slurm.sh --config=configs/three_stage.py:7b --workdir=runs/three_stage
# Five minutes before the time is up every process gets SIGTERM: the run saves, exits with 75, and goes back to the queue,
# where the same command goes on. An exit by anything else is final; sbatch again goes on from the last checkpoint.
#SBATCH --signal=TERM@300
set -uo pipefail
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # srun does not take it from sbatch by itself
# The processes find each other by what srun sets, and one that fails ends the others: to kill them at its exit, as some
# clusters are set up to do, would hide the 75 of a process that is still on its way out.
srun --kill-on-bad-exit=0 .venv/bin/python -m jaxrl.train "$@" &
wait $!
status=$?
if [ "$status" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
