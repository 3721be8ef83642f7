"""The hosts of the group gpu_hosts: what runs on them. Every setting: docs/settings.md."""

# One dictionary for each vLLM container. A host in the inventory may set its own list.
agents = [
    {
        "name": "qwen3-8b",  # https://HOST/qwen3-8b/v1, and https://HOST/v1 as the first agent
        "model": "Qwen/Qwen3-8B-AWQ",  # a hub id, or a folder on the host
        "port": 8001,  # on 127.0.0.1
        "gpus": [0],
        "gpu_memory_utilization": 0.92,
        "max_model_len": 16384,  # tokens; together with the model it must fit the GPU
        "tool_call_parser": "hermes",
    },
]
