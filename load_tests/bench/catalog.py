"""Every server that the benchmark can measure, Valence included: how each is started, asked, and tuned to a number of cores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from load_tests.bench.api import Api, read_data_pairs, read_data_probabilities

Flags = tuple[str, ...]
VALENCES_API = Api()


def flags(**values: object) -> Flags:
    """Command-line flags.

    >>> flags(max_batch_size=8, threads=2)
    ('--max-batch-size', '8', '--threads', '2')
    """
    return tuple(part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value)))


def default_only(cores: int) -> Sequence[Flags]:
    """One configuration, without flags: the server chooses by itself."""
    return [()]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One server.

    `arguments` start it: `python ARGUMENTS`. `prepare` are the arguments of a command that runs once before. In both these are
    filled in: `{model}` (the checkpoint), `{plain}` (the same as one of transformers' own architectures), `{port}`, `{dtype}`,
    `{folder}` (its own, empty at first), `{most_connections}` (the largest number of connections to come).

    `grid` gives the configurations to try on a number of cores, each as more flags. `gpu_grid` takes its place on a machine with
    a GPU. `dtypes`: what it computes in, the default first. `requirements` names a file in `peers/requirements/`: the server then
    has an environment of its own, from which the packages in `removed` are uninstalled. `open_loop`: it is also measured at fixed
    rates of arrival."""

    name: str
    title: str
    dtypes: tuple[str, ...]
    arguments: Flags
    grid: Callable[[int], Sequence[Flags]] = default_only
    gpu_grid: Callable[[int], Sequence[Flags]] | None = None
    api: Api = VALENCES_API
    requirements: str | None = None
    removed: tuple[str, ...] = ()
    prepare: Flags = ()
    open_loop: bool = False
    start_timeout_s: float = 300.0

    @property
    def needs_plain(self) -> bool:
        """Whether it loads transformers' own architectures only."""
        return any("{plain}" in argument for argument in self.arguments)


def app(name: str, *, model: str) -> Flags:
    """The arguments of a module of `load_tests.peers`."""
    return ("-m", f"load_tests.peers.{name}", "--model", model, "--port", "{port}", "--dtype", "{dtype}")


def splits(cores: int) -> list[tuple[int, int]]:
    """(processes, threads of each) that use all cores: a process for each, and one for all.

    >>> splits(2), splits(16)
    ([(2, 1), (1, 2)], [(16, 1), (4, 4), (1, 16)])
    """
    return list(dict.fromkeys([(cores, 1), *([(cores // 4, 4)] if cores >= 8 else []), (1, cores)]))


def litserve_grid(cores: int) -> Sequence[Flags]:
    """Workers that share the cores in several ways, and one that leaves a core to HTTP; each with large, small and no batches."""
    shares = list(dict.fromkeys([*splits(cores), (max(1, cores // 4), min(cores, 4)), (1, max(1, cores - 1))]))
    return [
        flags(workers_per_device=workers, threads=threads, max_batch_size=size, batch_timeout_s=timeout_s)
        for (workers, threads), (size, timeout_s) in product(shares, ((32, 0.01), (8, 0.005), (1, 0.0)))
    ]


def litserve_gpu_grid(cores: int) -> Sequence[Flags]:
    """On a GPU larger batches pay, and a second worker hides the first one's Python."""
    return [
        flags(workers_per_device=workers, max_batch_size=size, batch_timeout_s=0.01)
        for workers, size in ((2, 256), (2, 64), (1, 64))
    ]


def pipeline_grid(cores: int) -> Sequence[Flags]:
    """The batch size matters to lists of texts only."""
    return [
        flags(workers=workers, threads=threads, batch_size=size) for (workers, threads), size in product(splits(cores), (8, 32))
    ]


def infinity_grid(cores: int) -> Sequence[Flags]:
    """One process by design; its HTTP side and its tokenizer take a share of the cores."""
    return [
        flags(threads=threads, batch_size=size) for threads, size in product(dict.fromkeys([cores, max(1, cores - 1)]), (8, 32))
    ]


def ray_grid(cores: int) -> Sequence[Flags]:
    return [
        flags(replicas=replicas, threads=threads, max_batch_size=size)
        for (replicas, threads), size in product(splits(cores), (8, 32))
    ]


def vllm_grid(cores: int) -> Sequence[Flags]:
    """All cores: by itself vLLM leaves one to its other processes, which on 2 cores is half of the machine."""
    return [flags(threads=cores, max_num_seqs=size) for size in (32, 256)]


PEERS: dict[str, Contender] = {
    peer.name: peer
    for peer in (
        Contender(
            name="stock_litserve",
            title="stock LitServe",
            dtypes=("float32", "bfloat16", "float16"),
            arguments=app("stock_litserve", model="{model}"),
            grid=litserve_grid,
            gpu_grid=litserve_gpu_grid,
            open_loop=True,
        ),
        Contender(
            name="fastapi_pipeline",
            title="FastAPI + pipeline",
            dtypes=("float32", "bfloat16", "float16"),
            arguments=app("fastapi_pipeline", model="{model}"),
            grid=pipeline_grid,
        ),
        Contender(
            name="onnx_int8",
            title="FastAPI + ONNX Runtime",
            dtypes=("int8",),
            arguments=(*app("onnx_int8", model="{plain}"), "--graph", "{folder}/int8.onnx"),
            prepare=("-m", "load_tests.peers.onnx_export", "--model", "{plain}", "--to", "{folder}/int8.onnx"),
            grid=pipeline_grid,
            requirements="onnx_int8.txt",
            open_loop=True,
        ),
        Contender(
            name="infinity",
            title="Infinity",
            dtypes=("float32",),
            arguments=app("infinity", model="{plain}"),
            grid=infinity_grid,
            api=Api(
                route="/classify",
                texts_field="input",
                always_list=True,
                extra_fields={"model": "model"},
                read=read_data_pairs,
            ),
            requirements="infinity.txt",
        ),
        Contender(
            name="ray_serve",
            title="Ray Serve",
            dtypes=("float32",),
            arguments=app("ray_serve", model="{plain}"),
            grid=ray_grid,
            api=Api(ready_path="/predict"),  # its own health page answers before the replicas do
            requirements="ray_serve.txt",
        ),
        Contender(
            name="vllm_cpu",
            title="vLLM (CPU)",
            dtypes=("float32", "bfloat16"),
            arguments=app("vllm_cpu", model="{plain}"),
            grid=vllm_grid,
            api=Api(
                route="/classify",
                texts_field="input",
                extra_fields={"model": "model"},
                result_mark='"probs"',
                read=read_data_probabilities,
            ),
            requirements="vllm_cpu.txt",
            # PyPI's builds are made for CUDA, and the first fails to load beside a torch for processors; texts need none of them
            removed=("torchvision", "torchaudio", "torchcodec"),
            start_timeout_s=600.0,
        ),
    )
}

# What `make bench` measures. Which of vLLM's two is faster depends on the processor.
DEFAULT_PEERS = (*PEERS, "vllm_cpu:bfloat16")

VALENCE = Contender(
    name="valence",
    title="Valence",
    dtypes=("float32", "bfloat16", "float16", "int8"),
    arguments=(
        "-m",
        "service",
        "--host",
        "127.0.0.1",
        "--port",
        "{port}",
        "--dtype",
        "{dtype}",
        "--models",
        "bench={model}",
        "--max-concurrent-requests",
        "{most_connections}",
    ),
    grid=lambda _: [(), ("--compile", "true")],
    gpu_grid=default_only,  # trials would take the run beyond its 8 minutes
    api=Api(ready_path="/ready"),
    open_loop=True,
)
