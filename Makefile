# `make demo` and `make test` need Python >= 3.11 and this file, nothing else.

PYTHON ?= python3
VENV ?= .venv
# JAX='jax==0.9.0': what setup.py allows beside that JAX, not requirements.lock.
JAX ?=
BIN = $(VENV)/bin
INSTALLED = $(VENV)/installed

.PHONY: demo test test-slow test-faults check docs wheel benchmark benchmark-gpu clean

# Trains a VAE on the embedded digits at several tolerances and draws the result.
demo: $(INSTALLED)
	$(BIN)/python -m experiments.information_plane \
	  --config=configs/digits_vae.py --workdir=runs/demo

# Most of the time goes to compilation: what one worker, or an earlier run, has
# compiled the others read.
test test-faults: export JAX_COMPILATION_CACHE_DIR = $(CURDIR)/.pytest_cache/jax
test test-faults: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS = 0
# These compile as users do, without the flags of tests/conftest.py.
test-slow test-faults: export XLA_FLAGS ?=
test-slow test-faults: export JAX_DISABLE_MOST_OPTIMIZATIONS ?= 0
test: $(INSTALLED)
	$(BIN)/python -m pytest $(if $(FILE),,-n auto --dist worksteal) \
	  -m "not slow and not faults" $(FILE)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

# Kills, damages and full disks, FAULTS_SEED=0 or another; two cores take twenty
# minutes. It ends with a table of what became of them.
test-faults: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist worksteal tests/faults

# Lint, format, spelling, types and the layers of imports.
check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell geco_jax configs experiments tests benchmarks docs \
	  examples *.md Makefile pyproject.toml setup.py
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/layers_test.py

# The site, in build/docs; a warning is an error.
docs: $(INSTALLED)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs

# The wheel, in dist, and whether it works without a checkout.
wheel: $(INSTALLED)
	rm -rf build/lib build/bdist* dist
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w dist .
	$(BIN)/python -m pytest tests/wheel_test.py

# Against PyTorch, which is installed for this alone.
benchmark: $(INSTALLED)
	$(BIN)/pip install -q -e '.[benchmarks]'
	$(BIN)/python -m benchmarks.train_step --rows=mlp --rows=own \
	  --output=results/train_step_mlp.json
	$(BIN)/python -m benchmarks.train_step --rows=conv --num_cpu_devices=2 \
	  --output=results/train_step_conv.json
	$(BIN)/python -m benchmarks.convdraw --num_cpu_devices=2 \
	  --output=results/convdraw.json
	$(BIN)/python -m benchmarks.marginal_kl --output=results/marginal_kl.json
	$(BIN)/python -m benchmarks.constraint_cost --num_cpu_devices=2 \
	  --output=results/constraint_cost.json
	$(BIN)/python -m benchmarks.fixed_points --output=results/fixed_points.json
	$(BIN)/python -m benchmarks.sweep --output=results/sweep.json

# The same on one NVIDIA card: six minutes, after the installation of CUDA's JAX.
benchmark-gpu: $(INSTALLED)
	@nvidia-smi -L || { echo "benchmark-gpu needs an NVIDIA card"; exit 1; }
	$(BIN)/pip install -q -c requirements.lock -e '.[benchmarks]' 'jax[cuda13]'
	$(BIN)/python -m benchmarks.gpu --output=results/gpu_speed.json

$(INSTALLED): requirements.lock setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python >= 3.11 is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(if $(JAX),-e '.[dev]' '$(JAX)',-r requirements.lock)
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $(INSTALLED)

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache *.egg-info build dist
