"""The prediction job and `Labeler`: what goes in, what comes out, and in which order."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import groot_jax
from groot_jax import labeler as labeler_module
from groot_jax.config import load_dumped
from groot_jax.data.labeling import Sentence, Span, make_labeling
from groot_jax.data.readers.jsonl import read_jsonl
from groot_jax.data.readers.objects import Objects
from groot_jax.data.readers.reading import Problems
from groot_jax.errors import UserError
from groot_jax.evaluation.decisions import RULES, Tuning
from groot_jax.evaluation.records import read_tuning
from groot_jax.labeler import Labeler, Prediction
from groot_jax.reward.rewards import RewardSpec, make_reward
from tests.jobs.support import TIMEOUT, Jobs, error_of, job_environment, own_compilation_cache

WORDS = ["show", "me", "dark", "blue", "orange", "running", "shoes"]
TEXT = " ".join(WORDS)


@pytest.fixture(scope="module")
def labeler(jobs: Jobs, trained: Path) -> Iterator[Labeler]:
    with own_compilation_cache():
        found = Labeler.load(trained)
        # Dev's choice may be any rule; what is shown here is shown of `map`.
        found._tuning = dataclasses.replace(found._tuning, rule="map")
        yield found


class Predict:
    """`predict` in this process: lines in, lines out."""

    def __init__(
        self, jobs: Jobs, trained: Path, folder: Path, patch: Any, capsys: pytest.CaptureFixture
    ) -> None:
        self.jobs, self.trained, self.folder, self.patch = jobs, trained, folder, patch
        self.capsys = capsys

    def text(self, text: str | bytes, *flags: str) -> str:
        """Standard output; `text` is standard input."""
        # Figures are those of `map` where a test asks for no rule: dev's choice may be any.
        if not any(flag.startswith("--decide") for flag in flags):
            flags = (*flags, "--decide=map")
        path = self.folder / "stdin"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        self.capsys.readouterr()
        with path.open("rb") as file, self.patch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(file))
            self.jobs.run("predict", self.trained, *flags)
        return self.capsys.readouterr().out

    def __call__(self, text: str | bytes, *flags: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text(text, *flags).split("\n")[:-1]]

    def error(self, text: str | bytes, *flags: str) -> str:
        return error_of(lambda: self.text(text, *flags), self.capsys)

    def failed(self, text: str | bytes, *flags: str) -> tuple[str, list[dict[str, Any]]]:
        """The error that the job ends with, and what it has printed before."""
        with pytest.raises(UserError) as caught:
            self.text(text, *flags)
        lines = self.capsys.readouterr().out.split("\n")[:-1]
        return f"error: {caught.value}", [json.loads(line) for line in lines]


@pytest.fixture
def predict(
    jobs: Jobs,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Predict:
    return Predict(jobs, trained, tmp_path, monkeypatch, capsys)


def spans_of(labeling: dict[str, Any]) -> tuple[Span, ...]:
    return tuple(Span(s["start"], s["end"], s["type"]) for s in labeling["spans"])


# ---- What goes in -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_of_its_own_answers_a_sentence_in_ranked_order(jobs: Jobs, trained: Path) -> None:
    done = jobs.call("predict", trained, "-k", "3", "-", text=f"{TEXT}\n")
    assert (done.status, done.err) == (0, "")
    (answer,) = map(json.loads, done.out.splitlines())
    assert answer["words"] == WORDS
    scores = [labeling["score"] for labeling in answer["labelings"]]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_letters_that_the_output_lacks_are_json_escapes(jobs: Jobs, trained: Path) -> None:
    environment = job_environment() | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "groot_jax.predict", f"--workdir={trained}", "-k1", "-"],
        env=environment,
        input="show me caf\u00e9\n".encode(),
        capture_output=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert json.loads(done.stdout.decode("ascii"))["words"] == ["show", "me", "caf\u00e9"]


def test_the_api_keeps_its_programs_unless_the_caller_does(
    jobs: Jobs, trained: Path, tmp_path: Path
) -> None:
    with own_compilation_cache():
        jax.config.update("jax_compilation_cache_dir", None)
        Labeler.load(trained)
        assert jax.config.values["jax_compilation_cache_dir"] == str(jobs.cache)
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        Labeler.load(trained)
        assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path)


@pytest.mark.slow
def test_text_json_words_json_text_and_a_file_are_the_same_input(
    predict: Predict, tmp_path: Path
) -> None:
    lines = [TEXT, json.dumps({"words": WORDS, "id": 7}), json.dumps({"text": f"  {TEXT} "})]
    text = "".join(line + "\n" for line in lines)
    answers = predict(text)
    assert len(answers) == 3
    assert answers[0]["words"] == WORDS
    # Of text, but not of words, spans have their characters; JSON's text begins with two spaces.
    spans = [[s for y in answer["labelings"] for s in y["spans"]] for answer in answers]
    for of_line, of_words, of_text in zip(*spans, strict=True):
        assert of_line["text"] == TEXT[of_line["start_char"] : of_line["end_char"]]
        assert of_text == of_line | {key: of_line[key] + 2 for key in ("start_char", "end_char")}
        assert of_words == {k: v for k, v in of_line.items() if not k.endswith("_char")}
    for answer in answers:
        assert [y["score"] for y in answer["labelings"]] == [
            y["score"] for y in answers[0]["labelings"]
        ]
    # A byte-order mark and Windows line ends belong to no word.
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert predict("", str(path)) == answers


@pytest.mark.slow
def test_only_spaces_and_tabs_part_words_as_in_training(predict: Predict) -> None:
    text = "dark\u00a0blue \tlevi\u2028x\u3000y\r"
    wanted = ["dark\u00a0blue", "levi\u2028x\u3000y"]
    answers = predict(f"{text}\n" + json.dumps({"text": text}) + "\n")
    assert [answer["words"] for answer in answers] == [wanted, wanted]


@pytest.mark.slow
def test_a_closed_stdin_is_one_sentence(predict: Predict) -> None:
    def run() -> None:
        with predict.patch.context() as patch:
            patch.setattr(sys, "stdin", None)
            predict.jobs.run("predict", predict.trained)

    assert error_of(run, predict.capsys).startswith("error: stdin is closed")


@pytest.mark.slow
def test_lines_are_answered_while_the_pipe_stays_open(jobs: Jobs, trained: Path) -> None:
    with jobs.start("predict", trained, stdin=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        for words in (WORDS, ["find", "levi"]):
            # The next line is half written; what is whole is answered.
            process.stdin.write(" ".join(words) + "\nfind ")
            process.stdin.flush()
            assert select.select([process.stdout], [], [], TIMEOUT)[0]
            assert json.loads(process.stdout.readline())["words"] == words
            process.stdin.write("jeans\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["words"] == ["find", "jeans"]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=TIMEOUT) == ("", "interrupted\n")
        assert process.returncode == 130


@pytest.mark.slow
def test_who_types_is_told_how_and_answered_line_by_line(jobs: Jobs, trained: Path) -> None:
    mine, terminal = os.openpty()
    with (
        jobs.start("predict", trained, stdin=terminal) as process,
        os.fdopen(mine, "wb", buffering=0) as keyboard,
    ):
        os.close(terminal)
        assert process.stdout and process.stderr
        assert select.select([process.stderr], [], [], TIMEOUT)[0]
        assert process.stderr.readline() == "type a sentence a line, Ctrl-D ends\n"
        keyboard.write(b"find levi\n")
        assert select.select([process.stdout], [], [], TIMEOUT)[0]
        assert json.loads(process.stdout.readline())["words"] == ["find", "levi"]
        keyboard.write(b"\x04")
        assert process.communicate(timeout=TIMEOUT) == ("", "")
        assert process.returncode == 0


@pytest.mark.slow
def test_a_blank_line_keeps_its_place(predict: Predict) -> None:
    answers = predict(f"\n{TEXT}\n\n   \nfind levi jeans")
    assert [a["words"] for a in answers] == [[], WORDS, [], [], ["find", "levi", "jeans"]]
    assert [bool(a["labelings"]) for a in answers] == [False, True, False, False, True]
    assert predict("") == []


@pytest.mark.slow
def test_neighbours_change_no_answer(predict: Predict) -> None:
    texts = [TEXT, "find levi jeans", "i want orange orange shirt", "éclair 🙂 <extra_id_3> ]", "x"]
    together = predict("".join(text + "\n" for text in texts * 5))
    assert together[:5] == together[5:10] == together[20:]
    for text, answer in zip(texts, together, strict=False):
        (alone,) = predict(text)
        assert alone["words"] == answer["words"]
        assert [spans_of(y) for y in alone["labelings"]] == [
            spans_of(y) for y in answer["labelings"]
        ]
        for one, other in zip(alone["labelings"], answer["labelings"], strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('{"words": null, "id": 3}', 'has no "words"'),
        ('{"words": "levi jeans"}', 'has no "words"'),
        ('{"words": ["levi", 5]}', 'has no "words"'),
        ('{"words": ["levi", ""]}', "none empty"),
        ('{"words": ["\\ud800", "jeans"]}', "lone surrogate"),
        (b"caf\xe9", "not UTF-8"),
        (" ".join(["levi"] * 101), "over the limit of 100"),
    ],
)
def test_a_bad_line_gets_an_answer_and_ends_the_job_when_all_are_answered(
    predict: Predict, line: str | bytes, wanted: str
) -> None:
    raw = line if isinstance(line, bytes) else line.encode()
    text = b"find levi\nred shirt\n" + raw + b"\nfind\n"
    said, answers = predict.failed(text)
    assert said.startswith("error: stdin:3: ") and wanted in said
    assert [answer.get("words", [""])[0] for answer in answers] == ["find", "red", "", "find"]
    assert wanted in answers[2]["error"] and answers[2]["line"] == 3
    said, answers = predict.failed(text, "--strict")
    assert said.startswith("error: stdin:3: ") and wanted in said
    assert [answer["words"][0] for answer in answers] == ["find", "red"]


@pytest.mark.slow
def test_keys_of_an_object_come_back_with_its_answer_or_its_error(predict: Predict) -> None:
    lines: list[dict[str, Any]] = [
        {"id": 7, "text": f" {TEXT}", "meta": {"lang": "en", "n": [1.5, None]}},
        {"id": 8, "words": WORDS, "text": TEXT, "labelings": [], "decide": "none"},
        {"tokens": WORDS, "id": 9},
        {"id": 10, "words": [""]},
        {"id": 11, "text": 3},
    ]
    said, answers = predict.failed("".join(json.dumps(line) + "\n" for line in lines), "-k1")
    assert "; 2 lines could not be labeled" in said
    assert [answer["id"] for answer in answers] == [7, 8, 9, 10, 11]
    assert answers[0]["meta"] == lines[0]["meta"] and answers[0]["text"] == f" {TEXT}"
    assert [answer.get("words") for answer in answers] == [WORDS, WORDS, WORDS, None, None]
    # The text of an object with words is where these are, if it is made of them.
    assert [len(answer["labelings"]) for answer in answers[:3]] == [1, 1, 1]
    spans = [answer["labelings"][0]["spans"] for answer in answers[:3]]
    assert [s["start_char"] for s in spans[0]] == [s["start_char"] + 1 for s in spans[1]]
    assert not any("start_char" in span for span in spans[2]) and "text" not in answers[2]
    assert all({*answer} == {"id", "error", "line"} for answer in answers[3:])


@pytest.mark.slow
def test_spans_alone_can_be_trained_on(predict: Predict, tmp_path: Path) -> None:
    text = f'{{"id": 7, "text": "{TEXT}"}}\n{TEXT}\n\n{{"words": ["red", "levi"]}}\n'
    # Of a beam of four, as in training: a confidence is one of the list that was searched.
    whole, answers = predict(text, "-k", "4"), predict(text, "--spans-only")
    assert [{*answer} for answer in answers] == [
        {"id", "words", "text", "spans"},
        {"words", "text", "spans"},
        {"words", "text", "spans"},
        {"words", "spans"},
    ]
    for answer, one in zip(answers, whole, strict=True):
        best = one["labelings"][0]["spans"] if one["labelings"] else []
        assert answer["spans"] == best
    kept = [answer for answer in answers if answer["words"]]
    path = tmp_path / "spans.jsonl"
    path.write_text("".join(json.dumps(answer) + "\n" for answer in kept))
    for sentence, answer in zip(
        read_jsonl(path, Objects(), Problems("error")).items, kept, strict=True
    ):
        assert isinstance(sentence, Sentence) and sentence.words == tuple(answer["words"])
        assert sentence.labeling == spans_of(answer)
    for flags in (("--pretty",), ("-k", "2")):
        assert "leave " + "=".join(flags) in predict.error(TEXT, "--spans-only", *flags)


@pytest.mark.slow
def test_who_stops_reading_and_a_closed_output_make_no_traceback(jobs: Jobs, trained: Path) -> None:
    lines = "find levi\n" * 200
    for flags in (("-k1",), ("-k1", "--pretty")):
        with jobs.start("predict", trained, *flags, stdin=subprocess.PIPE) as process:
            assert process.stdin and process.stdout and process.stderr
            process.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(lines)
                process.stdin.close()
            assert process.stderr.read() == ""
            assert process.wait(TIMEOUT) == 1
    command = [sys.executable, "-m", "groot_jax.predict", f"--workdir={trained}", "-k1"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command],
        env=job_environment(),
        input=b"find levi\n",
        capture_output=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 1 and done.stderr.startswith(b"error: stdout is closed")


@pytest.mark.slow
def test_bad_flags_and_files_are_refused(predict: Predict, tmp_path: Path) -> None:
    assert "-k=0" in predict.error("", "-k", "0")
    assert "-k" in predict.error("", "-k", "many")
    missing = tmp_path / "missing.txt"
    said = predict.error("", str(missing))
    assert str(missing) in said and "cannot be read" in said
    assert "--system" in predict.error("", "--system=risk") or "not risk" in predict.error(
        "", "--system=risk"
    )
    assert "--checkpoint=3" in predict.error("", "--checkpoint=3")
    # Named as the user wrote it: nobody has set config.reward.name.
    for name in ("f-one", "no.such:reward"):
        said = predict.error("", "--decide=mbr", f"--reward={name}")
        assert "--reward" in said and name in said and "config.reward.name" not in said
    said = predict.error("", "--decide=mbr", "--config.reward.name=f-one")
    assert "config.reward.name" in said


# ---- What comes out ---------------------------------------------------------------------------


@pytest.mark.slow
def test_labelings_are_distinct_valid_and_ranked_by_score(predict: Predict) -> None:
    (answer,) = predict(TEXT, "-k", "4")
    labelings = answer["labelings"]
    assert len(labelings) == 4 == len({spans_of(y) for y in labelings})
    scores = [y["score"] for y in labelings]
    assert scores == sorted(scores, reverse=True) and all(score < 0 for score in scores)
    assert sum(y["probability"] for y in labelings) == pytest.approx(1, abs=1e-5)
    temperature = tuning_of(predict.trained).temperature
    for a, b in pairwise(labelings):
        # Both are rounded to six digits.
        ratio = math.exp((a["score"] - b["score"]) / temperature)
        assert a["probability"] == pytest.approx(b["probability"] * ratio, rel=1e-3, abs=2e-6)
    for y in labelings:
        make_labeling(spans_of(y), len(WORDS))
        for span in y["spans"]:
            assert span["text"] == " ".join(WORDS[span["start"] : span["end"]])
    (short,) = predict(TEXT, "-k", "2")
    assert short["labelings"] == labelings[:2]
    assert sum(y["probability"] for y in short["labelings"]) < 1


@pytest.mark.slow
def test_confidence_of_a_span_is_what_dev_makes_of_the_labelings_that_hold_it(
    predict: Predict,
) -> None:
    curve = tuning_of(predict.trained).curve
    assert curve  # Dev has spans enough for one.
    said, right = zip(*curve, strict=True)
    (answer,) = predict(TEXT, "-k", "4")  # As many as there are beams.
    for labeling in answer["labelings"]:
        for span in labeling["spans"]:
            place = Span(span["start"], span["end"], span["type"])
            holding = [y["probability"] for y in answer["labelings"] if place in spans_of(y)]
            worth = np.interp(sum(holding), said, right)
            assert span["confidence"] == pytest.approx(worth, abs=1e-4)
    (short,) = predict(TEXT, "-k", "1")
    assert short["labelings"][0]["spans"] == answer["labelings"][0]["spans"]


@pytest.mark.slow
def test_more_labelings_than_exist_give_all_there_are(predict: Predict) -> None:
    # One word has four: no span, or one of three types.
    (answer,) = predict("levi", "-k", "9")
    assert sorted(spans_of(y) for y in answer["labelings"]) == sorted(
        [(), *(((Span(0, 1, type_),)) for type_ in ("brand", "color", "product"))]
    )
    assert sum(y["probability"] for y in answer["labelings"]) == pytest.approx(1, abs=1e-5)
    assert all(y["well_formed"] for y in answer["labelings"])


@pytest.mark.slow
def test_mbr_orders_by_expected_reward(predict: Predict) -> None:
    texts = [TEXT, "orange orange", "i want big apple jeans", "red orange", "shirt shirt red"]
    text = "".join(line + "\n" for line in texts)
    plain = predict(text, "-k", "4")
    for reward in ("recall", "exact"):
        decided = predict(text, "-k", "4", "--decide=mbr", f"--reward={reward}")
        score = make_reward(RewardSpec(name=reward))
        for a, b in zip(plain, decided, strict=True):
            by_spans = {spans_of(y): y for y in a["labelings"]}
            # The same labelings with the same figures, in another order.
            assert {spans_of(y): y for y in b["labelings"]} == by_spans
            weights = {spans: math.exp(y["score"]) for spans, y in by_spans.items()}
            chances = {spans: weight / sum(weights.values()) for spans, weight in weights.items()}
            expected = [
                sum(p * score(spans_of(y), gold, a["words"]) for gold, p in chances.items())
                for y in b["labelings"]
            ]
            assert expected == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
        if reward == "exact":
            assert [spans_of(y) for a in decided for y in a["labelings"][:1]] == [
                spans_of(y) for a in plain for y in a["labelings"][:1]
            ]


def tuning_of(trained: Path, system: str = "groot") -> Tuning:
    """What dev chose for the best checkpoint."""
    (path,) = (trained / "decisions").glob(f"{system}-*.json")
    return read_tuning(trained, system, int(path.stem.rpartition("-")[2]), "f1")


@pytest.mark.slow
def test_consensus_leads_the_beam_and_what_it_adds_has_its_own_score(predict: Predict) -> None:
    texts = [TEXT, "orange orange", "i want big apple jeans", "red orange", "", "apple shirt"]
    text = "".join(line + "\n" for line in texts)
    plain = predict(text, "-k", "4", "--decide=map")
    assert {answer["decide"] for answer in plain} == {"map"}
    flags = ("--decide=consensus", "--reward=precision", "--config.decide.hypotheses=40")
    decided = predict(text, "-k", "4", *flags)
    assert {answer["decide"] for answer in decided} == {"consensus"}
    temperature = tuning_of(predict.trained).temperature
    score = make_reward(RewardSpec("precision"))
    added = 0
    for a, b in zip(plain, decided, strict=True):
        assert len(a["labelings"]) == len(b["labelings"])
        if not a["words"]:
            continue
        by_spans = {spans_of(y): y for y in a["labelings"]}
        weights = {spans: math.exp(y["score"] / temperature) for spans, y in by_spans.items()}
        chances = {spans: weight / sum(weights.values()) for spans, weight in weights.items()}
        values = [
            sum(p * score(spans_of(y), gold, a["words"]) for gold, p in chances.items())
            for y in b["labelings"]
        ]
        assert values[0] == pytest.approx(max(values), abs=1e-5)
        best, *others = b["labelings"]
        assert all(by_spans[spans_of(y)] == y for y in others)
        if spans_of(best) not in by_spans:
            assert best["score"] < a["labelings"][-1]["score"]
            assert 0 < best["probability"] < 1
            if len(a["words"]) == 2:
                added += 1
                # Two words have 19 labelings: the search finds it as well, with the same score.
                (wide,) = predict(" ".join(a["words"]), "-k", "19", "--decide=map")
                found = {spans_of(y): y["score"] for y in wide["labelings"]}
                assert best["score"] == pytest.approx(found[spans_of(best)], abs=1e-3)
    assert added


@pytest.mark.slow
def test_threshold_uses_what_dev_chose(predict: Predict, trained: Path) -> None:
    tuning = tuning_of(trained)
    assert tuning.threshold is not None
    (plain,) = predict(TEXT, "-k", "4", "--decide=map")
    (decided,) = predict(TEXT, "-k", "1", "--decide=threshold")
    weights = [math.exp(y["score"]) for y in plain["labelings"]]
    kept = []
    for span in spans_of(plain["labelings"][0]):
        holding = [
            w for w, y in zip(weights, plain["labelings"], strict=True) if span in spans_of(y)
        ]
        if sum(holding) / sum(weights) >= tuning.threshold - 1e-6:
            kept.append(span)
    assert spans_of(decided["labelings"][0]) == tuple(kept)
    said = predict.error(TEXT, "--decide=threshold", "--reward=f2")
    assert "--reward=f2 is for --decide=consensus or mbr" in said
    said = predict.error(TEXT, "--decide=threshold", "--config.reward.name=f2")
    assert "and the reward f2" in said and "groot_jax.evaluate has scored" in said


@pytest.mark.slow
def test_without_a_rule_predict_takes_the_one_that_dev_chose(
    jobs: Jobs, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "w"
    shutil.copytree(trained, workdir)
    (path,) = (workdir / "decisions").glob("groot-*.json")
    kept = json.loads(path.read_text())
    del kept["crc32c"]  # Earlier versions wrote none.
    assert kept["rule"] in RULES
    for rule in RULES:
        path.write_text(json.dumps(kept | {"rule": rule}))
        labeler = Labeler.load(workdir)
        (answer,) = labeler.label_all([TEXT.split()], k=2)
        assert answer == labeler.label(TEXT.split(), 2, rule) and answer.decide == rule
        assert labeler.label_text(TEXT, 2).decide == rule


@pytest.mark.slow
def test_who_searches_narrower_than_dev_did_is_told_so(predict: Predict, trained: Path) -> None:
    width = tuning_of(trained).k
    assert width == load_dumped(trained / "config.json").generate.k > 1

    def said(*flags: str) -> str:
        predict.jobs.run("predict", trained, str(predict.folder / "line"), *flags)
        return predict.capsys.readouterr().err

    (predict.folder / "line").write_text(TEXT)
    assert "note: dev chose" not in said("-k", "1")
    note = said("-k", "1", "--config.generate.k=1")
    assert f"beams of {width}; a beam of 1 is surer of its spans than it should be" in note


@pytest.mark.slow
def test_pretty_prints_words_in_order_with_types(predict: Predict) -> None:
    lines = predict.text(f"{TEXT}\n\n", "--pretty", "-k", "2").splitlines()
    (answer,) = predict(TEXT, "-k", "2")
    assert [line.split()[0] for line in lines[:2]] == ["1", "2"]
    for line, labeling in zip(lines, answer["labelings"], strict=False):
        assert f"{labeling['probability']:.1%}" in line
        for span in labeling["spans"]:
            assert f"[{span['text']}/{span['type']}]" in line
        plain = line.replace("[", "")
        for type_ in ("brand", "color", "product"):
            plain = plain.replace(f"/{type_}]", "")
        assert plain.endswith(TEXT)
    assert "(empty line)" in lines
    decided = predict.text(TEXT, "--pretty", "--decide=mbr", "--reward=exact").splitlines()
    assert decided[0] == "decided by mbr, reward exact"
    assert decided[1].split()[0] == "1"


# ---- Sentences over the limit -----------------------------------------------------------------

LONG = [*WORDS, *["red", "levi", "jeans"] * 40]  # 127 words


@pytest.mark.slow
def test_a_sentence_over_the_limit_is_refused(predict: Predict) -> None:
    said = predict.error(" ".join(LONG))
    assert said.startswith("error: stdin:1: a sentence of 127 words ('show me dark blue")
    assert "over the limit of 100" in said and "--config.text.long_sentences=window" in said


@pytest.mark.slow
def test_a_sentence_over_the_limit_is_labeled_in_windows_when_asked_for(predict: Predict) -> None:
    flags: tuple[str, ...] = (
        "--config.text.long_sentences=window",
        "--config.text.overlap=0",
        "-k",
        "4",
        "--config.loader.source_buckets=32,512",
        "--config.loader.target_buckets=12,128",
    )
    (answer, after) = predict(f"{' '.join(LONG)}\n{TEXT}\n", *flags)
    assert answer["words"] == LONG and after["words"] == WORDS
    labelings = answer["labelings"]
    assert len({spans_of(y) for y in labelings}) == len(labelings) == 4
    scores = [y["score"] for y in labelings]
    assert scores == sorted(scores, reverse=True)
    for y in labelings:
        make_labeling(spans_of(y), len(LONG))
    # Windows are labeled one by one: the best of the whole is the best of each, moved.
    left, right = predict(f"{' '.join(LONG[:100])}\n{' '.join(LONG[100:])}\n", *flags)
    best = spans_of(left["labelings"][0]) + tuple(
        Span(s + 100, e + 100, t) for s, e, t in spans_of(right["labelings"][0])
    )
    assert spans_of(labelings[0]) == best
    parts = [part["labelings"][0]["score"] for part in (left, right)]
    assert scores[0] == pytest.approx(sum(parts), abs=1e-3)
    # Windows that share words: each side of the cut is what its window says, if another may be.
    shared = ("--config.text.overlap=16", *(flag for flag in flags if "overlap" not in flag))
    (answer, right) = predict(f"{' '.join(LONG)}\n{' '.join(LONG[84:])}\n", *shared)
    labelings = answer["labelings"]
    assert len({spans_of(y) for y in labelings}) == len(labelings) == 4
    for y in labelings:
        make_labeling(spans_of(y), len(LONG))
        assert y["score"] < 0
    best = spans_of(labelings[0])
    assert [s for s in best if s.end <= 84] == [
        s for s in spans_of(left["labelings"][0]) if s.end <= 84
    ]
    assert [s for s in best if s.start >= 100] == [
        Span(s + 84, e + 84, t) for s, e, t in spans_of(right["labelings"][0]) if s + 84 >= 100
    ]


@pytest.mark.slow
def test_windows_fit_the_buckets(predict: Predict) -> None:
    # The largest holds 64 tokens of source and 12 of target: a label a word, and EOS.
    flags = (
        "--config.text.long_sentences=window",
        "--config.text.overlap=0",
        "--config.loader.source_buckets=64",
        "-k1",
    )
    (answer,) = predict(" ".join(LONG), *flags)
    assert answer["words"] == LONG
    make_labeling(spans_of(answer["labelings"][0]), len(LONG))
    parts = predict(
        "".join(f"{' '.join(LONG[at : at + 11])}\n" for at in range(0, 127, 11)), *flags
    )
    best = [
        Span(s + 11 * i, e + 11 * i, t)
        for i, part in enumerate(parts)
        for s, e, t in spans_of(part["labelings"][0])
    ]
    assert spans_of(answer["labelings"][0]) == tuple(best)


@pytest.mark.slow
def test_windows_fit_the_buckets_of_words_in_pieces(
    predict: Predict, jobs: Jobs, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workdir = tmp_path_factory.mktemp("pieces") / "w"
    short = ("--config.text.format=fused_sentinel", "--config.systems=()", "--config.nll.epochs=1")
    jobs.run("train", workdir, *short)
    predict.trained = workdir
    # Spelled in letters, words are long in the source.
    flags = ("--config.text.long_sentences=window", "-k", "1", "--config.loader.source_buckets=64")
    words = ["shirt" * 3] * 8
    (answer,) = predict(" ".join(words), *flags)
    assert answer["words"] == words
    said = predict.error(f"{TEXT}\n{'shirt' * 40} levi", *flags)
    assert said.startswith("error: stdin:2: ") and said.endswith("config.loader.source_buckets")
    said = predict.error(" ".join(words))
    assert "config.loader.source_buckets" in said and "long_sentences=window" in said


# ---- The Python API ---------------------------------------------------------------------------


@pytest.mark.slow
def test_label_says_what_the_job_says(labeler: Labeler, predict: Predict) -> None:
    assert groot_jax.Labeler is Labeler
    prediction = labeler.label(WORDS, k=5)
    assert isinstance(prediction, Prediction) and prediction.words == tuple(WORDS)
    (answer,) = predict(TEXT, "-k", "5")
    mine = json.loads(json.dumps(prediction.to_json()))
    assert [spans_of(y) for y in mine["labelings"]] == [spans_of(y) for y in answer["labelings"]]
    for one, other in zip(mine["labelings"], answer["labelings"], strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    best = prediction.labelings[0]
    assert {*best.labeling} <= {*prediction.confidence}
    # Text is parted as the job parts it, and the prediction knows the places.
    of_text = labeler.label_text(f" {TEXT}", k=5).to_json()
    (answer,) = predict(json.dumps({"text": f" {TEXT}"}), "-k", "5")
    for one, other in zip(of_text["labelings"], answer["labelings"], strict=True):
        assert [(s["text"], s["start_char"], s["end_char"]) for s in one["spans"]] == [
            (s["text"], s["start_char"], s["end_char"]) for s in other["spans"]
        ]
    assert labeler.label([], k=5).labelings == ()


@pytest.mark.slow
def test_the_next_search_runs_before_the_last_answers_are_asked_for(
    labeler: Labeler, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = [[WORDS, ["find", "levi"]], [["red", "shirt"]], []]
    searched: list[int] = []
    all_done = threading.Event()

    def noted(sentences: Any, *rest: Any, search: Any = labeler._beams) -> Any:
        found = search(sentences, *rest)
        searched.append(len(sentences))
        if len(searched) == len(batches):
            all_done.set()
        return found

    monkeypatch.setattr(labeler, "_beams", noted)
    begun = [labeler.begin(batch, k=2, decide="consensus") for batch in batches]
    assert all_done.wait(TIMEOUT) and searched == [2, 1, 0]
    answers = [wait() for wait in begun]
    assert answers == [labeler.label_all(batch, k=2, decide="consensus") for batch in batches]
    with pytest.raises(UserError, match="1 or more"):
        labeler.begin([WORDS], k=0)


@pytest.mark.slow
def test_misuse_of_the_api_is_explained(labeler: Labeler, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="list of strings.*; of text, take label_text"):
        labeler.label("levi jeans")
    with pytest.raises(UserError, match="a text has to be a string, not .*take label"):
        labeler.label_text(WORDS)  # type: ignore[arg-type]
    for words in ([1, 2], None, 5, ["levi", ""], [b"levi"]):
        with pytest.raises(UserError, match="list of strings"):
            labeler.label(words)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="lone surrogate"):
        labeler.label(["\ud800", "jeans"])
    for k in (0, -1, 2.5, "2"):
        with pytest.raises(UserError, match="1 or more"):
            labeler.label(WORDS, k=k)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="over the limit of 100"):
        labeler.label(["levi"] * 101)
    with pytest.raises(UserError, match="map, mbr, threshold, consensus"):
        labeler.label(WORDS, decide="best")
    with pytest.raises(UserError, match="is not a work directory"):
        Labeler.load(tmp_path)
    with pytest.raises(UserError, match="has to be a function"):
        Labeler.load(tmp_path, score="f0.5")  # type: ignore[arg-type]


@pytest.mark.slow
def test_other_systems_and_checkpoints_can_be_loaded(
    labeler: Labeler, trained: Path, predict: Predict
) -> None:
    (groot,) = predict(TEXT)
    (nll,) = predict(TEXT, "--system=nll")
    (latest,) = predict(TEXT, "--system=nll_continued", "--checkpoint=latest")
    scores = {tuple(y["score"] for y in answer["labelings"]) for answer in (groot, nll, latest)}
    assert len(scores) == 3
    (named,) = predict(TEXT, "--system=groot")
    assert named == groot  # Without a name: the last that was trained.


@pytest.mark.parametrize("over_the_limit", ["refuse", "window"])
def test_a_sentence_is_encoded_once(
    labeler: Labeler, predict: Predict, monkeypatch: pytest.MonkeyPatch, over_the_limit: str
) -> None:
    encoded: list[tuple[str, ...]] = []

    def counted(sentences: Any, *rest: Any, encode: Any = labeler_module.encode, **options: Any):
        encoded.extend(sentence.words for sentence in sentences)
        return encode(sentences, *rest, **options)

    monkeypatch.setattr(labeler_module, "encode", counted)
    flag = f"--config.text.long_sentences={over_the_limit}"
    predict("red levi jeans\nlevi shirt\nred levi jeans\n", "-k", "1", flag)
    assert sorted(encoded) == [("levi", "shirt"), ("red", "levi", "jeans")]
