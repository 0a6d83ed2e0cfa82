"""Every setting of the service: environment `VALENCE_<NAME>` or flag `--<name>`, the flag winning."""

import math
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.cpu_quota import cpu_quota

CHECKPOINTS = Path(__file__).parent.parent / "models" / "checkpoints"
# The routes of monitors and of the documentation.
OPEN_ROUTES = ("/health", "/ready", "/metrics", "/v2/health", "/docs", "/openapi.json")
Names = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """What the operator may choose. Lists are comma-separated; sizes are bytes unless the name says otherwise."""

    model_config = SettingsConfigDict(
        env_prefix="VALENCE_", cli_kebab_case=True, cli_prog_name="python -m service", frozen=True, extra="forbid"
    )

    models: Names = Field(
        default=tuple(f"{name}={CHECKPOINTS}/{name}" for name in ("sentiment-bert", "sentiment-lstm", "sentiment-lstm-zh")),
        description="What to serve, as name=folder or, from a hub, name=org/repo@revision; the first is the default model.",
    )
    import_modules: Names = Field(default=(), description="Modules to import first; each registers architectures of its own.")
    tokenizers_dir: Path = Field(
        default=Path(__file__).parent.parent / "tokenizers_store",
        description="Where the tokenizer lies that a checkpoint without one of its own names.",
    )
    trust_remote_code: bool = Field(default=False, description="Run model code that lies in a checkpoint folder.")

    host: Literal["0.0.0.0", "127.0.0.1", "::"] = Field(default="0.0.0.0", description="Address to listen on.")
    port: int = Field(default=8000, ge=1024, le=65535, description="Port to listen on.")
    http_processes: int = Field(default=0, ge=0, description="HTTP processes; 0: one per 4 cores on CPU, cores - 3 on CUDA.")
    api_key: SecretStr | None = Field(default=None, min_length=1, description="Key that clients must send; unset: none needed.")
    api_keys_file: Path | None = Field(
        default=None, description="File of more keys, name:key or name:sha256=<hex> a line; read again when it changes."
    )
    admin_key: SecretStr | None = Field(
        default=None, min_length=1, description="Key of the routes that change the service; without any they are closed."
    )
    model_roots: Names = Field(
        default=(), description="Folders whose checkpoints may be served while the service runs; none: nothing can be changed."
    )
    open_routes: Names = Field(default=OPEN_ROUTES, description="Routes that need no key, with those below them.")
    root_path: str = Field(
        default="", pattern=r"^(/[\w.~-]+)*$", description="Prefix that a proxy leaves before every path, as /nlp."
    )
    cors_origins: Names = Field(
        default=(), description="Origins whose pages may use the service from a browser, as https://a.example; *: every one."
    )
    key_requests_per_s: float = Field(default=0.0, ge=0, description="Requests a second of one key; more are 429. 0: no limit.")
    key_concurrent_requests: int = Field(
        default=0, ge=0, description="Requests in flight of one key; more are answered 429. 0: no limit."
    )
    max_connections: int = Field(default=4096, ge=1, description="Connections of one HTTP process; more are answered 429.")
    keep_alive_s: int = Field(default=75, ge=1, description="How long an idle connection is kept; above a load balancer's own.")

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where the forward runs.")
    workers_per_device: int = Field(
        default=0, ge=0, description="Model processes on each device; 0: 1 on CUDA, one per core up to 4 on CPU."
    )
    threads: int = Field(
        default=0, ge=0, description="Threads of a CPU forward; 0: cores / workers, all cores while the other workers are idle."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        default="auto", description="Arithmetic; auto: bfloat16 on CUDA, float32 on CPU. int8 is for the CPU."
    )
    attn_implementation: Literal["auto", "packed", "sdpa", "eager"] = Field(
        default="auto", description="Attention; auto: packed where the architecture can, else sdpa."
    )
    compile: bool = Field(
        default=False,
        description="Compile packed forwards at start with torch.compile; takes a minute more and a C++ compiler on the machine.",
    )
    cuda_graphs: bool = Field(default=True, description="On CUDA, capture the packed forward in graphs at start and replay them.")

    tuning_dir: Path | None = Field(
        default=None,
        description="Measure at the first start which token budget, workers and threads do most, and keep it in this folder.",
    )
    max_batch_tokens: int = Field(default=0, ge=0, description="Tokens of one forward; 0: 16384 on CUDA, 2048 on CPU.")
    max_concurrent_requests: int = Field(default=512, ge=1, description="Requests in flight; more are answered 429.")
    max_client_batch_size: int = Field(
        default=256, ge=1, description="Texts of one request, or windows of its long texts; more are answered 422."
    )
    max_text_characters: int = Field(
        default=250_000, ge=1, description="Characters of one text after Unicode normalization (NFKC); more are answered 422."
    )
    payload_limit: int = Field(default=2_000_000, ge=1, description="Bytes of one request's body; more are answered 413.")
    auto_truncate: bool = Field(default=True, description="Cut a text at the model's limit; false: answer 422.")
    special_tokens_in_texts: Literal["split", "keep"] = Field(
        default="split", description="A text that spells a control token, as [SEP]: read it as text, or keep it as the token."
    )
    explain_steps: int = Field(
        default=0, ge=0, le=4096, description="Gradients that one `POST /explain` may compute; 0: the route is closed."
    )
    request_timeout_s: float = Field(default=30.0, gt=0, description="Deadline of a request; past it, 504.")
    watchdog_s: float = Field(
        default=120.0, ge=0, description="A worker that is busy with one batch for so long is replaced; 0: never."
    )
    drain_s: float = Field(
        default=1.0, ge=0, description="After SIGTERM, how long `/ready` answers 503 while requests are still taken."
    )
    shutdown_grace_s: int = Field(default=30, ge=1, description="Time that requests in flight get when the service stops.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level that is logged.")
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="Lines of the log; auto: text on a terminal, JSON elsewhere."
    )
    log_requests: bool = Field(default=False, description="Log a line for each request, without its texts.")
    otlp_endpoint: str | None = Field(
        default=None,
        pattern="^https?://",
        description="OpenTelemetry collector that takes traces, as http://host:4318; unset: none.",
    )

    @field_validator("models", "import_modules", "model_roots", "open_routes", "cors_origins", mode="before")
    @classmethod
    def split_at_commas(cls, value: object) -> object:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list | tuple):
            return tuple(part.strip() for item in value for part in str(item).split(",") if part.strip())
        return value

    def accelerator(self) -> str:
        """`cpu` or `cuda`: the device asked for, or what is there."""
        import torch  # takes seconds, and `--help` comes without it

        return self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"

    def http_process_count(self, device: str) -> int:
        """How many HTTP processes to fork. On CPU they share the cores with the workers; beside a GPU the cores are theirs."""
        return self.http_processes or max(1, cores() // 4 if device == "cpu" else cores() - 3)

    def worker_count(self, device: str) -> int:
        """Workers of one device. On two cores, two CPU workers of 1 thread did 13% more than one worker of 2 threads."""
        return self.workers_per_device or (min(cores(), 4) if device == "cpu" else 1)

    def thread_count(self) -> int:
        """Threads of a CPU worker while the others are busy."""
        return self.threads or max(1, cores() // self.worker_count("cpu"))

    def lone_thread_count(self) -> int:
        """Threads of a CPU worker while the others are idle."""
        return self.threads or cores()

    def batch_tokens(self, device: str) -> int:
        """The token budget of one forward. On CPU larger batches add latency and no throughput."""
        return self.max_batch_tokens or (2048 if device.startswith("cpu") else 16384)


def cores() -> int:
    """The processors that this process may use: those that it may run on, or fewer where a container's CPU quota says so."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))
