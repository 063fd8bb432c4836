# Two commands matter: `make workbook` and `make test`. Everything lives in .venv; nothing else on the machine is touched.
PYTHON ?= python3
PROFILE ?= toy
BIN := .venv/bin

.PHONY: workbook test check test-machines test-gpu-dry lab install gpu constraints environment clean

workbook: .venv/installed
	$(BIN)/vpr run --profile $(PROFILE)

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup tests

# The tests as other processors would run them: some hours. A minute of it: python tests/machines.py --cheap
test-machines: .venv/installed-dev
	$(BIN)/python tests/machines.py

check: .venv/installed-dev
	$(BIN)/ruff check vpr_lib tests
	$(BIN)/ruff format --check vpr_lib tests
	$(BIN)/ty check --python .venv --quiet vpr_lib

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

install: .venv/installed

# faiss-gpu in the place of faiss-cpu: both bring the module `faiss`, so only one of them may stay.
gpu: .venv/installed
	$(BIN)/python -m pip uninstall --yes --quiet faiss-cpu
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps -c constraints.txt faiss-gpu
	$(BIN)/python -m pip install --quiet -c constraints.txt faiss-gpu

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,ship,engine,video]"
	@touch $@ .venv/installed

# The tested set, from what is installed in .venv; environment.yml is written from it and from pyproject.toml.
constraints: .venv/installed-dev
	@{ echo "# The exact set the workbook was tested with (Python 3.11, Linux x86-64). Regenerate with \`make constraints\`."; \
	   $(BIN)/python -m pip list --format=freeze --disable-pip-version-check 2>/dev/null \
	   | grep -vE '^(pip|setuptools|vpr-workbook)==' | sort -f; } > constraints.txt
	$(BIN)/python tests/write_environment.py

# The machine of examples/gpu, played without a GPU and without a network: Python 3.12, torch 2.11, the rest from wheels.
PYTHON312 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python) python3.12)
GPU_STACK := torch==2.11.0 torchvision==0.26.0 timm numpy pandas scipy scikit-learn matplotlib seaborn h5py pillow pyarrow rich typer \
	tqdm pyyaml safetensors jinja2 lightning

test-machines: test-gpu-dry

test-gpu-dry: .venv-gpu/installed wheels/.complete
	rm -rf runs/gpu-dry && mkdir -p runs/gpu-dry
	OUT=runs/gpu-dry VPR_SCRATCH=runs/gpu-dry/scratch VPR_GPU_DRY=1 PYTHON=$(CURDIR)/.venv-gpu/bin/python examples/gpu/run.sh 900
	@! grep -q '"result": "failed"' runs/gpu-dry/checks.json

.venv-gpu/installed:
	$(PYTHON312) -m venv .venv-gpu && .venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check $(GPU_STACK) && touch $@

wheels/.complete: examples/gpu/wheels.txt
	$(PYTHON312) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
	    --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 --platform manylinux_2_34_x86_64 -d wheels -r examples/gpu/wheels.txt
	@touch $@

clean:
	rm -rf .venv .venv-gpu
