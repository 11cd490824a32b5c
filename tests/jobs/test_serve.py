"""`groot serve` with a trained labeler: it answers as predict does, and ends when it is told to."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from groot_jax import serve
from groot_jax.labeler import Labeler
from groot_jax.serving.listening import bind
from tests.jobs.support import TIMEOUT, Jobs, error_of, own_compilation_cache
from tests.serving.support import Client

TEXTS = ("show me dark blue orange running shoes", "find levi jeans", "red", "i want orange", "")


@pytest.fixture(scope="module")
def labeler(trained: Path) -> Iterator[Labeler]:
    with own_compilation_cache():
        yield Labeler.load(trained)


@pytest.mark.slow
def test_it_answers_as_the_labeler_does_and_ends_at_sigterm(
    jobs: Jobs, trained: Path, labeler: Labeler
) -> None:
    flags = ("--port=0", "--batch-size=4", "--drain=0.2", "--reward=precision")
    with jobs.start("serve", trained, *flags) as process:
        assert process.stderr is not None
        said = ""
        for said in process.stderr:
            if " on http" in said:
                break
        place = re.search(r"^groot, step \d+, on http://127\.0\.0\.1:(\d+)$", said)
        assert place, said + process.stderr.read()
        port = int(place[1])
        answers: dict[tuple[str, int], Any] = {}

        def ask(text: str, k: int) -> None:
            answers[text, k] = Client(port).label({"text": text, "k": k})

        asking = [threading.Thread(target=ask, args=(t, k)) for t in TEXTS for k in (1, 4)]
        for one in asking:
            one.start()
        for one in asking:
            one.join(TIMEOUT)
        assert len(answers) == len(asking)
        for (text, k), (status, answer) in answers.items():
            # Not the training reward: dev has chosen no rule for it.
            wanted = labeler.label_text(text, k, "map").to_json()
            assert status == 200 and answer["decide"] == "map"
            assert len(answer["labelings"]) == len(wanted["labelings"])
            for mine, theirs in zip(answer["labelings"], wanted["labelings"], strict=True):
                for span, other in zip(mine["spans"], theirs["spans"], strict=True):
                    assert span == other | {"confidence": span["confidence"]}
                    assert span["confidence"] == pytest.approx(other["confidence"], abs=1e-3)
                assert mine["score"] == pytest.approx(theirs["score"], abs=1e-3)
        status, answer = Client(port).label({"text": TEXTS[0], "decide": "consensus"})
        assert status == 200 and answer["decide"] == "consensus"
        status, answer = Client(port).label({"words": ["red"] * 101})
        assert status == 400 and "over the limit of 100" in answer["error"]
        _, _, health = Client(port).ask("GET", "/health")
        assert health["types"] == ["brand", "color", "product"] and health["max_k"] == 4
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
        assert process.stderr.read() == "ended, all requests answered\n"


def test_flags_that_will_not_do_are_one_sentence(
    jobs: Jobs, trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(*flags: str) -> str:
        with own_compilation_cache():
            return error_of(lambda: serve.main(jobs.argv("serve", trained, *flags)), capsys)

    assert "--batch-size=0" in error("--batch-size=0")
    assert "-k=0" in error("-k=0")
    assert "--timeout=0" in error("--timeout=0") and "--drain=-1" in error("--drain=-1")
    assert "--delay=nan" in error("--delay=nan")
    assert "over 100 seconds" in error("--drain=71")
    assert "--reward=f1 is for other rules" in error("--reward=f1", "--decide=map")
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        assert "cannot be used (Address already in use)" in error(
            f"--port={taken.getsockname()[1]}"
        )
    monkeypatch.setattr(serve, "_NEEDED", ("starlette", "no_such_package"))
    assert "needs no_such_package: pip install 'groot_jax[serve]'" in error()


def test_what_the_page_and_the_metrics_are_told_is_json(labeler: Labeler) -> None:
    assert json.loads(json.dumps(labeler.types)) == ["brand", "color", "product"]
    assert labeler.system == "groot" and labeler.step > 0
