"""Peak of host memory while a checkpoint is loaded and placed, as a table.

    python benchmarks/load.py --folder=FOLDER [--sizes=large,xl] [--dtypes=float32,bfloat16]
        [--processes=1,2]

Writes a T5 v1.1 of each size with random weights into FOLDER, in shards of 2 GB, loads it in a
process of its own, or in several that split each parameter among them (mesh.fsdp), and removes it.
`parameters`: their size in float32, in which they are kept. `peak`: the most that a process had in
memory at once, Python and JAX included; `over start`: less what it had before it began to read. xl
takes 11 GB of disk, and 13 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SHARD = 2 << 30  # Bytes.


def write(folder: Path, size: str, dtype: str) -> None:
    """A checkpoint with random weights, as transformers shards it."""
    import ml_dtypes
    import numpy as np
    from flax.traverse_util import flatten_dict
    from safetensors.numpy import save_file

    from groot_jax.model.config import preset
    from groot_jax.model.param_tree import param_shapes
    from groot_jax.model.pretrained import torch_name

    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    config = preset(size, "v1_1", 32128)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    # One block over and over: to draw all of xl takes longer than to load it.
    block = np.random.default_rng(0).standard_normal(1 << 20, np.float32).astype(kind)
    weight_map: dict[str, str] = {}
    shard: dict[str, np.ndarray] = {}

    def flush() -> None:
        name = f"model-{len(set(weight_map.values())) + 1:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
        shard.clear()

    for key, leaf in flatten_dict(param_shapes(config)).items():
        shape = leaf.shape[::-1] if key[-1] == "kernel" else leaf.shape
        shard[torch_name(key)] = np.resize(block, shape)
        if sum(x.nbytes for x in shard.values()) > _SHARD:
            flush()
    flush()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def load(folder: Path) -> dict[str, float]:
    """Loads it onto this process's devices, its share if there are others. Bytes and seconds."""
    import jax
    from ml_collections import ConfigDict

    from configs.default import get_config
    from groot_jax.model.param_tree import param_shapes
    from groot_jax.model.pretrained import open_checkpoint
    from groot_jax.training.setup import device_setup, make_partitioning

    config: ConfigDict = get_config()
    hosts = device_setup(config)
    config.mesh.fsdp = jax.process_count()
    jax.block_until_ready(jax.numpy.zeros(1))
    before, start = _peak(), time.perf_counter()
    checkpoint = open_checkpoint(folder)
    partitioning = make_partitioning(config, checkpoint.config)
    params = jax.block_until_ready(checkpoint.params(None, partitioning.params))
    seconds = time.perf_counter() - start
    count = sum(math.prod(s.shape) for s in jax.tree.leaves(param_shapes(checkpoint.config)))
    assert count == sum(x.size for x in jax.tree.leaves(params))
    found = {"bytes": 4 * count, "before": before, "peak": _peak(), "seconds": seconds}
    hosts.close()
    return found


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _child(*flags: str, processes: int = 1) -> str:
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(Path(__file__).resolve()), *flags]
    if processes > 1:
        launcher = [sys.executable, str(ROOT / "launch" / "local.py"), f"--processes={processes}"]
        command = [*launcher, "--", *command]
    return subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE
    ).stdout.decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sizes", default="large,xl")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--write", metavar="SIZE,DTYPE", help=argparse.SUPPRESS)
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        write(args.folder, *args.write.split(","))
        return
    if args.load:
        print(json.dumps(load(args.folder)))
        return
    print("| size | weights | processes | parameters | peak | peak / parameters | over start | s |")
    print("|---|---|---|---|---|---|---|---|")
    for size in args.sizes.split(","):
        for dtype in args.dtypes.split(","):
            folder = args.folder / f"{size}-{dtype}"
            try:
                # In a process of its own, too: memory that was freed counts for the peak.
                _child(f"--folder={folder}", f"--write={size},{dtype}")
                for processes in map(int, args.processes.split(",")):
                    print(
                        f"| {size} | {dtype} | {processes} | {_row(folder, processes)} |",
                        flush=True,
                    )
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def _row(folder: Path, processes: int) -> str:
    """Gigabytes, shares and seconds of the process that took the most."""
    lines = _child(f"--folder={folder}", "--load", processes=processes).splitlines()
    # A line of several processes begins with the number of its own: `[1] {...`.
    found = [json.loads(line[line.index("{") :]) for line in lines if "{" in line]
    assert len(found) == processes
    most = max(found, key=lambda one: one["peak"])
    whole, peak = most["bytes"], most["peak"]
    over = (peak - most["before"]) / whole
    return (
        f"{whole / 1e9:.2f} GB | {peak / 1e9:.2f} GB | {peak / whole:.3f} | {over:.3f} | "
        f"{most['seconds']:.0f}"
    )


if __name__ == "__main__":
    main()
