"""`make bench-gpu`: the benchmark on a machine with a GPU, complete in under 8 minutes and with nothing from the network.

The model is a BERT-base with random weights in bfloat16; speed does not depend on what the weights are. The first run is of
short texts under up to 2,048 connections, beside stock LitServe and the bare forward, eager and compiled. The second is of texts
of about 250 tokens. Each writes a record, as `load_tests.bench` does.
"""

import subprocess
import sys
import tempfile

from load_tests.servers import ROOT

MODEL = "random-bert-base"
SHARED = (
    "--dtypes bfloat16 --batch-connections 64 --open-connections 1024 --generator-processes 4 --seconds 3 --idle-seconds 2 "
    "--warmup-s 1"
)
SHORT = "--peers stock_litserve:bfloat16 --compiled --connections 1,64,512,1024,2048 --open-seconds 2 --open-loops valence"
LONG = "--peers= --words 190 --connections 1,64,512 --open-loops= --suffix long-texts"


def main() -> int:
    """0, or 1 if Valence could not be measured. Arguments go to both runs."""
    with tempfile.TemporaryDirectory(prefix="valence-bench-gpu-") as folder:
        model = f"{folder}/{MODEL}"  # records show the name alone
        subprocess.run([sys.executable, "-m", "load_tests.peers.random_model", model], cwd=ROOT, check=True)
        runs = [
            subprocess.run(
                [sys.executable, "-m", "load_tests.bench", "--model", model, *flags.split(), *SHARED.split(), *sys.argv[1:]],
                cwd=ROOT,
                check=False,
            )
            for flags in (SHORT, LONG)
        ]
    return max(run.returncode for run in runs)


if __name__ == "__main__":
    sys.exit(main())
