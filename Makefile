# make train   makes .venv, installs what is locked, trains the default experiment and tests it
# make test    the same with the test tools, and runs the whole test suite
# make install makes .venv with the test tools, and runs nothing
# make docs    writes the documentation to site/: open site/index.html
#
# TORCH=cpu, TORCH=cu130, … picks another build of torch than the platform's default, and is remembered in .venv.
# PYTHON=python3.12 picks the Python that .venv is made from.

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= $(shell cat $(VENV)/torch-backend 2>/dev/null)
STAMP   = $(TORCH:%=-%)
BIN     = $(VENV)/bin
# A uv of one's own is used where there is one; else .venv gets its own.
UV      = $(or $(shell command -v uv 2>/dev/null),$(BIN)/uv)
# Bytecode is compiled now: without it, each start takes three times as long.
INSTALL = VIRTUAL_ENV=$(abspath $(VENV)) $(UV) pip install --compile-bytecode
# A process of the tests that crashes ends them: pytest-xdist 3.8 puts another in its place, and then waits for ever.
# No other plugin is loaded, since each process would rewrite its modules; those of the tests are kept as bytecode.
PYTEST  = PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -p xdist.plugin \
	-n auto --dist loadfile --no-loadscope-reorder --max-worker-restart=0

.PHONY: train test test-long install lint docs lock gallery clean

train: $(VENV)/installed$(STAMP)
	$(BIN)/python -m src.train

test: $(VENV)/installed-dev$(STAMP)
	$(PYTEST)

test-long: $(VENV)/installed-dev$(STAMP)
	$(PYTEST) -m "long or not long"

install: $(VENV)/installed-dev$(STAMP)

lint: $(VENV)/installed-dev$(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The variable silences an announcement about later versions of mkdocs.
docs: $(VENV)/installed-docs$(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "open site/index.html"

# The locks hold versions and hashes for every platform, and no address of an index. They keep the versions that they
# hold; `make lock UPGRADE=--upgrade` takes the newest. uv reads none of them: for `uv run` and `uv sync`, the versions
# are repeated at the end of pyproject.toml. All files are replaced at once, after the last has been resolved.
LOCKING = $(VENV)/locking
COMPILE = cd $(LOCKING) && $(abspath $(UV)) pip compile --quiet --no-config --universal --generate-hashes --no-header $(UPGRADE)

lock: $(VENV)/python
	@rm -rf $(LOCKING) && mkdir $(LOCKING) && cp requirements*.lock $(LOCKING)
	@sed '/^# Written by `make lock`/,$$d' pyproject.toml > $(LOCKING)/pyproject.toml
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(COMPILE) --extra docs -c requirements-dev.lock pyproject.toml -o requirements-docs.lock
	@sed -n '/^serve = \[/,/^\]/s/^ *"\(.*\)",/\1/p' pyproject.toml > $(LOCKING)/serve.in
	$(COMPILE) --python-version 3.11 -c requirements-dev.lock serve.in -o requirements-serve.lock
	@{ echo '# Written by `make lock`: `uv run` and `uv sync` install the versions of requirements-dev.lock.'; \
		echo '[tool.uv]'; \
		echo 'constraint-dependencies = ['; \
		sed -n 's/^\([a-z0-9][^#]*[^ ]\) *\\$$/    "\1",/p' $(LOCKING)/requirements-dev.lock; \
		echo ']'; } >> $(LOCKING)/pyproject.toml
	@mv $(LOCKING)/pyproject.toml $(LOCKING)/requirements*.lock .

# The images of docs/gallery.md: an experiment, and the plot of its run.
GALLERY = \
	char_lm:test_surprise text_classification:test_reviews forecasting:test_forecasts detection:test_boxes \
	gan:test_samples diffusion:test_denoising vae:test_latent_space contrastive:test_features \
	distillation:test_soft_targets multi_input:test_inputs uncertainty:test_intervals anomaly:test_most_anomalous \
	q_learning:test_policy

gallery: $(VENV)/installed-dev$(STAMP)
	$(BIN)/python -m src.train digits
	@for pair in $(GALLERY); do \
		name=$${pair%%:*}; $(BIN)/python -m src.train $$name || exit 1; \
		cp "$$(ls -d logs/$$name/2* | tail -1)/plots/$${pair##*:}.png" docs/gallery/$$name.png || exit 1; \
	done

clean:
	rm -rf $(VENV)

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; name another: make train PYTHON=python3.12"; exit 2; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) -m venv failed; Debian and Ubuntu have it in python3-venv"; exit 2; }
	@test -x "$(UV)" || $(BIN)/python -m pip install --quiet uv
	@touch $@

# Another build of torch has other hashes and other CUDA packages: these come without hashes, all others with theirs.
OF_TORCH = ^(torch|torchvision|triton|nvidia-[^=]*|cuda-[^=]*)==

# $(1) is the lock. Where torch's packages are left out, --no-deps keeps the other packages from asking for them.
define install
	@echo "installing the packages of $(1); the first time, this downloads some gigabytes"
	@if [ -z "$(TORCH)" ]; then \
		$(INSTALL) --require-hashes -r $(1); \
	else \
		awk '/^[^ #]/ {of_torch = /$(OF_TORCH)/} !of_torch' $(1) > $(VENV)/others.txt && \
		sed -n 's/ *\\$$//; /^torch==/p; /^torchvision==/p' $(1) > $(VENV)/torch.txt && \
		$(INSTALL) --require-hashes --no-deps -r $(VENV)/others.txt && \
		$(INSTALL) --torch-backend=$(TORCH) --reinstall-package torch --reinstall-package torchvision \
			-r $(VENV)/torch.txt && \
		echo $(TORCH) > $(VENV)/torch-backend; \
	fi
	@$(INSTALL) --quiet --no-deps -e .
	@touch $@
endef

$(VENV)/installed$(STAMP): $(VENV)/python requirements.lock pyproject.toml
	$(call install,requirements.lock)

$(VENV)/installed-dev$(STAMP): $(VENV)/installed$(STAMP) requirements-dev.lock
	$(call install,requirements-dev.lock)

$(VENV)/installed-docs$(STAMP): $(VENV)/installed$(STAMP) requirements-docs.lock
	$(call install,requirements-docs.lock)
