"""An endpoint whose nodes come, go and die under load. All nodes are on this machine."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx
import pytest

from cluster.local.local_cluster import LocalCluster, LocalClusterConfig, NodeGroup
from tempo_ray.processes import free_port
from tests.integration.jobs import endpoint
from tests.integration.watched import Watched

NODES = {"cpu": NodeGroup(cpus=2, memory_bytes=4_000_000_000, max_nodes=3)}
REPLICA = "InProcessServer"
AUTOSCALE = (
    "autoscale={min_replicas: 1, max_replicas: 2, target_ongoing_requests: 2, "
    "upscale_delay_s: 2, downscale_delay_s: 5}"
)


@dataclass
class Load:
    """Clients that ask one request after another, each a second time if it fails."""

    url: str
    failed: list[str] = field(default_factory=list)
    """The first attempts that failed."""
    lost: list[str] = field(default_factory=list)
    """Requests of which both attempts failed."""
    answered: int = 0

    def __post_init__(self) -> None:
        self._clients: list[tuple[threading.Thread, threading.Event]] = []

    def of(self, clients: int) -> None:
        """Changes the number of clients. Those that go get their last answer first."""
        while len(self._clients) < clients:
            stop = threading.Event()
            thread = threading.Thread(target=self._ask_until, args=(stop,), daemon=True)
            thread.start()
            self._clients.append((thread, stop))
        leaving = [self._clients.pop() for _ in range(len(self._clients) - clients)]
        for _, stop in leaving:
            stop.set()
        for thread, _ in leaving:
            thread.join()

    def _ask_until(self, stop: threading.Event) -> None:
        while not stop.is_set():
            error = self._ask()
            if error is not None:
                self.failed.append(error)
                error = self._ask()
            if error is None:
                self.answered += 1
            else:
                self.lost.append(error)

    def _ask(self) -> str | None:
        """The error, if there is one. Every attempt takes a new connection."""
        request = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "What happens first?"}],
            "max_tokens": 100,
            "min_tokens": 100,
        }
        try:
            answer = httpx.post(f"{self.url}/chat/completions", json=request, timeout=120)
        except httpx.HTTPError as error:
            return repr(error)
        return None if answer.status_code == 200 else f"{answer.status_code} {answer.text}"


@dataclass
class Endpoint:
    watched: Watched
    load: Load

    def new_load(self, clients: int) -> None:
        self.load.of(0)
        self.load = Load(self.load.url)
        self.load.of(clients)

    def replicas(self) -> int:
        groups = self.watched.groups()
        return sum(node in groups for node in self.watched.nodes_of(REPLICA))

    def nodes(self) -> int:
        """Beside the head."""
        return len(self.watched.groups()) - 1

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            seen = f"{self.nodes()} nodes, {self.replicas()} replicas, {self.load}"
            assert time.monotonic() < deadline, seen
            time.sleep(0.5)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A replica fills a node's memory: two replicas are two nodes."""
    log = tmp_path_factory.mktemp("served") / "serve.log"
    words = (
        "--config=embedded",
        "models=[{name: tiny, path: 'builtin:qwen2_5_vl'}]",
        f"port={free_port()}",
        "proxies=head",  # all nodes have the same address
        "placement.memory=3000000000",
        AUTOSCALE,
    )
    with LocalCluster(LocalClusterConfig(groups=NODES, idle_timeout_s=5)) as cluster:
        environment = cluster.environment
        with endpoint(*words, log=log, environment=environment) as (url, _):
            under_load = Endpoint(Watched(cluster), Load(url))
            yield under_load
            under_load.load.of(0)


def test_replicas_and_nodes_grow_and_shrink_with_load(served: Endpoint) -> None:
    assert (served.nodes(), served.replicas()) == (1, 1)
    served.new_load(8)
    served.wait_for(lambda: (served.nodes(), served.replicas()) == (2, 2), 240)
    served.load.of(1)
    served.wait_for(lambda: (served.nodes(), served.replicas()) == (1, 1), 240)
    assert served.load.answered > 20
    assert served.load.failed == []


@pytest.mark.parametrize("warning_s", [0, 20])
def test_a_lost_node_costs_no_request_that_is_asked_again(served: Endpoint, warning_s: int) -> None:
    """The node of a replica is killed under load; another takes its place."""
    served.new_load(8)
    served.wait_for(lambda: (served.nodes(), served.replicas()) == (2, 2), 240)
    node = served.watched.nodes_of(REPLICA)[0]
    if warning_s:
        served.watched.cluster.warn_node(node, warning_s)
        time.sleep(warning_s)
    if node in served.watched.groups():  # a node that was warned may have gone already
        served.watched.cluster.kill_node(node)
    served.wait_for(lambda: node not in served.watched.groups(), 120)
    served.wait_for(lambda: served.replicas() == 2, 240)
    answered = served.load.answered
    served.wait_for(lambda: served.load.answered > answered + 8, 120)
    assert served.load.lost == []
    if warning_s:
        assert served.load.failed == []
