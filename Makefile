# Two commands are enough: `make run` trains and stylizes for real, `make test` proves it.

VENV := .venv
# A virtual environment does not survive being moved, and is stale when what it holds was pinned
# otherwise: its stamp carries the hash of both.
STAMP := $(VENV)/ready-$(shell { pwd; cat pyproject.toml constraints.txt; } | cksum | tr ' ' '-')
# Stages run `python`: it has to be ours, whatever comes first on the reader's PATH.
CLEAN := env -u PYTHONPATH -u PYTHONHOME
RUN := $(CLEAN) PATH="$$PWD/$(VENV)/bin:$$PATH"

.DEFAULT_GOAL := help
.PHONY: help setup run repro test check fmt ui bench clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv with everything pinned by constraints.txt
	@# Without git, DVC has to be told so; a committed no_scm would disable experiments.
	@if [ ! -e .git ]; then grep -qs no_scm .dvc/config.local || printf '[core]\n    no_scm = true\n' >> .dvc/config.local; \
	elif grep -qs no_scm .dvc/config.local; then $(RUN) dvc config --local --unset core.no_scm; fi

run: repro ## train, evaluate and register with the recipe of params.yaml, then stylize a photograph
	@$(RUN) fnst summary

repro: setup ## run what is missing or out of date in the pipeline
	@$(RUN) python -m dvc repro

test: setup ## run the whole suite
	@$(RUN) python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

check: setup ## formatting, lint, types, import rules
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) mypy
	@$(RUN) lint-imports --no-cache

fmt: setup ## format and mend what can be mended
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .

ui: setup ## open MLflow on this project's runs and versions
	@$(RUN) fnst ui

bench: setup ## measure what docs/benchmarks.md claims, and write it anew; remarks stay
	@$(RUN) python -m benchmarks --all --write

clean: ## remove the environment and caches; data, models and runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .grimp_cache fnst.egg-info
	find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +

# The first Python of 3.11 or newer that works, of whatever name.
$(STAMP): pyproject.toml constraints.txt
	@set -e; for python in python3 python3.13 python3.12 python3.11 python; do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; \
	  python=; \
	done; \
	if [ -z "$$python" ]; then echo 'error: fnst needs Python 3.11 or newer; none was found on PATH.' >&2; exit 1; fi; \
	echo "setting up $(VENV) with $$("$$python" --version); about 2 minutes and 7 GB the first time"; \
	$(CLEAN) "$$python" -m venv --clear $(VENV); \
	$(CLEAN) $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch "$@"
