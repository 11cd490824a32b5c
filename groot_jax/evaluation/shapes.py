"""What the files of training and of evaluations hold, as shapes that they are checked against when
they are read back (see runtime/json_files.py). What earlier versions did not write may be absent.
"""

from __future__ import annotations

from typing import Any

from groot_jax.evaluation.decisions import RULES
from groot_jax.runtime.json_files import finite, number, or_none, whole

# How a checkpoint was asked for, the preferred last.
KINDS = ("step", "latest", "best")


def share(value: object) -> bool:
    """Whether a value is a number between 0 and 1."""
    return finite(value) and 0 <= value <= 1  # type: ignore[operator]


def above_0(value: object) -> bool:
    """Whether a value is a finite number above 0."""
    return finite(value) and value > 0  # type: ignore[operator]


def all_finite(value: object) -> bool:
    """Whether all numbers in a value are finite, as they have to be where it is written again."""
    if isinstance(value, dict | list):
        return all(map(all_finite, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, str | bool) or finite(value)


_FIGURE = or_none(finite)
_SPANS = [(whole, whole, str)]
_SAMPLE = {"index": whole, "words": [str], "gold": _SPANS}

# A line of W/metrics.jsonl; of W/samples.jsonl; of W/jobs.jsonl, see runtime/machine.py.
METRICS = {"system": str, "split": str, "step": whole, "seconds?": finite, str: or_none(number)}
SAMPLES = {
    "system": str,
    "step": whole,
    "sentences": [_SAMPLE | {"candidates": [{"spans": _SPANS, "reward": finite}]}],
}
JOB = {
    **dict.fromkeys(("job", "started", "command", "host", "cpu", "devices", "python"), str),
    **dict.fromkeys(("cores", "processes"), whole),
    "versions": {"groot_jax": str, "jax": str, str: str},
}

# A file of W/decisions.
TUNING = {
    "temperature": above_0,
    "threshold": share,
    "rule?": {*RULES},
    "curve?": [(share, share)],
    "k?": whole,
    "reward": str,
}

# A file of W/eval.
_FIGURES = ("reward@1", "mean_reward@10", "max_reward@10")
_BINS = [(whole, finite, finite)]
_SUMMARY: dict[str, Any] = {
    **{f"{key}?": _FIGURE for key in (*_FIGURES, "span_precision", "span_recall", "span_f1")},
    **{f"{key}?": _FIGURE for key in ("exact_match", "malformed@10", "distinct", "kendall_tau")},
    "reward@1": _FIGURE,
    "reward_by_rank?": [_FIGURE],
    "rewards?": {str: {f"{key}?": _FIGURE for key in _FIGURES}},
    "by_type?": {
        str: {
            **dict.fromkeys(("precision", "recall", "f1"), finite),
            **dict.fromkeys(("gold", "predicted"), whole),
        }
    },
    "confusion?": {
        "types": [str],
        "cells": [(or_none(str), or_none(str), whole, whole)],
        "bounds": {str: {str: whole}},
    },
    "calibration?": {
        "temperature": above_0,
        **dict.fromkeys(("error", "error_at_1"), _FIGURE),
        **dict.fromkeys(("bins", "bins_at_1"), _BINS),
    },
    "dev_chose?": {*RULES},
    "digest?": str,
}
RECORD = {
    **dict.fromkeys(("system", "split", "reward"), str),
    "decide": {*RULES},
    "checkpoint": {*KINDS},
    **dict.fromkeys(("step", "num_sentences"), whole),
    "seconds": finite,
    "metrics": _SUMMARY,
    "per_sentence": {str: [finite]},
    "samples": [
        _SAMPLE
        | {
            "candidates": [
                {
                    "spans": _SPANS,
                    "reward": finite,
                    **dict.fromkeys(("score", "probability"), _FIGURE),
                    "well_formed": bool,
                }
            ],
            "corrections": [(_SPANS, finite)],
            "consensus?": [(_SPANS, finite, finite)],
        }
    ],
}
