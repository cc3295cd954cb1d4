# Each target makes the environment first where it is missing; Python 3.11 is all a machine needs.
PYTHON ?= python3
RUN = .venv/bin/python -m lit_vpo

.PHONY: install demo test check bench soak base clean
install: .venv/installed

.venv/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -c constraints.txt -e '.[test,bench,torchcodec,selection]'
	touch .venv/installed

demo: .venv/installed
	$(RUN) run experiments/demo.yaml

test: .venv/installed check
	OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --dist loadfile

check: .venv/installed
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

bench: .venv/installed
	.venv/bin/python benchmarks/motion_world.py
	.venv/bin/python benchmarks/startup.py
	.venv/bin/python benchmarks/stream.py
	.venv/bin/python benchmarks/dpo_step.py --quick
	.venv/bin/python benchmarks/sampling.py

soak: .venv/installed
	.venv/bin/python benchmarks/soak.py
	.venv/bin/python benchmarks/soak_rounds.py

base: .venv/installed
	$(RUN) run experiments/base_model.yaml

clean:
	rm -rf build dist runs *.egg-info .mypy_cache .pytest_cache .ruff_cache
