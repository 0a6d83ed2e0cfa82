"""Three replicas behind a balancer with health checks, under load: each replaced by one with another version of the model, as a
Deployment does it, and one killed outright. Every request is counted."""

import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

SAFETY_S = 60
REPLICAS, CLIENTS = 3, 8
PAUSE_S = 0.01
SETTLE_S = 1.0
TEXT = "a wonderful film"
# Checks every 100 ms; two of them find a replica that drains for a second.
FLAGS = ("--drain-s", "1", "--http-processes", "2")
CONFIGURATION = """
global
  stats socket {folder}/admin level admin
defaults
  mode {mode}
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  timeout check 2s
  retries 3
  option redispatch
frontend clients
  bind 127.0.0.1:{port}
  default_backend replicas
backend replicas
  balance leastconn
  option httpchk GET /ready
  http-check expect status 200
  server-template replica {slots} 127.0.0.1:1 check inter 100ms fall 2 rise 1 disabled
"""
Drill = Callable[[str], None]


class Balancer:
    """HAProxy. Mode `tcp` hands whole connections on, as a Service of Kubernetes does; `http` each request, as an ingress does.
    A replica that leaves is not taken out by hand: what finds it is the check of `/ready`."""

    def __init__(self, folder: Path, *, mode: str, port: int, slots: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._admin = str(folder / "admin")
        configuration = folder / "haproxy.cfg"
        configuration.write_text(CONFIGURATION.format(folder=folder, mode=mode, port=port, slots=slots))
        self.process = subprocess.Popen(
            ["haproxy", "-f", configuration, "-db"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._admin)
            connection.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def add(self, slot: int, port: int) -> None:
        name = f"replicas/replica{slot}"
        self.say(f"set server {name} addr 127.0.0.1 port {port}")
        self.say(f"set server {name} state ready")

    def remove(self, slot: int) -> None:
        self.say(f"set server replicas/replica{slot} state maint")

    def up(self) -> set[int]:
        """The slots whose replicas get requests."""
        lines = [line.split(",") for line in self.say("show stat").splitlines()]
        named = {line[1]: line[17] for line in lines if line[0] == "replicas"}
        return {slot for slot in range(1, REPLICAS + 2) if named.get(f"replica{slot}", "").startswith("UP")}


class Clients:
    """Threads with a keep-alive connection each. `counts`: (what is being done, what came back), the latter the version that
    answered, a status, or an error's name."""

    def __init__(self, url: str, versions: Mapping[float, str]) -> None:
        self.url, self.versions = url, versions
        self.doing = "start"
        self.counts: Counter[tuple[str, str]] = Counter()
        self.slowest_s = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(SAFETY_S)
            assert not thread.is_alive(), "a request hangs"

    def _ask(self) -> None:
        with httpx.Client(base_url=self.url, timeout=SAFETY_S, trust_env=False) as client:
            while not self._stop.wait(PAUSE_S):
                doing, started_at = self.doing, time.monotonic()
                try:
                    answer = client.post("/predict", json={"inputs": TEXT})
                    back = self.version(answer.json()) if answer.status_code == 200 else str(answer.status_code)
                except httpx.TransportError as error:
                    back = type(error).__name__
                self.counts[doing, back] += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - started_at)

    def version(self, scores: list[dict[str, Any]]) -> str:
        return self.versions.get(round(scores[0]["score"], 4), "wrong scores")

    def seen(self, doing: str) -> Counter[str]:
        """What came back of requests that were sent meanwhile."""
        return Counter({back: count for (done, back), count in self.counts.items() if done.startswith(doing)})


@pytest.fixture(scope="module")
def versions(models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Two checkpoints that answer the same text with different scores."""
    root = tmp_path_factory.mktemp("versions")
    folders = {name: Path(shutil.copytree(models["tiny-bert"], root / name)) for name in ("v1", "v2")}
    weights = load_file(folders["v2"] / "model.safetensors")
    bias = max((name for name in weights if name.endswith("bias") and "classifier" in name), key=len)
    weights[bias] = weights[bias] + torch.tensor([1.0, 0.0, -1.0])
    save_file(weights, folders["v2"] / "model.safetensors", metadata={"format": "pt"})
    return folders


class Deployment:
    """Replicas behind the balancer, a slot each; one slot more for the one that starts before another leaves."""

    def __init__(self, balancer: Balancer, start: Callable[[str], Any], wait: Callable[..., None]) -> None:
        self.balancer, self._start, self._wait = balancer, start, wait
        self.replicas: dict[int, Any] = {}

    def add(self, version: str) -> None:
        server = self._start(version)
        slot = min(set(range(1, REPLICAS + 2)) - self.replicas.keys())
        self.balancer.add(slot, int(server.url.rpartition(":")[2]))
        self.replicas[slot] = server
        self._wait(lambda: slot in self.balancer.up(), timeout_s=SAFETY_S, alive=server)

    def stop(self, slot: int) -> None:
        server = self.replicas[slot]
        server.process.send_signal(signal.SIGTERM)
        server.assert_stopped_cleanly()
        self.forget(slot)

    def kill(self, slot: int) -> None:
        server = self.replicas[slot]
        for process in server.leftovers():  # the whole pod at once
            process.kill()
        self._wait(lambda: slot not in self.balancer.up(), timeout_s=SAFETY_S)
        server.process.wait(SAFETY_S)
        self.forget(slot)

    def forget(self, slot: int) -> None:
        assert slot not in self.balancer.up()
        self.balancer.remove(slot)
        self.replicas.pop(slot).close()


@contextmanager
def balancing(folder: Path, *, mode: str, port: int) -> Iterator[Balancer]:
    balancer = Balancer(folder, mode=mode, port=port, slots=REPLICAS + 1)
    try:
        yield balancer
    finally:
        balancer.process.kill()
        balancer.process.wait(SAFETY_S)


def test_a_service_that_drains_lets_each_connection_go_with_an_answer(
    server_of: Callable[..., Any], versions: Mapping[str, Path], wait: Callable[..., None]
) -> None:
    server = server_of({"tiny": versions["v1"]}, "--drain-s", "5")
    assert "connection" not in server.predict(TEXT).headers
    server.process.send_signal(signal.SIGTERM)
    wait(lambda: server.predict(TEXT).headers.get("connection") == "close", timeout_s=4, alive=server)
    assert server.predict(TEXT).status_code == 200  # on a new connection
    server.assert_stopped_cleanly()


@pytest.mark.skipif(not shutil.which("haproxy"), reason="haproxy is not installed (Debian: haproxy)")
@pytest.mark.fault(
    "a rolling update to another version of the model, and a replica killed", "no request lost but in the killed one"
)
@pytest.mark.parametrize(
    "mode", ["tcp", "http"], ids=["connections balanced, as by a Service", "requests balanced, as by an ingress"]
)
def test_a_rolling_update_loses_nothing(
    server_of: Callable[..., Any],
    versions: Mapping[str, Path],
    wait: Callable[..., None],
    free_port: Callable[[], int],
    tmp_path: Path,
    full: bool,
    drill: Drill,
    mode: str,
) -> None:
    rounds = 10 if full else 1
    names = {round(score, 4): version for version, score in first_scores(server_of, versions).items()}
    assert len(names) == 2
    with balancing(tmp_path, mode=mode, port=free_port()) as balancer:
        deployment = Deployment(balancer, lambda version: server_of({"tiny": versions[version]}, *FLAGS), wait)
        for _ in range(REPLICAS):
            deployment.add("v1")
        with Clients(balancer.url, names) as clients:
            for number in range(rounds):
                new = ("v2", "v1")[number % 2]
                clients.doing = f"update {number}"
                for slot in sorted(deployment.replicas)[: REPLICAS if full else 1]:
                    deployment.add(new)
                    deployment.stop(slot)
                clients.doing = f"updated {number}"
                time.sleep(SETTLE_S)
                clients.doing = f"kill {number}"
                time.sleep(SETTLE_S)  # until what was sent before has its answer: what the kill takes is counted as that
                deployment.kill(min(deployment.replicas))
                clients.doing = f"killed {number}"
                deployment.add(new)
    seen = {doing: clients.seen(doing) for doing in ("update ", "updated ", "kill ", "killed ")}
    told = "; ".join(f"{doing.strip()} {dict(counts)}" for doing, counts in seen.items())
    drill(f"{mode}, {rounds} rounds: {told}; slowest {clients.slowest_s:.2f} s")
    for doing in ("update ", "updated ", "killed "):
        assert set(seen[doing]) <= {"v1", "v2"}, told
    lost = sum(count for back, count in seen["kill "].items() if back not in ("v1", "v2"))
    assert lost <= CLIENTS * rounds, told


def first_scores(server_of: Callable[..., Any], versions: Mapping[str, Path]) -> dict[str, float]:
    """Of the text, by version."""
    server = server_of(versions, *FLAGS)
    found = {version: server.predict(TEXT, model=version).json()[0]["score"] for version in versions}
    server.close()
    return found
