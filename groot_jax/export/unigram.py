"""A SentencePiece model as the tokenizer.json of `tokenizers`: the same pieces for a word.

transformers has such a conversion of its own, another one in each of its versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import Unigram
from tokenizers.processors import TemplateProcessing

from groot_jax.errors import UserError

# The score of pad, EOS and unknown as pieces: far below any log probability, and not so far that
# sums with it lose digits.
_NEVER = -1e5
_NOBODYS = "\ue000"  # For private use in Unicode.
_ADDED = {"normalized": False, "special": True}


def fast_tokenizer(model: Path, sentinels: Sequence[int]) -> Tokenizer:
    """The tokenizer of a `spiece.model`, with `<extra_id_i>` as id `sentinels[i]`.

    Raises UserError for a SentencePiece model of another kind than unigram, T5's.
    """
    messages: Any = sentencepiece_model_pb2  # Its classes are made at import, and have no types.
    proto = messages.ModelProto.FromString(model.read_bytes())
    spec, trainer = proto.normalizer_spec, proto.trainer_spec
    if trainer.model_type != trainer.UNIGRAM:
        raise UserError(f"{model}: is no unigram model, T5's kind, and cannot be exported")
    special = [trainer.pad_id, trainer.eos_id, trainer.unk_id]
    pieces = [(p.piece, _NEVER if i in special else p.score) for i, p in enumerate(proto.pieces)]
    tokenizer = Tokenizer(Unigram(pieces, trainer.unk_id, trainer.byte_fallback))
    changes: list[Any] = []
    if spec.precompiled_charsmap:
        changes.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        # Of spaces alone: what else counts as one has become one, or is a letter (U+0085).
        changes += [normalizers.Replace(Regex("^ +| +$"), "")]
        changes += [normalizers.Replace(Regex(" {2,}"), " ")]
    special_names = [proto.pieces[id_].piece for id_ in special]
    changes += _spelled_out(special_names, {piece for piece, _ in pieces})
    tokenizer.normalizer = normalizers.Sequence(changes)
    scheme = "always" if spec.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    # T5's lie on top of the model in descending order, and ids are given in the order of adding.
    by_id = sorted((id_, f"<extra_id_{i}>") for i, id_ in enumerate(sentinels))
    names = [*special_names, *(name for _, name in by_id)]
    tokenizer.add_special_tokens([AddedToken(name, **_ADDED) for name in names])
    for id_, name in by_id:
        if tokenizer.token_to_id(name) != id_:
            raise UserError(f"{model}: {name} has id {id_}, which tokenizer.json cannot say")
    eos = special_names[1]
    tokenizer.post_processor = TemplateProcessing(
        single=f"$A {eos}", pair=f"$A {eos} $B {eos}", special_tokens=[(eos, trainer.eos_id)]
    )
    return tokenizer


def _spelled_out(names: Sequence[str], pieces: set[str]) -> list[Any]:
    """What keeps a text `</s>` from becoming the piece of that name, where a letter of it is no
    piece (T5 has no `<`): an unknown letter costs more than the piece would.

    A letter that nobody knows goes behind the unknown one, and both are one unknown piece.
    """
    changes: list[Any] = []
    for name in names:
        at = next((i for i, letter in enumerate(name) if letter not in pieces), None)
        if at is not None:
            text = f"{name[: at + 1]}{_NOBODYS}{name[at + 1 :]}"
            changes.append(normalizers.Replace(name, text))
    return changes


def tokenizer_settings(num_sentinels: int) -> dict[str, Any]:
    """tokenizer_config.json: with this class transformers 4.57 and 5 both take tokenizer.json as it
    is, where `T5Tokenizer` would make it anew."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "additional_special_tokens": [f"<extra_id_{i}>" for i in range(num_sentinels)],
        "extra_ids": num_sentinels,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 30,
    }
