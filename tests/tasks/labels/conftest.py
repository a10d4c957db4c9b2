"""A server on loopback whose every answer is scripted, and files of generated buildings."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import osmium
import pytest

from tasks.geo.tiles import Tile
from tests.support.fault_server import FaultServer

TILE = Tile(16, 32768, 32767)  # its south-west corner is 0, 0; a side is 0.0055 degrees
STEP = 1e-3


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    claimed: int | None = None  # a Content-Length that the body does not keep


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: str


@dataclass
class Scripted:
    """Answers of each path in turn; the last one again and again."""

    url: str = ""
    script: dict[str, list[Answer | Callable[[Asked], Answer]]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def on(self, path: str, *answers: Answer | Callable[[Asked], Answer]) -> None:
        self.script[path] = list(answers)

    def requests(self, path: str) -> list[Asked]:
        return [one for one in self.asked if one.path == path]

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        answers = self.script.get(asked.path, [Answer(404, b"nothing here")])
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return found if isinstance(found, Answer) else found(asked)


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            path = self.path.partition("?")[0]
            asked = Asked(self.command, path, dict(self.headers), self.rfile.read(length).decode())
            answer = scripted.answer(asked)
            self.send_response(answer.status)
            if answer.status != 304:
                self.send_header("Content-Length", str(len(answer.body) if answer.claimed is None else answer.claimed))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        scripted.url = f"http://127.0.0.1:{http.server_port}"
        yield scripted
        http.shutdown()


@pytest.fixture(scope="package")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultServer]:
    with FaultServer(tmp_path_factory.mktemp("faults")) as one:
        yield one


@pytest.fixture
def faults(faulty: FaultServer) -> FaultServer:
    """A server that does wrong, as if it were new."""
    faulty.forget()
    return faulty


# One small region for the sources that read OSM objects: id -> place on a grid of STEP degrees.
NODES = {1: (0, 0), 2: (1, 1), 3: (1, 0), 4: (0, 1), 5: (4, 0), 6: (4, 4), 7: (0, 4), 8: (1, 2), 9: (2, 2), 10: (2, 3)}
NODES |= {11: (100, 100), 12: (101, 100), 13: (101, 101)}
WAYS: dict[int, tuple[list[int], dict[str, str]]] = {
    1: ([1, 2, 3, 4, 1], {"building": "yes", "name": "a bow tie", "id": "77"}),
    2: ([1, 2, 3], {"building": "yes"}),
    3: ([1, 3, 2, 1], {"building": "yes", "area": "no"}),
    4: ([1, 5, 6, 7, 1], {"building": "yes"}),
    5: ([8, 9, 10, 8], {}),
    6: ([1, 2, 99, 1], {"building": "yes"}),
    7: ([1, 3, 2, 4, 1], {"building": "no"}),
    8: ([11, 12, 13, 11], {"building": "yes", "name": "off the tiles"}),
    9: ([1, 3, 2, 4, 1], {"building": "house", "location": "underground"}),
}
RELATIONS: dict[int, tuple[list[tuple[str, int, str]], dict[str, str]]] = {
    1: ([("w", 4, "outer"), ("w", 5, "inner")], {"type": "multipolygon", "building": "yes"}),
    2: ([("w", 4, "outer"), ("w", 555, "inner")], {"type": "multipolygon", "building": "yes"}),
}


@pytest.fixture
def pbf(tmp_path: Path) -> Path:
    """The small region as an extract."""
    path = tmp_path / "region.osm.pbf"
    header = osmium.io.Header()
    header.set("osmosis_replication_timestamp", "2026-01-02T03:04:05Z")
    mutable = osmium.osm.mutable
    with osmium.SimpleWriter(str(path), header=header) as writer:
        for number, (x, y) in NODES.items():
            writer.add_node(mutable.Node(id=number, location=(x * STEP, y * STEP), version=1))
        for number, (nodes, tags) in WAYS.items():
            writer.add_way(mutable.Way(id=number, nodes=nodes, tags=tags, version=1))
        for number, (members, tags) in RELATIONS.items():
            writer.add_relation(mutable.Relation(id=number, members=members, tags=tags, version=1))
    return path


def overpass_answer(ways: list[int] | None = None, relations: list[int] | None = None) -> dict[str, Any]:
    """The small region, or some of its ways and relations, as Overpass answers it."""
    elements: list[dict[str, Any]] = [
        {"type": "node", "id": number, "lat": y * STEP, "lon": x * STEP} for number, (x, y) in NODES.items()
    ]
    for number, (nodes, tags) in WAYS.items():
        if ways is None or number in ways:
            elements.append({"type": "way", "id": number, "nodes": nodes, "tags": dict(tags)})
    for number, (members, tags) in RELATIONS.items():
        if relations is None or number in relations:
            told = [{"type": "way", "ref": ref, "role": role} for _, ref, role in members]
            elements.append({"type": "relation", "id": number, "members": told, "tags": dict(tags)})
    return {"version": 0.6, "osm3s": {"timestamp_osm_base": "2026-02-03T04:05:06Z"}, "elements": elements}
