"""Whom the server answers, how much it reads, and what every answer carries."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp

from seqgen.core.errors import BadInput
from seqgen.serving.http.app import make_app
from seqgen.serving.http.limits import Limits
from seqgen.serving.http.served import Served
from seqgen.serving.http.server import host_name, loopback_names
from seqgen.serving.http.service import Service
from tests.asgi import JSON, Answer, ask, asking, exchange
from tests.served_models import served

LIMIT = 1000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return served(tmp_path_factory.mktemp("models") / 'a "model"')


@pytest.fixture
def app(model: Served) -> ASGIApp:
    service = Service(Limits(body_bytes=LIMIT), served=model)
    return make_app(service, loopback_names("127.0.0.1"))


def sent(app: ASGIApp, parts: list[bytes], **headers: str) -> Answer:
    answer = asyncio.run(exchange(app, "POST", "/v1/samples", parts, {**JSON, **headers}))
    assert answer is not None
    return answer


def test_a_body_over_the_limit_is_refused_however_it_comes(app: ASGIApp):
    spaces = b" " * (LIMIT + 1)
    whole = ask(app, "/v1/samples", spaces)
    said = sent(app, [], **{"content-length": str(100 * LIMIT)})  # nothing is waited for
    parts = sent(app, [b" " * 600] * 2, ends="yes")
    endless = sent(app, [spaces] * 20)
    for answer in (whole, said, parts, endless):
        assert answer.status == 413
        assert answer.headers["connection"] == "close"
        assert answer.error == "body: more than 1000 bytes; send fewer images at a time"
    assert sent(app, [b'{"samples"', b":", b"1}"], ends="yes").status == 200


def test_a_body_that_does_not_come_is_not_waited_for(model: Served):
    hurried = make_app(Service(Limits(seconds=0.5), served=model))
    answer = sent(hurried, [b'{"samples"'])
    assert answer.status == 408
    assert answer.error == "body: not there in 0.5 s; send it at once"


def test_half_a_body_is_no_request(app: ASGIApp):
    async def hanging_up() -> Answer | None:
        hangs_up = asyncio.Event()
        hangs_up.set()
        whole = b'{"samples": 1}'  # as far as one can tell
        return await exchange(app, "POST", "/v1/samples", [whole], JSON, hangs_up)

    assert asyncio.run(hanging_up()) is None


@pytest.mark.parametrize("host", ["evil.example:8080", "127.0.0.1.evil.example", "evil.example", "", "[::1"])
def test_another_name_that_leads_here_is_refused(app: ASGIApp, host: str):
    answer = ask(app, "/v1/model", host=host)
    assert answer.status == 403
    assert answer.error.startswith("Host ")


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:1", "LOCALHOST", "[::1]:8080"])
def test_this_machines_own_names_are_answered(app: ASGIApp, host: str):
    assert ask(app, "/v1/model", host=host).status == 200


def test_where_others_may_ask_any_name_is_answered(model: Served):
    assert loopback_names("0.0.0.0") is None
    assert loopback_names("example.org") is None
    assert loopback_names("127.0.0.7") == {"localhost", "127.0.0.1", "::1", "127.0.0.7"}
    app = make_app(Service(Limits(), served=model), loopback_names("0.0.0.0"))
    assert ask(app, "/v1/model", host="models.example").status == 200
    assert ask(app, "/v1/model", host="models.example", origin="https://evil.example").status == 403


def test_a_page_of_another_server_cannot_ask(app: ASGIApp):
    for origin in ("https://evil.example", "http://127.0.0.1:9000", "null"):
        answer = ask(app, "/v1/samples", {}, origin=origin)
        assert answer.status == 403
        assert answer.error.startswith("Origin ")
    own = ask(app, "/v1/samples", {}, origin="http://127.0.0.1:8080")
    assert own.status == 200
    assert not [name for name in own.headers if name.startswith("access-control")]
    # what a form of another page could send without an Origin
    assert ask(app, "/v1/samples", b"{}", **{"content-type": "text/plain"}).status == 422


@pytest.fixture
def proxied(model: Served) -> ASGIApp:
    """As a proxy makes it known, which is alone in reaching it."""
    return make_app(Service(Limits(), served=model), loopback_names("127.0.0.1"), ["draw.example"])


@pytest.mark.parametrize("host", ["draw.example", "DRAW.example", "draw.example:8443", "127.0.0.1:8080"])
@pytest.mark.parametrize("origin", ["https://draw.example", "http://draw.example:8443"])
def test_a_proxys_name_is_its_own(proxied: ASGIApp, host: str, origin: str):
    assert ask(proxied, "/v1/samples", {}, host=host, origin=origin).status == 200


@pytest.mark.parametrize("host", ["draw.example", "127.0.0.1:8080"])
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://draw.example.evil.example", "https://x.draw.example", "null"]
)
def test_behind_a_proxy_a_foreign_page_cannot_ask(proxied: ASGIApp, host: str, origin: str):
    answer = ask(proxied, "/v1/samples", {}, host=host, origin=origin)
    assert answer.status == 403
    assert answer.error.startswith("Origin ")


@pytest.mark.parametrize("host", ["evil.example", "draw.example.evil.example", "x.draw.example"])
def test_behind_a_proxy_another_name_is_refused(proxied: ASGIApp, host: str):
    answer = ask(proxied, "/v1/model", host=host)
    assert answer.status == 403
    assert answer.error.startswith("Host ")


@pytest.mark.parametrize(
    "name", ["https://draw.example", "draw.example:443", "draw.example/draw", "", "a@b", "[::1"]
)
def test_a_name_is_a_name_alone(name: str):
    with pytest.raises(BadInput, match=r"--allowed-host .*: a name alone"):
        host_name(name)
    assert host_name("Draw.Example") == "draw.example"


def test_a_body_that_is_read_is_one_of_those_that_may_wait(model: Served):
    app = make_app(Service(Limits(queue=2), served=model))

    async def asked() -> tuple[Answer, Answer, Answer]:
        hangs_up, chunked = asyncio.Event(), {**JSON, "transfer-encoding": "chunked"}
        reading = [
            asyncio.ensure_future(exchange(app, "POST", "/v1/samples", [b'{"samples"'], chunked, hangs_up))
            for _ in range(2)
        ]
        await asyncio.sleep(0)
        refused, state = await asking(app, "/v1/samples", {}), await asking(app, "/v1/model")
        hangs_up.set()
        assert await asyncio.gather(*reading) == [None, None]
        return refused, state, await asking(app, "/v1/samples", {})

    refused, state, after = asyncio.run(asked())
    assert refused.status == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.error == "2 requests wait already; ask again in a second"
    assert state.status == after.status == 200


def test_every_answer_says_what_a_browser_may_do_with_it(app: ASGIApp):
    for path, question in (("/v1/model", None), ("/docs", None), ("/v1/samples", b"{"), ("/x", None)):
        headers = ask(app, path, question).headers
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_requests_are_counted_by_route(app: ASGIApp):
    ask(app, "/v1/samples", {"samples": 3})
    ask(app, "/v1/samples", {"samples": 0})
    ask(app, "/" + 9 * "guess")
    ask(app, "/v1/model", host="evil.example")
    answer = ask(app, "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
    }
    assert found["seqgen_requests_total", ("path", "/v1/samples"), ("status", "200")] == 1
    assert found["seqgen_requests_total", ("path", "/v1/samples"), ("status", "422")] == 1
    assert found["seqgen_requests_total", ("path", "other"), ("status", "404")] == 1
    assert found["seqgen_requests_total", ("path", "other"), ("status", "403")] == 1
    assert found["seqgen_request_seconds_count", ("path", "/v1/samples")] == 2
    assert found["seqgen_request_seconds_bucket", ("le", "+Inf"), ("path", "/v1/samples")] == 2
    assert found["seqgen_batch_images_bucket", ("le", "2")] == 0
    assert found["seqgen_batch_images_bucket", ("le", "4")] == 1
    assert found["seqgen_queue_length",] == 0
    assert found["seqgen_model_info", ("name", 'a "model"'), ("version", "")] == 1
