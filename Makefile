# Every target sets up what it needs; each is safe to run again and quick the second time.
PYTHON  ?= python3
PROFILE ?= cpu
SEEDS   ?= 1
ARMS    ?= $(if $(filter paper,$(PROFILE)),H,W+H)
TASK    ?= lawbench
JOBS    ?= 2
VENV    := .venv
PY      := $(VENV)/bin/python
TOGETHER = -n $(JOBS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup data model test test-slow browser screenshots lint lab reproduce-fig1 reference figures bench trust fuzz audit lock clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18
	@echo
	@echo "parameters: PROFILE=smoke|cpu|gpu|paper SEEDS=n ARMS=all|H|W|W+H TASK=all|lawbench|denoising|trimul JOBS=2 PYTHON=python3.11"

setup: $(VENV)/.ready  ## make the environment .venv from requirements.lock

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), but Python 3.11 or newer is needed; run: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@echo "setting up $(VENV) (about 3 minutes, 2.3 GB)"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

data: setup  ## fetch, check and prepare the task's data
	@$(PY) -m sia_nb data --task $(TASK)

model: setup  ## fetch and convert the embedded model
	@$(PY) -m sia_nb model

test: data model  ## run the fast tests
	$(PY) -m pytest $(TOGETHER)

test-slow: data model  ## run the long tests too
	$(PY) -m pytest $(TOGETHER) -m "slow or not slow"

browser: data model  ## run every notebook in JupyterLab in a real browser; screenshots in build/screenshots
	SIA_NEEDS_BROWSER=1 $(PY) -m pytest tests/browser -m "slow or not slow"

screenshots: data  ## take the README's pictures anew, from the browser tests
	rm -rf build/screenshots
	SIA_NEEDS_BROWSER=1 $(PY) -m pytest tests/browser/test_browser.py tests/browser/test_browser_explorer.py -m "slow or not slow"
	$(PY) tests/browser/pictures.py

lint: setup  ## style of code and notebooks, and that no notebook holds outputs
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/nbstripout --verify notebooks/*.ipynb

lab: setup  ## open JupyterLab on the notebooks
	$(VENV)/bin/jupyter lab notebooks

reproduce-fig1: data model  ## run the arms and draw Figure 1 (TASK, PROFILE, SEEDS, ARMS)
	@$(PY) -m sia_nb run --task $(TASK) --profile $(PROFILE) --seeds $(SEEDS) --arms $(ARMS)
	@$(PY) -m sia_nb figures --profile $(PROFILE)

reference: TASK = all
reference: SEEDS = 0
reference: data model  ## repeat the study on a CPU, about 6 hours on two cores; goes on where it stopped (TASK, SEEDS, PROFILE)
	@$(PY) -m sia_nb reference --task $(TASK) --seeds $(SEEDS) --profile $(PROFILE) --jobs $(JOBS)

figures: setup  ## redraw the figures from finished runs and the committed reference runs
	@$(PY) -m sia_nb figures

bench: data model  ## run the benchmarks; writes results/reference/bench
	@for b in benchmarks/[a-z]*.py; do echo "== $$b"; $(PY) $$b || exit 1; done

trust: data model  ## try the attacks, kill points, faults and fuzz; writes results/reference/trust.json, prints its table
	$(PY) -m pytest $(TOGETHER) -m trust --trust results/reference/trust.json

fuzz: setup build/fuzz/.ready  ## new examples for every property, and a coverage-guided fuzz of the gateway (SECONDS=120)
	build/fuzz/bin/python tests/fuzz_gateway.py --seconds $(or $(SECONDS),120) --seed $$(date +%s)
	HYPOTHESIS_PROFILE=explore $(PY) -m pytest tests/test_fuzz.py tests/test_budget.py tests/test_gateway.py tests/test_space.py tests/test_trajectory.py tests/test_config.py

build/fuzz/.ready:
	@$(PYTHON) -m venv build/fuzz
	@build/fuzz/bin/python -m pip install --quiet --disable-pip-version-check atheris || echo "atheris does not install here: a smaller coverage-guided loop takes its place"
	@touch $@

audit: setup  ## hold requirements.lock against what is installed and, where there is a network, known vulnerabilities
	@$(PY) tests/audit.py

lock:  ## pin what pyproject.toml asks for, from a fresh environment
	@rm -rf build/lock && $(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet -e ".[dev]" setuptools
	@build/lock/bin/pip freeze --all --exclude-editable | grep -v '^pip==' | sed -E 's/^(torch==[0-9.]+)\+.*/\1/; s/^triton==.*/& ; sys_platform == "linux" and platform_machine == "x86_64"/' > requirements.lock

clean:  ## remove what the targets made, but not data/, results/ or .venv
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
