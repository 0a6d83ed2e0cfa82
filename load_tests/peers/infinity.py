"""Infinity (infinity-emb), started by its own command line: torch engine, dynamic batching, texts sorted by length.

python -m load_tests.peers.infinity --model /tmp/plain-bert --threads 2 --batch-size 32
"""

import os
import sys
from pathlib import Path

from load_tests.peers.command_line import peer_parser


def main() -> None:
    """Becomes Infinity's server."""
    parser = peer_parser("infinity")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    command = [
        *(
            str(Path(sys.executable).parent / "infinity_emb"),
            "v2",
            "--model-id",
            str(options.model),
            "--served-model-name",
            "model",
        ),
        *("--engine", "torch", "--device", "auto", "--dtype", options.dtype, "--batch-size", str(options.batch_size)),
        # BetterTransformer has left the libraries that it was part of; the models' own sdpa attention took its place
        *("--no-bettertransformer", "--host", "127.0.0.1", "--port", str(options.port), "--log-level", "warning"),
    ]
    environment = {"OMP_NUM_THREADS": str(options.threads), "INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1"}
    os.execve(command[0], command, {**os.environ, **environment})


if __name__ == "__main__":
    main()
