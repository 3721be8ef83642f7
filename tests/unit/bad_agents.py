"""Settings of agents that are refused, each with the one sentence that has to come of it."""

from __future__ import annotations

from typing import Any

from tests.unit.projects import AGENT


def agent(**changes: Any) -> dict[str, Any]:
    return {**AGENT, **changes}


def two(**changes: Any) -> list[dict[str, Any]]:
    return [AGENT, {"name": "two", "model": "org/model", "port": 8002, "gpus": [1], **changes}]


#: What group_data/gpu_hosts.py sets -> its sentence.
BAD_AGENTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown setting of an agent": (
        {"agents": [agent(max_modl_len=1)]},
        "group_data/gpu_hosts.py: unknown setting agents[0].max_modl_len;"
        " did you mean 'max_model_len'?",
    ),
    "wrong type of a list": (
        {"agents": [agent(gpus=0)]},
        "group_data/gpu_hosts.py: agents[0].gpus must be a list, not 0",
    ),
    "missing": (
        {"agents": [{"name": "one", "port": 8001}]},
        "group_data/gpu_hosts.py: agents[0].model is missing; set it",
    ),
    "no agents": (
        {"agents": []},
        "group_data/gpu_hosts.py: agents is empty; add at least one agent",
    ),
    "duplicate name": (
        {"agents": two(name="one")},
        "group_data/gpu_hosts.py: two agents have the name 'one', agents[0] and agents[1];"
        " each needs its own",
    ),
    "duplicate port": (
        {"agents": two(port=8001)},
        "group_data/gpu_hosts.py: agents 'one' and 'two' both have port 8001; each needs its own",
    ),
    "low port": (
        {"agents": [agent(port=443)]},
        "group_data/gpu_hosts.py: agents[0].port must be at least 1024, not 443",
    ),
    "length in words": (
        {"agents": [agent(max_model_len="16 thousand")]},
        "group_data/gpu_hosts.py: agents[0].max_model_len: '16 thousand' is not a number of tokens;"
        " write 16384, or in vLLM's notation '16k' (16000) or '16K' (16384), or 'auto'",
    ),
    "half a length": (
        {"agents": [agent(max_model_len="1.5K")]},
        "group_data/gpu_hosts.py: agents[0].max_model_len: '1.5K' is not a number of tokens;"
        " write 16384, or in vLLM's notation '16k' (16000) or '16K' (16384), or 'auto'",
    ),
    "no length": (
        {"agents": [agent(max_model_len=0)]},
        "group_data/gpu_hosts.py: agents[0].max_model_len: 0 is not a number of tokens;"
        " write 16384, or in vLLM's notation '16k' (16000) or '16K' (16384), or 'auto'",
    ),
    "no length, in words": (
        {"agents": [agent(max_model_len="0k")]},
        "group_data/gpu_hosts.py: agents[0].max_model_len: '0k' is not a number of tokens;"
        " write 16384, or in vLLM's notation '16k' (16000) or '16K' (16384), or 'auto'",
    ),
    "an argument with its value": (
        {"agents": [agent(extra_args=["--max-num-seqs 64"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --max-num-seqs and its value are in one"
        " word; write two, such as '--max-num-seqs', 'VALUE', or '--max-num-seqs=VALUE'",
    ),
    "an argument with a space behind it": (
        {"agents": [agent(extra_args=["--enforce-eager "])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: '--enforce-eager ' has a space beside the"
        " argument; write '--enforce-eager'",
    ),
    "GPUs that would idle": (
        {"agents": [agent(gpus=[0, 1, 2], tensor_parallel_size=2)]},
        "group_data/gpu_hosts.py: agents[0]: tensor_parallel_size 2 uses 2 of the 3 GPUs that gpus"
        " names, and the rest would idle; name 2, or leave tensor_parallel_size out, or have"
        " extra_args use them (--pipeline-parallel-size, --data-parallel-size)",
    ),
    "too much of one GPU": (
        {"agents": two(gpus=[0], gpu_memory_utilization=0.5)},
        "group_data/gpu_hosts.py: agents 'one' (0.92) and 'two' (0.5) ask for 1.42 of GPU 0's"
        " memory; lower gpu_memory_utilization so that they add up to 1 or less",
    ),
    "utilization above 1": (
        {"agents": [agent(gpu_memory_utilization=1.5)]},
        "group_data/gpu_hosts.py: agents[0].gpu_memory_utilization must be at most 1, not 1.5",
    ),
    "api key": (
        {"agents": [agent(extra_args=["--api-key", "x"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --api-key is refused:"
        " the key comes from .env, where `ps` cannot show it; leave it out",
    ),
    "api key, joined": (
        {"agents": [agent(extra_args=["--api_key=secret-value"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --api_key is refused:"
        " the key comes from .env, where `ps` cannot show it; leave it out",
    ),
    "root path": (
        {"agents": [agent(extra_args=["--root-path=/v1"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --root-path is refused:"
        " it turns authentication off; leave it out",
    ),
    "root path, abbreviated": (
        {"agents": [agent(extra_args=["--root=/v1"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --root is refused:"
        " it turns authentication off; leave it out",
    ),
    "host": (
        {"agents": [agent(extra_args=["--host", "0.0.0.0"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --host is refused:"
        " only 127.0.0.1 of the host reaches the container; leave it out",
    ),
    "port": (
        {"agents": [agent(extra_args=["--port", "80"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --port is refused: set the agent's port",
    ),
    "revision of a folder": (
        {"agents": [agent(model="/srv/x", revision="main")]},
        "group_data/gpu_hosts.py: agents[0]: revision is for hub ids, and model /srv/x is a folder"
        " on the host; leave revision out",
    ),
    "not a revision": (
        {"agents": [agent(revision="../main")]},
        "group_data/gpu_hosts.py: agents[0].revision: '../main' is not a commit, a tag or a branch",
    ),
    "revision as an argument": (
        {"agents": [agent(extra_args=["--revision", "v1"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --revision is refused: set revision",
    ),
    "token as an argument": (
        {"agents": [agent(extra_args=["--hf-token=secret-value"])]},
        "group_data/gpu_hosts.py: agents[0].extra_args: --hf-token is refused:"
        " set secrets.hf_token_env; an argument shows in `ps`",
    ),
    "a mirror for one agent": (
        {"agents": [agent(env={"HF_ENDPOINT": "https://mirror.example"})]},
        "group_data/gpu_hosts.py: agents[0].env: HF_ENDPOINT is refused:"
        " set hub.endpoint; models are fetched through it",
    ),
    "copy to a hub id": (
        {"agents": [agent(copy_from="/data/x")]},
        "group_data/gpu_hosts.py: agents[0]: copy_from needs a folder as model, such as"
        " '/srv/models/mine'; 'org/model' is a hub id",
    ),
    "copy of nothing": (
        {"agents": [agent(model="/srv/x", copy_from="no/such/folder")]},
        "copy_from no/such/folder is not a folder on the controller; correct it",
    ),
    "two sources of one folder": (
        {"agents": two(model="/srv/x", copy_from="/a")[1:] + [agent(model="/srv/x")]},
        "group_data/gpu_hosts.py: agents with the model /srv/x name different copy_from; give them"
        " the same, or folders of their own",
    ),
    "development mode": (
        {"agents": [agent(env={"VLLM_SERVER_DEV_MODE": "1"})]},
        "group_data/gpu_hosts.py: agents[0].env: VLLM_SERVER_DEV_MODE is refused:"
        " it opens control routes without a key; leave it out",
    ),
    "a risk without a word": (
        {"agents": [agent(extra_args=["--trust_remote_code"])]},
        "group_data/gpu_hosts.py: agents[0]: --trust-remote-code lets the model's authors run their"
        " code in the agent; if you want that, add '--trust-remote-code' to accepted_risks of agent"
        " 'one'",
    ),
    "GPUs in the environment": (
        {"agents": [agent(env={"CUDA_VISIBLE_DEVICES": "1"})]},
        "group_data/gpu_hosts.py: agents[0].env: CUDA_VISIBLE_DEVICES is refused: set gpus",
    ),
    "a token in the environment": (
        {"agents": [agent(env={"WANDB_API_KEY": "secret-value"})]},
        "group_data/gpu_hosts.py: agents[0].env: WANDB_API_KEY looks like a secret, which"
        " compose.yaml and `docker inspect` would show; take it out: the Hugging Face token"
        " goes into secrets.hf_token_env, and other secrets do not belong in an agent",
    ),
    "a limit that does not exist": (
        {"agents": [agent(request_limits={"choises": 4})]},
        "group_data/gpu_hosts.py: unknown setting agents[0].request_limits.choises;"
        " did you mean 'choices'?",
    ),
}
