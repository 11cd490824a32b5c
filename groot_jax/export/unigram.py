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

_ADDED = {"normalized": False, "special": True}


def fast_tokenizer(model: Path, sentinels: Sequence[int]) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of a `spiece.model`, and what tokenizer_config.json says of it.

    `sentinels`: the id of `<extra_id_i>` at place i, on top of the model or a piece of its own, as
    mT5's are. Raises UserError for a SentencePiece model of another kind than
    unigram, T5's.
    """
    messages: Any = sentencepiece_model_pb2  # Its classes are made at import, and have no types.
    proto = messages.ModelProto.FromString(model.read_bytes())
    spec, trainer = proto.normalizer_spec, proto.trainer_spec
    if trainer.model_type != trainer.UNIGRAM:
        raise UserError(f"{model}: is no unigram model, T5's kind, and cannot be exported")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(Unigram(pieces, trainer.unk_id, trainer.byte_fallback))
    changes: list[Any] = []
    if spec.precompiled_charsmap:
        changes.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        # Of spaces alone: what else counts as one has become one, or is a letter (U+0085).
        changes += [normalizers.Replace(Regex("^ +| +$"), "")]
        changes += [normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(changes)
    scheme = "always" if spec.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    pad, eos, unk = (pieces[id_][0] for id_ in (trainer.pad_id, trainer.eos_id, trainer.unk_id))
    # T5's lie on top of the model in descending order, and ids are given in the order of adding.
    on_top = {id_: f"<extra_id_{i}>" for i, id_ in enumerate(sentinels) if id_ >= len(pieces)}
    names = [pad, eos, unk, *(on_top[id_] for id_ in sorted(on_top))]
    tokenizer.add_special_tokens([AddedToken(name, **_ADDED) for name in names])
    for id_, name in on_top.items():
        if tokenizer.token_to_id(name) != id_:
            raise UserError(f"{model}: {name} has id {id_}, which tokenizer.json cannot say")
    tokenizer.post_processor = TemplateProcessing(
        single=f"$A {eos}", pair=f"$A {eos} $B {eos}", special_tokens=[(eos, trainer.eos_id)]
    )
    settings = {
        # With this class transformers 4.57 and 5 both take tokenizer.json as it is, where
        # `T5Tokenizer` would make it anew.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "eos_token": eos,
        "unk_token": unk,
        "additional_special_tokens": [*on_top.values()],
        "extra_ids": len(on_top),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 30,
    }
    return tokenizer, settings
