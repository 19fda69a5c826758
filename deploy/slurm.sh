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
leader=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export COORDINATOR="$leader:$((20000 + SLURM_JOB_ID % 20000))"
# SLURM_NODEID is known only inside each task. exec, so that the signal reaches Python and not a shell around it.
srun --kill-on-bad-exit=1 bash -c 'exec .venv/bin/python -m jaxrl.train "$@" \
    --coordinator="$COORDINATOR" --processes="$SLURM_NNODES" --process="$SLURM_NODEID"' jaxrl "$@" &
wait $!
status=$?
if [ "$status" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
