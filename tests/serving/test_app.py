"""What a server is asked and answers, over HTTP, with a labeler that has no model."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from groot_jax.errors import UserError
from groot_jax.serving.listening import address_of, bind
from tests.serving.support import ABOUT, Client, StandIn, serving


@pytest.fixture(scope="module")
def labeler() -> StandIn:
    return StandIn()


@pytest.fixture(scope="module")
def port(labeler: StandIn) -> Iterator[int]:
    with serving(labeler, max_bytes=20_000, max_sentences=5, split="unicode") as port:
        yield port


@pytest.fixture
def client(port: int) -> Client:
    return Client(port)


def types_of(answer: dict[str, Any]) -> list[list[str]]:
    return [[span["type"] for span in y["spans"]] for y in answer["labelings"]]


# ---- What may be asked ------------------------------------------------------------------------


def test_text_and_words_get_what_predict_prints(client):
    status, answer = client.label({"text": " 🙂 red, Nike", "id": 7})
    assert status == 200
    assert [*answer] == ["id", "words", "text", "decide", "labelings"]
    # Parted by text.split, and with the places of the words.
    assert answer["words"] == ["🙂", "red", ",", "Nike"] and answer["decide"] == "map"
    best = answer["labelings"][0]["spans"]
    assert [(s["text"], s["start_char"], s["end_char"]) for s in best] == [
        *(("🙂", 1, 2), ("red", 3, 6), (",", 6, 7), ("Nike", 8, 12)),
    ]
    status, answer = client.label({"words": ["new york", "x"]})
    assert status == 200 and types_of(answer) == [["word", "word"], ["word"]]
    assert "text" not in answer and "start_char" not in answer["labelings"][0]["spans"][0]
    status, answer = client.label({"text": "  "})
    assert status == 200 and answer["labelings"] == []


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"red jeans", "", ["red", "jeans"]),
        (b"red jeans", "application/x-www-form-urlencoded", ["red", "jeans"]),  # as curl -d says
        (b'{"text": "red"}', "application/x-www-form-urlencoded", ["red"]),
        (b'{"text": "red"}', "text/plain; charset=utf-8", ["{", '"', "text", '"', ":", '"', "red"]),
        (b'{"text": "red"}', "Application/JSON", ["red"]),
        (b'{"a": 1}', "", ["{", '"', "a", '"', ":", "1", "}"]),
        ("café\nnoir".encode(), "", ["café", "noir"]),
        (b"7", "", ["7"]),
        (b'["red"]', "", ["[", '"', "red", '"', "]"]),
    ],
)
def test_the_body_is_what_it_says_or_looks_like(client, body, kind, words):
    status, answer = client.label(body, kind=kind)
    assert status == 200 and answer["words"][: len(words)] == words


def test_settings_stand_in_the_object_or_in_the_query(client, labeler):
    six = "a b c d"
    for body, query, kind, count in (
        ({"text": six}, "", "", 2),
        ({"text": six, "k": 1}, "", "", 1),
        ({"text": six}, "?k=3", "", 3),
        ({"text": six, "k": 4}, "?k=3", "", 4),
        (six.encode(), "?k=4&decide=mbr", "text/plain", 4),
    ):
        status, answer = client.label(body, query, kind)
        assert status == 200 and len(answer["labelings"]) == count
        assert "k" not in answer  # A setting is not echoed.
        assert answer["decide"] == ("mbr" if "mbr" in query else "map")
    assert labeler.calls[-1][2] == "mbr"
    for body, query in (({"text": "a B", "spans_only": True}, ""), (b"a B", "?spans_only=true")):
        status, answer = client.label(body, query)
        assert {*answer} == {"words", "text", "spans"}
        assert [span["type"] for span in answer["spans"]] == ["word", "brand"]


def test_a_list_is_answered_in_its_order_and_the_bad_ones_by_their_errors(client):
    asked = [{"text": "a b", "k": 1}, {"words": 5, "id": "x"}, 7, {"text": "bad"}, {"words": ["c"]}]
    status, answers = client.label(asked)
    assert status == 200 and [answer.get("words") for answer in answers] == [
        *(["a", "b"], None, None, None, ["c"]),
    ]
    assert len(answers[0]["labelings"]) == 1
    assert answers[1]["id"] == "x" and answers[1]["index"] == 1
    for index, said in ((1, 'has no "words"'), (2, "is not an object"), (3, "a bad word")):
        assert answers[index]["error"].startswith(f"body[{index}]: ")
        assert said in answers[index]["error"]
    assert client.label([]) == (200, [])


# ---- What is refused --------------------------------------------------------------------------

REFUSED = [
    (b'{"text": "red"', "application/json", "", 400, "is not JSON"),
    (b'{"text": "red", "x": [Infinity]}', "application/json", "", 400, "no number of JSON"),
    (b"[" * 5000, "application/json", "", 400, "is not JSON"),
    (b"5", "application/json", "", 400, "JSON, but not"),
    (b"caf\xe9", "", "", 400, "not UTF-8"),
    (b'{"words": "red"}', "", "", 400, 'has no "words"'),
    (b"bad", "", "", 400, "body: a bad word"),
    (b"red", "", "?kk=2", 400, "no setting 'kk'"),
    (b"red", "", "?k=0", 400, "1 or more"),
    (b"red", "", "?k=7", 400, "over 6 (--max-k)"),
    (b"red", "", "?k=two", 400, "1 or more"),
    (b'{"text": "red", "k": true}', "", "", 400, "1 or more"),
    (b'{"text": "red", "k": 2.0}', "", "", 400, "1 or more"),
    (b"red", "", "?decide=best", 400, "decide='best'"),
    (b'{"text": "red", "decide": ["map"]}', "", "", 400, "decide="),
    (b"red", "", "?spans_only=maybe", 400, "neither true nor false"),
    (b"x" * 20_001, "", "", 413, "over 20,000 bytes"),
    (b"[{},{},{},{},{},{}]", "", "", 413, "6 sentences, over 5"),
    (b"broken", "", "", 500, "the reward has failed"),
]


@pytest.mark.parametrize(("body", "kind", "query", "status", "said"), REFUSED)
def test_what_will_not_do_is_one_sentence(client, body, kind, query, status, said):
    found, answer = client.label(body, query, kind)
    assert (found, [*answer]) == (status, ["error"]) and said in answer["error"]
    assert "\n" not in answer["error"]
    # The server goes on, on this connection or another.
    assert client.label(b"red")[0] == 200


def test_a_body_that_hides_its_length_is_refused_all_the_same(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        head = b"POST /label HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head + b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        connection.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_other_paths_and_ways_say_what_there_is(client):
    for way, path, status in (("GET", "/labels", 404), ("GET", "/label", 405), ("POST", "/", 405)):
        found, _, answer = client.ask(way, path)
        assert found == status and "POST /label" in answer["error"]


def test_who_asks_too_much_or_too_long_is_told_to_come_again():
    labeler = StandIn()
    labeler.gate.clear()
    answers: list[int] = []
    with serving(labeler, timeout=1.5, max_waiting=2, sizes=(1,)) as port:
        asking = [
            threading.Thread(target=lambda: answers.append(Client(port).label(b"red")[0]))
            for _ in range(3)
        ]
        for one in asking:
            one.start()
            time.sleep(0.15)
        status, headers, answer = Client(port).ask("POST", "/label", b"red")
        assert status == 503 and "--max-waiting" in answer["error"] and headers["retry-after"]
        for one in asking:
            one.join(60)
        labeler.gate.set()
        assert answers == [503] * 3  # No answer within 1.5 seconds.
        assert Client(port).label(b"red")[0] == 200
    # The two that were not searched when they gave up were not searched later.
    assert len(labeler.calls) == 2


def test_a_sentence_of_a_length_that_is_not_compiled_for_holds_nobody_up():
    labeler = StandIn()
    label_all, gate = labeler.label_all, threading.Event()

    def slow_for_long(sentences: Any, *rest: Any) -> Any:
        if len(sentences[0]) > 4:
            assert gate.wait(60)
        return label_all(sentences, *rest)

    labeler.label_all = slow_for_long  # type: ignore[method-assign, assignment]
    with serving(labeler, shapes=frozenset({(8, 8)})) as port:
        long: list[int] = []
        asking = threading.Thread(target=lambda: long.append(Client(port).label(b"a b c d e f")[0]))
        asking.start()
        time.sleep(0.1)
        assert Client(port).label([{"text": "a"}, {"text": ""}])[0] == 200 and long == []
        gate.set()
        asking.join(60)
    assert long == [200]
    assert [rows for sentences, *_, rows in labeler.calls if len(sentences[0]) > 4] == [1]


# ---- What is told of it -----------------------------------------------------------------------


def test_health_tells_what_is_served_and_whether_it_works(client):
    status, _, answer = client.ask("GET", "/health")
    assert status == 200 and answer == {"status": "ok", **ABOUT}
    assert client.label(b"broken")[0] == 500
    status, _, answer = client.ask("GET", "/health")
    assert status == 503 and answer["status"] == "failing" and "has failed" in answer["error"]
    assert client.label(b"red")[0] == 200
    assert client.ask("GET", "/health")[0] == 200


def test_metrics_count_requests_sentences_and_searches():
    with serving(StandIn()) as port:
        client = Client(port)
        client.label([{"text": "a"}, {"text": "b"}, {"text": "bad"}])
        client.label(b"bad")
        client.ask("GET", "/nowhere")
        status, headers, text = client.ask("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    for line in (
        'groot_requests_total{path="/label",status="200"} 1.0',
        'groot_requests_total{path="/label",status="400"} 1.0',
        'groot_requests_total{path="other",status="404"} 1.0',
        'groot_sentences_total{outcome="labeled"} 2.0',
        'groot_sentences_total{outcome="bad"} 1.0',
        "groot_batch_sentences_count 1.0",
        "groot_batch_sentences_sum 2.0",
        "groot_padding_rows_total 2.0",
        "groot_search_seconds_count 1.0",
        "groot_waiting_sentences 0.0",
    ):
        assert line in text.splitlines()


def test_the_page_asks_nothing_of_others(client):
    status, headers, page = client.ask("GET", "/")
    assert status == 200 and "<textarea" in page
    assert "//" not in page.replace("// ", "")  # No address of another host.
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "'unsafe" not in policy


def test_an_address_that_is_taken_or_strange_is_one_sentence():
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        for host, number in (
            ("127.0.0.1", port),
            ("no.such.host.invalid", 80),
            ("127.0.0.1", 1 << 17),
        ):
            with pytest.raises(UserError, match=f"--host={host} --port={number}: cannot be used"):
                bind(host, number)
    with bind("127.0.0.1", 0) as quiet:  # Bound and not served yet: nobody waits for an answer.
        port = quiet.getsockname()[1]
        assert address_of(quiet) == f"http://127.0.0.1:{port}"
        with pytest.raises(ConnectionRefusedError):
            http.client.HTTPConnection("127.0.0.1", port, timeout=60).request("GET", "/health")
