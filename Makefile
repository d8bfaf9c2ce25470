# Everything that a developer or a visitor runs. `make help` lists it.
#
# Python lives in .venv of this checkout; nothing is installed globally, except by
# `make tools`, and that only as root.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SAMPLE := sample_traces/vmx-6.12.117-ipiv-us.n_userspace_slow.trace.dat
# For `make sample`: how long to record, and where to.
SECONDS ?= 5
OUT     ?= host.trace.dat

.DEFAULT_GOAL := help
.PHONY: help demo install tools test lint types bench bench-memory check sample agreement rates readme clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## Install what is needed and analyze a sample trace.
	@printf '\n$$ piscope analyze %s\n' '$(SAMPLE)'
	@$(BIN)/piscope analyze $(SAMPLE)

install: $(STAMP) ## Make .venv with piscope and all that its tests need.

# A new pyproject.toml is a new set of dependencies.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'piscope needs Python 3.11 or newer, and "$(PYTHON)" is none: make PYTHON=python3.12'; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo '"$(PYTHON)" has no ensurepip: install its venv package (Debian: apt install python3-venv)'; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

tools: ## Install the programs that tests compare with, or name their packages.
	@.ci/tools

test: $(STAMP) tools ## Run all tests; needs no root, uses it where it is there.
	$(BIN)/python -m pytest -n 2 -q

lint: $(STAMP) ## Check style and format.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## Check types.
	$(BIN)/mypy

bench: $(STAMP) ## Measure speed and memory, beside trace-cmd and perf.
	$(BIN)/python -m benchmarks

bench-memory: $(STAMP) ## Measure that no command's memory grows with the trace.
	$(BIN)/python -m benchmarks.memory

check: lint types test ## Everything that must hold before a commit.

agreement: $(STAMP) ## Compare inferred loads and puts with probes, for each sample.
	$(BIN)/piscope agreement sample_traces/proof/*.trace.dat sample_traces/vmx-*.trace.dat

rates: $(STAMP) ## Measure how well posts at a rate are told: simulations, real kernels.
	$(BIN)/python -m benchmarks.rates

readme: $(STAMP) ## Write the generated parts of README.md anew.
	$(BIN)/python tests/readme_blocks.py

sample: $(STAMP) ## Record this host for SECONDS=5 into OUT=host.trace.dat, and check it (root).
	$(BIN)/python -m piscope check --json $(SAMPLE) \
	  | $(BIN)/python -c 'import json, sys; print(json.load(sys.stdin)["record"]["trace_cmd"])' \
	  | { read -r record; $$record -o $(OUT) sleep $(SECONDS); }
	$(BIN)/piscope check $(OUT)

.PHONY: gate-demo
gate-demo: $(STAMP) ## Show the gate: a pass, a regression, and a cannot tell.
	@t=sample_traces/vmx-6; name=vmx-6.17.13-ipiv-us.n_userspace_slow.trace.dat; \
	 show() { expected=$$1; shift; \
	   printf '\n$$ piscope gate %s\n' "$$*"; \
	   $(BIN)/python -m piscope gate "$$@" --baseline sample_traces/gate-baseline.toml; status=$$?; \
	   printf 'exit status %s\n' $$status; test $$status = $$expected; }; \
	 show 0 sample_traces && \
	 show 1 --partial $$name=$$t.12.117-ipiv-us.n_userspace_slow.trace.dat && \
	 show 3 --partial $$name=$$t.17.13-ipiv.e_min.trace.dat

# Captures of a simulated host, by `make synth`: from seeds, so that they are the same
# everywhere. SEEDS is how many of each scenario `synth-truth` tries.
SYNTH := build/synth
SEEDS ?= 20

.PHONY: synth synth-big synth-truth
synth: $(STAMP) ## Make a capture of each shipped scenario, with its truth, in build/synth.
	@mkdir -p $(SYNTH)
	@$(BIN)/piscope synth --list | awk '$$1 != "big" { print $$1 }' | while read -r name; do \
	    $(BIN)/piscope synth -q $$name -o $(SYNTH)/$$name.trace.dat || exit 1; done

synth-big: $(STAMP) ## Make the capture of ten million events, for measuring.
	@mkdir -p $(SYNTH)
	time $(BIN)/piscope synth big -o $(SYNTH)/big.trace.dat

synth-truth: $(STAMP) ## Hold piscope to the truth of SEEDS=20 captures of each scenario.
	PISCOPE_SEEDS=$(SEEDS) $(BIN)/pytest -q -n auto tests/synth/test_truth.py

clean: ## Remove .venv and what tools left behind.
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
