# Four commands:
#   make demo    photographs of generated parts -> trained, INT8-calibrated detector -> inspected frames, latency, report
#   make test    lint, types, architecture and tests
#   make contract    the TensorRT modules against the real Python bindings of every release; needs a C compiler
#   make gpu-test    what only a GPU can show: builds, self-tests, memory, graphs, latency; the result in benchmarks/results
#
# `make demo PHOTOS=photos/bottle FRAMES=frames` does the same for your own part.

PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
DEMO    ?= demo
PHOTOS  ?= $(DEMO)/photos
FRAMES  ?= $(DEMO)/photos/frames
MINUTES ?= 3.3
SIZE    ?= 192
BUNDLE  ?= $(DEMO)/gpu.segrd
TENSORRT ?= tensorrt

.PHONY: demo photographs frames test lint types tests contract gpu-test install clean

install: $(VENV)/installed

$(VENV)/installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt --config-settings editable_mode=strict -e '.[dev]'
	touch $@

demo: photographs frames
	rm -rf $(DEMO)/run
	$(BIN)/segrd-train $(PHOTOS) --out $(DEMO)/run --minutes $(MINUTES) --size $(SIZE)
	$(BIN)/segrd-export $(DEMO)/run --int8 --out $(DEMO)/part.segrd
	$(BIN)/segrd-inspect $(DEMO)/part.segrd $(FRAMES) --out $(DEMO)/results --force || test $$? -eq 1
	$(BIN)/segrd-bench $(DEMO)/part.segrd --html $(DEMO)/latency.html
	@echo
	@echo "Open $(DEMO)/part.html (the detector) and $(DEMO)/latency.html; the inspected frames are in $(DEMO)/results."

# The demo's own parts are rendered where there are none; a folder of yours has to be there.
photographs: install
	test -d $(PHOTOS) || test $(PHOTOS) != $(DEMO)/photos || $(BIN)/python -m segrd_edge.training.demo_parts $(PHOTOS)
	@test -d $(PHOTOS) || { echo "PHOTOS=$(PHOTOS): there is no such folder"; exit 2; }

# Looked for before minutes of training. A camera's number or an address is tried only then.
frames: photographs
	@case "$(FRAMES)" in [0-9] | *://*) ;; *) test -e "$(FRAMES)" || \
		{ echo "FRAMES=$(FRAMES): there is no such folder or file; FRAMES=… names what to inspect"; exit 2; } ;; esac

test: lint types tests

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd tests && ../$(BIN)/lint-imports --config ../pyproject.toml --no-cache

# From the tests folder, because in the root Python finds segrd_edge/ itself before the installed package.
types: install
	cd tests && ../$(BIN)/mypy --config-file ../pyproject.toml -p segrd_edge

# A worker per core, four at most, each a file at a time; a thread each, so that they do not fight for the cores.
tests: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

# The TensorRT modules and the tests' fake GPU against the real Python packages. Fetches 28 MB with pip, once.
contract: install
	$(BIN)/pytest -m contract -vv -rs tests/contract

# TENSORRT=tensorrt-rtx on an RTX card with that flavour, TENSORRT=cuda on a card without TensorRT.
# BUNDLE=bottle.segrd takes yours, of segrd-export --engine tensorrt.
gpu-test: install
	$(BIN)/python -m pip install --quiet -c constraints.txt --config-settings editable_mode=strict -e '.[$(TENSORRT)]'
	test -f $(BUNDLE) || $(MAKE) $(BUNDLE)
	$(BIN)/python -m segrd_edge.benchmarks.gpu_test $(BUNDLE) --out benchmarks/results

$(DEMO)/gpu.segrd: | photographs
	$(BIN)/segrd-train $(PHOTOS) --out $(DEMO)/gpu-run --minutes $(MINUTES) --size $(SIZE)
	$(BIN)/segrd-export $(DEMO)/gpu-run --int8 --engine tensorrt --out $@ --no-report

clean:
	rm -rf $(VENV) build *.egg-info $(DEMO)
