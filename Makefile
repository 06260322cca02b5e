# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make demo    install, then a night's retraining on bundled real data, then one ranking call
#   make test    install, then lint, types, import contracts and tests
# and three more do what takes longer:
#   make test-all      every test there is, those marked slow or gpu among them
#   make test-gpu      those that need a GPU, with tokens a second and the share of its peak
#   make test-lowest   the quick tests on the lowest versions that pyproject.toml allows
# Tests that need what a machine does not have (a JDK for Spark, a PostgreSQL server, Chromium) are
# skipped, and pytest says which and why.
VENV   ?= .venv
# The first of these that runs: a shim of a version manager may be there and not run.
PYTHON ?= $(firstword $(foreach p,python3.11 python3 python3.12 python3.13,$(shell \
	$(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(p))))
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Every top-level folder with an `__init__.py` is a room, imported as `recsys.<room>`.
ROOMS  := $(filter-out recsys,$(patsubst %/__init__.py,%,$(wildcard */__init__.py)))
LINKS  := build/links

.PHONY: install demo test test-all test-gpu test-lowest lint links docs pictures clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "recsys needs Python 3.11 or newer; name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "no virtual environment could be made in $(VENV): on Debian and Ubuntu, install python3-venv" >&2; exit 1; }
	$(PIP) torch
	$(PIP) --editable ".[dev,postgres]"
	@# Spark's package is 400 MB and of no use without a JDK; without either, its tests are skipped.
	@if java -version >/dev/null 2>&1; then $(PIP) --editable ".[connect]" || $(PIP) --editable ".[spark]" || echo "going on without Spark"; fi
	touch $@

demo: install
	$(BIN)/recsys demo demo

# The package as one tree of links, for programs that read files and know no package map: mypy,
# import-linter, an editor (docs/architecture.md says how).
links:
	@rm -rf $(LINKS) && mkdir -p $(LINKS)/recsys
	@ln -s $(foreach entry,$(wildcard recsys/*),../../../$(entry)) $(LINKS)/recsys/
	@ln -s $(foreach room,$(ROOMS),../../../$(room)) $(LINKS)/recsys/

lint: install links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd $(LINKS) && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p recsys
	cd $(LINKS) && $(abspath $(BIN))/lint-imports --config ../../pyproject.toml

# The docs site, in build/site; a warning is an error. A test builds it too.
docs: install links
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# The pictures of README and docs, from a demonstration (DEMO=folder), with Chromium.
DEMO ?= demo
pictures: install
	$(BIN)/python docs/site/pictures.py $(DEMO)

# A worker for each core; the tests of a file stay together, for what they share.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m ''

# The same bodies as in the quick tests, on `device: cuda`; under ten minutes. One process: one GPU.
test-gpu: install links
	$(BIN)/python -m pytest -m gpu

# In an environment of its own; PyTorch stays at the tested version, Spark and OpenVINO are left out
# for their size. Old libraries warn of each other: warnings are no errors here. The reviewed SQL is
# that of the tested Ibis.
LOWEST := .venv-lowest
QUICK  := data_schemas features storage evaluation recsys ingestion

test-lowest:
	$(PYTHON) -m venv $(LOWEST)
	mkdir -p build && $(PYTHON) .ci/lowest.py > build/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(LOWEST)/bin/python -m pip install --quiet --constraint build/lowest.txt \
		--editable ".[postgres,lora,s3,otel,tensorboard]" pytest hypothesis ir-measures
	$(LOWEST)/bin/python -m pytest -W default $(addprefix tests/,$(QUICK)) \
		--deselect tests/features/test_query.py::test_generated_sql_is_as_reviewed

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
