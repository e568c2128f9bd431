"""`dialwatch worker --traces`: one trace from the call to the provider; without it nothing."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.local.worker import WorkerProcess
from app.sandbox.run import running_sandbox
from app.trace_export import OpenTelemetryTraces
from streams import tracing
from tests.drive import Drive
from tests.installation import Installation
from tests.samples import account, call

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"


class Receiver(ThreadingHTTPServer):
    """Takes what is exported by OTLP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[Any] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        told = ExportTraceServiceRequest.FromString(body)
        for resource in told.resource_spans:
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        serving = threading.Thread(target=made.serve_forever)
        serving.start()
        yield made
        made.shutdown()
        serving.join()


class Tracing(WorkerProcess):
    def command(self) -> list[str]:
        return [*super().command(), "--traces"]


async def publish_call(installation: Installation) -> None:
    """A call that belongs to a trace."""
    producer = AIOKafkaProducer(bootstrap_servers=installation.brokers)
    await producer.start()
    try:
        value = json.dumps(call("acme", 0, result="A").value).encode()
        headers = [("traceparent", GIVEN.encode())]
        await producer.send_and_wait(installation.topics.calls, value, key=b"acme", headers=headers)
    finally:
        await producer.stop()


@pytest.mark.broker
async def test_call_command_and_request_are_one_trace(
    installation: Installation, receiver: Receiver
) -> None:
    with running_sandbox() as (_, environment):
        variables = installation.variables | environment
        variables |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        worker = Tracing(installation.directory / "traced", variables)
        installation.workers.append(worker)
        await installation.publish([account("acme", intent_classes=["A"])])
        worker.start()
        await publish_call(installation)
        await installation.wait_for("deliveries", lambda found: len(found) == 2)
        worker.terminate()
        assert await asyncio.to_thread(worker.wait_exit) == 0
    spans = [span for span in receiver.spans if span.trace_id.hex() == TRACE]
    noticed = {s.span_id.hex(): s for s in spans if s.name == "notice interested_customer"}
    assert {one.parent_span_id.hex() for one in noticed.values()} == {SPAN}
    requests = [one for one in spans if one.name == "send wechat"]
    assert requests
    assert {one.parent_span_id.hex() for one in requests} <= noticed.keys()
    carried = [
        dict(record.headers)["traceparent"].decode()
        for record in await installation.read("notifications")
    ]
    assert {one.split("-")[1] for one in carried} == {TRACE}
    assert {one.split("-")[2] for one in carried} == noticed.keys()
    told = str(receiver.spans)
    for secret in ("acme", "13700000000", "13900000001", "access_token", *environment.values()):
        if len(secret) > 3:
            assert secret not in told


def test_what_is_folded_again_has_the_same_headers_and_what_has_none_begins_a_trace() -> None:
    exporter = InMemorySpanExporter()
    traces = OpenTelemetryTraces(SimpleSpanProcessor(exporter))
    try:
        tracing.switch(traces)
        told = []
        for _ in range(2):
            drive = Drive()
            drive.take([account("acme", intent_classes=["A"]), call("acme", 0, result="A")])
            told.append([dict(one.headers)["traceparent"] for one in drive.told])
    finally:
        tracing.switch(None)
        traces.close()
    assert told[0] == told[1]
    assert len(set(told[0])) == 2
    assert len({one.split(b"-")[1] for one in told[0]}) == 1


@pytest.mark.broker
async def test_off_there_is_no_header(installation: Installation, receiver: Receiver) -> None:
    await installation.publish([account("acme", intent_classes=["A"])])
    installation.worker(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_TRACES_EXPORTER="otlp")
    await publish_call(installation)
    found = await installation.wait_for("notifications", lambda seen: len(seen) == 2)
    assert len(found) == 2
    records = await installation.read("notifications")
    assert {name for one in records for name, _ in one.headers} == {"dialwatch.cause"}
    assert receiver.spans == []


def test_off_nothing_of_it_is_imported() -> None:
    # redis-py loads OpenTelemetry's metrics by itself where they are installed.
    script = "import app.cli, app.life, sys; print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = said.stdout.split()
    assert "app.life" in loaded
    assert not {"app.trace_export", "opentelemetry.sdk.trace", "opentelemetry.exporter"} & {*loaded}
