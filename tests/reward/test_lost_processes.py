"""Scoring processes that are killed, stopped or leave: the same results, or one sentence."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from groot_jax import errors
from groot_jax.config import default_config
from groot_jax.config.checks import validate
from groot_jax.data.labeling import Candidate, Span
from groot_jax.errors import Terminated, UserError, raise_signal_behind, signals_wished
from groot_jax.reward.oracle import Oracle
from groot_jax.reward.pool import Pool, PoolSettings, ScoringTask
from groot_jax.reward.rewards import RewardSpec, make_reward

# With the other faults, and in every run of the tests.
pytestmark = [pytest.mark.chaos, pytest.mark.always]
GOLD = (Span(0, 1, "A"), Span(2, 3, "B"), Span(4, 6, "C"))
FUNCTION = """
import asyncio, ctypes, os, resource, signal, subprocess, sys, time
HERE = os.path.dirname(__file__)
FILES = []
WRITTEN = {
    "garbage": b"\\0\\0\\0\\4nope",
    "other_json": b"\\0\\0\\0\\2{}",
    "too_few": b"\\0\\0\\0\\x0e" b'{"results":[]}',
    "endless": b"\\xff" * 12,
}

class Own(BaseException): pass

def first(name):
    # True once, whichever process asks.
    try:
        os.close(os.open(os.path.join(HERE, name), os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False

def value(candidate): return len(candidate) / 6

def act(what):
    if what == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if what == "terminate": os.kill(os.getpid(), signal.SIGTERM)
    if what == "stop": os.kill(os.getpid(), signal.SIGSTOP)
    if what == "exit": os._exit(3)
    if what == "sleep": time.sleep(60)
    if what == "crash": ctypes.string_at(0)
    if what == "hold":  # A PyDLL keeps the GIL, and no alarm cuts this sleep short.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        ctypes.PyDLL(None).sleep(60)
    if what == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (2**30, resource.RLIM_INFINITY))
        b"x" * 2**34
    if what == "raise": raise ConnectionError("service is away")
    if what == "cancel": raise asyncio.CancelledError("cancelled")
    if what == "interrupt": raise KeyboardInterrupt
    if what == "leave": sys.exit("no licence")
    if what == "own": raise Own("mine")
    if what in WRITTEN: os.write(int(sys.argv[1]), WRITTEN[what])
    if what == "close": os.closerange(3, 200)
    if what == "close_and_open":  # What they open has the number of the pipe then.
        os.closerange(3, 200)
        FILES.extend(open(os.path.join(HERE, f"theirs{i}"), "w+") for i in range(20))
    if what == "close_streams":
        for stream in (sys.stdout, sys.stderr): stream.close()
        raise ConnectionError("service is away")
    if what == "change_folder": os.chdir("/")
    if what == "swallow":  # Bare excepts take an alarm, too.
        while True:
            try:
                while True: print("still at work", end=" ")
            except: pass
    if what.startswith("child"):
        child = subprocess.Popen(["sleep", "60"])
        with open(os.path.join(HERE, "child"), "w") as file: file.write(str(child.pid))
        if what == "child_and_exit": os._exit(3)
        if what == "child_and_kill": os.kill(os.getpid(), signal.SIGKILL)
    if what == "daemon":
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0: time.sleep(5)
            os._exit(0)
    if what == "fork":
        if os.fork() == 0: return
    if what == "fork_and_leave":
        if os.fork() == 0: time.sleep(60)
        os._exit(0)

def once(candidate, gold, words):
    if words[0] == "s5" and first("done"): act(WHAT)
    return value(candidate)

def always(candidate, gold, words):
    if words[0] == "s5" and len(candidate) == 1: act(WHAT)
    return value(candidate)

def calm(candidate, gold, words):
    return value(candidate)

def abstains(candidate, gold, words):
    return None if words[0] == "s5" and len(candidate) == 1 else value(candidate)

def thrice(candidate, gold, words):
    if words[0] == "s5" and any(first(f"time{i}") for i in range(3)): act(WHAT)
    return value(candidate)

def in_job(candidate, gold, words): return float(JOB == os.getpid())
JOB = 0

def always_batch(candidates, golds, words):
    return [always(*item) for item in zip(candidates, golds, words)]
"""


def tasks() -> list[ScoringTask]:
    beam = [
        Candidate((Span(0, 2, "B"),), -1.0, True, 0),
        Candidate((Span(0, 1, "A"), Span(2, 4, "C"), Span(4, 6, "B")), -2.5, True, 1),
    ]
    return [ScoringTask((f"s{key}", *["w"] * 5), GOLD, beam, key) for key in range(20)]


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("groot_jax.reward.user_function._FIRST_PAUSE", 0.01)

    def write(what: str = "") -> str:
        name = f"lost_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(f"WHAT = {what!r}\n{FUNCTION}")
        return name

    return write


def pools(oracle: Oracle) -> list[Pool]:
    return oracle.submit(tasks(), PoolSettings()).result()


@pytest.fixture(scope="module")
def undisturbed():
    """What the function gives where nothing happens, worked out without any process."""
    from groot_jax.reward.pool import build_pools

    def score(triples, items):
        return [len(candidate) / 6 for candidate, _, _ in triples]

    return build_pools(tasks(), score, PoolSettings(), 0.1, 0)


@pytest.mark.parametrize(
    "what",
    [
        *("kill", "terminate", "stop", "exit", "crash", "hold", "garbage", "fork"),
        *("fork_and_leave", "memory", "raise", "cancel", "interrupt", "leave", "own", "other_json"),
        *("too_few", "endless", "close", "close_and_open", "close_streams", "change_folder"),
        *("daemon", "swallow"),
    ],
)
def test_what_befalls_a_call_once_leaves_the_results_as_they_are(module, undisturbed, what, capfd):
    spec = RewardSpec(f"{module(what)}:once", deadline=0.5, workers=2)
    begun = time.monotonic()
    with Oracle(spec) as oracle:
        assert repr(pools(oracle)) == repr(undisturbed)
        counts = dict(oracle.counts)
    assert time.monotonic() - begun < 30  # And not after a sleep of 60 seconds.
    if what in ("fork", "change_folder", "daemon"):
        assert not counts.get("replaced")
    elif what in ("memory", "raise", "cancel", "interrupt", "leave", "own", "close_streams"):
        assert (counts["retried"], counts.get("replaced", 0)) == (1, 0)
    else:
        assert counts["replaced"] == 1
        err = capfd.readouterr().err
        assert "another process goes on" in err
        assert "1 scoring processes replaced" in err
        assert "Traceback" not in err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_is_not_kept_waiting_by_a_call(module, workers, monkeypatch):
    monkeypatch.setattr(errors, "_PATIENCE", 0.5)
    begun = time.monotonic()
    with (
        Oracle(RewardSpec(f"{module('sleep')}:once", deadline=60, workers=workers)) as oracle,
        pytest.raises(Terminated),
        signals_wished() as wish,
    ):
        wish.number, wish.since = signal.SIGTERM, time.monotonic()
        pools(oracle)
    assert 0.5 < time.monotonic() - begun < 20


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="macOS has none")
@pytest.mark.parametrize("what", ["child", "child_and_exit", "child_and_kill"])
def test_what_a_function_has_started_ends_with_its_process(module, undisturbed, what, tmp_path):
    # It holds the job's stderr, of which a reader would never see the end.
    with Oracle(RewardSpec(f"{module(what)}:once", workers=1)) as oracle:
        assert repr(pools(oracle)) == repr(undisturbed)
        child = (tmp_path / "child").read_text()
        assert what != "child" or lives(child)
    end = time.monotonic() + 10
    while lives(child):
        assert time.monotonic() < end
        time.sleep(0.01)


def lives(process: str) -> bool:
    try:  # Some containers have nobody who waits for orphans.
        return "(zombie)" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "Terminated(15)", "GeneratorExit"])
def test_what_a_function_raises_in_the_job_is_its_error_and_no_signal(module, raised):
    file = Path(f"{module()}_in_job.py")
    file.write_text(
        "from groot_jax.errors import Terminated\n"
        f"def f(candidate, gold, words): raise {raised}\nf.in_job = True"
    )
    name = f"{file.stem}:f"
    with (
        Oracle(RewardSpec(name, workers=0, retries=1)) as oracle,
        pytest.raises(
            UserError, match=f'{name}.*"a b".*raised {raised.partition("(")[0]}'
        ) as error,
    ):
        oracle.score([(GOLD, GOLD, ("a", "b"))])
    raise_signal_behind(error.value)  # Which a job asks of each error.


def test_a_function_in_the_job_may_not_take_the_job_to_another_folder(module):
    file = Path(f"{module()}_moves.py")
    file.write_text(
        "import os\ndef f(candidate, gold, words):\n"
        "    if words[0] == 'moves': os.chdir('/')\n"
        "    return 0.5\nf.in_job = True"
    )
    here = os.getcwd()
    with Oracle(RewardSpec(f"{file.stem}:f", workers=0)) as oracle:
        assert oracle.score([(GOLD, GOLD, ("stays",))]) == [0.5]
        with pytest.raises(UserError, match=f"{file.stem}:f' changed the working directory"):
            oracle.score([(GOLD, GOLD, ("moves",))])
    assert os.getcwd() == here


def test_ctrl_c_in_a_call_of_this_process_is_a_signal(module):
    file = Path(f"{module()}_struck.py")
    file.write_text(
        "import os, signal\n"
        "def f(candidate, gold, words): os.kill(os.getpid(), signal.SIGINT); return 1.0"
    )
    with pytest.raises(KeyboardInterrupt):
        make_reward(RewardSpec(f"{file.stem}:f"))(GOLD, GOLD, ("a",))


@pytest.mark.parametrize("what", ["return", "time.sleep(60)"])
def test_a_module_that_forks_while_imported_is_one_scoring_process(module, what):
    # The child's answers, or its hold on the pipe once the parent is gone.
    file = Path(f"{module()}_forks.py")
    leaves = "os._exit(4)" if "sleep" in what else "pass"
    file.write_text(
        f"import os, time\ndef child(): {what}\nif os.fork() == 0: child()\nelse: {leaves}\n"
        "def f(candidate, gold, words): return 0.25"
    )
    begun = time.monotonic()
    if "sleep" in what:
        with pytest.raises(UserError, match="exit status 4.*while it imported"):
            Oracle(RewardSpec(f"{file.stem}:f", workers=1, retries=0))
    else:
        with Oracle(RewardSpec(f"{file.stem}:f", workers=1)) as oracle:
            for _ in range(5):
                assert oracle.score([(GOLD, GOLD, ("a",))] * 3) == [0.25] * 3
            assert not oracle.counts["replaced"]
    assert time.monotonic() - begun < 30


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="Linux alone has it")
def test_where_memory_is_short_a_scoring_process_goes_before_the_job(module):
    def badness(process: object) -> int:
        return int(Path(f"/proc/{process}/oom_score").read_text())

    with Oracle(RewardSpec(f"{module()}:calm", workers=1)) as oracle:
        assert badness(oracle._workers[0]._process.pid) > badness("self")


def test_a_process_that_cannot_be_killed_does_not_keep_the_oracle_open(module, monkeypatch):
    # As one that waits for a file system which is away.
    monkeypatch.setattr("groot_jax.reward.process._GONE_LIMIT", 0.2)
    oracle = Oracle(RewardSpec(f"{module()}:calm", workers=1))
    worker = oracle._workers[0]
    os.kill(worker._process.pid, signal.SIGSTOP)
    kill = worker.kill
    monkeypatch.setattr(worker, "kill", lambda: None)
    begun = time.monotonic()
    oracle.close()
    assert time.monotonic() - begun < 10
    kill()
    worker._process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_a_process_lost_between_calls_is_replaced(module, undisturbed, number):
    with Oracle(RewardSpec(f"{module()}:calm", workers=1, timeout_s=1.0)) as oracle:
        assert repr(pools(oracle)) == repr(undisturbed)
        os.kill(oracle._workers[0]._process.pid, number)
        assert repr(pools(oracle)) == repr(undisturbed)
        assert oracle.counts["replaced"] == 1


def test_a_chunk_larger_than_the_pipe_does_not_wait_for_a_stopped_process(module):
    # A pipe holds some 200 kB: the writing of this one would never end.
    words = tuple(["w" * 1000] * 2000)
    with Oracle(RewardSpec(f"{module()}:calm", workers=1, timeout_s=1.0)) as oracle:
        os.kill(oracle._workers[0]._process.pid, signal.SIGSTOP)
        assert oracle.score([(GOLD, GOLD, words)]) == [0.5]
        assert oracle.counts["replaced"] == 1


@pytest.mark.parametrize("what", ["kill", "raise"])
def test_retries_are_as_many_as_the_config_says(module, undisturbed, what):
    name = module(what)
    with (
        pytest.raises(UserError, match="s5 w.*(away|out of memory)"),
        Oracle(RewardSpec(f"{name}:thrice", workers=1, retries=2, deadline=5.0)) as oracle,
    ):
        Path("time0").touch()  # Two are left, and two retries: enough.
        assert repr(pools(oracle)) == repr(undisturbed)
        for mark in Path().glob("time*"):
            mark.unlink()
        pools(oracle)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("what", ["raise", "kill", "hold", "cancel", "close_streams"])
def test_a_candidate_that_always_fails_is_dropped_where_the_config_says_so(
    module, undisturbed, what, batch
):
    name = f"{module(what)}:always" + "_batch" * batch
    spec = RewardSpec(name, batch=batch, workers=1, retries=0, on_error="drop", deadline=0.5)
    with Oracle(spec) as oracle:
        found = pools(oracle)
        counts = dict(oracle.counts)
    kept = [entry.labeling for entry in undisturbed[5] if len(entry.labeling) != 1]
    assert [entry.labeling for entry in found[5]] == kept
    assert counts["dropped"] == len(undisturbed[5]) - len(kept) > 0
    assert repr(found[:5] + found[6:]) == repr(undisturbed[:5] + undisturbed[6:])


@pytest.mark.parametrize("workers", [0, 1])
def test_none_leaves_a_candidate_out(module, undisturbed, workers):
    with Oracle(RewardSpec(f"{module()}:abstains", workers=workers)) as oracle:
        found = pools(oracle)
        assert oracle.score([(GOLD[:1], GOLD, ("s5",) * 6), (GOLD, GOLD, ("s5",) * 6)]) == [
            0.0,
            0.5,
        ]
        assert oracle.counts["abstained"] == len(undisturbed[5]) - len(found[5]) + 1 > 1
        assert not oracle.counts["dropped"]
    assert all(len(entry.labeling) != 1 for entry in found[5])
    # Parents are places in the pool as it is now.
    for entry in found[5]:
        assert entry.parent == -1 or found[5][entry.parent].origin == "beam"


def test_a_function_runs_in_the_job_only_where_it_says_that_it_may(module):
    name = module()
    for said, expected in (("", 0.0), ("in_job.in_job = True\n", 1.0)):
        file = Path(f"{name}{len(said)}.py")
        file.write_text(f"{Path(f'{name}.py').read_text()}\nJOB = {os.getpid()}\n{said}")
        with Oracle(RewardSpec(f"{file.stem}:in_job", workers=0)) as oracle:
            assert oracle.score([(GOLD, GOLD, ("a",) * 6)]) == [expected]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("retries", -1, "has to be 0 or more"),
        ("timeout_s", 0.5, "1 or more"),
        ("on_error", "skip", "it can be stop, drop"),
        ("max_dropped", 1.5, "at least 0 and at most 1"),
    ],
)
def test_the_keys_of_a_failing_reward_have_their_ranges(key, value, said):
    config = default_config()
    config.data.reader = "retail"
    validate(config)
    config.reward[key] = value
    with pytest.raises(UserError, match=f"config.reward.{key}.*{said}"):
        validate(config)
