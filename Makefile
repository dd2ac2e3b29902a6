# Needs Python >= 3.11, make and git; everything else is installed into .venv.

PYTHON ?= python3
PORT ?= 5000
ARGS ?=
# A process per core, a file at a time; what starts Ray or a server runs alone.
SIDE_BY_SIDE := -n auto --dist loadfile

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
INSTALLED := $(VENV)/.installed

# The Python to build from is looked up in the caller's PATH, not in the one that begins with .venv.
OUTER_PATH := $(PATH)
# DVC runs each stage as `python -m pipelines.<verb> KEY`: the python it finds must be this one.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false
export RAY_USAGE_STATS_ENABLED := 0
# Ray otherwise announces with every worker that it will change how devices are hidden.
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO := 0
# Python otherwise keeps the path of a dead virtual environment that the shell still names, and
# compiles what it imports anew in each of a stage's many processes: 4 to 14 seconds in every one.
unexport VIRTUAL_ENV PYTHONHOME PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo rows ui test test-fast test-all check ruff types contracts architecture format lock clean checkout

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: checkout $(INSTALLED) ## run every stage of params.yaml, from raw data to registered models
	@$(PY) -m pipelines.guard
	@$(BIN)/dvc repro
	@echo
	@echo "The report:           $(CURDIR)/reports/index.html"
	@echo "The tracking server:  make ui, then open http://127.0.0.1:$(PORT)"

JOBS ?= 2
rows: checkout $(INSTALLED) ## every stage of some rows, side by side on one cluster (ROWS="a b c" JOBS=3)
	@$(PY) -m pipelines.guard
	@$(PY) -m pipelines.rows run $(ROWS) --jobs $(JOBS)

ui: $(INSTALLED) ## the MLflow UI on this machine (PORT=5000)
	@test -f mlflow.db || { echo "mlflow.db is missing: nothing has been tracked yet; run: make demo" >&2; exit 1; }
	@echo "MLflow: http://127.0.0.1:$(PORT) (Ctrl-C ends it)"
	@$(BIN)/mlflow server --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port $(PORT) --workers 1

serve: $(INSTALLED) ## a registered model's server here (MODEL=name@champion, PORT=5001)
	@test -n "$(MODEL)" || { echo "say which: make serve MODEL=name@champion" >&2; exit 2; }
	@$(PY) -m pipelines.serve $(MODEL) $(if $(filter file,$(origin PORT)),,--port $(PORT))

test: $(INSTALLED) ## everything at small sizes, under 20 minutes on two cores (ARGS="-k ocrnet")
	$(PY) -m pytest -m "not slow and not cluster" $(SIDE_BY_SIDE) $(ARGS)
	$(PY) -m pytest -m "cluster and not slow" $(ARGS)

test-fast: $(INSTALLED) ## the units, under 90 seconds
	$(PY) -m pytest -m "not slow and not cluster and not long" $(SIDE_BY_SIDE) $(ARGS)

test-all: $(INSTALLED) ## everything there is, for a quiet hour
	$(PY) -m pytest $(ARGS)

check: ruff types contracts architecture ## style, types, import contracts, sizes and tables

ruff: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(INSTALLED)
	$(BIN)/basedpyright

contracts: $(INSTALLED)
	$(BIN)/lint-imports

architecture: $(INSTALLED)
	$(PY) -m pytest -q tests/test_architecture.py

format: $(INSTALLED) ## put the code into the house's form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(INSTALLED) ## pin what pyproject.toml asks for, with hashes (ARGS=--upgrade: the newest of all)
	$(BIN)/uv pip compile $(ARGS) --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --extra pipelines --extra onnx --extra dev pyproject.toml -o requirements.lock

clean: ## remove the environment and caches; data, runs and what was tracked stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find segcore pipelines tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# A virtual environment has its own path written into it: one copied from elsewhere is made anew.
HERE := $(CURDIR)/$(VENV)
IS_HERE = grep -sqF -e '="$(HERE)"' -e "='$(HERE)'" -e '=$(HERE)' $(BIN)/activate
ifneq ($(shell $(IS_HERE) && echo yes),yes)
.PHONY: $(INSTALLED)
endif

$(INSTALLED): requirements.lock pyproject.toml
	@PATH="$(OUTER_PATH)" command -v "$(PYTHON)" >/dev/null || { \
	    echo "there is no $(PYTHON); name a Python of 3.11 or newer: make PYTHON=/path/to/python3" >&2; exit 1; }
	@PATH="$(OUTER_PATH)" "$(PYTHON)" -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	    "Segcore needs Python 3.11 or newer and $(PYTHON) is %d.%d; " % sys.version_info[:2] \
	    + "name another one: make PYTHON=python3.11")'
	@{ $(IS_HERE) && $(PY) -m pip --version >/dev/null 2>&1; } || { \
	    base=$$(PATH="$(OUTER_PATH)" "$(PYTHON)" -c 'import sys; print(sys._base_executable)'); \
	    rm -rf $(VENV); "$$base" -m venv $(VENV); } || { rm -rf $(VENV); \
	    echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "installing the pinned dependencies into $(VENV) (once; about a minute)"
	@sed -n '/^uv==/,/^    # via/p' requirements.lock > $(VENV)/uv.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock \
	    && $(BIN)/uv pip install --quiet --python $(PY) --require-hashes -r requirements.lock \
	    || { echo "uv could not; pip does the same, more slowly"; \
	         $(PY) -m pip install --disable-pip-version-check --require-hashes -r requirements.lock; }
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

checkout:
	@git rev-parse --git-dir >/dev/null || { \
	    echo "make demo needs git and a checkout: DVC keeps its place by it. Clone the repository," \
	         "or make one of this folder: git init && git add . && git commit -m start" >&2; exit 1; }

# MMSegmentation needs packages that nothing else here does: they get an environment of their own.
PARITY := .venv-parity
.PHONY: parity
parity: $(INSTALLED) $(PARITY)/.installed ## the same scores as MMSegmentation, into docs/results/parity.md (some minutes)
	$(PY) benchmarks/parity/compare.py --published $(PARITY)/bin/python $(ARGS)

$(PARITY)/.installed: benchmarks/parity/requirements.txt
	@rm -rf $(PARITY)
	@$(BIN)/uv venv --quiet --python $(PY) $(PARITY)
	@$(BIN)/uv pip install --quiet --python $(PARITY)/bin/python -r $<
	@touch $@

.PHONY: bench
bench: $(INSTALLED) $(PARITY)/.installed ## time and memory beside other libraries, into docs/results/cpu.md (a quiet hour)
	$(PY) -m benchmarks.against_peers $(ARGS)
