# Three commands on a fresh machine (python3 with venv, make, git):
#   make demo    runs the examples over several slots
#   make demo-dispatcher    takes a repository from a commit to ship
#   make test    passes the whole test suite
#   make fuzz    runs each fuzzer for a minute
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
DISPATCHER := $(VENV)/.installed-dispatcher

.PHONY: demo demo-dispatcher test fuzz bench clean

$(STAMP): pyproject.toml
	@echo "making the environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $(STAMP)

examples/c/test_primes: examples/c/test_primes.c
	@if command -v cc >/dev/null; then cc -O1 -o $@ $<; else echo "no C compiler: the C example is left out"; fi

demo: $(STAMP) examples/c/test_primes
	@mkdir -p reports
	@$(VENV)/bin/pytest --nosejobs='4*popen' --rootdir=. -v --junitxml=reports/demo.xml examples
	@echo "JUnit XML: reports/demo.xml"

$(DISPATCHER): $(STAMP)
	@echo "installing what the dispatcher needs in $(VENV) ..."
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dispatcher]'
	@touch $(DISPATCHER)

demo-dispatcher: $(DISPATCHER)
	@$(VENV)/bin/python examples/dispatcher/demo.py

test:
	@sh .ci/tox

fuzz:
	@sh .ci/tox -e fuzz

bench: $(STAMP)
	$(VENV)/bin/python benchmarks/run.py all

clean:
	rm -rf $(VENV) .tox reports build dist examples/c/test_primes
