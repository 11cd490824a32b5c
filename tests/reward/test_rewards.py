"""Built-in rewards against plain counts, the language of names, users' functions called here."""

from __future__ import annotations

import sys
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groot_jax.config.loading import default_config
from groot_jax.data.labeling import Labeling, Span, labeling_of_word_tags, word_tags
from groot_jax.errors import UserError
from groot_jax.reward.rewards import (
    RewardSpec,
    calls_python,
    make_batch_reward,
    make_reward,
    parse_type_weights,
)
from groot_jax.reward.user_function import Board

BUILTIN = (
    "f1",
    "f0.5",
    "f2",
    "f0",
    "exact",
    "precision",
    "recall",
    "utility",
    "token_accuracy",
    "0.7*f0.5 + 0.3*exact",
)
WORDS = ("black", "levi", "jeans")
GOLD = (Span(0, 1, "color"), Span(1, 2, "brand"), Span(2, 3, "product"))
TAGS = st.sampled_from(["O", "O", "I", "A", "B", "C"])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Labeling, Labeling, tuple[str, ...]]:
    gold_tags = draw(st.lists(TAGS, max_size=9))
    n = len(gold_tags)
    changes = draw(st.lists(st.one_of(st.none(), TAGS), min_size=n, max_size=n))
    tags = [new or old for new, old in zip(changes, gold_tags, strict=True)]
    words = tuple(f"w{i}" for i in range(n))
    return labeling_of_word_tags(tags)[0], labeling_of_word_tags(gold_tags)[0], words


def reward(name: str, **fields: object):
    # Tests of what a failure says wait for no second call; test_lost_processes.py has those.
    return make_reward(RewardSpec(name, **{"retries": 0, **fields}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", BUILTIN)
@given(pair=pairs())
def test_reward_lies_between_0_and_1(name, pair):
    assert 0.0 <= reward(name)(*pair) <= 1.0


@pytest.mark.parametrize("name", BUILTIN)
@given(pair=pairs())
def test_reward_of_gold_is_1(name, pair):
    _, gold, words = pair
    assert reward(name)(gold, gold, words) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", ["f1", "f0.5", "f2", "exact", "utility", "precision", "recall"])
@given(pair=pairs())
def test_reward_of_a_labeling_without_gold_spans_is_0_unless_both_are_empty(name, pair):
    candidate, gold, words = pair
    wrong = tuple(span._replace(type="never gold") for span in candidate)
    assert reward(name)(wrong, gold, words) == float(not wrong and not gold)


@given(
    pair=pairs(),
    beta=st.sampled_from(["0", "0.25", "0.5", "1", "2", "3.5"]),
    weights=st.dictionaries(st.sampled_from("ABC"), st.sampled_from([0, 0.25, 0.5, 1, 3])),
)
def test_f_beta_is_the_formula_on_plain_weighted_counts(pair, beta, weights):
    candidate, gold, words = pair

    def weight(spans):
        return sum((Fraction(weights.get(span.type, 1)) for span in spans), Fraction(0))

    true = weight(span for span in candidate if span in gold)
    wrong = weight(span for span in candidate if span not in gold)
    missed = weight(span for span in gold if span not in candidate)
    b2 = Fraction(beta) ** 2
    denominator = (1 + b2) * true + b2 * missed + wrong
    if true:
        wanted = float((1 + b2) * true / denominator)
    else:
        wanted = 0.0 if wrong or missed else 1.0
    text = ", ".join(f"{type_}={value}" for type_, value in weights.items())
    got = reward(f"f{beta}", type_weights=text)(candidate, gold, words)
    assert got == pytest.approx(wanted, abs=1e-12)


@given(pair=pairs(), cost=st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
def test_utility_precision_recall_and_exact_are_their_formulas(pair, cost):
    candidate, gold, words = pair
    true = sum(span in gold for span in candidate)
    wrong = len(candidate) - true
    if gold:
        wanted = min(max((true - cost * wrong) / len(gold), 0.0), 1.0)
        assert reward("utility", wrong_cost=cost)(*pair) == pytest.approx(wanted)
        assert reward("recall")(*pair) == pytest.approx(true / len(gold))
    if candidate:
        assert reward("precision")(*pair) == pytest.approx(true / len(candidate))
    assert reward("exact")(*pair) == float(set(candidate) == set(gold))
    if words:
        tags = zip(word_tags(candidate, len(words)), word_tags(gold, len(words)), strict=True)
        agree = sum(a == b for a, b in tags)
        assert reward("token_accuracy")(*pair) == pytest.approx(agree / len(words))


def test_an_empty_side_gives_0_and_two_empty_sides_give_1():
    for name in ("f1", "precision", "recall", "utility"):
        assert reward(name)((), (), WORDS) == 1.0
        assert reward(name)(GOLD, (), WORDS) == 0.0
        assert reward(name)((), GOLD, WORDS) == 0.0
    assert reward("token_accuracy")((), (), ()) == 1.0


@given(pair=pairs())
def test_a_weighted_sum_is_the_sum_of_its_weighted_terms(pair):
    total = 0.2 * reward("f2")(*pair) + 0.5 * reward("exact")(*pair) + 0.3 * reward("recall")(*pair)
    assert reward(" 0.2 * f2+0.5*exact + 0.3*recall")(*pair) == pytest.approx(total)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("F1", "did you mean 'f1'"),
        ("Exact", "did you mean 'exact'"),
        ("f05", "did you mean 'f0.5'"),
        ("token_acuracy", "did you mean 'token_accuracy'"),
        ("zzz", "package.module:function"),
        ("0.7*f1 + 0.2*exact", "sum to 0.9"),
        ("f1 + exact", "sum to 2"),
        ("-1*f1 + 2*exact", "weight*name"),
        ("0.5*0.5*f1", "weight*name"),
        ("nan*f1", "weight*name"),
        ("a*f1", "weight*name"),
        ("f1 +", "weight*name"),
        ("", "weight*name"),
        ("my module:f", "package.module:function"),
        ("a:b:c", "package.module:function"),
    ],
)
def test_a_bad_name_is_refused_in_a_sentence_that_says_what_is_wrong(name, said):
    with pytest.raises(UserError) as error:
        reward(name)
    assert said in str(error.value)
    assert "config.reward.name" in str(error.value)


def test_type_weights_are_read_and_bad_ones_named():
    assert parse_type_weights(" brand=2,color=0.5, a=b=0,") == {"brand": 2, "color": 0.5, "a=b": 0}
    for bad in ("brand", "brand=x", "=2", "brand=-1", "brand=inf", "brand=nan", "ok=2"):
        with pytest.raises(UserError, match=r"config\.reward\.type_weights"):
            parse_type_weights(f"ok=1, {bad}")


def test_the_fields_are_those_of_the_config():
    assert RewardSpec(**default_config().reward) == RewardSpec()


# Users' functions, called in this process.


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of the user's into the current directory; its name is new in each test."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        name = f"user_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


def test_a_function_of_the_current_directory_is_a_reward_alone_and_in_a_sum(module):
    name = module("class Mine:\n    @staticmethod\n    def f(candidate, gold, words): return 0.25")
    assert reward(f"{name}:Mine.f")(GOLD, GOLD, WORDS) == 0.25
    assert reward(f"0.5*{name}:Mine.f + 0.5*f1")(GOLD, GOLD, WORDS) == 0.625
    assert calls_python(RewardSpec(f"0.5*{name}:Mine.f + 0.5*f1"))
    assert not calls_python(RewardSpec("f1"))


def test_values_that_are_numbers_of_another_kind_are_taken(module):
    name = module(
        "import numpy as np\nvalues = iter([True, 0, np.float32(0.5), np.array(0.5), 1 + 1e-10])\n"
        "def f(candidate, gold, words): return next(values)"
    )
    f = reward(f"{name}:f")
    assert [f(GOLD, GOLD, WORDS) for _ in range(5)] == [1.0, 0.0, 0.5, 0.5, 1.0]


LAZY = """
import time
class Lazy:
    def __init__(self, what): self.what = what
    def __float__(self):
        if self.what == "raises": raise ConnectionError("service is away")
        if self.what == "hangs": time.sleep(60)
        return 0.5
    def __str__(self): raise RuntimeError
class Odd(Exception):
    def __str__(self): raise RuntimeError
def f(candidate, gold, words):
    if words[0] == "odd": raise Odd
    return Lazy(words[0])
def batch(candidates, golds, words): return [f(*item) for item in zip(candidates, golds, words)]
"""


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("raises", "raised ConnectionError: service is away"),
        ("hangs", "not back after 0.3 seconds"),
        ("odd", "raised Odd"),
    ],
)
def test_a_value_that_is_worked_out_when_it_is_read_is_part_of_the_call(module, batch, word, said):
    name = module(LAZY) + (":batch" if batch else ":f")
    score = reward(name, batch=batch, deadline=0.3, retries=0)
    assert score(GOLD, GOLD, ("fine",)) == 0.5
    with pytest.raises(UserError, match=f"{name}.*{word}.*{said}"):
        score(GOLD, GOLD, (word,))


def test_a_batch_function_may_empty_its_lists(module):
    name = module(
        "calls = []\n"
        "def f(candidates, golds, words):\n"
        "    calls.append(len(words))\n"
        "    found = []\n"
        "    while words: found.append(len(words.pop()) / 10); golds.pop()\n"
        "    candidates.clear()\n"
        "    if len(calls) == 1: raise ValueError('not yet')\n"
        "    return found[::-1]"
    )
    score = make_batch_reward(RewardSpec(f"{name}:f", batch=True, retries=1), Board())
    assert score([GOLD] * 2, [GOLD] * 2, [("a",), ("b", "c")]) == [0.1, 0.2]
    assert sys.modules[name].calls == [2, 2]


def test_a_module_that_does_not_import_is_named_with_the_cause(module):
    with pytest.raises(UserError, match=r"'no_such_module_x'.*No module named '\w+'$"):
        reward("no_such_module_x:f")
    name = module("import math\nraise RuntimeError('no\\nlicence')")
    with pytest.raises(UserError, match=rf"{name!r}.*RuntimeError: no licence \({name}.py:2\)"):
        reward(f"{name}:f")


def test_a_module_without_the_function_is_named_with_a_near_miss(module):
    name = module("def my_reward(candidate, gold, words): return 1.0\nconstant = 3")
    with pytest.raises(UserError, match=f"{name!r} has no function 'my_rewrad'.*'my_reward'"):
        reward(f"{name}:my_rewrad")
    with pytest.raises(UserError, match="is not a function"):
        reward(f"{name}:constant")


@pytest.mark.parametrize(
    "value", ["float('nan')", "float('inf')", "-0.01", "1.01", "10**999", "'0.5'", "[0.5]"]
)
@pytest.mark.parametrize("batch", [False, True])
def test_a_value_outside_0_to_1_ends_with_reward_and_sentence_named(module, value, batch):
    body = f"[1.0] * (len(words) - 1) + [{value}]" if batch else value
    name = module(f"def f(candidate, gold, words): return {body}")
    with pytest.raises(UserError) as error:
        reward(f"{name}:f", batch=batch)(GOLD, GOLD, WORDS)
    assert f"{name}:f" in str(error.value)
    assert '"black levi jeans"' in str(error.value)
    assert "no number in [0, 1]" in str(error.value)


@pytest.mark.parametrize("statement", ["raise ValueError('no\\nunits')", "raise SystemExit('x')"])
def test_a_function_that_raises_ends_with_reward_sentence_and_text_in_one_line(module, statement):
    name = module(f"def f(candidate, gold, words):\n    {statement}")
    with pytest.raises(UserError) as error:
        reward(f"{name}:f")(GOLD, GOLD, WORDS)
    for part in (f"{name}:f", '"black levi jeans"', statement[6:14], f"{name}.py:2"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("handler", "rounds"), [("except Exception", 1000), ("except", 2)])
def test_a_function_that_hangs_ends_at_the_deadline_whatever_it_swallows(module, handler, rounds):
    swallow = f"""
def f(candidate, gold, words):
    import time
    for _ in range({rounds}):
        try:
            time.sleep(30)
        {handler}:
            pass
    time.sleep(30)
"""
    name = module(swallow)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"levi.*was not back after 0.2 seconds.*deadline"):
        reward(f"{name}:f", deadline=0.2)(GOLD, GOLD, WORDS)
    assert time.monotonic() - began < 25


def test_the_job_s_own_alarm_handler_survives_a_call(module):
    import signal

    def handler(signum, frame): ...

    name = module("def f(candidate, gold, words): return 1.0")
    old = signal.signal(signal.SIGALRM, handler)
    try:
        reward(f"{name}:f")(GOLD, GOLD, WORDS)
        assert signal.getsignal(signal.SIGALRM) is handler
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        signal.signal(signal.SIGALRM, old)


BATCH = """
import time
calls = []
def f(candidates, golds, words):
    assert type(candidates) is type(golds) is type(words) is list
    calls.append(len(words))
    for own in words:
        if own[0] == "bad": raise KeyError("no such brand")
        if own[0] == "slow": time.sleep(30)
    if words[0][0] == "short": return [1.0] * (len(words) - 1)
    if words[0][0] == "scalar": return 1.0
    if words[0][0] == "lazy": return (float(own[9]) for own in words)
    if words[0][0] == "many" and len(words) > 1: raise MemoryError("batch")
    return (float(len(c) == len(g)) for c, g in zip(candidates, golds))
"""


def test_the_batch_form_takes_and_returns_lists_in_one_call(module):
    name = module(BATCH)
    score = make_batch_reward(RewardSpec(f"{name}:f", batch=True), Board())
    assert score([GOLD, (), GOLD], [GOLD, GOLD, GOLD], [WORDS] * 3) == [1.0, 0.0, 1.0]
    assert score([], [], []) == []
    assert sys.modules[name].calls == [3]
    assert make_reward(RewardSpec(f"{name}:f", batch=True))((), GOLD, WORDS) == 0.0


@pytest.mark.parametrize(
    ("word", "said"),
    [("bad", '"bad x".*KeyError.*no such brand'), ("slow", '"slow x".*not back after 0.3 seconds')],
)
def test_a_failing_batch_names_the_sentence_that_fails_alone(module, word, said):
    name = module(BATCH)
    score = make_batch_reward(RewardSpec(f"{name}:f", batch=True, deadline=0.3, retries=0), Board())
    with pytest.raises(UserError, match=said):
        score([GOLD] * 3, [GOLD] * 3, [("a", "x"), (word, "x"), ("b", "x")])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("short", "returned 1 values for 2"),
        ("scalar", "returned 1 values for 2"),
        ("lazy", '"lazy x", raised IndexError'),
        ("many", 'a batch of 2 that begins with the sentence "many x".*MemoryError'),
    ],
)
def test_a_batch_that_fails_as_a_whole_names_its_first_sentence(module, word, said):
    name = module(BATCH)
    score = make_batch_reward(RewardSpec(f"{name}:f", batch=True, retries=0), Board())
    with pytest.raises(UserError, match=said):
        score([GOLD] * 2, [GOLD] * 2, [(word, "x"), ("b", "x")])


def test_a_batch_form_function_inside_a_sum_is_refused(module):
    name = module(BATCH)
    with pytest.raises(UserError, match="only works alone"):
        reward(f"0.5*{name}:f + 0.5*f1", batch=True)
