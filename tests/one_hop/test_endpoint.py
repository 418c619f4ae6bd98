"""A model behind a URL: what is sent, what is tried again, and one clear error for everything else."""

from __future__ import annotations

import socket
import time

import pytest
from one_hop.scripted_server import completion, serving

from editguard.errors import ConfigurationError, EndpointFailed
from editguard.one_hop.endpoint import Endpoint

KEY = "secret-key"


def endpoint(url: str, waits: list[float] | None = None, **more: object) -> Endpoint:
    sleep = ([] if waits is None else waits).append
    return Endpoint(url=url, model="m", sleep=sleep, **more)  # type: ignore[arg-type]


def test_one_message_is_sent_at_temperature_zero_with_the_key() -> None:
    with serving(completion("yes")) as server:
        assert endpoint(server.url + "/", key=KEY).ask("Why?", max_tokens=7) == "yes"
        assert endpoint(server.url + "/chat/completions").ask("Why?", max_tokens=7) == "yes"
    assert server.bodies[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "Why?"}],
        "temperature": 0,
        "max_tokens": 7,
    }
    assert server.paths == ["/v1/chat/completions"] * 2
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert "Authorization" not in server.headers[1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again_after_growing_waits(status: int) -> None:
    waits: list[float] = []
    with serving(*[(status, {}, b"busy")] * 3, completion("yes")) as server:
        assert endpoint(server.url, waits, backoff=0.5).ask("Why?", max_tokens=7) == "yes"
    assert waits == [0.5, 1.0, 2.0]


def test_a_server_that_names_its_time_is_obeyed() -> None:
    waits: list[float] = []
    reply = (429, {"Retry-After": "7"}, b"")
    with serving(reply, completion("yes")) as server:
        endpoint(server.url, waits).ask("Why?", max_tokens=7)
    assert waits == [7.0]


def test_after_all_repetitions_the_last_reason_is_told() -> None:
    with (
        serving((503, {}, b"no room")) as server,
        pytest.raises(EndpointFailed, match="3 requests: it answered 503 Service Unavailable: no room"),
    ):
        endpoint(server.url, retries=2).ask("Why?", max_tokens=7)
    assert len(server.bodies) == 3


def test_a_refusal_is_final_and_does_not_show_the_key() -> None:
    with (
        serving((401, {}, f"wrong {KEY}".encode())) as server,
        pytest.raises(EndpointFailed, match=r"one request: it answered 401 Unauthorized: wrong \*\*\*") as failure,
    ):
        endpoint(server.url, key=KEY).ask("Why?", max_tokens=7)
    assert len(server.bodies) == 1
    assert KEY not in str(failure.value) + repr(endpoint(server.url, key=KEY))


def test_the_key_is_sent_to_no_other_host() -> None:
    with serving(completion("stolen")) as other:
        reply = (302, {"Location": other.url}, b"")
        with serving(reply) as server, pytest.raises(EndpointFailed, match="302"):
            endpoint(server.url, key=KEY).ask("Why?", max_tokens=7)
    assert other.bodies == []


@pytest.mark.parametrize("data", [b"<html>", b"[]", b'{"choices": []}', b'{"choices": [{"message": {"content": 5}}]}'])
def test_another_protocol_is_one_error_at_once(data: bytes) -> None:
    with (
        serving((200, {}, data)) as server,
        pytest.raises(EndpointFailed, match="no chat completion"),
    ):
        endpoint(server.url).ask("Why?", max_tokens=7)
    assert len(server.bodies) == 1


def test_a_model_that_writes_nothing_is_no_failure_of_the_endpoint() -> None:
    with serving(completion(None)) as server:
        assert endpoint(server.url).ask("Why?", max_tokens=7) == ""


def test_an_unreachable_endpoint_is_one_error_with_the_reason() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EndpointFailed, match=rf"127\.0\.0\.1:{port}.* 2 requests: Connection refused"):
        endpoint(f"http://127.0.0.1:{port}", retries=1).ask("Why?", max_tokens=7)


def test_a_silent_server_is_given_up_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(EndpointFailed, match=r"did not answer within 0\.05 s"):
            endpoint(url, timeout=0.05, retries=0).ask("Why?", max_tokens=7)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "localhost:8000"},
        {"url": "file:///etc/passwd"},
        {"url": "http://"},
        {"url": "http://host:port"},
        {"model": " "},
        {"timeout": 0},
        {"retries": -1},
        {"key": "two\nlines"},
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Endpoint(**{"url": "http://host/v1", "model": "m", **wrong})  # type: ignore[arg-type]
