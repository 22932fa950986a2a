# Everything runs in a virtual environment of its own: make VENV=... PYTHON=... to choose others.
VENV ?= .venv
PYTHON ?= python3
# Processes that run tests at once; each computes on one thread.
JOBS ?= auto

PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-models test-workers test-processes test-gpu test-leaves test-odd test-defaults bench lint format
test test-processes test-leaves test-odd test-defaults: export OMP_NUM_THREADS = 1

help: ## print this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-14s %s\n", $$1, $$2}'

install: $(INSTALLED) ## create the virtual environment and install what the project needs

$(INSTALLED): requirements.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -r requirements.txt
	@$(PY) -c "import cv2" 2>/dev/null || { \
		echo "this machine has no libGL: taking opencv-python-headless instead"; \
		$(PY) -m pip uninstall -q -y opencv-python; $(PY) -m pip install -q opencv-python-headless; }
	@touch $@

demo: $(INSTALLED) ## train on the bundled digits, test, and predict one image
	$(PY) tools/train_net.py EXPERIMENT.NAME demo
	$(PY) tools/test_net.py
	$(PY) -c "import cv2; from data.datasets.digits import Digits; \
		cv2.imwrite('runs/demo/digit.png', Digits(None, 'test').images[0])"
	$(PY) tools/infer.py runs/demo/digit.png --output runs/demo/predictions
	@echo "look at: $$(ls -d runs/demo/*/ | grep -v predictions | tail -1)report/index.html, runs/demo/predictions;"
	@echo "curves:  $(VENV)/bin/tensorboard --logdir runs"

test: $(INSTALLED) ## run the whole test suite
	$(PY) -m pytest -n $(JOBS) --dist worksteal

test-models: $(INSTALLED) ## build every classifier of torchvision, train the smallest and three of timm
	$(PY) -m pytest tests/batteries/models.py

test-workers: $(INSTALLED) ## read the same pixels with every kind and number of workers
	$(PY) -m pytest tests/batteries/workers.py

test-leaves: $(INSTALLED) ## delete every leaf in turn: all else imports, trains and collects its tests
	$(PY) -m pytest -n $(JOBS) --dist worksteal tests/batteries/leaves.py

test-processes: $(INSTALLED) ## train in 2 and 3 processes under torchrun, which are stopped, killed and resumed
	$(PY) -m pytest tests/batteries/processes.py

test-gpu: $(INSTALLED) ## what needs a GPU: precision, resume, streams, speed
	$(PY) -m pytest -s tests/batteries/gpu.py

test-odd: $(INSTALLED) ## stop trainings and tools in whatever can block: they end, and resume exactly
	$(PY) -m pytest -n $(JOBS) --dist worksteal tests/batteries/odd.py

test-defaults: $(INSTALLED) ## train 42 small experiments at five learning rates each: the default one suits them all
	$(PY) -m pytest -s tests/batteries/defaults.py

bench: $(INSTALLED) ## compare reading and the loop with torchvision's, timm's and a bare loop, side by side
	$(PY) -m tests.bench.compare_peers
	$(PY) -m tests.bench.records

lint: $(INSTALLED) ## check style, types, sizes and which folder imports which
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	@$(PY) -m tests.test_architecture
	$(PY) -m pytest tests/test_architecture.py

format: $(INSTALLED) ## put the code into the project's style
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .
