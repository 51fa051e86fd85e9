# demo: the embedded search, start to end. test, lint, types: what CI runs. docs: the site. clean: what was built.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
ROOMS = spaces objectives search
TYPES = build/types

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-deep campaign lint types docs clean

help:
	@echo "make demo    install into $(VENV) and search a recipe for examples/fashion-mnist"
	@echo "make test    the whole test suite"
	@echo "make test-deep  the same with 500 random recipes instead of a sample of them"
	@echo "make campaign  attacks of every kind, for hours: docs/reliability.md"
	@echo "make lint    ruff"
	@echo "make types   mypy, and the one-way imports of the rooms"
	@echo "make docs    the documentation as a site, in build/site"
	@echo "make clean   remove build/ and caches ($(VENV) and runs/ stay)"

demo: $(VENV)/.installed-demo
	$(BIN)/sousvit search examples/fashion-mnist/budget.yaml --run demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations 10

test-deep: export SOUSVIT_RANDOM_RECIPES = 500
test-deep: test

campaign: $(VENV)/.installed-test
	$(BIN)/python -m tests.campaign --out build/campaign.md

lint: $(VENV)/.installed-test
	$(BIN)/ruff check

# mypy and import-linter cannot follow the mapping of the top-level rooms into sousvit.*: link them into place.
types: $(VENV)/.installed-test
	@rm -rf $(TYPES) && mkdir -p $(TYPES)/sousvit
	@cd $(TYPES)/sousvit && ln -s ../../../sousvit/* . && ln -s $(addprefix ../../../,$(ROOMS)) .
	cd $(TYPES) && $(abspath $(BIN))/mypy --config-file ../../pyproject.toml --cache-dir ../mypy-cache -p sousvit
	cd $(TYPES) && PYTHONPATH=. $(abspath $(BIN))/lint-imports --config ../../pyproject.toml --no-cache

# Warnings are errors: a dead link, a heading that is not there, a page that no menu names. With --quiet none would count.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache *.egg-info
	find $(ROOMS) sousvit tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written after a whole installation only, so an interrupted one is repeated; a new pyproject.toml too.
$(VENV)/.installed-demo: EXTRA = openvino
$(VENV)/.installed-test: EXTRA = litert,test
$(VENV)/.installed-docs: EXTRA = docs
$(VENV)/.installed-demo $(VENV)/.installed-test $(VENV)/.installed-docs: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "sousvit needs Python 3.10 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@echo "installing sousvit and its libraries into $(VENV), about 4 minutes the first time ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install -e ".[$(EXTRA)]"
	@touch $@
