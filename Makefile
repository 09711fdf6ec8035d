# Every verb works in a fresh clone: it makes the environment it needs. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OTHER := $(VENV)-torch-$(TORCH)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints-dev.txt
NATIVE_SOURCES := $(wildcard csrc/*.cpp csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh csrc/*/*.h tests/emulation/*.c* \
                   tests/emulation/include/*.h tests/emulation/include/*/*)

.DEFAULT_GOAL := help
.PHONY: help demo test test-emulated test-torch fuzz kill-test hostile-test lint format typecheck docs native compile-cuda compile-triton clean \
        accuracy accuracy-smoke bench bench-attention bench-fusion bench-loss bench-search bench-step bench-sizes bench-gpu

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-16s %s\n", $$1, $$2 }'

# Each stamp is one set of packages in the environment, renewed when its description changes.
$(VENV)/.package: pyproject.toml constraints-dev.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing loginmea-fast into $(VENV) ..."
	@$(PIP) --editable '.[report]'
	@touch $@

$(VENV)/.test: $(VENV)/.package
	@echo "installing what the tests and checks need ..."
	@$(PIP) --editable '.[test,lint]'
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	@$(PIP) --editable '.[bench]'
	@touch $@

$(VENV)/.docs: $(VENV)/.test
	@$(PIP) --editable '.[docs]'
	@touch $@

demo: $(VENV)/.package ## align two real knowledge graphs, with progress, in minutes
	@$(BIN)/loginmea-fast demo

test: $(VENV)/.test ## the test suite, a process a core; tests on real data skip where ../shared/data is absent
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-emulated: $(VENV)/.test ## every CUDA kernel executed on the CPU, in three orders of threads, one under address sanitizer; and with planted faults; long
	LOGINMEA_EMULATED_CUDA=1 $(BIN)/python -m tests.emulation.library pytest tests/ops -k cuda --timeout 1200
	for seed in 2 3; do LOGINMEA_EMULATED_CUDA=$$seed $(BIN)/python -m pytest tests/ops -k cuda --timeout 1200 || exit 1; done
	$(BIN)/python -m tests.emulation.faults
	$(BIN)/python scripts/render_faults.py

test-torch: ## the test suite under another torch, in an environment of its own; TORCH=2.6.0 is the oldest that is admitted; gigabytes
	@test -n "$(TORCH)" || { echo "which torch? make test-torch TORCH=2.6.0"; exit 2; }
	@test -x $(OTHER)/bin/python || $(PYTHON) -m venv $(OTHER)
	@grep -v -e '^torch==' -e '^triton==' constraints-dev.txt > $(OTHER)/constraints.txt
	@$(OTHER)/bin/pip --disable-pip-version-check install --quiet --constraint $(OTHER)/constraints.txt torch==$(TORCH) --editable '.[test]'
	OMP_WAIT_POLICY=passive $(OTHER)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

fuzz: $(VENV)/.test ## readers against 20,000 damaged copies of real files; minutes
	OMP_WAIT_POLICY=passive LOGINMEA_FUZZ_CASES=20000 $(BIN)/python -m pytest tests/fuzz

kill-test: $(VENV)/.test ## training, checkpoints, alignment and native build, killed at 50 random moments; minutes
	OMP_WAIT_POLICY=passive $(BIN)/python -m bench.reliability killed --record
	$(BIN)/python scripts/render_results.py

hostile-test: $(VENV)/.test ## hostile files, full disks, little memory and the like, counted; minutes
	OMP_WAIT_POLICY=passive $(BIN)/python -m bench.reliability hostile --record
	$(BIN)/python scripts/render_results.py

lint: $(VENV)/.test ## ruff, clang-format and mypy; changes nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror $(NATIVE_SOURCES)
	$(BIN)/mypy

format: $(VENV)/.test ## rewrite Python, C++ and CUDA in the house format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(NATIVE_SOURCES)

typecheck: $(VENV)/.test ## mypy alone
	$(BIN)/mypy

docs: $(VENV)/.docs ## the documentation as pages, with the reference from the docstrings; build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/docs/index.html"

native: $(VENV)/.package ## build the CPU library ahead of time, into the package
	$(BIN)/cmake -S . -B build/native -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -Dpybind11_DIR=$$($(BIN)/pybind11-config --cmakedir)
	$(BIN)/cmake --build build/native
	$(BIN)/cmake --install build/native --prefix loginmea_fast/native/lib

compile-cuda: $(VENV)/.package ## every .cu with nvcc for sm_80, sm_90 and sm_90a; no GPU needed; build/cuda-report.txt
	$(BIN)/python scripts/compile_cuda.py

compile-triton: $(VENV)/.test ## every Triton kernel for sm_80 and sm_90; no GPU needed
	$(BIN)/python scripts/compile_triton.py

bench: bench-attention bench-fusion bench-loss bench-search bench-step ## all benchmarks of this machine

bench-attention: $(VENV)/.bench ## relation_reflection_attention
	$(BIN)/python bench/relation_reflection_attention.py

bench-fusion: $(VENV)/.bench ## low_rank_fusion
	$(BIN)/python bench/low_rank_fusion.py

bench-loss: $(VENV)/.bench ## contrastive_loss
	$(BIN)/python bench/contrastive_loss.py

bench-search: $(VENV)/.bench ## alignment_search
	$(BIN)/python bench/alignment_search.py

bench-step: $(VENV)/.bench ## a whole training step
	$(BIN)/python bench/training_step.py

bench-sizes: $(VENV)/.bench ## memory and seconds of a step, 10,000 to 300,000 entities
	$(BIN)/python bench/sizes.py

accuracy: $(VENV)/.bench ## accuracy on the field's data sets, tables and plots; hours, and it goes on where it was stopped
	OMP_WAIT_POLICY=passive $(BIN)/python -m bench.accuracy
	OMP_WAIT_POLICY=passive $(BIN)/python -m bench.accuracy --studies
	$(BIN)/python -m bench.accuracy --record
	$(BIN)/python scripts/render_accuracy.py
	$(BIN)/python scripts/plot_accuracy.py

accuracy-smoke: $(VENV)/.bench ## zh_en by default and FB15K_DB15K by fast, one seed; fails below their lines
	OMP_WAIT_POLICY=passive $(BIN)/python -m bench.accuracy --smoke

bench-gpu: $(VENV)/.bench ## every operator on a CUDA device
	$(BIN)/python bench/gpu

clean: ## remove the environment and everything built here
	rm -rf $(VENV) $(VENV)-torch-* build dist *.egg-info loginmea_fast/native/lib
