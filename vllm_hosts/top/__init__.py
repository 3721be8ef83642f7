"""`vllm-hosts top`: what GPUs and agents do right now. Changes no host."""
