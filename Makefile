# What is given after make, as in make report PARAMS=params/mine.yaml. A variable of the shell with
# such a name means something else, so it is named and not used.
OURS := PARAMS RUN DATA EVALUATOR FORCE SEEDS KILLS CASES MINUTES EPOCHS EXPERIMENTS STAGE ARGS
TITLE_PAGE := TITLE AUTHOR STUDENT_ID COURSE DATE ABSTRACT LANGUAGE
$(foreach name,$(OURS),$(if $(findstring environment,$(origin $(name))),$(warning $(name) of the \
	environment is not used; give it after make, as in make report $(name)=...)))
PARAMS = params/quick.yaml
RUN =
DATA =
EVALUATOR =
FORCE =
SEEDS = 0 1 2
KILLS = 100
CASES = 2000
MINUTES = 3
EPOCHS = 1
EXPERIMENTS =
STAGE =
ARGS =
# Handed on by the environment, where the shell changes nothing in them.
export PARAMS RUN DATA EVALUATOR

# Python and pip work as they do by themselves. Where packages come from is up to the machine.
SOURCES := $(addprefix PIP_,INDEX_URL EXTRA_INDEX_URL NO_INDEX FIND_LINKS TRUSTED_HOST PROXY CERT \
	CLIENT_CERT TIMEOUT RETRIES CACHE_DIR NO_CACHE_DIR CONFIG_FILE KEYRING_PROVIDER) \
	$(addprefix UV_,INDEX INDEX_URL DEFAULT_INDEX EXTRA_INDEX_URL FIND_LINKS OFFLINE NO_INDEX \
	CACHE_DIR NATIVE_TLS SYSTEM_CERTS INSECURE_HOST HTTP_TIMEOUT KEYRING_PROVIDER LINK_MODE)
unexport $(filter-out $(SOURCES),$(filter PYTHON% PIP_% UV_%,$(.VARIABLES)))
export PIP_USER := 0

VENV := .venv
$(foreach name,$(filter-out $(OURS) $(TITLE_PAGE) $(SOURCES) PYTHON VENV,$(.VARIABLES)),\
	$(if $(findstring command,$(origin $(name))),$(error Error: found $(name)=, expected one of \
	$(OURS) $(TITLE_PAGE); variables of the environment go before make)))
READY := $(VENV)/.ready
CDDPM := $(VENV)/bin/python -m cddpm_core
NAMED = $(if $(RUN),--run "$$RUN")
OPTIONS = --params "$$PARAMS" $(NAMED) $(if $(DATA),--data "$$DATA") \
	$(if $(EVALUATOR),--evaluator "$$EVALUATOR") $(if $(filter-out 0,$(FORCE)),--force)
# make report AUTHOR="..." STUDENT_ID=...: taken only from the command line of make, and handed on by
# the environment, where the shell changes nothing in them.
given = $(if $(findstring command,$(origin $(1))),-p $(2) "$$$(1)")
ABOUT = $(foreach name,$(TITLE_PAGE),$(call given,$(name),$(shell echo $(name) | tr A-Z a-z)))
BOTH := [timesteps, sampling]
RECIPE := params/ablations/recipe.yaml
INPUTS = $(if $(DATA),-p data "$$DATA") $(if $(EVALUATOR),-p evaluator "$$EVALUATOR")

.PHONY: report stage seeds ablations experiments verify submission bench lab test torture env clean-env

report: $(READY)
	$(CDDPM) report $(OPTIONS) $(ABOUT) $(if $(filter-out 0,$(EXPERIMENTS)),-p experiments "$(BOTH)")

stage: $(READY)
	$(CDDPM) stage $(STAGE) $(OPTIONS) $(ABOUT)

seeds: $(READY)
	$(CDDPM) sweep "$$PARAMS" --seeds $(SEEDS) $(INPUTS)

ablations: $(READY)
	$(CDDPM) sweep $(RECIPE) $(filter-out $(RECIPE),$(sort $(wildcard params/ablations/*.yaml))) \
		--seeds $(SEEDS) -p epochs "$(EPOCHS)" -p evaluate_every 0 -p analysis_images 300 $(INPUTS)

experiments: $(READY)
	for file in params/experiments/*.yaml; do $(CDDPM) report --params $$file $(INPUTS) || exit; done

verify: $(READY)
	$(CDDPM) verify $(NAMED)

submission: $(READY)
	$(CDDPM) submission $(NAMED)

bench: $(READY)
	-$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e '.[test,bench]'
	$(CDDPM) bench --minutes "$(MINUTES)" $(NAMED)

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
	else $(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-compile \
		-e '.[test]'; fi
	@touch $@

clean-env:
	rm -rf $(VENV)
