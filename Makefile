PARAMS ?= params/quick.yaml
RUN ?=
DATA ?=
EVALUATOR ?=
FORCE ?=
SEEDS ?= 0 1 2
KILLS ?= 100
CASES ?= 2000
MINUTES ?= 3
EPOCHS ?= 1

VENV := .venv
READY := $(VENV)/.ready
CDDPM := $(VENV)/bin/python -m cddpm_core
OPTIONS = --params "$(PARAMS)" $(if $(RUN),--run "$(RUN)") $(if $(DATA),--data "$(DATA)") \
	$(if $(EVALUATOR),--evaluator "$(EVALUATOR)") $(if $(filter-out 0,$(FORCE)),--force)
RECIPE := params/ablations/recipe.yaml
INPUTS = $(if $(DATA),-p data "$(DATA)") $(if $(EVALUATOR),-p evaluator "$(EVALUATOR)")

.PHONY: report stage seeds ablations experiments verify submission bench lab test torture env clean-env

report: $(READY)
	$(CDDPM) report $(OPTIONS)

stage: $(READY)
	$(CDDPM) stage $(STAGE) $(OPTIONS)

seeds: $(READY)
	$(CDDPM) sweep "$(PARAMS)" --seeds $(SEEDS) $(INPUTS)

ablations: $(READY)
	$(CDDPM) sweep $(RECIPE) $(filter-out $(RECIPE),$(sort $(wildcard params/ablations/*.yaml))) \
		--seeds $(SEEDS) -p epochs "$(EPOCHS)" -p evaluate_every 0 $(INPUTS)

experiments: $(READY)
	for file in params/experiments/*.yaml; do $(CDDPM) report --params $$file $(INPUTS) || exit; done

verify: $(READY)
	$(CDDPM) verify $(if $(RUN),--run "$(RUN)")

submission: $(READY)
	$(CDDPM) submission $(if $(RUN),--run "$(RUN)")

bench: $(READY)
	-$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[test,bench]'
	$(CDDPM) bench --minutes "$(MINUTES)" $(if $(RUN),--run "$(RUN)")

lab: $(READY)
	$(CDDPM) lab

test: $(READY)
	$(CDDPM) test $(ARGS)

# Takes over an hour: a hundred kills of each kind, thousands of damaged files.
torture: $(READY)
	CDDPM_KILLS=$(KILLS) CDDPM_CASES=$(CASES) $(CDDPM) test -n0 -s tests/test_torture.py tests/test_fuzz.py

env: $(READY)

# The first Python from 3.11 on is taken; uv, where there is one, installs about ten times faster.
$(READY): pyproject.toml
	@for p in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
		if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			found=$$p; break; fi; done; \
	if [ -z "$$found" ]; then echo "Error: no Python 3.11 or later found" >&2; exit 2; fi; \
	[ -x $(VENV)/bin/python ] || $$found -m venv $(VENV) || exit 2; \
	echo "installing into $(VENV), some minutes the first time"; \
	if command -v uv >/dev/null 2>&1; \
	then uv pip install --python $(VENV)/bin/python -q -e '.[test]'; \
	else $(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[test]'; fi
	@touch $@

clean-env:
	rm -rf $(VENV)
