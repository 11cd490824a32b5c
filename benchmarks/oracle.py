"""How many candidates a second one core parses, corrects, scores and ranks into pools.

    python benchmarks/oracle.py [--json]

Sentences are those of the built-in corpus; candidates are random edits of gold, ten a sentence, as
ids. Each line is a part of the host's share of a GROOT step, in the median of alternated rounds:
  read      ids to labelings
  score     pools: corrections, rewards, ranking
  encode    pools to the arrays of an update: ids, token trees, bins
with microseconds a candidate of the beam and candidates a second; `together` is the rate of all
three, one after the other, on one core.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable

import numpy as np

from groot_jax.contrast.packing import EDGES, plan_bins, round_up
from groot_jax.contrast.tree import build_tree, plant
from groot_jax.data.formats import make_format
from groot_jax.data.labeling import Candidate, Labeling, Sentence, labeling_of_word_tags, word_tags
from groot_jax.data.retail.queries import make_retail
from groot_jax.data.tokenizer import train_tokenizer
from groot_jax.reward.pool import Pool, PoolSettings, ScoringTask, build_pools
from groot_jax.reward.rewards import RewardSpec, make_reward

SENTENCES, BEAMS, ROUNDS, BATCH = 256, 10, 7, 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    as_json = parser.parse_args().json
    sentences = make_retail(0)["train"][:SENTENCES]
    types = sorted({span.type for sentence in sentences for span in sentence.labeling})
    format_ = make_format("fused_sentinel", train_tokenizer(sentences, types, 2000), types)
    rng = random.Random(0)
    beams = [
        [format_.target(edit(s, types, rng), s.words) for _ in range(BEAMS)] for s in sentences
    ]
    reward = make_reward(RewardSpec("f1"))
    settings = PoolSettings()
    # Trees are packed beside their sources; what a source holds does not matter here.
    buckets = (64, 128, 256, 512)
    sources_BxS = np.ones((BATCH, 24), np.int32)

    def read() -> list[list[Candidate]]:
        # A beam comes with scores; here candidate k has -k, which keeps the order of the list.
        return [
            [
                Candidate(*format_.read(ids, s.words)[:1], -float(k), True, k)
                for k, ids in enumerate(beam)
            ]
            for s, beam in zip(sentences, beams, strict=True)
        ]

    candidates = read()

    def score() -> list[Pool]:
        tasks = [
            ScoringTask(s.words, s.labeling, found, i)
            for i, (s, found) in enumerate(zip(sentences, candidates, strict=True))
        ]
        return build_pools(
            tasks, lambda triples, _: [reward(*triple) for triple in triples], settings, 0.1, 0
        )

    pools = score()

    def encode() -> None:
        targets = [
            [format_.target(entry.labeling, s.words) for entry in pool]
            for s, pool in zip(sentences, pools, strict=True)
        ]
        for at in range(0, SENTENCES, BATCH):
            # Pools of 16 sentences -> their trees -> which row of which bin each lies in -> arrays.
            trees = [build_tree(pool, 0) for pool in targets[at : at + BATCH]]
            nodes = [len(tree.tokens) for tree in trees]
            T = max(len(ids) for pool in targets[at : at + BATCH] for ids in pool)
            plan = plan_bins(nodes, sources_BxS.sum(1).tolist(), buckets, T)
            edges = round_up(max(len(tree.edge_labels) for tree in trees), EDGES)
            plant(trees, plan, sources_BxS, sources_BxS, settings.size, edges)

    parts: dict[str, Callable[[], object]] = {"read": read, "score": score, "encode": encode}
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(ROUNDS):
        for name, part in parts.items():
            begun = time.perf_counter()
            part()
            times[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in times.items()}
    count = SENTENCES * BEAMS
    for name, seconds in medians.items():
        print(f"{name:<8} {1e6 * seconds / count:7.1f} us each  {count / seconds:9.0f} a second")
    total = count / sum(medians.values())
    print(f"together {total:9.0f} candidates a second on one core")
    if as_json:
        rates = {name: count / seconds for name, seconds in medians.items()}
        print(json.dumps({"candidates_per_second": total, "parts": rates}))


def edit(sentence: Sentence, types: list[str], rng: random.Random) -> Labeling:
    """Gold with one to three of its word tags replaced at random."""
    tags = word_tags(sentence.labeling, len(sentence.words))
    for _ in range(rng.randrange(1, 4)):
        tags[rng.randrange(len(tags))] = rng.choice(["O", "I", *types])
    return labeling_of_word_tags(tags)[0]


if __name__ == "__main__":
    main()
