# On a fresh Debian or Ubuntu with python3-venv and make:
#
#   make demo     the whole road on the embedded sample
#   make test     every test
#   make check    format, lint, types and every test: what a change must pass
#   make lint     make check without the tests
#   make clean    remove what these made
#
# Another interpreter: make test PYTHON=python3.13. A CPU build of torch: see "Set up" in CONTRIBUTING.md.

PYTHON ?= python3
ENV := .venv
PIP := $(ENV)/bin/python -m pip --quiet --disable-pip-version-check
INSTALL := $(PIP) install --constraint constraints.txt
CHECK := VIRTUAL_ENV="$(CURDIR)/$(ENV)" scripts/check

.PHONY: demo test check lint clean
.DELETE_ON_ERROR:

demo: $(ENV)/.installed
	$(ENV)/bin/regard demo

test: $(ENV)/.installed-test
	$(ENV)/bin/python -m pytest

check: $(ENV)/.installed-test
	$(CHECK)

lint: $(ENV)/.installed-test
	$(CHECK) --no-tests

clean:
	rm -rf $(ENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist src/regard.egg-info

# A stamp is written only when everything before it worked, so a broken install is tried again.
$(ENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "regard needs Python 3.11 or newer; another one: make PYTHON=python3.13" >&2; exit 1; }
	$(PYTHON) -m venv $(ENV)
	@touch $@

$(ENV)/.installed: $(ENV)/.made pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

$(ENV)/.installed-test: $(ENV)/.made pyproject.toml constraints.txt
	$(INSTALL) --editable '.[test,plots]'
	@touch $@ $(ENV)/.installed
