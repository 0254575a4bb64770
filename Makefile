# Two commands do all the set-up on a fresh machine: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test test-suites fuzz bench-peers gpu-report reports plots lint clean

run: $(VENV)/.run  ## AlexNet's convolutions on this CPU, by gathered windows and by the algorithms that auto takes
	$(BIN)/convbench run alexnet --batch 16 -b cpu:gemm -b cpu:auto --phases

test: $(VENV)/.test  ## the test suite, on two processes
	$(BIN)/python -m pytest -q -n 2

test-suites: $(VENV)/.test  ## every built-in suite, end to end at batch 1: long, a quarter of an hour on 2 CPUs
	$(BIN)/python -m pytest -q -n 2 -m suites tests/test_every_suite.py

fuzz: $(VENV)/.test  ## the fuzz tests with 100,000 cases of each property instead of 300
	CONVBENCH_FUZZ=100000 $(BIN)/python -m pytest -q -n 2 tests/test_fuzz.py

bench-peers: $(VENV)/.peers  ## the cpu backend beside PyTorch, on one thread and on all: long, keep the machine quiet
	for threads in 1 $$($(BIN)/python -c 'from convbench.machine import cpu_count; print(cpu_count())'); do \
		$(BIN)/convbench run peers --isolate --threads $$threads --layout nchw,nhwc --max-time 0.3s --force \
			$$($(BIN)/python benchmarks/peers.py --backends) -b torch -o runs/peers-$$threads.jsonl || test $$? -eq 6 || exit 1; \
	done
	$(BIN)/python benchmarks/peers.py runs/peers-*.jsonl

MINUTES ?= 10

gpu-report:  ## all that a GPU has to show, in reports/ and its name, within MINUTES: docs/gpu.md
	@extra=$$($(PYTHON) benchmarks/gpu/driver.py) && $(MAKE) --no-print-directory $(VENV)/.gpu-$$extra EXTRA=$$extra
	@$(BIN)/python benchmarks/gpu/report.py --minutes $(MINUTES)

# What `make reports` measures beside AlexNet: suite and batch.
NETWORKS := overfeat-fast-4 vgg-a-4 googlenet-4 c3d-1 charcnn-large-4
MACHINE ?= here
REPORTS := reports/$(MACHINE)
MEASURE := -b cpu:gemm -b cpu:auto --phases

reports: $(VENV)/.run  ## runs, rooflines and a summary of six networks in reports/MACHINE: keep the machine quiet
	mkdir -p $(REPORTS)
	$(BIN)/convbench run alexnet --batch 16 $(MEASURE) -o $(REPORTS)/alexnet.jsonl --force
	for network in $(NETWORKS); do \
		$(BIN)/convbench run $${network%-*} --batch $${network##*-} $(MEASURE) --max-time 0.2s \
			-o $(REPORTS)/$${network%-*}.jsonl --force || exit 1; \
	done
	$(MAKE) --no-print-directory plots

plots: $(VENV)/.run  ## the pictures and the summary of reports/MACHINE anew
	for run in $(REPORTS)/*.jsonl; do \
		$(BIN)/convbench plot $$run -o $${run%.jsonl}.svg --force || exit 1; \
	done
	$(BIN)/convbench plot $(REPORTS)/alexnet.jsonl -o $(REPORTS)/alexnet-dark.svg --theme dark --force
	$(BIN)/convbench plot $(REPORTS)/alexnet.jsonl -o $(REPORTS)/ceilings.svg --kind ceilings --force
	for run in $(REPORTS)/*.jsonl; do \
		for view in network bound; do \
			$(BIN)/convbench show $$run --by $$view --format markdown && echo || exit 1; \
		done; \
	done > $(REPORTS)/summary.md

lint: $(VENV)/.lint  ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## removes what the other targets made, results in runs/ apart
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The lightest cuDNN, which compiles all of its kernels at run time: graphs are tested with it, without a GPU. What it
# depends on is needed on a GPU only, and weighs a gigabyte.
CUDNN := "nvidia-cudnn-frontend==1.28.*" "nvidia-cudnn-jit-cu13==9.27.*"

# One environment; each mark says that it holds what its target needs, as of pyproject.toml.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "convbench needs Python 3.11 or newer; make PYTHON=... names one")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(CUDNN) || echo "cuDNN cannot be installed here: the tests that ask it are skipped"
	touch $@ $(VENV)/.run

$(VENV)/.peers: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[torch]'
	touch $@ $(VENV)/.run

$(VENV)/.gpu-$(EXTRA): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRA),test]'
	touch $@ $(VENV)/.run

$(VENV)/.lint: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[lint]'
	touch $@ $(VENV)/.run
