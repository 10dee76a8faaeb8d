"""Managers and connections between this package and the standard library, in every pairing.

Each package and each version of Python is a server and a client, in processes of their own; a
client does all checks on a server before it goes to the next. The standard library's processes
cannot import sidestep.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sidestep
from sidestep.managers import BaseManager
from sidestep.pool import WorkerLostError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import checks  # noqa: E402

VERSIONS = ("3.11", "3.12", "3.13")
PACKAGES = ("sidestep", "multiprocessing")
PEERS = [f"{package}-{version}" for package in PACKAGES for version in VERSIONS]
# Two of the standard library's have nothing to say about this package.
PAIRS = [
    (server, client)
    for server in PEERS
    for client in PEERS
    if "sidestep" in server or "sidestep" in client
]

pytestmark = pytest.mark.timeout(600)  # for the first test, which waits for all of the clients


def find_python(version: str) -> str | None:
    """An interpreter of this version: this one, or what the repository's scripts would take."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    script = HERE.parents[1] / "scripts" / "find-python"
    found = subprocess.run([script, version], capture_output=True, text=True)
    return found.stdout.strip() or None


class Peer:
    """How to start one package with one version."""

    def __init__(self, name: str, python: str, folder: Path) -> None:
        self.package, version = name.split("-")
        self.folder = folder
        # Before 3.13 a listener of the standard library takes an empty key for none.
        self.empty_key_is_none = self.package == "multiprocessing" and version < "3.13"
        # Nothing of the environment that the tests run in, and sidestep for its own peers only.
        self.command = [python, "-s", "-W", "error::ResourceWarning", str(HERE / "peer.py")]
        if self.package == "multiprocessing":
            self.command[1:1] = ["-S"]  # no site-packages: sidestep may be installed there
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith("PYTHON")
        }
        if self.package == "sidestep":
            self.environment["PYTHONPATH"] = str(folder / "packages")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, self.package, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=self.folder,
        )


Outcomes = dict[tuple[str, str], Any]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    """What each client found at each server: by pair, an empty text or a traceback per check."""
    folder = tmp_path_factory.mktemp("wire")
    packages = folder / "packages"
    packages.mkdir()
    # The package's extension works in all versions; nothing else of this environment might.
    (packages / "sidestep").symlink_to(Path(sidestep.__file__).parent)
    peers = {}
    for version in VERSIONS:
        python = find_python(version)
        for package in PACKAGES if python else ():
            name = f"{package}-{version}"
            peers[name] = Peer(name, str(python), folder)
    servers = {name: peer.start("serve", str(folder)) for name, peer in peers.items()}
    results: Outcomes = {}
    try:
        served = {}
        for name, server in servers.items():
            assert server.stdout is not None and server.stderr is not None
            line = server.stdout.readline()
            assert line, f"the server {name} did not start:\n{server.stderr.read()}"
            served[name] = {**json.loads(line), "empty_key_is_none": peers[name].empty_key_is_none}
        for name, peer in peers.items():
            theirs = {other: served[other] for other in served if (other, name) in PAIRS}
            client = peer.start("call")
            try:
                out, err = client.communicate(json.dumps(theirs), timeout=300)
            except subprocess.TimeoutExpired:
                client.kill()
                out, err = client.communicate()
                err += "\n(killed after 300 seconds)"
            for other in theirs:
                try:
                    results[other, name] = json.loads(out)[other]
                except ValueError:
                    results[other, name] = f"the client ended with {client.returncode}:\n{err}"
        yield results
    finally:
        for server in servers.values():
            server.communicate()


@pytest.mark.parametrize("what", checks.all_checks)
@pytest.mark.parametrize(("server", "client"), PAIRS)
def test_client_and_server(server: str, client: str, what: str, outcomes: Outcomes) -> None:
    found = outcomes.get((server, client))
    if found is None:
        missing = [name for name in (server, client) if not any(name in pair for pair in outcomes)]
        pytest.skip(f"there is no interpreter for {' and '.join(missing)}")
    assert isinstance(found, dict), found
    assert found[what] == "", found[what]


STANDARD_CLIENT = """
import multiprocessing, sys
from multiprocessing.managers import BaseManager
class Shop(BaseManager):
    pass
Shop.register("Failing")
shop = Shop(sys.argv[1], b"a key")
shop.connect()
try:
    shop.Failing().fail()
except multiprocessing.ProcessError as error:
    print(type(error).__name__, "-", error)
"""


class Failing:
    def fail(self) -> None:
        raise WorkerLostError("worker 5 is gone", 5, -9)


class Shop(BaseManager):
    pass


Shop.register("Failing", Failing)


def test_errors_of_ours_arrive_as_ones_that_all_know() -> None:
    with Shop(authkey=b"a key", ctx=sidestep.get_context("fork")) as shop:
        client = subprocess.run(
            [sys.executable, "-I", "-S", "-c", STANDARD_CLIENT, shop.address],
            capture_output=True,
            text=True,
        )
        with pytest.raises(WorkerLostError):
            shop.Failing().fail()  # type: ignore[attr-defined]
    shop.join()
    assert (client.stderr, client.returncode) == ("", 0)
    assert client.stdout.startswith("ProcessError - WorkerLostError: ")
