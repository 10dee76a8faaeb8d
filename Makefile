# make demo     photographs in parallel (PHOTOS=folder takes your own)
# make test     the tests in Rust and Python, with every Python from 3.11 to 3.13 that is found
#               (PYTEST="-k queue -x" is handed to pytest)
# make check    formatting, lints, types
# make matrix   processes killed at every point of the engine, for each kind of shared thing and each
#               start method (MATRIX="--script Queue --method spawn" picks some); ten minutes or more
# make conformance  the interpreter's own multiprocessing tests, run against the package
#               (CONFORMANCE="--start-method fork --filter '*Queue.*'" picks some)
# make complaints  25 public complaints, as programs: the standard library beside the package
#               (VERSIONS="3.11 3.12 3.13" with each; COMPLAINTS="--only 'c02*'" picks some)
# make bench    the package beside the standard library (BENCH="--only 'queue*'" picks some)
# make bench-scaling  the same with 10 and 100 times as much, 1 to 16 processes, 8 B to 256 MB
# make bench-memory   what idle workers and queued items take, what is given back
# make bench-rivals   queues beside faster-fifo, pools beside loky, joblib and mpire
# make bench-engine   the engine alone, in Rust: times, and instructions where valgrind is found
# make figures  the tables of BENCHMARKS.md and the plots, from what the above have kept
# make schedules  scenarios of the engine in random orders, with deaths (SCHEDULES=0..100000 runs
#               more, SCHEDULES=4522 repeats the one that failed)
# make fuzz     bytes from elsewhere: frames, handshakes, handles, messages, a manager's requests
#               (FUZZ="--seconds 60 frames porch" picks some; needs a C++ compiler)
# make sanitize the engine's tests with many threads and processes under the address and the thread
#               sanitizer (SANITIZE=address picks one)
# make storm    thousands of processes are killed at random while all others work at full speed;
#               an exact account at the end (STORM="--seed 7 --kills 10000")
# make soak     mixed work for ten minutes, in which no process may grow (SOAK="--minutes 10")
# make churn    processes and blocks come and go, all killed; the arena stays as it was
#               (CHURN="--seed 7 --processes 100000")
# make thousands  a thousand processes of each kind, as many pools, 10^4 queues, 10^5 locks: nothing
#               grows (some minutes)
# make clean    remove everything that these have made
#
# Needs cargo, a C compiler, make, and Python 3.11 or newer with pip; PY=... chooses the Python.
# Everything else goes into .venv and target, and is made again only when its sources change.

SHELL := /bin/bash
.DEFAULT_GOAL := demo
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

ifeq ($(origin PY),undefined)
PY := $(or $(shell scripts/find-python),python3)
endif

PHOTOS ?=
BENCH ?=
PYTEST ?=
CONFORMANCE ?=
SCHEDULES ?=
FUZZ ?=
SANITIZE ?=
STORM ?=
SOAK ?=
CHURN ?=
MATRIX ?=
COMPLAINTS ?=
VERSIONS ?=
export PYTEST

VENV := .venv
BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check install --quiet
WHEELS := target/wheels
BUILT := $(WHEELS)/.built
SOURCES := Cargo.toml Cargo.lock pyproject.toml README.md LICENSE-MIT LICENSE-APACHE \
           $(shell find crates python \( -name '*.rs' -o -name '*.py' -o -name '*.pyi' \
                   -o -name 'Cargo.toml' -o -name py.typed \) -not -path '*/target/*')

# The other versions that the tests run with; the one in .venv is always used.
OTHERS = $(filter-out $(shell $(PY) -c 'import sys; print("%d.%d" % sys.version_info[:2])'),\
                      3.11 3.12 3.13)

.PHONY: demo test check matrix storm soak churn thousands schedules fuzz sanitize conformance complaints \
        bench bench-scaling bench-memory bench-rivals bench-engine figures clean build preflight

demo: $(VENV)/.with-demo
	@$(BIN)/python examples/pictures/main.py $(if $(PHOTOS),"$(PHOTOS)")

test: $(VENV)/.with-test-once
	@MAKE='$(MAKE)' scripts/test $(VENV) $(strip $(OTHERS))

check: $(VENV)/.with-check
	@scripts/check $(VENV)

matrix: $(VENV)/.installed
	@scripts/matrix "$(CURDIR)/$(BIN)/python" $(MATRIX)

conformance: $(VENV)/.installed
	@$(BIN)/python tests/reference/run.py $(CONFORMANCE)

complaints: $(VENV)/.installed
	@$(BIN)/python tests/complaints/columns.py $(COMPLAINTS) \
	    $(foreach it,$(VERSIONS),--python "$$(scripts/find-python $(it))")

bench: $(VENV)/.with-bench
	@$(BIN)/python benches/run.py bench $(BENCH)

bench-scaling: $(VENV)/.with-bench
	@$(BIN)/python benches/run.py scaling $(BENCH)

bench-memory: $(VENV)/.with-bench
	@$(BIN)/python benches/run.py memory $(BENCH)

bench-rivals: $(VENV)/.with-bench
	@scripts/install-rivals $(BIN)/python
	@$(BIN)/python benches/run.py rivals $(BENCH)

bench-engine: $(VENV)/.with-bench
	@$(BIN)/python benches/engine.py $(BENCH)

figures: $(VENV)/.with-bench
	@$(BIN)/python benches/figures.py

schedules: | preflight
	@scripts/schedules $(SCHEDULES)

fuzz: $(VENV)/.installed
	@scripts/fuzz $(BIN)/python $(FUZZ)

sanitize: | preflight
	@scripts/sanitize $(SANITIZE)

storm: $(VENV)/.installed
	@PYTHONPATH=tests $(BIN)/python -m storm $(STORM)

soak: $(VENV)/.installed
	@PYTHONPATH=tests $(BIN)/python -m storm.soak $(SOAK)

churn: $(VENV)/.installed
	@PYTHONPATH=tests $(BIN)/python -m storm.churn $(CHURN)

thousands: $(VENV)/.with-test
	@SIDESTEP_CHURN=100 $(BIN)/python -m pytest -q tests/limits/test_limits.py -k grows

build: $(BUILT)

clean:
	rm -rf target .venv .venv-3.* dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find python examples tests benches -name __pycache__ -type d -prune -exec rm -rf {} +

preflight:
	@scripts/preflight "$(PY)"

# --- environments ---------------------------------------------------------------------------

$(VENV)/.made: | preflight
	@echo "making $(VENV) with $(PY)"
	@rm -rf $(VENV)
	@"$(PY)" -m venv $(VENV)
	@touch $@

# The environment of another version: .venv-3.12 and the like, made by `make test`.
.venv-3.%/.made: | preflight
	@python=$$(scripts/find-python 3.$*) && echo "making .venv-3.$* with $$python" && \
	rm -rf .venv-3.$* && "$$python" -m venv .venv-3.$*
	@touch $@

# One release build serves every version: the module uses the stable ABI. pip reads from
# pyproject.toml which maturin to use.
$(BUILT): $(SOURCES) | preflight $(VENV)/.made
	@echo "building the release wheel (the first time takes a minute or two)"
	@mkdir -p $(WHEELS)
	@rm -f $(WHEELS)/*.whl
	@PYO3_PYTHON="$(CURDIR)/$(BIN)/python" $(BIN)/python -m pip --disable-pip-version-check \
	    wheel --quiet --no-deps --wheel-dir $(WHEELS) .
	@touch $@

# `pip install` keeps an installed package of the same version, hence the second stamp.
%/.installed: $(BUILT) %/.made
	@$*/bin/python $(PIP) $(WHEELS)/*.whl
	@$*/bin/python $(PIP) --force-reinstall --no-deps $(WHEELS)/*.whl
	@touch $@

define extra
%/.with-$(1): pyproject.toml %/.installed
	@echo "installing what '$(1)' needs into $$*"
	@$$*/bin/python $$(PIP) "$$$$(echo $$(CURDIR)/$$(WHEELS)/*.whl)[$(1)]"
	@touch $$@
endef
$(foreach name,demo test test-once check bench,$(eval $(call extra,$(name))))
.PRECIOUS: %/.made .venv-3.%/.made %/.installed %/.with-test
