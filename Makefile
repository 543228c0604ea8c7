# Everything runs inside .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Locally the runs talk to a private Ray on loopback; nothing is reported anywhere.
export RAY_USAGE_STATS_ENABLED := 0
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help browser docs demo submit simulate test test-slow test-gpu soak lint bench bench-captions bench-gpu clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | awk -F '\t' '{printf "  make %-16s %s\n", $$1, $$2}'

# On all cores, where pip would compile what it installs on one; a few packages hold files that are no Python.
COMPILE = @$(PY) -m compileall -qq -j 0 $(VENV)/lib || true

# An environment that is there already and is named on the command line is somebody's own: nothing is installed into it.
ifneq ($(and $(filter command,$(origin VENV)),$(wildcard $(PY))),)
$(VENV)/.demo $(VENV)/.dev: ;
else
$(VENV)/.demo: pyproject.toml requirements.lock
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --no-compile --editable '.[demo]'
	$(COMPILE)
	@touch $@

$(VENV)/.dev: pyproject.toml requirements.lock
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --no-compile --editable '.[dev]'
	$(COMPILE)
	@touch $@ $(VENV)/.demo
endif

demo: $(VENV)/.demo  ## Label EfficientNet-Lite0 on real photographs, show ten labels and make a report
	$(PY) -m jobs.demo

# What the driver and the workers need: cluster/runtime-env.yaml, and the commit, since the copied code has no .git.
COMMIT = $(shell git describe --always --abbrev=40 --dirty=+ 2>/dev/null)
RUNTIME_ENV = {"env_vars": {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", \
  "PYTHONUNBUFFERED": "1", "MAMI_GIT_COMMIT": "$(COMMIT)"}}
RAY ?= $(VENV)/bin/ray
JOB ?= label

submit: $(VENV)/.demo  ## Submit to the cluster at RAY_ADDRESS: make submit ARGS='--subject …' [JOB=train] [FLAGS=--no-wait]
	$(RAY) job submit --runtime-env-json '$(RUNTIME_ENV)' $(FLAGS) --working-dir . -- python -m jobs.$(JOB) $(ARGS)

simulate: $(VENV)/.demo  ## Plan and schedule runs of 1 and 10 million neurons on 8 and 64 GPUs, without any
	$(PY) -m jobs.simulate $(ARGS)

# A browser for the tests of the report: Debian's, where this user may install it. Without one they are skipped.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1; } \
	  || echo "No Chromium here: the tests of the report in a browser will be skipped (apt-get install chromium)."

# Three at once, for two cores: those that have Ray for their tests wait half of the time.
test: $(VENV)/.dev lint browser  ## Run the whole test suite
	$(PY) -m pytest -n 3 --dist loadgroup -m 'not slow and not gpu'

test-slow: $(VENV)/.dev  ## Run what `make test` leaves out: kills, faults and fuzzing at length
	$(PY) -m pytest -m 'slow and not gpu'

test-gpu:  ## Run the tests that need a GPU (a minute on an H100); PY=python3 takes the machine's own torch
	@$(PY) -c 'import torch; assert torch.cuda.is_available(), "This torch sees no GPU."'
	$(PY) -m pytest -m gpu -p no:xdist -p no:benchmark $(wildcard tests/core/test_on_gpu.py tests/core/*/test_on_gpu.py)

soak: $(VENV)/.dev  ## Kill labelling jobs at random, 60 times (a quarter of an hour); the tables must come out the same
	$(PY) -m tests.soak $(ARGS)

lint: $(VENV)/.dev  ## Check style, types and the import rules
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pyrefly check

docs: $(VENV)/.dev  ## Build the documentation into site/, and check its links, its commands and its code
	$(PY) -m mkdocs build --strict --quiet
	$(PY) -m pytest -n 0 -q tests/docs
	@echo "The documentation: open $(CURDIR)/site/index.html"

bench: $(VENV)/.dev  ## Measure every stage against the plain way and its floor, on one thread and on all (minutes)
	$(PY) -m tests.benchmarks --threads 1
	$(PY) -m tests.benchmarks --threads $$(getconf _NPROCESSORS_ONLN) search features decoding training

bench-captions: $(VENV)/.dev  ## Train all subsets of the attentions on the same neurons and compare their captions (an hour)
	$(PY) -m tests.benchmarks.quality $(ARGS)

bench-gpu:  ## Measure one GPU, with torch alone; PY=python3 takes the machine's own torch
	$(PY) -m tests.benchmarks.gpu

clean:  ## Remove what the demo and the tests made (not .venv)
	rm -rf demo runs site .pytest_cache .ruff_cache .hypothesis
