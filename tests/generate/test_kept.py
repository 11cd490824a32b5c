"""Searches that an earlier process has traced: found on disk with the same answers, or not kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.export import _export
from jax.experimental.compilation_cache import compilation_cache

from groot_jax.generate import beam_search, generator
from groot_jax.generate import kept as kept_search
from groot_jax.generate.generator import Generator
from groot_jax.generate.kept import kept
from tests.generate.test_beam_search import LAYOUT, SENTENCES, Setting


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


class Traced:
    """x + amount, which counts how often it is traced."""

    def __init__(self, amount: float) -> None:
        self.count = 0

        def add(x: jax.Array, rest: dict[str, Any], none: None) -> tuple[jax.Array, jax.Array]:
            self.count += 1
            return x + amount, rest["y"] * 2

        self.function = jax.jit(add)


ARGS = (jnp.ones(3), {"y": jnp.ones((2, 2))}, None)


def answer(traced: Traced, facts: object) -> float:
    x, y = kept(traced.function, ARGS, facts)(*ARGS)
    assert (y == 2).all()
    return float(x[0])


def test_what_was_traced_is_found_by_all_its_facts(folder: Path) -> None:
    first, second, third = Traced(1.0), Traced(1.0), Traced(2.0)
    assert answer(first, ("a", 1)) == 2.0 and first.count == 1
    assert answer(second, ("a", 1)) == 2.0 and second.count == 0
    assert answer(third, ("a", 2)) == 3.0 and third.count == 1
    # Arrays of another shape are another program.
    x, _ = kept(second.function, (jnp.ones(4), *ARGS[1:]), ("a", 1))(jnp.ones(4), *ARGS[1:])
    assert x.shape == (4,) and second.count == 1
    assert len([*(folder / "searches").iterdir()]) == 3


def test_jax_does_not_get_ready_for_lapack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a search, and as always for what others export."""
    asked: list[object] = []
    monkeypatch.setattr(_export, "_ensure_backends_initialized", asked.append)
    assert answer(Traced(1.0), "a") == 2.0 and not asked
    jax.jit(jax.export.export(jax.jit(jnp.sin))(ARGS[0]).call)(ARGS[0])
    assert len(asked) == 1


def test_a_damaged_file_is_written_anew_and_none_where_none_can_be(folder: Path) -> None:
    assert answer(Traced(1.0), "a") == 2.0
    (file,) = (folder / "searches").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:1000], b"x" * 3000):
        file.write_bytes(damaged)
        again = Traced(1.0)
        assert answer(again, "a") == 2.0 and again.count == 1
        assert [*(folder / "searches").iterdir()] == [file]
    (folder / "file").write_text("")
    jax.config.update("jax_compilation_cache_dir", str(folder / "file"))
    assert answer(Traced(1.0), "a") == 2.0
    for none in (None, "gs://bucket/cache"):
        jax.config.update("jax_compilation_cache_dir", none)
        function = Traced(1.0).function
        assert kept(function, ARGS, "a") is function


def test_one_sentence_is_searched_soon_with_the_same_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, batches = Setting(), [Setting().batch(SENTENCES[:n]) for n in (1, 2)]
    given = (setting.model.config, setting.format, setting.grammar)
    asked: list[bool] = []

    def watched(*args: Any) -> Any:
        asked.append(args[3])
        return kept(*args)

    monkeypatch.setattr(generator, "kept", watched)
    hurry = kept_search._HURRIED
    for options in (hurry, {"xla_no_such_option": 1}):
        monkeypatch.setattr(kept_search, "_HURRIED", options)
        hurried = Generator(*given, k=3, layout=LAYOUT, keep=True, hurried=True)
        for batch in batches if options is hurry else batches[:1]:
            plain, soon = setting.search(batch, 3), hurried(setting.params, batch)
            np.testing.assert_array_equal(plain.tokens_BxKxT, soon.tokens_BxKxT)
            np.testing.assert_allclose(plain.scores_BxK, soon.scores_BxK, rtol=1e-6)
            assert hurried(setting.params, batch).scores_BxK[0, 0] == soon.scores_BxK[0, 0]
    assert asked == [True, False, True]


def test_a_search_from_disk_has_the_same_bits_and_traces_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = Setting()
    batch = setting.batch(SENTENCES[:2])
    given = (setting.model.config, setting.format, setting.grammar)
    plain = setting.search(batch, 3)
    for turn in ("traced", "found"):
        beams = Generator(*given, k=3, layout=LAYOUT, keep=True)(setting.params, batch)
        for theirs, ours in zip(plain, beams, strict=True):
            np.testing.assert_array_equal(theirs, ours, err_msg=turn)

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("traced")

        monkeypatch.setattr(beam_search, "beam_search", refuse)
    # Whatever else a search is made of makes it another one.
    for options in ({"k": 4}, {"k": 3, "use_grammar": False}, {"k": 3, "length_penalty": 1.0}):
        with pytest.raises(AssertionError, match="traced"):
            Generator(*given, **options, layout=LAYOUT, keep=True)(setting.params, batch)
