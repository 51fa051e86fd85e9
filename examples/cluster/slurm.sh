#!/bin/bash
# One allocation: Ray's head on the first node, a worker on every other one, the search on the head.
#   sbatch examples/cluster/slurm.sh BUDGET.yaml NAME
# The environment with sousvit[ray], the data and the runs folder lie on paths that all nodes see.
#SBATCH --job-name=sousvit
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
set -euo pipefail

budget=$1
run=$2
port=6380
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}

# One token for all nodes (Ray 2.52 and newer), kept in the home that they share.
export RAY_AUTH_MODE=token
ray get-auth-token --generate > /dev/null

srun --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --port "$port" --num-cpus "$SLURM_CPUS_PER_TASK" --include-dashboard false --block &
sleep 15
if [ "${#nodes[@]}" -gt 1 ]; then
  srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --exclude="$head" \
    ray start --address "$head:$port" --num-cpus "$SLURM_CPUS_PER_TASK" --block &
fi
sleep 15

# SIGTERM five minutes before the end stops the search cleanly; the same job again resumes it.
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
  sousvit search "$budget" --runs "$PWD/runs" --run "$run" --executor ray &
search=$!
trap 'kill -TERM $search' TERM
wait $search
