"""vLLM's build for processors, its pooling runner: continuous batching under a token budget.

python -m load_tests.peers.vllm_cpu --model /tmp/plain-bert --dtype bfloat16 --threads 2
"""

import os
import sys
from pathlib import Path

from load_tests.peers.command_line import peer_parser

# A classifier keeps no keys and values; vLLM reserves memory for them all the same.
KEYS_AND_VALUES_GIB = 1
MEMORY_SHARE = 0.2


def main() -> None:
    """Becomes vLLM's server."""
    parser = peer_parser("vllm_cpu", dtypes=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=1, help="cores that the forward is bound to")
    parser.add_argument("--max-num-seqs", type=int, default=256, help="texts of one forward")
    options = parser.parse_args()
    command = [
        # the command `vllm` looks for a package of that name and does not find it in this build
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(options.model)),
        *("--served-model-name", "model", "--runner", "pooling", "--dtype", options.dtype),
        *("--max-num-seqs", str(options.max_num_seqs), "--gpu-memory-utilization", str(MEMORY_SHARE)),
        *("--host", "127.0.0.1", "--port", str(options.port), "--disable-uvicorn-access-log", "--no-enable-log-requests"),
    ]
    os.execve(command[0], command, {**os.environ, **environment(options.threads)})


def environment(threads: int) -> dict[str, str]:
    """What vLLM's guide for processors asks for: threads bound to cores, and its libraries preloaded where they are installed."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    libraries = [*Path(sys.prefix).glob("lib/libiomp5.so"), *Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4")]
    return {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_CPU_KVCACHE_SPACE": str(KEYS_AND_VALUES_GIB),
        "VLLM_NO_USAGE_STATS": "1",
        "LD_PRELOAD": ":".join(map(str, libraries)),
    }


if __name__ == "__main__":
    main()
