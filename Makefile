# entroflow: one command per table. `make help` lists them all.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
PIP_ARGS ?=
TIER ?= smoke
RESULTS ?= results
NAME :=  # some shells set one
PY := .venv/bin/python

# SEEDS, JOBS and LAUNCHER pass through only where given: the target knows its own seeds, the machine its cores.
OPTIONS = --tier $(TIER) --results $(RESULTS) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS)) \
  $(if $(LAUNCHER),--launcher $(LAUNCHER))

TARGETS := $(shell sed -n 's/^ *id="\([a-z0-9-]*\)",.*/\1/p' reproduce/*/[a-z]*.py)
PAPERS := $(subst _,-,$(patsubst reproduce/%/printed.csv,%,$(wildcard reproduce/*/printed.csv)))

.PHONY: help smoke test test-slurm lint list data status report board estimate verify repeat merge weights export bench clean all $(TARGETS) $(PAPERS)

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "make TARGET TIER=smoke|small|gpu|paper SEEDS=5 JOBS=2 LAUNCHER=local|slurm, with TARGET one of"
	@printf '  %s\n' $(TARGETS) $(PAPERS) all

# Two stamps, so that `make smoke` and `make test` each install just what they need, once.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "entroflow needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.test: pyproject.toml constraints.txt | .venv/bin/python
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[test]'
	@touch .venv/.base .venv/.test

.venv/.base: pyproject.toml constraints.txt | .venv/bin/python
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e .
	@touch .venv/.base

.venv/.bench: pyproject.toml constraints.txt | .venv/bin/python
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[bench]'
	@touch .venv/.base .venv/.bench

smoke: .venv/.base  ## every target at the smoke tier: tables, verdicts, a report (2 minutes)
	@$(PY) -m reproduce run all --tier smoke --results $(RESULTS) $(if $(JOBS),--jobs $(JOBS))

test: .venv/.test  ## the test suite (no network, random order, two processes)
	@$(PY) -m pytest -n 2 --dist worksteal -m "not slurm" $(PYTEST_ARGS)

test-slurm: .venv/.test  ## the tests on a Slurm of two nodes that they start here (needs root)
	@$(PY) -m pytest -m slurm $(PYTEST_ARGS)

lint: .venv/.test  ## ruff: style, imports, likely mistakes
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

list: .venv/.base  ## the targets, their claims and seeds
	@$(PY) -m reproduce list

status: .venv/.base  ## what is done, missing, failed or stale (TIER=...)
	@$(PY) -m reproduce status --tier $(TIER) --results $(RESULTS)

data: .venv/.base  ## fetch or copy a data source, and verify it (SOURCE=mnist)
	@$(PY) -m reproduce data $(SOURCE)

report: .venv/.base  ## rebuild tables, figures, verdicts and report from the records alone (TIER=...)
	@$(PY) -m reproduce report --tier $(TIER) --results $(RESULTS)

board: .venv/.base  ## write the verdict board of TIER into README.md
	@$(PY) -m reproduce report --tier $(TIER) --results $(RESULTS) --board README.md

$(TARGETS) $(PAPERS) all: .venv/.base
	@$(PY) -m reproduce run $@ $(OPTIONS)

estimate: .venv/.base  ## parameters, FLOPs and the price of a tier (TIER=paper FLOPS=4e14)
	@$(PY) -m reproduce estimate --tier $(TIER) --results $(RESULTS) $(if $(FLOPS),--flops $(FLOPS))

verify: .venv/.base  ## run one published cell of a target again and compare (TARGET=ne-epochs TIER=small)
	@$(PY) -m reproduce verify $(TARGET) --tier $(TIER) --results $(RESULTS)

repeat: .venv/.base  ## draw a target of each paper, run them again in a new folder, compare (SEED=1 TIER=small)
	@$(PY) -m reproduce repeat --seed $(SEED) --tier $(TIER) --results $(RESULTS) $(if $(JOBS),--jobs $(JOBS)) \
	  $(if $(MINUTES),--minutes $(MINUTES)) $(if $(INTO),--into $(INTO))

merge: .venv/.base  ## take in records from another machine (FROM=folder TIER=small)
	@$(PY) -m reproduce merge $(FROM) --tier $(TIER) --results $(RESULTS)

weights: .venv/.base  ## other people's weights: what is here; fetch and verify one (NAME=inception)
	@$(PY) -m reproduce weights $(NAME)

export: .venv/.base  ## trained models as safetensors with cards (TARGET=ne-epochs TIER=small RESULTS=mine)
	@$(PY) -m reproduce export $(TARGET) --tier $(TIER) --results $(RESULTS)

bench: .venv/.bench  ## speed against what a user has today, as ratios (results/bench/*.csv)
	@$(PY) -m reproduce bench --results $(RESULTS)

clean:  ## remove checkpoints and logs, and all of tier smoke; other records and tables stay
	rm -rf $(RESULTS)/*/runs $(RESULTS)/smoke
