"""What a config names is a folder, or is fetched from the Hub once, in one format."""

from __future__ import annotations

from types import SimpleNamespace

import huggingface_hub
import pytest

from groot_jax.errors import UserError
from groot_jax.runtime.hub import fetch
from groot_jax.task import _files_of_init, init_folder


@pytest.fixture(autouse=True)
def forgotten():
    fetch.cache_clear()
    yield
    fetch.cache_clear()


class Hub:
    """Stands in for the Hub: a repository's files; notes what is asked of it."""

    def __init__(self, monkeypatch, files, folder):
        self.asked: list[dict[str, object]] = []

        def info(api, name, timeout):
            siblings = [SimpleNamespace(rfilename=file) for file in files]
            return SimpleNamespace(siblings=siblings, sha="abc")

        def download(name, **options):
            self.asked.append(options)
            return str(folder)

        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


REPOSITORY = (
    *("config.json", "generation_config.json", "README.md", "spiece.model", "tokenizer.json"),
    *("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.safetensors"),
    *("rust_model.ot", "tokenizer_config.json"),
)
TEXT = ["config.json", "spiece.model", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        (REPOSITORY, ["model.safetensors"]),
        ([f for f in REPOSITORY if f != "model.safetensors"], ["flax_model.msgpack"]),
        (
            [*TEXT, "model.safetensors.index.json", "model-1-of-1.safetensors", "a.safetensors"],
            ["model-1-of-1.safetensors", "model.safetensors.index.json"],
        ),
    ],
    ids=["safetensors", "flax", "shards"],
)
def test_one_format_of_one_revision_is_fetched_once(monkeypatch, tmp_path, files, weights):
    hub = Hub(monkeypatch, files, tmp_path)
    model = SimpleNamespace(init="google/t5-v1_1-small")
    assert init_folder(model) == init_folder(model) == tmp_path
    (options,) = hub.asked
    assert options["revision"] == "abc"
    texts = [name for name in TEXT if name in files]
    patterns = options["allow_patterns"]
    assert isinstance(patterns, list)
    assert sorted(patterns) == sorted([*texts, *weights])


def test_pickles_are_refused_before_they_are_fetched(monkeypatch, tmp_path):
    hub = Hub(monkeypatch, ["config.json", "pytorch_model.bin"], tmp_path)
    with pytest.raises(UserError, match=r"^config\.model\.init=acme/t5: .*pickles"):
        init_folder(SimpleNamespace(init="acme/t5"))
    assert hub.asked == []


POOLS = (
    "(MaxRetryError('HTTPSConnectionPool(host=\\'hub\\'): Max retries exceeded with url: /api'))"
)


@pytest.mark.parametrize(
    ("told", "reason"),
    [("no route to host\nand a long tail", "no route to host"), (POOLS, r"\(no connection")],
)
def test_without_network_what_an_earlier_run_fetched_serves(monkeypatch, tmp_path, told, reason):
    def fail(*args, **kwargs):
        raise ConnectionError(told)

    def cached(name, local_files_only=False, **options):
        if not local_files_only:
            raise ConnectionError("no route to host")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    with pytest.raises(UserError, match=rf"^config\.model\.init=acme/t5: .*{reason}\)") as e:
        init_folder(SimpleNamespace(init="acme/t5"))
    assert "\n" not in str(e.value)
    (tmp_path / "model.safetensors").touch()
    assert init_folder(SimpleNamespace(init="acme/t5")) == tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/such", "there is no such folder"),
        ("./none", "there is no such folder"),
        ("runs/text/model", "there is no such folder"),
        ("~/no-such-folder", "there is no such folder"),
        ("no such:name", "neither an existing folder nor a Hub id"),
        (__file__, "is a file"),
    ],
)
def test_a_mistyped_folder_is_not_taken_for_a_hub_id(name, words):
    with pytest.raises(UserError, match=words) as caught:
        fetch(name, "config.model.init", _files_of_init)
    assert str(caught.value).startswith(f"config.model.init={name}")


def test_home_is_expanded(monkeypatch, tmp_path):
    (tmp_path / "t5").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch("~/t5", "config.model.init", _files_of_init) == tmp_path / "t5"
