"""Faster training and generation on a CPU: unpadded batches, fused LoRA and logits of supervised positions only.

They compute what TRL, PEFT and transformers compute, up to rounding, in about half the time of a quickstart. On a GPU
none of them is used, and models or options that one does not support keep the library's own code.
"""
