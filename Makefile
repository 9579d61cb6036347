# Everything that a fresh machine needs is set up by the first of these that is called.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
APP_STAMP := $(VENV)/.installed-app
TEST_STAMP := $(VENV)/.installed-test

.PHONY: run test check format install clean

run: $(APP_STAMP)
	$(BIN)/python app.py

# A process for each core, up to four; the files stay whole, because tests of one file share what they start.
test: $(TEST_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

check: $(TEST_STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy app worker storage
	$(BIN)/python -m pytest tests/test_layering.py

format: $(TEST_STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(APP_STAMP)

# A newer Python than 3.11 works as well; an older one is refused by pip in words.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(APP_STAMP): $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $(APP_STAMP)

$(TEST_STAMP): $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $(TEST_STAMP) $(APP_STAMP)

clean:
	rm -rf $(VENV) build *.egg-info
