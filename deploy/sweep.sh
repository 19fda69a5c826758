#!/usr/bin/env bash
#SBATCH --job-name=jaxrl-sweep
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
# One run of a sweep per task of a job array. --list prints the number of runs. From the project folder, for twelve:
#   sbatch --array=0-11 deploy/sweep.sh --config=configs/ablations/kl.py:1.5b --workdir=runs/kl
# Five minutes before the time limit a run gets SIGTERM: it saves its state, exits with 75 and is requeued; the same command
# resumes it. When all runs have ended, this makes the table and the report:
#   .venv/bin/python -m jaxrl.sweep --config=configs/ablations/kl.py:1.5b --workdir=runs/kl --report
#SBATCH --signal=TERM@300
set -uo pipefail
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # srun does not inherit it from sbatch
srun .venv/bin/python -m jaxrl.sweep "$@" --index="$SLURM_ARRAY_TASK_ID" &
wait $!
status=$?
if [ "$status" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
