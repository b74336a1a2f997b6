#!/bin/bash
# sbatch --nodes 2 --gpus-per-node 8 recipes/slurm.sh recipes/sft.py --config recipes/configs/qwen3_8b_qlora.yaml --global_batch_size 256
# One launcher a node, from the environment of the submitting shell (activate it first). Two minutes before the time limit
# the ranks are told to stop: they save a checkpoint, and the job goes back into the queue to resume from it.
# ACCELERATE_CONFIG=accelerate_configs/fsdp2.yaml sbatch ... shards the model; zero2.yaml and zero3.yaml likewise.
#SBATCH --job-name=dialogsum-sft
#SBATCH --ntasks-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

# torchrun kills ranks 30 seconds after it has told them to stop: too soon for a large checkpoint.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
processes=$((SLURM_JOB_NUM_NODES * ${SLURM_GPUS_ON_NODE:-1}))

# SLURM_NODEID is each node's own, so that it is written here for the nodes' shells to fill in.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"' accelerate \
    --config_file "${ACCELERATE_CONFIG:-accelerate_configs/multi_node.yaml}" \
    --num_machines "$SLURM_JOB_NUM_NODES" --num_processes "$processes" \
    --main_process_ip "${nodes[0]}" --main_process_port $((20000 + SLURM_JOB_ID % 20000)) \
    --rdzv_backend c10d "$@" &
step=$!

stopped=no
trap 'stopped=yes interrupted=yes; scancel --signal=TERM "$SLURM_JOB_ID"' TERM # to the ranks; this shell is spared
interrupted=yes
while [[ $interrupted == yes ]]; do # a signal ends the waiting before the step has ended
    interrupted=no
    wait "$step"
    status=$?
done

# 75 is how sft.py ends when it was stopped and can go on; through accelerate launch it arrives as 1.
if [[ $status -eq 75 || ($stopped == yes && $status -ne 0) ]]; then
    echo "stopped with status $status: job $SLURM_JOB_ID goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
