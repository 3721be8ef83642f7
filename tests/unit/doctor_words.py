"""What programs really print when they fail, for tests of the doctor.

vLLM's, transformers' and huggingface_hub's as in the sources of vLLM 0.32, transformers 5 and
huggingface_hub 1; others as in the reports that are named.
"""

from __future__ import annotations

KV_CACHE = """\
(EngineCore pid=97) INFO 10-02 11:20:41 [gpu_worker.py:412] Available KV cache memory: 4.25 GiB
(EngineCore pid=97) ERROR 10-02 11:20:41 [core.py:1102] EngineCore failed to start.
(EngineCore pid=97) ERROR 10-02 11:20:41 [core.py:1102] Traceback (most recent call last):
(EngineCore pid=97) ERROR 10-02 11:20:41 [core.py:1102] ValueError: To serve at least one request \
with the model's max seq len (100000), (4.26 GiB KV cache is needed, which is larger than the \
available KV cache memory (4.25 GiB). Based on the available memory, the estimated maximum model \
length is 99840. Try increasing `gpu_memory_utilization` (which also controls CPU memory on the \
CPU backend) or decreasing `max_model_len` when initializing the engine.
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed \
core proc(s): {}
"""
#: https://github.com/vllm-project/vllm/issues/16118
KV_CACHE_OLD = """\
ERROR 04-05 01:12:55 [core.py:390] ValueError: To serve at least one request with the models's max \
seq len (1048576), (24.00 GiB KV cache is needed, which is larger than the available KV cache \
memory (9.97 GiB). Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when \
initializing the engine.
"""
NO_KV_CACHE = """\
(EngineCore pid=97) ERROR 10-02 11:20:41 [core.py:1102] ValueError: No available memory for the \
cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine (this flag also \
controls CPU memory reservation on the CPU backend, despite its name).
"""
CARD_TAKEN = """\
(EngineCore pid=97) ERROR 10-02 11:20:41 [core.py:1102] ValueError: Free memory on device cuda:0 \
(34.34/121.63 GiB) on startup is less than desired GPU memory utilization (0.8, 97.3 GiB). \
Decrease GPU memory utilization or reduce GPU memory used by other processes.
"""
CUDA_OOM = """\
(EngineCore pid=97) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.16 GiB. GPU 0 \
has a total capacity of 22.04 GiB of which 1.02 GiB is free.
"""
HOST_TAKEN = """\
(EngineCore pid=97) ValueError: Available memory on node 0 (3.2/15.5 GiB) on startup is less than \
desired CPU memory utilization (0.92, 14.26 GiB). On the CPU backend, the \
`--gpu-memory-utilization` flag controls the fraction of CPU memory reserved (despite its name).
"""
NO_SHM = """\
(EngineCore pid=25) ERROR 11-25 13:21:20 [core.py:1510] RuntimeError: Insufficient space in \
/dev/shm for shared-memory allocation: 160 MiB required, 64 MiB free. Increase /dev/shm (e.g. \
--shm-size or --ipc=host).
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.
"""
#: https://github.com/llm-d/llm-d/issues/352
NO_SHM_NCCL = """\
[2025-10-13 09:06:25] vllm:3663:4044 [0] misc/shmutils.cc:129 NCCL WARN Error while creating \
shared memory segment /dev/shm/nccl-Ewjreo (size 33030528), error: No space left on device (28)
"""
TOO_LONG = """\
(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
(APIServer pid=1)   Value error, User-specified max_model_len (65536) is greater than the derived \
max_model_len (max_position_embeddings=32768.0 or model_max_length=None in model's config.json). \
To allow overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1.
"""
ARGUMENT = """\
usage: vllm serve [model_tag] [options]
vllm serve: error: unrecognized arguments: --no-such-argument
"""
ARCHITECTURE = """\
(APIServer pid=1)   Value error, Model architectures ['Qwen9ForCausalLM'] are not supported for \
now. Supported architectures: dict_keys(['AfmoeForCausalLM'])
"""

GATED = """\
(APIServer pid=1) OSError: You are trying to access a gated repo.
(APIServer pid=1) Make sure to have access to it at https://huggingface.co/google/gemma-3-1b-pt.
(APIServer pid=1) 401 Client Error. (Request ID: Root=1-689eeb63-2e65ce6c208fdc3759534491)
(APIServer pid=1)
(APIServer pid=1) Cannot access gated repo for url \
https://huggingface.co/google/gemma-3-1b-pt/resolve/main/config.json.
(APIServer pid=1) Access to model google/gemma-3-1b-pt is restricted. You must have access to it \
and be authenticated to access it. Please log in.
"""
NOT_AUTHORIZED = """\
(APIServer pid=1) OSError: You are trying to access a gated repo.
(APIServer pid=1) 403 Client Error. (Request ID: Root=1-688b505e-01cc67f573bc583469af8f8e)
(APIServer pid=1) Access to model Qwen/Qwen3-8B is restricted and you are not in the authorized \
list. Visit https://huggingface.co/Qwen/Qwen3-8B to ask for access.
"""
#: https://github.com/huggingface/huggingface_hub/pull/2847
TOKEN_REFUSED = """\
huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: Root=1-67aa2e37)
Repository Not Found for url: https://huggingface.co/openai-community/gpt2/resolve/main/config.json.
If you are trying to access a private or gated repo, make sure you are authenticated.
Invalid credentials in Authorization header
"""
NOT_FOUND = """\
(APIServer pid=1) huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: \
Root=1-69baa8a6)
(APIServer pid=1) Repository Not Found for url: \
https://huggingface.co/Qwen/Qwen2.5-14B-Instruct-FP8/resolve/main/config.json.
(APIServer pid=1) Invalid username or password.
(APIServer pid=1) OSError: Qwen/Qwen2.5-14B-Instruct-FP8 is not a local folder and is not a valid \
model identifier listed on 'https://huggingface.co/models'
"""
NO_REVISION = """\
(APIServer pid=1) OSError: v9 is not a valid git identifier (branch name, tag name or commit id) \
that exists for this model name. Check the model page at 'https://huggingface.co/Qwen/Qwen3-8B' \
for available revisions.
"""
UNREACHABLE = """\
(APIServer pid=1) OSError: We couldn't connect to 'https://huggingface.co' to load the files, and \
couldn't find them in the cached files.
"""
CRASH = """\
(APIServer pid=1) INFO 10-02 11:20:41 [api_server.py:1] vLLM API server version 0.32.0
(EngineCore pid=97) ERROR 10-02 11:20:44 [core.py:1102] KeyError: 'layers.0.mlp.gate_up_proj.weight'
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.
"""

#: https://github.com/vllm-project/vllm/issues/12847
NO_PLATFORM = "RuntimeError: Failed to infer device type, please set the environment variable\n"
#: https://github.com/MiniMax-AI/MiniMax-M2.5/issues/9
CUDA_802 = """\
RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before \
calling NumCudaDevices() that might have already set an error? Error 802: system not yet initialized
"""
#: https://github.com/gpustack/gpustack/issues/1254
CUDA_804 = """\
RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before \
calling NumCudaDevices() that might have already set an error? Error 804: forward compatibility \
was attempted on non supported HW
"""
#: https://github.com/vllm-project/vllm/issues/15335
CUDA_803 = """\
RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before \
calling NumCudaDevices() that might have already set an error? Error 803: system has unsupported \
display driver / cuda driver combination
"""

NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that"
    " the latest NVIDIA driver is installed and running.",
)
#: https://github.com/NVIDIA/k8s-device-plugin/issues/1431
MISMATCH = (
    "Failed to initialize NVML: Driver/library version mismatch",
    "NVML library version: 570.195",
)
LOST = (
    "Unable to determine the device handle for GPU0000:02:00.0: GPU is lost.  Reboot the system to"
    " recover this GPU",
)
#: https://github.com/NVIDIA/nvidia-container-toolkit/issues/394
HOOK_MISMATCH = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed:"
    " runc create failed: unable to start container process: error during container init: error"
    " running hook #0: error running hook: exit status 1, stdout: , stderr: Auto-detected mode as"
    " 'legacy'\nnvidia-container-cli: initialization error: nvml error: driver/library version"
    " mismatch: unknown"
)
NO_TOOLKIT = 'could not select device driver "nvidia" with capabilities: [[gpu]]'
PORT_TAKEN = (
    "failed to set up container networking: driver failed programming external connectivity on"
    " endpoint qwen (f8a30e4f): failed to bind host port 127.0.0.1:8001/tcp: address already in use"
)

#: https://github.com/NVIDIA/NVSentinel/issues/155
XID = "Oct 02 11:20:41 gpu1 kernel: NVRM: Xid (PCI:0000:44:00): 79, GPU has fallen off the bus."
XID_31 = "kernel: NVRM: Xid (PCI:0000:01:00): 31, Ch 00000003, engmask 00000101, intr 10000000"
XID_43 = "kernel: NVRM: Xid (PCI:0000:01:00): 43, pid=4711, name=python3, Ch 00000008"
#: https://github.com/NixOS/nixpkgs/issues/16711
HELD = "kernel: NVRM: was loaded and obtained ownership of the NVIDIA device(s)."
#: https://github.com/acidanthera/bugtracker/issues/2237
KEY_REJECTED = "modprobe: ERROR: could not insert 'nvidia': Key was rejected by service"
OOM_KILL = (
    "kernel: oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null)"
    ",cpuset=docker-0123456789abcdef.scope,mems_allowed=0,global_oom,task_memcg=/system.slice/docker-0123456789abcdef.scope"
    ",task=VLLM::EngineCor,pid=4711,uid=64101"
)
