"""Export job: a checkpoint as a folder for transformers, Flax, CTranslate2 or plain JAX.

    python -m groot_jax.export --workdir=W --out=DIR --format=transformers
        [--checkpoint=STEP|best|latest] [--system=NAME] [--quantization=int8]

Writes DIR, whole or not at all. docs/export.md tells what each format can and cannot say.
"""

from __future__ import annotations

from groot_jax.errors import prepare_job

if __name__ == "__main__":
    prepare_job()  # Ahead of the imports below, which take seconds.

from pathlib import Path

import jax

from groot_jax import config as configs
from groot_jax.errors import UserError, exit_on_user_error
from groot_jax.export.card import model_card, notes
from groot_jax.export.programs import write_stablehlo
from groot_jax.export.translator import QUANTIZATIONS, write_ctranslate2
from groot_jax.export.weights import write_flax, write_transformers
from groot_jax.export.words import FACTS_FILE, facts_of, write_facts, write_tokenizer
from groot_jax.runtime.files import expanded, whole_folder
from groot_jax.trained import Trained, load_trained
from groot_jax.training.setup import device_setup

FORMATS = ("transformers", "flax", "ctranslate2", "stablehlo")
# Text formats that a plain encoder-decoder can be given: ids in, ids out, nothing added to either.
_PLAIN = ("sentinel_tag", "tag_only", "input_tag")


def main(argv: list[str] | None = None) -> None:
    """Runs the job. Raises UserError for what the user can mend."""
    parser = configs.job_parser("groot_jax.export", "Write a labeler for others to serve.")
    parser.add_argument(
        "--out",
        required=True,
        type=lambda text: expanded(text, "--out"),
        metavar="FOLDER",
        help="the folder to write; an export that is there is replaced",
    )
    parser.add_argument("--format", required=True, choices=FORMATS, help="for whom it is")
    parser.add_argument("--checkpoint", default="best", metavar="STEP|best|latest")
    parser.add_argument("--system", help="groot, nll, ...; without: the last one trained")
    parser.add_argument(
        "--quantization", choices=QUANTIZATIONS, help="of --format=ctranslate2; without: float32"
    )
    args = configs.parse_job(parser, argv)
    if args.quantization and args.format != "ctranslate2":
        raise UserError(
            f"--quantization={args.quantization} is for --format=ctranslate2: leave it out"
        )
    out = args.out.resolve()
    check_out(out, args.workdir)
    hosts = device_setup(args.config)
    if jax.process_count() > 1:
        raise UserError("groot_jax.export runs in one process: start it once, without a launcher")
    trained = load_trained(args.workdir, args.config, args.system, args.checkpoint)
    export(trained, out, args.format, args.quantization or "float32")
    print(
        f"{out} holds step {trained.step} of {trained.system}; try it:\n"
        f'  echo "black levi jeans" | python {out / "labeling.py"}'
    )
    for note in notes(trained):
        print(f"note: {note}")
    hosts.close()


def check_out(out: Path, workdir: Path) -> None:
    """Raises UserError where `out` is no place for an export: a file, the work directory or above
    it, or a folder that holds something else."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file: name a folder")
    if workdir.resolve().is_relative_to(out.resolve()):
        raise UserError(f"--out={out} holds the work directory {workdir}: name another folder")
    if out.is_dir() and any(out.iterdir()) and not (out / FACTS_FILE).exists():
        raise UserError(
            f"--out={out} holds other files and no {FACTS_FILE} of an earlier export, and would be "
            "replaced: name a new or empty folder"
        )


def export(trained: Trained, out: Path, kind: str, quantization: str = "float32") -> None:
    """Writes the folder, whole or not at all. `kind`: of `FORMATS`.

    Raises UserError where the labeler's text format is beyond that kind, and where something cannot
    be written.
    """
    task = trained.task
    if kind != "stablehlo" and task.format.name not in _PLAIN:
        raise UserError(
            f"--format={kind}: a labeler of text.format={task.format.name} adds embeddings to "
            f"those of its tokens, which {kind} cannot say; export it with --format=stablehlo, or "
            "train one with --config.text.format=sentinel_tag"
        )
    if not task.config.generate.grammar:
        raise UserError(
            "config.generate.grammar is false, and labeling.py writes well-formed labelings alone: "
            "add --config.generate.grammar=true"
        )
    with whole_folder(out, "--out") as draft:
        write_tokenizer(task.format.tokenizer, draft)
        facts = facts_of(trained, draft)
        if kind == "stablehlo":
            write_stablehlo(trained, draft)
        elif kind == "ctranslate2":
            write_ctranslate2(trained, facts, draft, quantization)
        else:
            if kind == "flax":  # First, since it has no UMT5.
                write_flax(trained, draft)
            write_transformers(trained, draft)
        write_facts(draft, facts, "transformers" if kind == "flax" else kind)
        (draft / "README.md").write_text(model_card(trained, kind), encoding="utf-8")


if __name__ == "__main__":
    exit_on_user_error(main)
