"""The console command, what `--help` explains, and completion in a real Bash."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from groot_jax import __version__, command, completion
from groot_jax.config import default_config, job_parser, parse_job
from groot_jax.config.explaining import all_keys, comments, explained
from groot_jax.config.keys import flatten
from groot_jax.config.loading import built_in_configs
from groot_jax.errors import UserError


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    parser = job_parser("groot_jax.train", "Trains.", config_file=True)
    with pytest.raises(SystemExit) as ended:
        parse_job(parser, argv)
    assert not ended.value.code
    return capsys.readouterr().out


# ---- --help and --version ---------------------------------------------------------------------


def test_every_key_has_a_comment_that_help_shows() -> None:
    shown = all_keys().split("  --config.")
    assert [e.split("\n")[0] for e in shown if not e.split("\n")[1:]] == []
    told = comments()
    without = [k for k in flatten(default_config()) if not told.get(k)]
    assert [key for key in without if not key.startswith("variants.")] == []
    # In the order of the file, which comments such as "the same for ..." rely on.
    keys = [entry.partition("=")[0] for entry in shown[1:]]
    assert keys.index("data.word_column") + 1 == keys.index("data.tag_column")


def test_help_of_a_key_is_its_comment_above_and_behind_the_value() -> None:
    assert explained("groot.tau") == (
        "  --config.groot.tau=0.3\n"
        "      Temperature: the target is s_i - s_j = (R_i - R_j) / tau.\n"
    )
    assert (
        explained("--config.groot.tau") == explained("config.groot.tau") == explained("groot.tau")
    )
    # Some stand above it, some behind, some in both places.
    assert "How many a beam" not in explained("generate.k") and "Beams" in explained("generate.k")
    assert "auto | columns | seq" in explained("data.reader")
    whole = " ".join(explained("loader.padding").split())
    assert whole == "--config.loader.padding=0.13 See above."


def test_help_of_a_section_has_its_own_comment_and_all_its_keys() -> None:
    text = explained("groot.pool")
    assert [f"--config.groot.pool.{k}=" in text for k in ("size", "gold", "beams")] == [True] * 3
    assert "groot.tau" not in text
    assert explained("nll").startswith(
        "Stage 0: maximum likelihood of gold.\n  --config.nll.enabled"
    )


def test_help_of_what_is_no_key_names_what_is_near() -> None:
    with pytest.raises(UserError, match=r"--help=groot\.tua.*near: groot\.tau"):
        explained("groot.tua")
    with pytest.raises(UserError, match="near: groot"):
        explained("grot")


def test_help_lists_the_built_in_configs_and_takes_a_key(capsys) -> None:
    text = printed(capsys, "--help")
    assert {*built_in_configs()} - {"default"} <= {*text.split()}
    assert "the built-in corpus of generated" in " ".join(text.lower().split())
    assert printed(capsys, "--help=groot.tau", "--workdir") == explained("groot.tau")


def test_a_config_that_is_near_nothing_gets_the_list() -> None:
    parser = job_parser("groot_jax.train", "Trains.", config_file=True)
    with pytest.raises(UserError, match="near: retail"):
        parse_job(parser, ["--config=retial", "--workdir=w"])
    with pytest.raises(UserError, match=r"built in are atis, .*retail"):
        parse_job(parser, ["--config=xyzzy", "--workdir=w"])


def test_every_job_and_the_command_say_which_version_they_are(capsys, monkeypatch) -> None:
    text = printed(capsys, "--version")
    assert text.startswith(f"groot_jax {__version__}, jax ") and "Python 3." in text
    monkeypatch.setattr(sys, "argv", ["groot", "--version"])
    command.main()
    assert capsys.readouterr().out == text


# ---- Completion -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "groot.bash"
    path.write_text(completion.script(command.JOBS), encoding="utf-8")
    return path


def completed(script: Path, line: str) -> list[str]:
    """What Tab offers at the end of a line, in a Bash."""
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    code = 'source "$1"; COMP_LINE=$2; COMP_POINT=${#2}; _groot; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-c", code, "bash", str(script), line], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return [word for word in done.stdout.split("\n") if word]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("groot ev", ["evaluate"]),
        ("groot  pre", ["predict", "preflight", "pretrain"]),
        ("groot --v", ["--version"]),
        ("groot evaluate --spl", ["--split=", "--split=test", "--split=dev"]),
        # What follows = is a word of its own to Bash.
        ("groot evaluate --workdir=w --split=", ["test", "dev"]),
        ("groot train --config=ret", ["retail"]),
        ("groot train --config.groot.ta", ["--config.groot.tau="]),
        ("groot train --config.model.pre", [
            "--config.model.preset=",
            *(f"--config.model.preset={size}" for size in
              ("pico", "nano", "mini", "small", "base", "large", "xl", "xxl")),
        ]),
        ("groot predict --decide=c", ["consensus"]),
        ("groot export --format=c", ["ctranslate2"]),
        ("groot report --config.gro", []),
        # Left to Bash, which knows files.
        ("groot train --workdir=", []),
        ("groot train --workdir=/tm", []),
        ("groot no_such --", []),
    ],
)  # fmt: skip
def test_tab_offers_jobs_flags_choices_and_keys(
    script: Path, line: str, offered: list[str]
) -> None:
    assert completed(script, line) == offered


def test_the_script_is_for_all_jobs_and_names_what_each_takes(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert all(f"        {job}) choices='--help" in text for job in command.JOBS)
    assert completed(script, "groot predict -") != completed(script, "groot evaluate -")
