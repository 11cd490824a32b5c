"""The oracle with and without scoring processes: same results, named failures, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from multiprocessing.connection import Pipe
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from groot_jax.data.labeling import Candidate, Span, labeling_of_word_tags
from groot_jax.errors import UserError
from groot_jax.reward import oracle as oracle_module
from groot_jax.reward.oracle import Oracle, choose_workers
from groot_jax.reward.pool import PoolSettings, ScoringTask, build_pools
from groot_jax.reward.rewards import RewardSpec, make_reward, term_names
from groot_jax.reward.worker import Chunk, decode_chunk, decode_pools, receive, send

ROOT = Path(__file__).resolve().parents[2]
GOLD = (Span(0, 1, "A"), Span(2, 3, "B"), Span(4, 6, "C"))
TAGS = st.sampled_from(["O", "I", "A", "B", "C"])
labelings = st.lists(TAGS, min_size=6, max_size=6).map(lambda tags: labeling_of_word_tags(tags)[0])


def tasks(count: int = 30) -> list[ScoringTask]:
    """Sentences "sN word ... word", each with a beam of several errors."""
    made = []
    for key in range(count):
        beam = [
            Candidate((Span(0, 2, "B"), Span(3, 4, "ABC"[key % 3])), -1.0, True, 0),
            Candidate((Span(0, 1, "A"), Span(2, 4, "C"), Span(4, 6, "B")), -2.5, key % 2 == 0, 1),
            Candidate((Span(2, 3, "B"), Span(5, 6, "C")), float("nan"), True, 2),
        ]
        made.append(ScoringTask((f"s{key}", *["word"] * 5), GOLD, beam, key))
    return made


FUNCTION = """
import os, signal, sys, time

def length(candidate, gold, words):
    assert type(words) is tuple and type(candidate) is tuple
    assert all(type(span).__name__ == "Span" for span in candidate + gold)
    return len(candidate) / 6

def length_batch(candidates, golds, words):
    return [len(candidate) / 6 for candidate in candidates]

def noisy(candidate, gold, words):
    print("hello from a reward", flush=True)
    os.write(1, b"raw bytes")
    sys.stdin.read()
    return 0.5

def no_jax(candidate, gold, words):
    return float(not {"jax", "jaxlib", "flax", "tensorflow", "torch"} & set(sys.modules))

no_jax.in_job = length.in_job = length_batch.in_job = True

def pid(candidate, gold, words):
    with open(os.path.join(os.path.dirname(__file__), "pids"), "a") as file:
        file.write(f"{os.getpid()}\\n")
    return 0.5

def bad(candidate, gold, words):
    pid(candidate, gold, words)
    what = ACTION.get(words[0])
    if what == "raise": raise ValueError("no such brand")
    if what == "nan": return float("nan")
    if what == "sleep": time.sleep(60)
    if what == "blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        time.sleep(60)
    if what == "exit": os._exit(3)
    if what == "crash": os.kill(os.getpid(), signal.SIGSEGV)
    return 0.5

def bad_batch(candidates, golds, words):
    return [bad(*item) for item in zip(candidates, golds, words)]

bad.in_job = bad_batch.in_job = pid.in_job = True
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The module above, in the current directory under a name of its own."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)

    def write(**action: str) -> str:
        name = f"oracle_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(f"ACTION = {action!r}\n{FUNCTION}")
        return name

    return write


def scored_by(name: str):
    reward = make_reward(RewardSpec(name))
    return lambda triples, items: [reward(*triple) for triple in triples]


def pools_of(oracle: Oracle, made: list[ScoringTask], settings=PoolSettings()):  # noqa: B008
    return oracle.submit(made, settings).result()


def pids(folder: Path) -> set[int]:
    return set(map(int, (folder / "pids").read_text().split()))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_pools_equal_build_pool_in_order_whatever_the_number_of_workers():
    expected = None
    for workers in (0, 1, 3):
        with Oracle(RewardSpec("f0.5", workers=workers), seed=5) as oracle:
            first = oracle.submit(tasks(), PoolSettings(size=12))
            second = oracle.submit(tasks(3), PoolSettings(size=12))
            small = oracle.submit(tasks(3), PoolSettings(size=4))
            pools = first.result()
            assert repr(second.result()) == repr(pools[:3])
            assert [len(pool) for pool in small.result()] == [4] * 3
        assert [len(pool) for pool in pools] == [12] * 30
        expected = expected or repr(pools)
        assert repr(pools) == expected
    direct = build_pools(tasks()[4:5], scored_by("f0.5"), PoolSettings(size=12), 0.1, 5)
    assert repr(pools[4:5]) == repr(direct)


def test_the_seed_and_the_key_choose_the_random_corrections_not_the_order_of_work():
    spec, chosen = RewardSpec("f1", workers=0), PoolSettings(size=64)
    with Oracle(spec, 0) as one, Oracle(spec, 1) as other:
        all_ = pools_of(one, tasks(), chosen)
        assert repr(all_[7:9]) == repr(pools_of(one, tasks()[7:9], chosen))
        assert repr(all_) != repr(pools_of(other, tasks(), chosen))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_rewards_of_triples_come_in_order_single_and_batch_form_alike(module, workers):
    name = module()
    triples = [(GOLD[: i % 4], GOLD, (f"s{i}", *["w"] * 5)) for i in range(700)]
    for function, batch in (("length", False), ("length_batch", True)):
        spec = RewardSpec(f"{name}:{function}", batch=batch, workers=workers)
        with Oracle(spec) as oracle:
            assert oracle.score(triples) == [i % 4 / 6 for i in range(700)]
            assert oracle.score([]) == []
            assert pools_of(oracle, []) == []
            pools = pools_of(oracle, tasks(9))
            assert pools[8][0].reward == max(len(e.labeling) / 6 for e in pools[8])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raise", r"raised ValueError: no such brand"),
        ("nan", r"returned nan"),
        ("sleep", r"not back after 0\.5 seconds"),
    ],
)
def test_a_failing_reward_is_named_with_its_sentence(module, tmp_path, workers, batch, what, said):
    name = module(s17=what)
    function = f"{name}:bad" + "_batch" * batch
    # In batch form and the job's own thread no alarm ends the call: its first sentence is named.
    sentence = "s16" if (what, batch, workers) == ("sleep", True, 0) else "s17"
    spec = RewardSpec(function, deadline=0.5, workers=workers, batch=batch, retries=0)
    with (
        pytest.raises(UserError, match=rf"{function}.*{sentence} word word.*{said}"),
        Oracle(spec) as oracle,
    ):
        pools_of(oracle, tasks())
    if workers:
        assert not any(map(alive, pids(tmp_path)))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("blocked", r"not back after 0\.5 seconds"),
        ("exit", r"ended its scoring process \(exit status 3\)"),
        ("crash", r"ended its scoring process \(SIGSEGV\)"),
    ],
)
def test_a_process_that_hangs_for_good_or_dies_is_named_with_its_sentence(
    module, tmp_path, what, said
):
    name = module(s17=what)
    spec = RewardSpec(f"{name}:bad", deadline=0.5, workers=2, retries=1)
    with Oracle(spec) as oracle:
        handle = oracle.submit(tasks(), PoolSettings())
        with pytest.raises(UserError, match=rf"{name}:bad.*s17 word word.*{said}"):
            handle.result()
        with pytest.raises(UserError, match="s17 word"):
            oracle.score([(GOLD, GOLD, ("a",) * 6)])
    assert not any(map(alive, pids(tmp_path)))


def test_of_two_failing_sentences_the_first_is_named(module):
    name = module(s9="raise", s27="raise")
    for workers in (0, 2):
        spec = RewardSpec(f"{name}:bad", workers=workers, retries=0)
        with Oracle(spec) as oracle, pytest.raises(UserError, match="s9 word"):
            pools_of(oracle, tasks())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_reward_that_cannot_be_had_ends_the_start(module, workers):
    files = open_files()
    for name, said in (
        ("f1x", "there is no reward"),
        ("no_such_module_y:f", "no_such_module_y.*No module named"),
        (f"{module()}:absent", "has no function 'absent'"),
    ):
        with pytest.raises(UserError, match=said):
            Oracle(RewardSpec(name, workers=workers))
    assert open_files() == files


def test_a_module_that_ends_its_process_while_imported_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaves.py").write_text("import os; os._exit(4)")
    with pytest.raises(UserError, match=r"leaves:f.*exit status 4"):
        Oracle(RewardSpec("leaves:f", workers=1))


def test_prints_and_reads_of_a_reward_reach_neither_protocol_nor_the_job_s_output(module, capfd):
    with Oracle(RewardSpec(f"{module()}:noisy", workers=1)) as oracle:
        assert oracle.score([(GOLD, GOLD, ("a",) * 6)] * 3) == [0.5] * 3
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("hello from a reward") == 3


def test_a_scoring_process_does_not_import_jax(module):
    with Oracle(RewardSpec(f"{module()}:no_jax", workers=1)) as oracle:
        assert oracle.score([(GOLD, GOLD, ("a",) * 6)]) == [1.0]


def test_neither_processes_nor_files_nor_threads_are_left(module, tmp_path):
    import threading

    name = module()
    files, threads = open_files(), threading.active_count()
    for workers in (0, 2):
        with Oracle(RewardSpec(f"{name}:pid", workers=workers)) as oracle:
            pools_of(oracle, tasks())
            assert len(pids(tmp_path) - {os.getpid()}) <= 2
            oracle.submit(tasks(), PoolSettings())
        oracle.close()
        with pytest.raises(RuntimeError, match="closed"):
            oracle.submit(tasks(), PoolSettings())
        assert not any(map(alive, pids(tmp_path) - {os.getpid()}))
        assert (open_files(), threading.active_count()) == (files, threads)


JOB = """
import os, time
from groot_jax.data.labeling import Span
from groot_jax.reward.oracle import Oracle
from groot_jax.reward.pool import PoolSettings, ScoringTask
from groot_jax.reward.rewards import RewardSpec
gold = (Span(0, 1, "A"),)
with Oracle(RewardSpec("slow:f", workers=2, deadline=100.0)) as oracle:
    oracle.score([(gold, gold, ("fast",))])
    handle = oracle.submit([ScoringTask(("slow",), gold, [])], PoolSettings())
    while not os.path.exists("begun"):
        time.sleep(0.01)
    print("ready", flush=True)
    handle.result()
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_scoring_processes_end_with_their_job(tmp_path, end):
    (tmp_path / "slow.py").write_text(
        "import time\ndef f(candidate, gold, words):\n"
        "    if words[0] == 'slow':\n"
        "        open('begun', 'w').close()\n"
        "        time.sleep(60)\n"
        "    return 1.0"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", JOB],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    # Ctrl-C reaches the whole group of a terminal's job, other signals the job alone.
    (os.killpg if end == signal.SIGINT else os.kill)(job.pid, end)
    # stderr ends when the last process that holds it is gone: the workers hold it too.
    _, err = job.communicate(timeout=30)
    assert job.returncode != 0
    assert err.count("Traceback") == int(end == signal.SIGINT)


def test_an_interrupt_that_leaves_a_result_locked_does_not_keep_the_oracle_open(
    module, tmp_path, monkeypatch
):
    monkeypatch.setattr(oracle_module, "_CLOSE_LIMIT", 0.5)
    oracle = Oracle(RewardSpec(f"{module(s0='sleep')}:bad", workers=1, deadline=100))
    (future,) = oracle.submit(tasks(1), PoolSettings())._futures
    while not (tmp_path / "pids").exists():
        time.sleep(0.01)
    with future._condition:
        oracle.close()
    assert not any(map(alive, pids(tmp_path)))


def test_scoring_modules_import_neither_jax_nor_numpy():
    code = """
        import sys
        import groot_jax.reward.oracle, groot_jax.reward.worker
        heavy = {"jax", "jaxlib", "flax", "numpy", "ml_collections", "tensorflow", "torch"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, check=True)


def test_a_built_in_reward_is_scored_in_the_job_and_a_function_in_processes():
    assert choose_workers(RewardSpec("0.7*f0.5 + 0.3*exact")) == 0
    assert 1 <= choose_workers(RewardSpec("my_module:f")) <= 8
    assert choose_workers(RewardSpec("my_module:f", workers=0)) == 0
    assert choose_workers(RewardSpec("f1", workers=3)) == 3


def test_submit_returns_while_the_reward_still_works(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "waits_for_file.py").write_text(
        "import os, time\ndef f(candidate, gold, words):\n"
        "    while not os.path.exists('go'): time.sleep(0.01)\n    return 1.0"
    )
    for workers in (0, 1):
        with Oracle(RewardSpec("waits_for_file:f", workers=workers, deadline=30)) as oracle:
            handle = oracle.submit(tasks(2), PoolSettings())
            assert not handle._futures[0].done()
            (tmp_path / "go").touch()
            assert len(handle.result()) == 2
        (tmp_path / "go").unlink()


@hypothesis_settings(max_examples=50)
@given(
    st.lists(st.text(), min_size=6, max_size=6),
    labelings,
    st.lists(st.tuples(labelings, st.floats(), st.booleans(), st.integers(-1, 40)), max_size=4),
)
def test_tasks_triples_and_pools_survive_the_protocol(words, gold, beam):
    def through(value):
        here, there = Pipe()
        with here, there:
            send(here, value)
            return receive(there)

    task = ScoringTask(tuple(words), gold, [Candidate(*item) for item in beam], 2**70)
    unlabeled = ScoringTask(tuple(words), None, task.candidates)
    chosen = PoolSettings(size=3, gold=False, consensus=2, expected=0.5, temperature=1.5)
    chunk = Chunk([task, unlabeled], [(gold, gold, tuple(words))], chosen)
    assert repr(decode_chunk(through(chunk))) == repr(chunk)
    pools = build_pools([task], scored_by("f1"), PoolSettings(), 0.1, 0)
    assert repr(decode_pools(through(pools))) == repr(pools)


def test_an_idle_oracle_still_scores_after_a_while():
    with Oracle(RewardSpec("f1", workers=1, deadline=0.05)) as oracle:
        first = pools_of(oracle, tasks(1))
        time.sleep(1.0)
        assert repr(pools_of(oracle, tasks(1))) == repr(first)


SUM = "0.7*f0.5 + 0.3*exact"


@pytest.mark.parametrize("workers", [0, 1])
def test_the_terms_of_a_weighted_sum_are_told_apart(workers: int) -> None:
    f, exact = (make_reward(RewardSpec(name)) for name in ("f0.5", "exact"))
    made = tasks(9)  # Two chunks.
    triples = [(c.labeling, GOLD, task.words) for task in made for c in task.candidates]
    triples.append((GOLD, GOLD, made[0].words))
    with Oracle(RewardSpec(SUM, workers=workers)) as oracle:
        pools = pools_of(oracle, made)
        rows, _ = oracle.evaluate(triples)
        assert [row[0] for row in rows] == oracle.score(triples)
    assert [row[1:] for row in rows] == [[f(*triple), exact(*triple)] for triple in triples]
    assert rows[-1] == [1.0, 1.0, 1.0] and len({tuple(row) for row in rows}) > 2
    for task, pool in zip(made, pools, strict=True):
        for entry in pool:
            terms = (f(entry.labeling, GOLD, task.words), exact(entry.labeling, GOLD, task.words))
            assert entry.terms == terms
            total = 0.7 * terms[0] + 0.3 * terms[1]
            penalised = total if entry.well_formed else max(0.0, total - 0.1)
            assert entry.reward == pytest.approx(penalised)


def test_a_reward_that_is_no_sum_has_no_terms() -> None:
    with Oracle(RewardSpec("f0.5", workers=0)) as oracle:
        assert all(entry.terms == () for pool in pools_of(oracle, tasks(2)) for entry in pool)
        assert oracle.evaluate([(GOLD, GOLD, ("s",))])[0] == [[1.0]]


def test_the_names_of_terms_are_those_of_the_sum() -> None:
    assert term_names(RewardSpec(SUM)) == ["f0.5", "exact"]
    assert term_names(RewardSpec("f1")) == term_names(RewardSpec("1.0*f1")) == []
    assert make_reward(RewardSpec(" 1.0 * exact "))(GOLD, GOLD, ()) == 1.0
