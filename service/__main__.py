"""`python -m service`: serves the shipped checkpoints; `--help` lists every setting."""

import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

from pydantic_settings import CliApp

from service.settings import Settings

log = logging.getLogger("valence")


def main() -> int:
    """0 after an orderly stop; 1 when no worker started; 2 when a setting, a model or a key is wrong, said in one sentence."""
    settings = CliApp.run(Settings)
    runtime_dir = Path(tempfile.mkdtemp(prefix="valence-"))
    # Read at import: the metrics' directory by prometheus_client, the other before the tokenizers are forked.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(runtime_dir)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Read by the workers' torch. oneDNN keeps 1,024 compiled operators, one for each number of rows it meets, which grew a worker
    # by 200 MB; with 8 it does not grow and is as fast.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")
    from service.catalog import CatalogError
    from service.keys import KeysError
    from service.server import serve
    from service.worker import refusal_path

    try:
        serve(settings, runtime_dir=runtime_dir)
    except (CatalogError, KeysError) as error:
        log.error("%s", error)
        return 2
    except RuntimeError as error:
        refusal = refusal_path(runtime_dir)
        if refusal.exists():
            log.error("%s", refusal.read_text(encoding="utf-8"))
            return 2
        log.error("%s; the worker's log above says why", error)
        return 1
    finally:
        shutil.rmtree(runtime_dir, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
