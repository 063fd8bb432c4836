# Two commands matter: `make workbook` and `make test`. Everything lives in .venv; nothing else on the machine is touched.
PYTHON ?= python3
PROFILE ?= toy
BIN := .venv/bin

.PHONY: workbook test lab install constraints environment clean

workbook: .venv/installed
	$(BIN)/vpr run --profile $(PROFILE)

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup tests

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

install: .venv/installed

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,ship,engine]"
	@touch $@ .venv/installed

# The tested set, from what is installed in .venv; environment.yml is written from it and from pyproject.toml.
constraints: .venv/installed-dev
	@{ echo "# The exact set the workbook was tested with (Python 3.11, Linux x86-64). Regenerate with \`make constraints\`."; \
	   $(BIN)/python -m pip list --format=freeze --disable-pip-version-check 2>/dev/null \
	   | grep -vE '^(pip|setuptools|vpr-workbook)==' | sort -f; } > constraints.txt
	$(BIN)/python tests/write_environment.py

clean:
	rm -rf .venv
