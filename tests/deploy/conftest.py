"""The compose file's service without Docker: the kernel's namespaces stand for the engine, this interpreter for the image's.

The image's entry point runs as process 1, by the image's user, over a copy of what the Dockerfile copies. Its environment is that
of both files and nothing else. Its root can't be written, except for the compose file's tmpfs and /dev."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
READY_S = 180
SAFETY_S = 60
NAMESPACES = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
# Arguments: where to put the new root; the copy that becomes /app; the mount options of /tmp; uid; gid; for each volume the
# host's folder and its place inside; `--`; the command. A folder of this interpreter that lies in /tmp is mounted there again.
ENGINE = r"""
set -eu
root=$1 app=$2 tmp=$3 uid=$4 gid=$5; shift 5
mount -t tmpfs tmpfs "$root"
for entry in /*; do
  case $entry in /tmp | /app) continue ;; esac
  if [ -L "$entry" ]; then cp -P "$entry" "$root$entry"
  elif [ -d "$entry" ]; then mkdir "$root$entry"; mount --rbind "$entry" "$root$entry"; fi
done
mkdir "$root/tmp" "$root/app" "$root/old"
mount --bind "$app" "$root/app"
while [ "$1" != -- ]; do mkdir -p "$root$2"; mount --bind "$1" "$root$2"; shift 2; done
shift
while read -r _ target _ options _; do
  case $target in "$root"/proc* | "$root"/dev* | "$root"/sys*) continue ;; "$root" | "$root"/*) ;; *) continue ;; esac
  kept=$(printf %s "$options" | tr , '\n' | grep -xE 'nosuid|nodev|noexec|noatime|nodiratime|relatime' | tr '\n' ,) || true
  mount -o "remount,bind,ro,${kept%,}" "$target"
done < /proc/self/mounts
mount -t tmpfs -o "$tmp" tmpfs "$root/tmp"
for folder in $INTERPRETER; do
  case $folder in /tmp/*) mkdir -p "$root$folder"; mount --rbind "$folder" "$root$folder" ;; esac
done
cd "$root"
pivot_root . old
cd /app
umount -l /old
unset INTERPRETER
exec unshare --user --map-user="$uid" --map-group="$gid" -- setpriv --no-new-privs -- "$@"
"""


class Container:
    """A running service. `pid`: that of its process 1, as seen from outside."""

    def __init__(self, command: list[str], environment: Mapping[str, str], *, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.environment = environment
        self.log = log
        with log.open("wb") as output:
            self.engine = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)

    @property
    def pid(self) -> int:
        (child,) = psutil.Process(self.engine.pid).children()
        return child.pid

    def processes(self) -> list[psutil.Process]:
        """All processes of the container, process 1 first."""
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def workers(self) -> list[psutil.Process]:
        """The processes that hold the models."""
        return [process for process in self.processes() if process.name() == "valence-worker"]

    def path(self, inside: str) -> Path:
        """A path inside the container, as a path outside."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def status(self, field: str) -> str:
        """A field of process 1's /proc status."""
        found = re.search(rf"^{field}:\s*(\S+)", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found
        return found[1]

    def predict(self, inputs: Any, **fields: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", json={"inputs": inputs, **fields}, timeout=SAFETY_S, trust_env=False)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", timeout=SAFETY_S, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def wait_until(self, condition: Callable[[], object], *, timeout_s: float = READY_S) -> None:
        """Waits for a condition. Fails, with the log, if the container ends or the time is up."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.engine.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"status {self.engine.poll()}:\n{self.log.read_text()}")
            time.sleep(0.005)

    def close(self) -> None:
        """Kills process 1; the kernel then ends the other processes of its namespace."""
        self.engine.kill()
        self.engine.wait(SAFETY_S)


def instruction(name: str) -> str:
    """The Dockerfile's last instruction of this name, its lines joined."""
    return re.findall(rf"^{name} ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)[-1].replace("\\\n", " ")


def compose(environment: Mapping[str, str]) -> dict[str, Any]:
    """The compose file as Compose itself reads it, with the variables of `environment`."""
    binary = Path(sys.executable).with_name("docker-compose")
    command = [str(binary), "--project-directory", str(ROOT), "--file", str(ROOT / "docker-compose.yml"), "--profile", "*"]
    done = subprocess.run(
        [*command, "config", "--format", "json"],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return dict(json.loads(done.stdout))


def copy_tree(folder: Path) -> Path:
    """What the Dockerfile's `tree` stage holds."""
    stage = DOCKERFILE.partition(" AS tree\n")[2].partition("\nFROM ")[0]
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] not in "#!*"]
    for source, target in re.findall(r"^COPY (\S+) (\S+)$", stage, re.MULTILINE):
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, folder / target)
    for path in ignored:
        shutil.rmtree(folder / path, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def resolved_compose() -> Callable[[Mapping[str, str]], dict[str, Any]]:
    return compose


@pytest.fixture(scope="session")
def image_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tree(tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def start_container(
    checkpoints: Mapping[str, Path], image_tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Container]]:
    """Starts the compose file's `valence`, with the tiny checkpoints in /checkpoints. Arguments are variables of Compose."""
    if subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make namespaces of processes and mounts")
    running: list[Container] = []

    def start(**variables: str) -> Container:
        folder = tmp_path_factory.mktemp("container")
        (folder / "root").mkdir()
        chosen = {
            "VALENCE_CHECKPOINTS": str(checkpoints["tiny-bert"].parent),
            "VALENCE_MODELS": "tiny-bert=/checkpoints/tiny-bert,tiny-lstm=/checkpoints/tiny-lstm",
            "VALENCE_MAX_CLIENT_BATCH_SIZE": "3",
            "VALENCE_WORKERS_PER_DEVICE": "1",
            "VALENCE_THREADS": "1",
            **variables,
        }
        running.append(start_service(compose(chosen)["services"]["valence"], image_tree, folder))
        return running[-1]

    yield start
    for container in running:
        container.close()


def start_service(service: Mapping[str, Any], tree: Path, folder: Path) -> Container:
    """Starts a service as Compose resolved it."""
    assert service["read_only"]
    (tmpfs,) = service["tmpfs"]
    target, _, options = tmpfs.partition(":")
    places = [(volume["target"], volume["read_only"]) for volume in service["volumes"]]
    assert (target, places) == ("/tmp", [("/checkpoints", True), ("/modules", True)])
    uid, gid = instruction("USER").split(":")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **dict(re.findall(r"(\w+)=(\S+)", instruction("ENV"))),
        **{name: value for name, value in service["environment"].items() if value is not None},
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin:/sbin",
        "VALENCE_PORT": str(port),
        "INTERPRETER": f"{sys.prefix} {sys.base_prefix}",
    }
    entry_point = [*json.loads(instruction("ENTRYPOINT")), *(service["command"] or [])]
    volumes = [volume[side] for volume in service["volumes"] for side in ("source", "target")]
    arguments = [str(folder / "root"), str(tree), options, uid, gid, *volumes, "--", *entry_point]
    return Container([*NAMESPACES, "sh", "-c", ENGINE, "engine", *arguments], environment, port=port, log=folder / "log")
