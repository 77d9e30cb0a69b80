# Every target works from nothing but a clone, Python (3.10 to 3.13) and make: .venv is made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test check wheel bench-train bench-accuracy bench-steel bench-int8 bench-runtime example clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(READY)  ## train, merge, quantize and judge an adapter on generated pictures: no GPU, no network
	$(BIN)/visionlora demo --out runs/demo --overwrite

test: $(READY)  ## all tests, JOBS=2 at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(or $(JOBS),2) --dist loadfile

wheel: $(READY)  ## one file to install on other machines, in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/visionlora-*.whl

check: $(READY)  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-train: $(READY)  ## time and memory of the training step against others: MODEL=yolo11n.pt DATA=data.yaml DEVICE=0
	$(BIN)/python benchmarks/training/run.py --model $(MODEL) --data $(DATA) --device $(or $(DEVICE),0) \
		--out runs/bench-train.json

bench-accuracy: $(READY)  ## LoRA against full fine-tuning, swept, three seeds: MODEL= STEEL=data.yaml WILDLIFE=data.yaml
	$(BIN)/python benchmarks/accuracy/run.py --model $(MODEL) --steel $(STEEL) --wildlife $(WILDLIFE) \
		--out benchmarks/accuracy/results.json

bench-steel: $(READY)  ## every stage of one adapter: MODEL=yolo11n.pt ADAPTER=adapter.safetensors DATA=data.yaml
	$(BIN)/python benchmarks/stages/run.py --model $(MODEL) --adapter $(ADAPTER) --data $(DATA) --out benchmarks/stages/steel \
		$(if $(FULL),--full $(FULL)) $(if $(RETENTION),--retention $(RETENTION))

bench-int8: $(READY)  ## INT8 files of several makers: MODEL=yolo11n.pt DATA=data.yaml [ADAPTER= CALIBRATION= IMGSZ=640 CASE=]
	$(BIN)/python -m pip install --quiet --editable '.[dev,bench]'
	$(BIN)/python benchmarks/int8/run.py --case $(or $(CASE),$(basename $(notdir $(MODEL)))-$(or $(IMGSZ),640)) \
		--model $(MODEL) --data $(DATA) --imgsz $(or $(IMGSZ),640) --out runs/bench-int8.json \
		$(if $(ADAPTER),--adapter $(ADAPTER)) $(if $(CALIBRATION),--calibration $(CALIBRATION))

bench-runtime: $(READY)  ## the detector beside Ultralytics' predict: MODEL=model.onnx SOURCE=folder of pictures
	$(BIN)/python benchmarks/runtime/run.py --model $(MODEL) --source $(SOURCE) --out runs/bench-runtime.json

example: $(READY)  ## the example report of docs/example, from generated pictures alone
	$(BIN)/python benchmarks/example/run.py --work runs/example --out docs/example

clean:  ## remove the virtual environment and all runs
	rm -rf $(VENV) runs
