#!/bin/bash
# sbatch --nodes 2 --gpus-per-node 8 recipes/slurm.sh recipes/sft.py --config recipes/configs/qwen3_8b_qlora.yaml --global_batch_size 256
# One launcher a node, from the environment of the submitting shell (activate it first). Two minutes before the time limit
# the ranks are told to stop: they save a checkpoint, and the job goes back into the queue to resume from it.
# ACCELERATE_CONFIG=fsdp2 sbatch ... shards the model; zero2 and zero3 likewise.
#SBATCH --job-name=dialogsum-sft
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
processes=$((SLURM_JOB_NUM_NODES * ${SLURM_GPUS_ON_NODE:-1}))

# SLURM_NODEID is each node's own, so that it is written here for the nodes' shells to fill in.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c 'exec python "$@" --machine_rank "$SLURM_NODEID"' python "$@" \
    --accelerate_config "${ACCELERATE_CONFIG:-multi_node}" \
    --num_machines "$SLURM_JOB_NUM_NODES" --num_processes "$processes" \
    --main_process_ip "${nodes[0]}" --main_process_port $((20000 + SLURM_JOB_ID % 20000)) --rdzv_backend c10d &
step=$!

trap 'interrupted=yes; scancel --signal=TERM "$SLURM_JOB_ID"' TERM # to the ranks; this shell is spared
interrupted=yes
while [[ $interrupted == yes ]]; do # a signal ends the waiting before the step has ended
    interrupted=no
    wait "$step"
    status=$?
done

if [[ $status -eq 75 ]]; then # how sft.py ends when it was stopped and can go on
    echo "stopped with status $status: job $SLURM_JOB_ID goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
