from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from groot_jax import evaluate
from groot_jax.config import (
    checks,
    claim_workdir,
    default_config,
    dump,
    job_parser,
    load,
    load_dumped,
    make_workdir,
    parse_job,
    variant,
)
from groot_jax.config.checks import validate
from groot_jax.config.keys import flatten
from groot_jax.errors import UserError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
RETAIL = str(CONFIGS / "retail.py")


def with_override(key: str, text: str, base: str = RETAIL) -> ConfigDict:
    return load(base, [(key, text)])


def message(*overrides: tuple[str, str], base: str = RETAIL) -> str:
    with pytest.raises(UserError) as caught:
        load(base, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def config_file(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(
        "from configs.default import get_config as default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.data.reader = 'retail'\n"
        f"    {body}\n"
        "    return config\n"
    )
    return str(path)


# ---- configs/ ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_config_file_loads_and_is_valid(path: Path) -> None:
    if path.stem == "default":
        load(str(path), [("data.reader", "retail")])
    elif path.stem == "pretrain":
        assert load(f"{path}:text=a.txt").pretrain.text == ("a.txt",)
        with pytest.raises(UserError, match="config.data.train is empty"):
            load(str(path))  # Names neither text nor labels.
    elif path.stem == "columns" or "t5_" in path.stem:
        config = load(f"{path}:train=a.txt,test=b.txt")
        assert (config.data.train, config.data.dev, config.data.test) == ("a.txt", "", "b.txt")
    else:
        load(str(path))


def test_every_default_has_a_type_that_the_command_line_can_set() -> None:
    for key, value in flatten(default_config()).items():
        assert type(value) in (bool, int, float, str, tuple) or value == {}, key


def test_every_checked_key_exists() -> None:
    known = flatten(default_config())
    assert [k for k in [*checks.CHOICES, *checks._RANGES] if k not in known] == []


def test_every_number_has_a_range() -> None:
    unchecked = [
        key
        for key, value in flatten(default_config()).items()
        if type(value) in (int, float)
        and key not in checks._RANGES
        and not key.startswith(("groot.loss.", "variants."))
    ]
    assert unchecked == []


def test_config_files_load_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(RETAIL).data.reader == "retail"
    assert load(config_file(tmp_path, "config.seed = 7")).seed == 7


@pytest.mark.parametrize(
    "steps", ["10", "20:10", "10:10", "-1:5", "a:b", "1:2:3", ":", "1:", "²:3"]
)
def test_updates_to_trace_are_two_numbers_in_order(steps: str) -> None:
    assert "config.profile.steps" in message(("profile.steps", steps))
    assert with_override("profile.steps", "0:20").profile.steps == "0:20"


@pytest.mark.parametrize(
    ("key", "text", "named"),
    [
        ("data.scheme", "train=bio,dev=bio, train=iob1", "names train twice"),
        ("mesh.rules.batch", "data,fsdp,data", "each once"),
        ("systems", "groot,groot", "names a system twice"),
    ],
)
def test_what_is_said_twice_is_not_taken_in_silence(key: str, text: str, named: str) -> None:
    said = message((key, text), base=f"{CONFIGS / 'columns.py'}:train=a.txt")
    assert named in said and f"config.{key}" in said
    with pytest.raises(UserError, match="train= is given twice"):
        load(f"{CONFIGS / 'columns.py'}:train=a.txt,test=b.txt,train=c.txt")


def test_metrics_go_only_where_something_is_known() -> None:
    assert "config.report_to is 'tensorbord'" in message(("report_to", "wandb,tensorbord"))
    assert with_override("report_to", "").report_to == ()


# ---- Overrides --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("groot.tau", "1e-1", 0.1),
        ("groot.epochs", "3", 3.0),
        ("generate.k", "7", 7),
        ("text.vocab_size", "1e3", 1000),
        ("mesh.data", "-1", -1),
        ("generate.grammar", "false", False),
        ("generate.grammar", "True", True),
        ("compilation_cache", "a=b,c", "a=b,c"),
        ("data.dir", "", ""),
        ("systems", "groot", ("groot",)),
        ("systems", "('groot', \"risk\")", ("groot", "risk")),
        ("systems", "groot,risk,", ("groot", "risk")),
        ("systems", "()", ()),
        ("loader.source_buckets", "(8,16)", (8, 16)),
        ("loader.source_buckets", "8, 1e2", (8, 100)),
    ],
)
def test_an_override_takes_the_type_of_its_key(key: str, text: str, value: object) -> None:
    result = flatten(with_override(key, text))[key]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "parts"),
    [
        ("generate.k", "1.5", ("generate.k", "whole number", "'1.5'")),
        ("generate.k", "ten", ("generate.k", "whole number", "'ten'")),
        ("generate.k", "inf", ("generate.k", "whole number", "'inf'")),
        ("groot.tau", "hot", ("groot.tau", "a number", "'hot'")),
        ("groot.tau", "nan", ("groot.tau", "finite")),
        ("generate.grammar", "maybe", ("generate.grammar", "true or false", "'maybe'")),
        ("loader.source_buckets", "8,x", ("loader.source_buckets", "whole number", "'x'")),
        ("generate", "5", ("generate is a section", "--config.generate.k")),
        ("variants.risk", "5", ("variants.risk is a section",)),
        ("groot.tua", "1", ("groot.tua", "no such key", "groot.tau")),
        ("grot.tau", "1", ("grot.tau", "no such key", "groot.tau")),
        ("tau", "1", ("no such key", "groot.tau")),
        ("groot.tau.x", "1", ("groot.tau.x", "no such key")),
        ("variants.cold.tua", "1", ("variants.cold.tua", "no such key")),
    ],
)
def test_a_wrong_override_names_its_key_and_what_it_takes(
    key: str, text: str, parts: tuple[str, ...]
) -> None:
    answer = message((key, text))
    for part in parts:
        assert part in answer


def test_the_last_of_two_overrides_wins() -> None:
    assert load(RETAIL, [("seed", "1"), ("seed", "2")]).seed == 2


def test_a_loaded_config_takes_no_new_keys() -> None:
    with pytest.raises(AttributeError):
        load(RETAIL).groot.tua = 1.0


# ---- The command line -------------------------------------------------------------------------


def test_flags_of_the_job_stand_beside_config_and_overrides() -> None:
    parser = job_parser("groot_jax.train", "Trains.", config_file=True)
    parser.add_argument("-k", type=int, default=1)
    parser.add_argument("text", nargs="?")
    args = parse_job(
        parser,
        f"--config={RETAIL} --config.groot.tau 0.5 --workdir=w -k 5 --config.seed=3 -".split(),
    )
    assert (args.config.groot.tau, args.config.seed) == (0.5, 3)
    assert (args.workdir, args.k, args.text) == (Path("w"), 5, "-")


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ("--workdir=w", "--config"),
        (f"--config={RETAIL}", "--workdir"),
        (f"--config={RETAIL} --workdri=w", "near: --workdir"),
        (f"--config={RETAIL} --workdir=w --config.seed", "--config.seed has no value"),
        (f"--config={RETAIL} --workdir=w --config.seed --config.groot.tau=1", "no value"),
        (f"--config={RETAIL} --workdir=w extra", "extra"),
        ("--config=no_such.py --workdir=w", "no_such.py"),
        (f"--config={CONFIGS / 'retial.py'} --workdir=w", "near: retail.py"),
        (f"--config={RETAIL}:train=x --workdir=w", "takes no argument"),
        (f"--config={CONFIGS / 'columns.py'} --workdir=w", "train=PATH"),
        (f"--config={CONFIGS / 'columns.py'}:trian=x --workdir=w", "'trian=x'"),
        (f"--config={CONFIGS} --workdir=w", "no file"),
    ],
)
def test_a_wrong_command_line_ends_in_one_sentence(argv: str, part: str) -> None:
    parser = job_parser("groot_jax.train", "Trains.", config_file=True)
    with pytest.raises(UserError) as caught:
        parse_job(parser, argv.split())
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_lists_flags_and_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    parser = job_parser("groot_jax.train", "Trains.", config_file=True)
    with pytest.raises(SystemExit) as caught:
        parse_job(parser, ["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "--workdir" in text
    for key in flatten(default_config()):
        assert f"--config.{key}=" in text


def test_other_jobs_take_the_config_of_the_work_directory(tmp_path: Path) -> None:
    claim_workdir(tmp_path, with_override("groot.tau", "0.7"))
    parser = job_parser("groot_jax.evaluate", "Scores.")
    args = parse_job(parser, [f"--workdir={tmp_path}", "--config.evaluate.batch_size=8"])
    assert (args.config.groot.tau, args.config.evaluate.batch_size) == (0.7, 8)


def test_a_folder_that_is_no_work_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json.*train there first"):
        parse_job(job_parser("groot_jax.evaluate", "Scores."), [f"--workdir={tmp_path}"])


def test_a_dumped_config_of_an_earlier_version_gets_the_defaults_of_newer_keys(
    tmp_path: Path,
) -> None:
    config = load(RETAIL, [("groot.epochs", "7"), ("variants.cold.tau", "1")])
    claim_workdir(tmp_path, config)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["groot"]["tau"], values["distributed"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    args = parse_job(job_parser("groot_jax.evaluate", "Scores."), [f"--workdir={tmp_path}"])
    assert args.config == config
    claim_workdir(tmp_path, config)  # And training there goes on.


def test_a_loss_or_variant_that_default_py_has_since_then_does_not_lock_a_folder(
    tmp_path: Path,
) -> None:
    claim_workdir(tmp_path, load(RETAIL))
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    del old["groot"]["loss"]["rank"], old["variants"]["no_corrections"]
    for name in ("nll_continued", "risk"):
        del old["variants"][name]["loss"]["rank"]
    path.write_text(json.dumps(old))
    # What comes to another system is one, as before.
    with pytest.raises(UserError) as caught:
        claim_workdir(tmp_path, load(RETAIL, [("variants.risk.loss.rank", "0.5")]))
    assert "config: variants.risk.loss.rank is absent there and 0.5 here;" in str(caught.value)
    with pytest.raises(UserError, match=r"variants\.no_corrections\.tau is absent there and 0\.5"):
        claim_workdir(tmp_path, load(RETAIL, [("variants.no_corrections.tau", "0.5")]))
    claim_workdir(tmp_path, load(RETAIL))
    assert load_dumped(path) == load(RETAIL)


def test_a_run_that_began_without_swapped_mentions_is_not_continued_with_them(
    tmp_path: Path,
) -> None:
    claim_workdir(tmp_path, load(RETAIL))
    values = json.loads((tmp_path / "config.json").read_text())
    del values["data"]["augment"], values["data"]["hide_words"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"data\.augment is 0\.0 there"):
        claim_workdir(tmp_path, load(RETAIL))
    claim_workdir(tmp_path, load(RETAIL, [("data.augment", "0"), ("data.hide_words", "0")]))


def test_a_run_that_began_under_the_old_limit_of_words_is_continued_and_another_limit_is_not(
    tmp_path: Path,
) -> None:
    claim_workdir(tmp_path, load(RETAIL, [("text.max_words", "100")]))
    claim_workdir(tmp_path, load(RETAIL))
    with pytest.raises(UserError, match=r"text\.max_words is 0 there and 90 here"):
        claim_workdir(tmp_path, load(RETAIL, [("text.max_words", "90")]))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"data.scheme": "bilu"}, "near: biolu, biluo, bilou"),
        ({"data.scheme": "valid=bio"}, "train=bio,dev=iob1"),
        ({"data.scheme": "train=bio,iob1"}, "train=bio,dev=iob1"),
        ({"data.word_column": "2", "data.tag_column": "2"}, "are both 2"),
        ({"data.tag_column": "2", "data.column_order": "tag_first"}, "column_order=auto"),
        ({"text.split": "words"}, "spaces, unicode"),
        ({"text.overlap": "-1", "text.long_sentences": "window"}, "0 or more"),
    ],
)
def test_settings_of_reading_that_will_not_do_are_named(changes: dict[str, str], part: str) -> None:
    with pytest.raises(UserError, match=re.escape(part)):
        load(RETAIL, [*FILES.items(), *changes.items()])


@pytest.mark.parametrize("scheme", ["BILOU", "iob2", "train=IOB2, dev=iob1,test=auto"])
def test_schemes_are_named_in_any_case_and_for_each_split(scheme: str) -> None:
    assert load(RETAIL, [*FILES.items(), ("data.scheme", scheme)]).data.scheme == scheme


# ---- Broken config files ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("config.seed = = 1", "mine.py:5: invalid syntax"),
        ("1 / 0", "mine.py:5: ZeroDivisionError"),
        ("config.grot.tau = 1.0", "mine.py:5: AttributeError: 'grot' Did you mean \"groot\""),
        ("config.groot.tau = 'x'", "mine.py:5: TypeError"),
        ("config.groot.tua = 1.0", "no key config.groot.tua (near: groot.tau"),
        ("config.optimizer.name = 'muon'", "(near: groot.optimizer, nll.optimizer, pretrain."),
        ("config.text.max_words = True", "config.text.max_words is True"),
        ("config.systems = ('groot', 2)", "config.systems is ('groot', 2)"),
        ("del config.mesh", "config.mesh.data is missing"),
        ("config = 3", "get_config returned int"),
        ("import configs.nothing", "mine.py:5: ModuleNotFoundError"),
    ],
)
def test_a_broken_config_file_answers_with_its_line_or_key(
    tmp_path: Path, body: str, part: str
) -> None:
    answer = message(base=config_file(tmp_path, body))
    assert part in answer
    assert "mine.py" in answer


def test_a_config_file_without_get_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("")
    assert "no function get_config" in message(base=str(tmp_path / "empty.py"))


# ---- Values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"text.format": "sentinel_tags"}, "near: sentinel_tag"),
        ({"text.format": "input_tag"}, "config.model.normalise=full"),
        ({"text.tokenizer": ""}, "config.text.tokenizer=auto"),
        ({"model.init": "google/t5-v1_1-base", "text.tokenizer": "train"}, "new vocabulary"),
        (
            {"model.init": "google/t5-v1_1-base", "model.encoder_layers": "3"},
            "says how many layers the model has",
        ),
        ({"model.decoder_layers": "-1"}, "config.model.decoder_layers is -1"),
        ({"generate.k": "0"}, "config.generate.k is 0"),
        ({"groot.pool.size": "1"}, "config.groot.pool.size is 1"),
        ({"model.dropout": "1.0"}, "below 1"),
        ({"groot.tau": "0"}, "above 0"),
        ({"groot.loss.margin": "-1"}, "config.groot.loss.margin is -1.0"),
        ({"groot.loss.margin": "0", "groot.nll_weight": "0"}, "nothing to train"),
        ({"groot.batch_size": "16", "groot.accumulate": "3"}, "does not divide"),
        ({"groot.pool.gold": "false", "groot.pool.beams": "1"}, "nothing to contrast"),
        ({"evaluate.decide": "map,mbrr"}, "near: mbr"),
        ({"evaluate.decide": "()"}, "config.evaluate.decide is empty"),
        ({"evaluate.bootstrap": "0"}, "config.evaluate.bootstrap is 0"),
        ({"systems": "groto"}, "no system 'groto' in config.variants (near: groot)"),
        ({"systems": "groot,groot"}, "twice"),
        ({"systems": "()", "nll.enabled": "false"}, "nothing to train"),
        ({"variants.nll.tau": "1"}, "taken by stage 0"),
        ({"variants.cold.tau": "-1"}, "config.variants.cold.tau is -1.0"),
        ({"variants.cold.schedule": "cosin"}, "near: cosine"),
        ({"variants.cold.accumulate": "5"}, "config.variants.cold: accumulate is 5"),
        ({"loader.source_buckets": "8,8"}, "config.loader.source_buckets"),
        ({"loader.source_buckets": "()"}, "config.loader.source_buckets"),
        ({"loader.node_buckets": "0,8"}, "config.loader.node_buckets"),
        ({"mesh.data": "-1", "mesh.fsdp": "-1"}, "only one axis"),
        ({"mesh.tensor": "0"}, "config.mesh.tensor is 0"),
        ({"data.reader": "columns"}, "config.data.train is empty"),
        ({"data.reader": "tfds"}, "tfds_name"),
        ({"data.augment": "1.5"}, "config.data.augment is 1.5, but has to be at least 0 and at"),
        ({"data.dev_fraction": "0.6", "data.test_fraction": "0.5"}, "nothing to train on"),
        ({"data.reader": "seq", "data.train": "x", "data.dev_fraction": "0"}, "dev"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_refused_by_name(overrides: dict[str, str], part: str) -> None:
    assert part in message(*overrides.items())


@pytest.mark.parametrize(
    "overrides",
    [
        {"text.format": "input_tag", "model.normalise": "full"},
        {"model.init": "google/t5-v1_1-base"},
        {"model.encoder_layers": "3", "model.decoder_layers": "1"},
        {"systems": "()"},
        {"data.augment": "1"},
        {"nll.enabled": "false"},
        {"groot.nll_weight": "0", "systems": "groot", "variants.nll_continued.nll_weight": "2"},
        {"mesh.data": "2", "mesh.tensor": "-1"},
    ],
    ids=str,
)
def test_values_that_fit_together_are_taken(overrides: dict[str, str]) -> None:
    load(RETAIL, list(overrides.items()))


# ---- Variants ---------------------------------------------------------------------------------


INIT = {"model.init": "google/t5-v1_1-base"}
NO_F = {"reward.name": "exact", "evaluate.rewards": "recall"}  # No F-beta is computed.
LAMBDARANK = {"groot.loss.margin": "0", "groot.loss.lambdarank": "1"}
FILES = {"data.reader": "columns", "data.train": "train.txt"}
ADAFACTOR = {f"{stage}.optimizer": "adafactor" for stage in ("pretrain", "nll", "groot")}


@pytest.mark.parametrize(
    ("key", "value", "unread", "read"),
    [
        ("data.train", "mine.txt", {}, FILES),
        ("data.dev_fraction", "0.2", {}, FILES),
        ("data.dev_fraction", "0.2", FILES | {"data.dev": "dev.txt"}, FILES),
        ("data.test_fraction", "0.2", FILES | {"data.test": "test.txt"}, FILES),
        ("data.scheme", "bioes", {}, FILES),
        ("data.scheme", "bioes", {}, FILES | {"data.reader": "jsonl"}),
        ("data.comment", "#", {}, FILES),
        ("data.word_column", "2", FILES | {"data.reader": "jsonl"}, FILES),
        ("data.tag_column", "-1", {}, FILES),
        ("data.tag_names", "O,B-x", FILES, FILES | {"data.reader": "jsonl"}),
        ("text.overlap", "4", {}, {"text.long_sentences": "window"}),
        ("data.words_feature", "words", FILES, {"data.reader": "tfds", "data.tfds_name": "a"}),
        ("data.retail_seed", "3", FILES, {}),
        ("data.split_seed", "3", {}, {"data.train_limit": "100"}),
        ("data.split_seed", "3", FILES | {"data.dev": "dev.txt"}, FILES),
        (
            "data.split_seed",
            "3",
            FILES | {"data.dev": "dev.txt", "data.test": "test.txt"},
            FILES | {"data.dev": "dev.txt", "data.test_fraction": "0.1"},
        ),
        ("data.hide_words", "0.3", {"text.format": "fused_sentinel"}, {}),
        ("text.vocab_size", "900", INIT, {}),
        ("text.vocab_size", "900", {"text.tokenizer": "t5-small"}, {}),
        ("text.max_features", "900", {"text.format": "tag_only"}, {}),
        ("model.preset", "mini", INIT, {}),
        ("model.variant", "v1_1", INIT, {}),
        ("model.start.local", "3.0", {"text.format": "tag_only"}, {}),
        ("model.scan_layers", "true", {"model.remat": "dots"}, {"model.remat": "full"}),
        ("reward.type_weights", "brand=2", NO_F, NO_F | {"reward.name": "f0.5"}),
        ("reward.type_weights", "brand=2", NO_F, {"reward.name": "exact"}),
        (
            "reward.type_weights",
            "brand=2",
            NO_F | {"reward.name": "a.b:f1"},
            NO_F | {"reward.name": ".5*f2+.5*exact"},
        ),
        ("reward.wrong_cost", "3", {}, {"reward.name": ".1*f1 + .9*utility"}),
        ("reward.wrong_cost", "3", {}, {"evaluate.rewards": "f1, utility"}),
        ("reward.batch", "true", {}, {"reward.name": "mine:reward"}),
        ("reward.deadline", "3", {}, {"reward.name": "mine:reward"}),
        ("optimizer.b1", "0.8", ADAFACTOR, ADAFACTOR | {"nll.optimizer": "muon"}),
        ("nll.rdrop", "1.0", {"model.dropout": "0"}, {}),
        ("optimizer.max_skipped", "3", {}, {"optimizer.nonfinite": "skip"}),
        ("data.unlabeled", "queries.txt", {}, {"groot.unlabeled": "0.5"}),
        ("data.unlabeled", "queries.txt", {}, {"variants.groot.unlabeled": "0.5"}),
        ("groot.teacher", "policy", {}, {"groot.unlabeled": "0.5", "data.unlabeled": "a.txt"}),
        ("groot.temperature", "1.4", {}, {"groot.expected": "0.5"}),
        ("groot.temperature", "1.4", {}, {"groot.pool.consensus": "2"}),
        ("groot.tau", "0.1", LAMBDARANK, LAMBDARANK | {"groot.loss.weighted_margin": "1"}),
        ("groot.tau", "0.1", LAMBDARANK, {"systems": "nll_continued"}),
        ("groot.rank_margin", "0.1", {}, {"groot.loss.rank": "1"}),
        ("groot.rank_margin", "0.1", {}, {"variants.groot.loss.rank": "1"}),
        ("groot.reinforce_normalise", "true", {}, {"groot.loss.reinforce": "1"}),
        ("groot.pool.beams", "12", {}, {"generate.k": "12"}),
    ],
)
def test_what_nothing_reads_is_refused(
    key: str, value: str, unread: dict[str, str], read: dict[str, str]
) -> None:
    said = message((key, value), *unread.items())
    assert said.startswith(f"config.{key} is ") and "nothing reads it: it needs" in said
    load(RETAIL, [(key, value), *read.items()])


def test_what_an_earlier_version_took_without_reading_it_does_not_lock_its_folder(
    tmp_path: Path,
) -> None:
    config = load(RETAIL, [*ADAFACTOR.items()])
    claim_workdir(tmp_path, config)
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    old["optimizer"]["b1"] = 0.8
    path.write_text(json.dumps(old))
    claim_workdir(tmp_path, config)
    old["optimizer"]["clip"] = 0.8
    path.write_text(json.dumps(old))
    with pytest.raises(UserError, match=r"optimizer\.clip"):
        claim_workdir(tmp_path, config)


def test_the_one_optimizer_of_an_earlier_version_is_that_of_each_stage(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    dump(load(RETAIL, [("nll.optimizer", "adamw")]), path)
    old = json.loads(path.read_text())
    for stage in ("pretrain", "nll", "groot"):
        del old[stage]["optimizer"]
    path.write_text(json.dumps(old | {"optimizer": old["optimizer"] | {"name": "adafactor"}}))
    assert load_dumped(path) == load(RETAIL, [*ADAFACTOR.items()])


def test_a_variant_is_groot_with_its_own_changes_and_leaves_groot_alone() -> None:
    config = load(RETAIL, [("variants.cold.loss.margin", "0.5"), ("groot.tau", "0.9")])
    cold = variant(config, "cold")
    assert (cold.tau, cold.loss.margin, cold.loss.risk) == (0.9, 0.5, config.groot.loss.risk)
    assert config.groot.loss.margin == default_config().groot.loss.margin
    assert variant(config, "groot") == variant(config, "groot")
    assert flatten(variant(config, "groot")) == flatten(config.groot)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((("groot.unlabeled", "0.5"),), "system groot takes 0.5 of its updates from sentences"),
        (
            (("groot.unlabeled", "1"), ("data.unlabeled", "a"), ("nll.enabled", "false")),
            "train stage 0, or name one in config.nll.checkpoint",
        ),
        ((("groot.pool.consensus", "8"),), "room for 7 beside gold and pool.beams"),
        ((("groot.teacher", "best"),), "it can be start, policy"),
        ((("groot.expected", "1.5"),), "at least 0 and at most 1"),
        ((("groot.temperature", "0"),), "above 0"),
    ],
)
def test_pools_that_cannot_be_made_are_refused(
    settings: tuple[tuple[str, str], ...], said: str
) -> None:
    assert said in message(*settings)


def test_a_pool_smaller_than_the_beam_is_no_matter_of_consensus() -> None:
    assert load(RETAIL, [("groot.pool.size", "3")]).groot.pool.consensus == 0
    assert "room for 0 beside" in message(("groot.pool.size", "3"), ("groot.pool.consensus", "1"))


def test_nll_continued_sees_labeled_sentences_alone_whatever_groot_does() -> None:
    config = load(RETAIL, [("data.unlabeled", "a.txt,b.txt"), ("groot.unlabeled", "0.5")])
    assert config.data.unlabeled == ("a.txt", "b.txt")
    shares = [variant(config, name).unlabeled for name in ("nll_continued", "groot", "risk")]
    assert shares == [0.0, 0.5, 0.5]


def test_nll_continued_has_no_contrast_whatever_groot_contrasts_with() -> None:
    config = load(RETAIL, [(f"groot.loss.{name}", "1") for name in default_config().groot.loss])
    assert not any(variant(config, "nll_continued").loss.values())
    assert {k for k, v in variant(config, "risk").loss.items() if v} == {"risk"}


def test_a_variant_is_frozen() -> None:
    with pytest.raises(AttributeError):
        variant(load(RETAIL), "groot").tau = 1.0


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("config.variants.x = {'tua': 1.0}", "config.groot has no key tua (near: tau)"),
        ("config.variants.x = {'loss': {'margn': 1.0}}", "near: loss.margin"),
        ("config.variants.x = {'tau': 'hot'}", "config.variants.x.tau is 'hot'"),
        ("config.variants.x = {'batch_size': 1.5}", "config.variants.x.batch_size is 1.5"),
        ("config.variants.x = 3", "config.variants.x is 3"),
    ],
)
def test_a_variant_may_change_only_what_groot_has(tmp_path: Path, body: str, part: str) -> None:
    assert part in message(base=config_file(tmp_path, body))


def test_a_whole_number_stands_for_a_fraction_in_a_variant(tmp_path: Path) -> None:
    base = config_file(tmp_path, "config.variants.x = {'tau': 1}")
    assert variant(load(base), "x").tau == 1.0
    assert variant(load(base, [("variants.x.tau", "0.5")]), "x").tau == 0.5


# ---- The work directory -----------------------------------------------------------------------


def test_a_dumped_config_comes_back_equal(tmp_path: Path) -> None:
    config = load(
        RETAIL,
        [("compilation_cache", 'ü "\\\t\N{PILE OF POO}'), ("systems", "()"), ("groot.tau", "0.1")],
    )
    dump(config, tmp_path / "config.json")
    back = load_dumped(tmp_path / "config.json")
    assert back == config
    types = {key: type(value) for key, value in flatten(config).items()}
    assert {key: type(value) for key, value in flatten(back).items()} == types
    validate(back)


def test_a_work_directory_is_made_and_can_be_claimed_again(tmp_path: Path) -> None:
    workdir = tmp_path / "a" / "b"
    config = load(RETAIL)
    claim_workdir(workdir, config)
    claim_workdir(workdir, config)
    assert {path.name for path in workdir.iterdir()} == {"config.json", "checksums.json"}
    assert load_dumped(workdir / "config.json") == config
    # What a kill leaves before there is a config.
    (workdir / "config.json").unlink()
    claim_workdir(workdir, config)


def test_a_work_directory_of_another_config_is_refused_and_left_alone(tmp_path: Path) -> None:
    claim_workdir(tmp_path, load(RETAIL))
    before = (tmp_path / "config.json").read_bytes()
    other = load(RETAIL, [("groot.tau", "0.9"), ("variants.cold.tau", "1")])
    with pytest.raises(UserError) as caught:
        claim_workdir(tmp_path, other)
    text = str(caught.value)
    assert str(tmp_path) in text
    assert f"groot.tau is {default_config().groot.tau} there and 0.9 here" in text
    assert "variants.cold.tau is absent there and 1.0 here" in text
    assert (tmp_path / "config.json").read_bytes() == before


def test_settings_that_cannot_change_the_result_may_change_between_runs(tmp_path: Path) -> None:
    claim_workdir(tmp_path, load(RETAIL))
    claim_workdir(tmp_path, load(RETAIL, [("loader.threads", "5"), ("evaluate.samples", "7")]))
    config = load_dumped(tmp_path / "config.json")
    assert (config.loader.threads, config.evaluate.samples) == (5, 7)
    # What a run that is short of memory needs.
    changes = {
        "loader.node_buckets": "64,128",
        "groot.accumulate": "4",
        "variants.nll_continued.accumulate": "2",
    }
    claim_workdir(tmp_path, load(RETAIL, [*changes.items()]))
    config = load_dumped(tmp_path / "config.json")
    assert config.loader.node_buckets == (64, 128) and config.groot.accumulate == 4


def test_a_claim_that_was_cut_off_can_be_made_again(tmp_path: Path) -> None:
    (tmp_path / ".config.json.tmp").write_text("{")
    claim_workdir(tmp_path, load(RETAIL))
    assert load_dumped(tmp_path / "config.json") == load(RETAIL)


def test_a_folder_with_other_files_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        claim_workdir(tmp_path, load(RETAIL))


def test_a_work_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is a file"):
            claim_workdir(workdir, load(RETAIL))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_work_directory_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        claim_workdir(tmp_path / "w", load(RETAIL))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / f".config.json.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"config\.json could not be written .*No space left"):
        claim_workdir(tmp_path, load(RETAIL))


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\udcff"])
def test_a_damaged_config_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"config\.json"):
        claim_workdir(tmp_path, load(RETAIL))


def test_a_pool_smaller_than_its_beams_is_no_fault_of_consensus() -> None:
    settings = (("groot.pool.size", "4"), ("groot.pool.beams", "8"))
    assert load(RETAIL, settings).groot.pool.size == 4


@pytest.mark.parametrize(
    "names",
    [
        ("checkpoints", "task"),
        ("task", "metrics.jsonl"),  # Its checkpoints are lost as well,
        ("checkpoints", "decisions", "notes.txt"),  # or its task,
        ("eval", "results.json"),  # or it is a folder of results, `evaluate --output`.
        ("jobs.jsonl", "data_card.json", "train.lock", "status.json"),
    ],
)
def test_a_work_directory_that_has_lost_its_config_json_is_told_so(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    lost = rf"{tmp_path} is a work directory that has lost its config\.json: bring a copy back"
    with pytest.raises(UserError, match=lost):
        make_workdir(tmp_path)
    with pytest.raises(UserError, match=lost):
        load_dumped(tmp_path / "config.json")
    with pytest.raises(UserError, match=lost):
        evaluate.main([f"--workdir={tmp_path}", "--watch"])  # Which would wait for it for ever.


@pytest.mark.parametrize("names", [("task",), ("report", "src"), ("train.lock", "status.json")])
def test_a_strange_folder_has_lost_nothing(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="is not a work directory .* train there first"):
        load_dumped(tmp_path / "config.json")
    if "train.lock" in names:
        make_workdir(tmp_path)  # What a kill has left of the first moments of a run.
    else:
        with pytest.raises(UserError, match="holds other files"):
            make_workdir(tmp_path)
