# make demo    train and compare NLL and GROOT on the built-in corpus
# make test    lint, types and all tests   (TORCH=1 adds those that need torch, libtpu or a peer)
# make lint    ruff and mypy alone
# make clean   remove .venv, runs/demo and caches

# The first Python that is new enough and can make environments.
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	2>/dev/null && echo $$p && break; done)
# One more than there are cores: tests of jobs wait for processes, disks and clocks, an eighth of
# their time. A process takes some 1.3 GB.
JOBS ?= 3
# With JOBS test processes side by side, each keeps to about one core. Tests compile for longer than
# they compute, so XLA leaves out what makes programs fast: a small run takes 20 s instead of 38. Nor
# does it part a program to compile it in several threads, which costs a fifth more in all. It ends
# at once where it does not know one of these flags; constraints.txt pins one that does.
TEST_ENV = JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false \
	XLA_FLAGS="$$XLA_FLAGS --xla_cpu_multi_thread_eigen=false \
	--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false \
	--xla_cpu_parallel_codegen_split_count=1"

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
METADATA := setup.cfg pyproject.toml constraints.txt
# transformers 5 has no Flax T5, the reference of the parity tests, so that it gets an environment of
# its own: the packages of $(VENV) lie beneath it, and it holds only those that differ.
TRANSFORMERS5 := $(VENV)/transformers5
TRANSFORMERS5_TESTS := tests/data/test_tokenizer.py tests/export/test_transformers.py \
	tests/model/test_config.py tests/model/test_pretrained.py tests/model/test_reading.py \
	tests/model/test_t5_parity.py

ifneq ($(filter true 1,$(CI) $(TORCH)),)
TEST_STAMPS := $(VENV)/.stamp-parity $(VENV)/.stamp-transformers5
else
TEST_STAMPS := $(VENV)/.stamp-test
endif

.PHONY: demo test lint clean

demo: $(VENV)/.stamp-run
	@echo "Training NLL, NLL continued and GROOT on the built-in corpus, in runs/demo."
	@echo "If it is interrupted, make demo continues where it was."
	@$(RUN) -m groot_jax.train --config=configs/retail.py --workdir=runs/demo
	@echo "Report: $(CURDIR)/runs/demo/report/index.html"
	@echo "Under another reward: $(RUN) -m groot_jax.evaluate --workdir=runs/demo --split=test" \
		"--config.reward.name=f0.5"

test: lint
	@echo "Running all tests in $(JOBS) processes."
	@$(TEST_ENV) $(RUN) -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder \
		--durations=10
ifneq ($(filter %transformers5,$(TEST_STAMPS)),)
	@echo "Running what meets transformers under its version 5."
	@$(TEST_ENV) $(TRANSFORMERS5)/bin/python -m pytest -q -n $(JOBS) $(TRANSFORMERS5_TESTS)
endif

lint: $(TEST_STAMPS)
	@echo "Checking style and types."
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

clean:
	@echo "Removing $(VENV), runs/demo and caches."
	@rm -rf $(VENV) runs/demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.stamp-venv:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 found: install one, or run make" \
		"PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || { echo "Creating $(VENV) with $(PYTHON)." && \
		$(PYTHON) -m venv $(VENV); }
	@touch $@

# Each of the three installs is whole by itself, and has what those above it have: pip resolves all
# packages anew in each.
$(VENV)/.stamp-run: $(METADATA) | $(VENV)/.stamp-venv
	@echo "Installing groot_jax and what it needs into $(VENV) (about a minute)."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.stamp-test: $(METADATA) | $(VENV)/.stamp-venv
	@echo "Installing groot_jax and the test tools into $(VENV)."
	@$(PIP) --editable '.[test,serve]'
	@touch $(VENV)/.stamp-run $@

# Not compiled: of the thousands of modules of torch, spaCy and transformers tests import few, which
# Python compiles then.
$(VENV)/.stamp-parity: $(METADATA) | $(VENV)/.stamp-venv
	@echo "Installing groot_jax, the test tools, torch, the reference of the parity tests, libtpu," \
		"the compiler of preflight's, what benchmarks/peers.py compares with, what exports need," \
		"wandb and what the page is tested with, into $(VENV)."
	@$(PIP) --no-compile --editable '.[test,serve,parity,tpu,peers,ctranslate2,stablehlo,wandb,browser]'
	@touch $(VENV)/.stamp-run $(VENV)/.stamp-test $@

$(VENV)/.stamp-transformers5: $(VENV)/.stamp-parity constraints-transformers5.txt
	@echo "Installing transformers 5 into $(TRANSFORMERS5)."
	@$(RUN) -m venv --clear --without-pip $(TRANSFORMERS5)
	@$(RUN) -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		$$($(TRANSFORMERS5)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beneath.pth
	@$(RUN) -m pip --python $(TRANSFORMERS5)/bin/python install --quiet --disable-pip-version-check \
		--no-compile --constraint constraints-transformers5.txt transformers 2>&1 | \
		{ grep -v "resolver does not\|^groot-jax .* requires transformers<5" || true; }
	@$(TRANSFORMERS5)/bin/python -c "import transformers; assert transformers.__version__ >= '5'"
	@touch $@
