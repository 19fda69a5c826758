#!/usr/bin/env bash
#SBATCH --job-name=jaxrl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
# One run on all GPUs of these nodes, one process per node. Submit it from the project folder, on a shared file system:
#   sbatch deploy/slurm.sh --config=configs/three_stage.py:7b --workdir=runs/three_stage
# Five minutes before the time limit every process gets SIGTERM: the run saves its state, exits with 75 and is requeued;
# the same command resumes it. Any other exit is final; submit the job again to resume from the last checkpoint.
#SBATCH --signal=TERM@300
set -uo pipefail
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # srun does not inherit it from sbatch
# The processes find each other by srun's environment variables, and a process that fails ends the others. Clusters that
# kill all tasks when one exits would hide the status 75 of a process that is still saving.
srun --kill-on-bad-exit=0 .venv/bin/python -m jaxrl.train "$@" &
wait $!
status=$?
if [ "$status" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
