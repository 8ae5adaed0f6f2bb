# `make target=ryzen` does the whole job; `make` alone lists what else there is.

# Assigned here, so that only the command line can change them: a `target` in the environment is somebody else's.
target :=
model := smollm2-135m
precision := ladder
strict :=
baseline :=
tokenizer :=
sizes := 135m 360m 1.1b 3b 7b
python :=
bundle :=
peers :=
rounds := 5

.DEFAULT_GOAL := $(if $(target),build,help)
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help named build plan bench bench-scale targets doctor test test-deep lint format verify-store clean clean-store

VENV := .venv
BUILD := $(VENV)/.installed-build
DEV := $(VENV)/.installed-dev
TAPEOUT := $(VENV)/bin/tapeout
RUN := $(VENV)/bin/python -m

# $(call quoted,name): the value of a variable as one word of the shell, whatever is in it.
quoted = '$(subst ','\'',$(value $(1)))'
request = $(call quoted,target) --model $(call quoted,model) --precision $(call quoted,precision)
# $(call pinned,package): the requirement that pyproject.toml pins.
pinned = "$$(sed -n 's/.*"\($(1)==[^"]*\)".*/\1/p' pyproject.toml | head -n 1)"
PIP := $(RUN) pip install -qq --no-input --disable-pip-version-check

help: ## list the targets (the default without target=)
	@echo 'make target=NAME [model=$(model)] [precision=ladder|auto|int8|int4] [strict=1] [baseline=BUNDLE]'
	@echo '                    the whole job: install, fetch, export, quantize, compile, validate, report'
	@sed -n 's/^\([a-z-]*\):.*## /\1 /p' Makefile | while read -r name text; do printf 'make %-14s %s\n' "$$name" "$$text"; done

named:
	@test -n $(call quoted,target) || { \
		echo 'error: no target is named' >&2; \
		echo 'help: add target=ryzen; `make targets` lists them all' >&2; \
		exit 2; }

build: named $(BUILD) ## what `make target=NAME` runs
	@$(TAPEOUT) build $(request) $(if $(strict),--strict) $(if $(baseline),--baseline $(call quoted,baseline))

plan: named $(BUILD) ## say for each stage of target=NAME whether it would run, and why
	@$(TAPEOUT) plan $(request)

bench: $(BUILD) ## time the CPU packages of bundle=FOLDER beside peers=FILE (docs/performance.md), rounds=5
	@$(TAPEOUT) bench $(call quoted,bundle) --rounds $(call quoted,rounds) $(if $(peers),--peers $(call quoted,peers))

bench-scale: $(BUILD) ## see what builds of sizes='$(sizes)' take; tokenizer=FOLDER of a model
	@$(RUN) tapeout.scale_bench --tokenizer $(call quoted,tokenizer) --work artifacts/.scale --out artifacts/bench/scale.json $(sizes)

targets: $(BUILD) ## list the products that can be named as target=NAME
	@$(TAPEOUT) targets

doctor: $(BUILD) ## look at what this machine has
	@$(TAPEOUT) doctor

test: $(DEV) ## run the tests
	@$(RUN) pytest -m 'not deep'

test-deep: $(DEV) ## run the tests that take longer than `make test` allows
	@$(RUN) pytest -m deep

lint: $(DEV) ## check style and types
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy

format: $(DEV) ## rewrite the code in the one style
	@$(RUN) ruff check --fix-only .
	@$(RUN) ruff format .

verify-store: $(BUILD) ## read every stored byte and set aside what is damaged
	@$(TAPEOUT) store verify

clean: ## remove bundles and caches; the store, downloads and .venv stay
	@find artifacts -mindepth 1 -maxdepth 1 ! -name README.md ! -name .store ! -name .downloads -exec chmod -R u+w {} + -exec rm -rf {} +
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -path ./artifacts -prune -o -name __pycache__ -prune -exec rm -rf {} +

clean-store: ## remove artifacts/.store: every stage has to be repeated
	@if [ -e artifacts/.store ]; then chmod -R u+w artifacts/.store; rm -rf artifacts/.store; fi

# The stamps are written last: an installation that was interrupted is taken up again.
$(BUILD): pyproject.toml
	@$(create-venv)
	@$(call install,what a build needs,torch,.[build])

$(DEV): $(BUILD)
	@$(call install,what the tests need,,.[build$(comma)dev])

comma := ,

candidates = $(if $(python),$(call quoted,python),python3.11 python3)

define create-venv
set -e; \
is_311() { "$$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }; \
if is_311 $(VENV)/bin/python && $(RUN) pip --version >/dev/null 2>&1; then exit 0; fi; \
for python in $(candidates); do \
	is_311 "$$python" && break; \
	python=; \
done; \
if [ -z "$$python" ]; then \
	echo 'error: Tapeout needs Python 3.11, and found none as' $(candidates) >&2; \
	echo 'help: install it, or name one with make python=/path/to/python3.11' >&2; \
	exit 2; \
fi; \
[ ! -e $(VENV) ] || echo '$(VENV) is not a working Python 3.11 environment: it is made anew' >&2; \
if ! "$$python" -m venv --clear $(VENV); then \
	echo "error: $$python cannot create $(VENV)" >&2; \
	echo 'help: install its venv module (Debian, Ubuntu: apt install python3.11-venv), and look for free space' >&2; \
	exit 2; \
fi
endef

# $(call install,what for,packages to settle first,editable requirement)
# torch goes first and alone: resolved together with the rest it comes as gigabytes of CUDA. Locking the Makefile keeps
# two installations apart, and pip writes INSTALLER after a package's files: without it the package is half there.
define install
set -e; \
started=$$(date +%s); \
printf 'Installing $(1) into $(VENV); a first time takes minutes ... ' >&2; \
exec 9<Makefile; \
flock 9 2>/dev/null || :; \
for info in $(VENV)/lib/python3.11/site-packages/*.dist-info; do [ -f "$$info/INSTALLER" ] || rm -rf "$$info"; done; \
failed() { echo >&2; echo 'error: pip could not install the pinned packages' >&2; \
	echo 'help: read its message above and repeat the command; without a network see "Offline" in README.md' >&2; \
	exit 2; }; \
$(PIP) $(call pinned,setuptools) || failed; \
$(foreach package,$(2),$(PIP) $(call pinned,$(package)) || failed; )\
$(PIP) --no-build-isolation --editable '$(3)' || failed; \
echo "done in $$(($$(date +%s) - started)) s" >&2; \
touch $@
endef
