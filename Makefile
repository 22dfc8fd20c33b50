PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo station test test-package test-station test-cluster test-slow check docs docs-pictures coverage package sanitize lock clean

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml $(wildcard src/offnominal/*/*.c)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@# Bytecode is compiled when a module is first imported; compiling all of it would take a minute.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/offnominal demo --out demo-out

# The solar cells of the demo, inspected as if a camera took them; Ctrl-C stops it.
station: setup
	$(BIN)/python -m offnominal.station.demo station-demo

# Parts, so that `make -j2 test` uses two cores.
test: test-package test-station test-cluster

test-package: setup
	$(BIN)/pytest --ignore tests/station --ignore tests/cluster

test-station: setup
	$(BIN)/pytest -p no:cacheprovider -m "not slow" tests/station

# Ray leaves files and processes to the end of the session, which Python warns of.
test-cluster: setup
	$(BIN)/pytest -p no:cacheprovider -W ignore::ResourceWarning -m "not slow" tests/cluster

test-slow: setup
	$(BIN)/pytest -p no:cacheprovider -m slow tests/station
	$(BIN)/pytest -p no:cacheprovider -W ignore::ResourceWarning -m slow tests/cluster

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -p no:cacheprovider --doctest-modules --ignore src/offnominal/station/migrations src/offnominal

coverage: setup
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage report

package: setup
	.ci/package

sanitize: setup
	.ci/sanitize

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs-pictures: setup
	$(BIN)/python docs/make_pictures.py
	$(BIN)/python docs/make_region_picture.py
	$(BIN)/python docs/make_station_pictures.py

lock: setup
	$(BIN)/pip freeze --exclude-editable --all | sed 's/+cpu//' | grep -v '^offnominal\|^pip==' > requirements.lock

clean:
	rm -rf .venv demo-out station-demo build dist
