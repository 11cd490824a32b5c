"""The beam search against exhaustive search, greedy search and teacher forcing."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from groot_jax.contrast.update import OutputColumns, nll_batch, nll_scores
from groot_jax.data.batches import Batch, collate, encode
from groot_jax.data.format import Format
from groot_jax.data.formats import make_format
from groot_jax.data.labeling import Sentence, Span, labeling_of_word_tags
from groot_jax.data.tokenizer import train_tokenizer
from groot_jax.generate.beam_search import beam_search
from groot_jax.generate.generator import Generator
from groot_jax.generate.grammar import make_grammar, plan_steps
from groot_jax.generate.inputs import Beams, search_input
from groot_jax.generate.selection import best_continuations
from groot_jax.mesh.layout import Layout, make_mesh
from groot_jax.model.config import preset
from groot_jax.model.t5 import T5, init_params
from tests.generate import reference
from tests.generate.toy import toy

TYPES = ("brand", "color")
# Tags of one piece a letter: "aba" is chosen in two steps, for it starts like "a"; "bb" in one.
LETTERS = ("a", "aba", "bb")
SENTENCES = [
    Sentence(("black", "levi", "jeans"), (Span(0, 1, "color"), Span(1, 3, "brand"))),
    Sentence(("red", "shoes"), (Span(0, 1, "color"),)),
    Sentence(("puma",), (Span(0, 1, "brand"),)),
    Sentence(("new", "balance", "black"), (Span(0, 2, "brand"), Span(2, 3, "color"))),
]

LAYOUT = Layout(make_mesh(devices=jax.devices()[:1]), {"batch": "data"})

# More than the eleven labelings of two words with two types.
WIDE = 14

# Compiled once for all tests that use the same sizes.
_nll_scores = jax.jit(nll_scores, static_argnums=0)
_random_params = functools.cache(init_params)


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: T5, params, *inputs):
    return model.apply({"params": params}, *inputs)


@functools.cache
def _format(name: str, types: tuple[str, ...]) -> Format:
    if types == LETTERS:
        return toy(name, types)
    return make_format(name, train_tokenizer(SENTENCES, types, 40, max_features=40), types)


@functools.cache
def _generator(
    model: T5,
    format_name: str,
    types: tuple[str, ...],
    normalise: str,
    k: int,
    use_grammar: bool,
    length_penalty: float,
) -> Generator:
    """A search is compiled once for all tests that ask for as many beams, whatever the weights."""
    format_ = _format(format_name, types)
    grammar = make_grammar(format_, normalise, model.config.vocab_size)
    return Generator(
        model.config,
        format_,
        grammar,
        k=k,
        use_grammar=use_grammar,
        length_penalty=length_penalty,
        layout=LAYOUT,
    )


class Setting:
    """A tiny random model with a format; logits sharpened so that scores differ."""

    def __init__(
        self,
        format_name: str = "fused_sentinel",
        normalise: str = "legal",
        seed: int = 0,
        types: tuple[str, ...] = TYPES,
    ):
        self.format = _format(format_name, types)
        config = preset(
            "nano", "v1_1", 256, d_model=32, d_ff=64, d_kv=8, num_layers=1, num_decoder_layers=1
        )
        self.grammar = make_grammar(self.format, normalise, config.vocab_size)
        self.model = T5(config)
        self.search_of = functools.partial(_generator, self.model, format_name, types, normalise)
        params = _random_params(config, seed)
        self.params = params | {"lm_head": {"kernel": params["lm_head"]["kernel"] * 4}}

    def batch(self, sentences: list[Sentence], rows: int | None = None, size=(24, 32)) -> Batch:
        return collate(encode(sentences, self.format), rows or len(sentences), size)

    def search(
        self, batch: Batch, k: int, use_grammar: bool = True, length_penalty: float = 0.0
    ) -> Beams:
        return self.search_of(k, use_grammar, length_penalty)(self.params, batch)

    def log_probs(self, batch: Batch, row: int):
        """Log-probabilities of the columns after a prefix of one sentence, by a full pass."""
        at = slice(row, row + 1)

        def after(prefix: tuple[int, ...]) -> np.ndarray:
            inputs = np.zeros_like(batch.target_BxT[at])
            inputs[0, 1 : 1 + len(prefix)] = prefix
            sides = batch.fused_source_BxSxF[at], batch.fused_target_BxT[at]
            logits = _logits(self.model, self.params, batch.source_BxS[at], inputs, *sides)
            return np.asarray(jax.nn.log_softmax(logits[0, len(prefix), self.grammar.columns_C]))

        return after

    def score(self, batch: Batch, outputs: list[tuple[int, ...]], row: int = 0) -> np.ndarray:
        """Teacher-forced s of outputs of the sentence in `row`."""
        T = batch.target_BxT.shape[1]
        n = 2 ** max(4, (len(outputs) - 1).bit_length())  # Few sizes, few programs.
        target = np.zeros((n, T), np.int32)
        for i, ids in enumerate(outputs):
            target[i, : len(ids)] = ids
        data = jax.tree.map(lambda x: np.repeat(x[row : row + 1], n, 0), nll_batch(batch))
        data = data._replace(target_BxT=target)
        logp, _, mask = _nll_scores(
            self.model,
            self.params,
            data,
            OutputColumns(
                jnp.asarray(self.grammar.columns_C), jnp.asarray(self.grammar.column_of_V)
            ),
        )
        return np.asarray((logp * mask).sum(1))[: len(outputs)]


def outputs_of(beams, row: int) -> list[tuple[int, ...]]:
    tokens, valid = np.asarray(beams.tokens_BxKxT[row]), np.asarray(beams.valid_BxK[row])
    return [
        tuple(t for t in ids.tolist() if t) for ids, ok in zip(tokens, valid, strict=True) if ok
    ]


def all_labelings(num_words: int, types=TYPES) -> set:
    tags = itertools.product(("O", "I", *types), repeat=num_words)
    return {labeling for labeling, clean in map(labeling_of_word_tags, tags) if clean}


@pytest.mark.parametrize("normalise", ["legal", "full"])
@pytest.mark.parametrize(
    "format_name", ["aligned", "fused_sentinel", "sentinel_tag", "tag_only", "input_tag"]
)
def test_a_wide_beam_equals_exhaustive_search(format_name, normalise):
    setting = Setting(format_name, normalise)
    batch = setting.batch(SENTENCES)
    words = SENTENCES[1].words
    every = [setting.format.target(labeling, words) for labeling in all_labelings(2)]
    assert len(words) == 2 and len(every) < WIDE
    scores = setting.score(batch, every, row=1)
    order = np.argsort(-scores)
    beams = setting.search(batch, WIDE)
    assert outputs_of(beams, 1) == [every[i] for i in order]
    np.testing.assert_allclose(
        np.asarray(beams.scores_BxK[1, : len(every)]), scores[order], rtol=1e-4, atol=1e-4
    )
    assert not np.asarray(beams.valid_BxK[1, len(every) :]).any()
    assert np.isneginf(np.asarray(beams.scores_BxK[1, len(every) :])).all()


@pytest.mark.parametrize("grammar", [True, False])
@pytest.mark.parametrize("format_name", ["aligned", "fused_sentinel", "sentinel_tag", "input_tag"])
def test_returned_scores_are_teacher_forced_scores_best_first(format_name, grammar):
    setting = Setting(format_name)
    batch = setting.batch(SENTENCES)
    beams = setting.search(batch, WIDE) if grammar else setting.search(batch, 4, use_grammar=False)
    for row in range(len(SENTENCES)):
        outputs = outputs_of(beams, row)
        if not grammar and not outputs:
            continue  # Random models need not ever end without the grammar.
        assert outputs and len(set(outputs)) == len(outputs)
        got = np.asarray(beams.scores_BxK[row, : len(outputs)])
        np.testing.assert_allclose(got, setting.score(batch, outputs, row), rtol=1e-4, atol=1e-4)
        assert (np.diff(got) <= 1e-6).all()


@pytest.mark.parametrize(
    "format_name", ["aligned", "fused_sentinel", "sentinel_tag", "tag_only", "input_tag"]
)
def test_with_the_grammar_every_output_is_well_formed(format_name):
    setting = Setting(format_name)
    batch = setting.batch(SENTENCES)
    beams = setting.search(batch, WIDE)
    for row, sentence in enumerate(SENTENCES):
        for ids in outputs_of(beams, row):
            labeling, well_formed = setting.format.read(ids, sentence.words)
            assert well_formed
            assert setting.format.target(labeling, sentence.words) == ids


@pytest.mark.parametrize(
    ("format_name", "types", "normalise"),
    [
        ("sentinel_tag", LETTERS, "legal"),
        ("sentinel_tag", TYPES, "full"),
        ("tag_only", LETTERS, "legal"),
        ("input_tag", LETTERS, "full"),
        ("fused_sentinel", TYPES, "legal"),
    ],
)
def test_the_search_equals_the_plain_one(format_name, types, normalise):
    setting = Setting(format_name, normalise, seed=1, types=types)
    texts = ["wvw", "vw", "w"] if types == LETTERS else [s.words for s in SENTENCES[:3]]
    sentences = [Sentence(tuple(words), ()) for words in texts]
    batch = setting.batch(sentences, size=(24, 48))
    columns = setting.grammar.columns_C.tolist()
    beams = setting.search(batch, 4)
    for row, sentence in enumerate(sentences):
        labelings = all_labelings(len(sentence.words), types)
        wanted = reference.search(
            setting.log_probs(batch, row),
            {setting.format.target(labeling, sentence.words) for labeling in labelings},
            columns,
            k=4,
            cap=int(batch.cap_B[row]),
            eos=1,
        )
        assert outputs_of(beams, row) == [ids for ids, _ in wanted]
        scores = np.asarray(beams.scores_BxK[row, : len(wanted)])
        np.testing.assert_allclose(scores, [score for _, score in wanted], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_the_search_without_grammar_equals_the_plain_one(penalty):
    setting = Setting(seed=3)
    batch = setting.batch(SENTENCES)
    beams = setting.search(batch, 4, use_grammar=False, length_penalty=penalty)
    for row in range(2):
        wanted = reference.search(
            setting.log_probs(batch, row),
            None,
            setting.grammar.columns_C.tolist(),
            k=4,
            cap=int(batch.cap_B[row]),
            eos=1,
            penalty=penalty,
        )
        assert outputs_of(beams, row) == [ids for ids, _ in wanted]
        scores = np.asarray(beams.scores_BxK[row, : len(wanted)])
        np.testing.assert_allclose(scores, [score for _, score in wanted], rtol=1e-4, atol=1e-4)


def test_a_sentence_takes_one_step_per_word():
    """Sentinels and the pieces of a tag that leave no choice are fed along."""
    for types, width, choices in ((("a", "b"), 2, 1), (("bb", "abb"), 4, 1), (LETTERS, 3, 2)):
        format_ = toy("sentinel_tag", types)
        grammar = make_grammar(format_, "legal", 256)
        length = format_.max_target_length(["w"] * 3)
        plan = plan_steps(format_, grammar, length, use_grammar=True)
        assert plan == (True, width, 3 * choices + 1, types == ("a", "b"))
        assert plan_steps(format_, grammar, length, use_grammar=False) == (False, 1, length, True)


@pytest.mark.parametrize(("beams", "columns"), [(3, 50), (2, 9000), (4, 4100)])
def test_the_best_continuations_are_those_of_a_sort(beams, columns):
    rng = np.random.default_rng(0)
    # Coarse values, so that ties abound; some beams and columns are forbidden.
    logits = rng.integers(0, 12, (2, beams, columns)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.3] = -np.inf
    scores = np.array([[0.0, -1.0, -np.inf, -2.0][:beams]] * 2, np.float32)
    best, place = best_continuations(jnp.asarray(scores), jnp.asarray(logits), 6)
    flat = (scores[..., None] + logits).reshape(2, -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(place, order)
    np.testing.assert_array_equal(best, np.take_along_axis(flat, order, 1))


def test_unfinished_beams_are_kept_on_demand():
    setting = Setting(seed=3)
    batch = setting.batch(SENTENCES)
    batch = batch._replace(cap_B=np.minimum(batch.cap_B, 2))
    dropped = setting.search(batch, 4, use_grammar=False)
    plan = plan_steps(setting.format, setting.grammar, batch.target_BxT.shape[1], use_grammar=False)
    search = functools.partial(beam_search, setting.model, k=4, keep_unfinished=True)
    kept = jax.jit(lambda *x: search(x[0], setting.grammar, plan, x[1]))(
        setting.params, search_input(batch)
    )
    assert not np.asarray(dropped.valid_BxK).all()
    assert np.asarray(kept.valid_BxK).all()
    for row in range(len(SENTENCES)):
        outputs = outputs_of(kept, row)
        assert any(ids[-1] != 1 for ids in outputs)
        scores = np.asarray(kept.scores_BxK[row])
        assert (np.diff(scores) <= 1e-6).all()
        np.testing.assert_allclose(scores, setting.score(batch, outputs, row), rtol=1e-4, atol=1e-4)


def test_one_beam_is_greedy_search():
    setting = Setting()
    batch = setting.batch(SENTENCES)
    beams = setting.search(batch, 1, use_grammar=False)
    for row in range(len(SENTENCES)):
        ids: list[int] = []
        cap = int(batch.cap_B[row])
        while len(ids) < cap and (not ids or ids[-1] != 1):
            inputs = np.zeros((1, 32), np.int32)
            inputs[0, 1 : 1 + len(ids)] = ids
            logits = _logits(
                setting.model,
                setting.params,
                batch.source_BxS[row : row + 1],
                inputs,
                batch.fused_source_BxSxF[row : row + 1],
                batch.fused_target_BxT[row : row + 1],
            )
            legal = np.asarray(logits[0, len(ids)])[setting.grammar.columns_C]
            ids.append(int(setting.grammar.columns_C[legal.argmax()]))
        finished = [tuple(ids)] if ids[-1] == 1 else []
        assert outputs_of(beams, row) == finished


def test_padding_and_neighbours_change_nothing():
    setting = Setting("sentinel_tag")
    together = setting.search(setting.batch(SENTENCES, rows=6, size=(32, 40)), WIDE)
    assert not np.asarray(together.valid_BxK[len(SENTENCES) :]).any()
    for row, sentence in enumerate(SENTENCES):
        alone = setting.search(setting.batch([sentence], rows=4, size=(24, 32)), WIDE)
        assert not np.asarray(alone.valid_BxK[1:]).any()
        assert outputs_of(alone, 0) == outputs_of(together, row)
        np.testing.assert_allclose(
            np.asarray(alone.scores_BxK[0]), np.asarray(together.scores_BxK[row]), atol=1e-4
        )


def test_slots_without_an_output_are_invalid_and_empty():
    setting = Setting()
    beams = setting.search(setting.batch(SENTENCES), WIDE)
    assert len(SENTENCES[2].words) == 1  # O, brand or color.
    assert np.asarray(beams.valid_BxK[2]).tolist() == [True] * 3 + [False] * (WIDE - 3)
    assert (np.asarray(beams.tokens_BxKxT[2, 3:]) == 0).all()


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_the_search_without_grammar_keeps_the_best_finished_outputs(penalty):
    setting = Setting(seed=3)
    batch = setting.batch(SENTENCES)
    beams = setting.search(batch, 4, use_grammar=False, length_penalty=penalty)
    for row in range(len(SENTENCES)):
        outputs = outputs_of(beams, row)
        lengths = np.array([len(ids) for ids in outputs])
        raw = np.asarray(beams.scores_BxK[row, : len(outputs)])
        assert (lengths <= batch.cap_B[row]).all()
        assert (np.diff(raw / lengths**penalty) <= 1e-6).all()


def test_one_program_per_batch_size_and_no_more():
    setting = Setting()
    generator = Generator(setting.model.config, setting.format, setting.grammar, k=3, layout=LAYOUT)
    for sentences in (SENTENCES[:2], SENTENCES[2:], SENTENCES[1:3]):
        generator(setting.params, setting.batch(sentences, rows=2))
    assert generator.search._cache_size() == 1
    generator(setting.params, setting.batch(SENTENCES[:2], rows=2, size=(32, 40)))
    assert generator.search._cache_size() == 2
