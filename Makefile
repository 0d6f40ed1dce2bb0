# Each target is one plain command in an environment made once; docs/commands.md lists the commands.
#
#   make reproduce                     run every notebook, write figures, tables and the report
#   make reproduce PROFILE=paper       ... at another profile: smoke, laptop (default), paper
#   make reproduce DATA=folder         ... on your own images, or on the paper's data sets in a folder
#   make reproduce ONLY="05 08"        ... some notebooks only
#   make reproduce MEASURE=all         ... every recorded row measured again; MEASURE=none: none; default: a sample
#   make full                          train, measure and gather at the paper's size on a GPU; MINUTES=25 for parts,
#                                      SCRATCH=1 without ImageNet weights
#   make train                         train the models of the tables
#   make paper-check                   check the paper's Section 4.3, claim by claim
#   make report                        write a run's results as web pages that need no network
#   make bench                         measure every speed against its goal, on this machine
#   make test                          run every test, and every notebook at the smoke profile
#   make torture                       kill work that can be continued at random moments, dozens of times
#   make mutants                       put small faults into the method and list those that no test notices
#   make lint                          ruff over everything, mypy over the method
#   make lab LAB_ARGS=--allow-root     JupyterLab as root, in a container
#   make env PYTHON=python3.12         make the environment with another Python (3.11.5 or newer)
#   make env HASHED=1                  ... and refuse every file that is not the one these pins were made with
#   make coverage                      lines and branches of the library that the tests run

PYTHON ?= python3
VENV ?= .venv
PROFILE ?= $(or $(BNTA_PROFILE),laptop)

RUN := $(VENV)/bin/python
PROFILED := BNTA_PROFILE=$(PROFILE) $(RUN)
MADE := $(VENV)/.made

# DATA as it was typed: neither make nor a shell expands what the name of a folder holds.
export DATA_AS_TYPED := $(value DATA)
unexport DATA
DATA_OPTION = $(if $(DATA_AS_TYPED),--data "$$DATA_AS_TYPED")

.PHONY: reproduce full paper-check report test coverage bench torture mutants lint lab train env notebooks clean distclean

reproduce: $(MADE)
	$(PROFILED) -m bnta_lib.suite.reproduce $(DATA_OPTION) $(if $(ONLY),--only $(ONLY)) \
	    $(if $(MEASURE),--measure $(MEASURE)) $(if $(SEED),--seed $(SEED))

full: $(MADE)
	$(RUN) -m bnta_lib.suite.full $(if $(MINUTES),--minutes $(MINUTES)) $(if $(EPOCHS),--epochs $(EPOCHS)) \
	    $(if $(LR),--lr $(LR)) $(if $(WARMUP_EPOCHS),--warmup-epochs $(WARMUP_EPOCHS)) $(if $(SCRATCH),--scratch)

paper-check: $(MADE)
	$(PROFILED) -m bnta_lib.suite.claims $(DATA_OPTION)

report: $(MADE)
	$(PROFILED) -m bnta_lib.suite.reproduce --report $(DATA_OPTION)

test: $(MADE)
	$(RUN) -m pytest -n logical --dist loadscope --no-loadscope-reorder

bench: $(MADE)
	$(RUN) benchmarks/all.py $(if $(ONLY),--only $(ONLY))

coverage: $(MADE)
	$(RUN) -m coverage erase
	$(RUN) -m coverage run -m pytest -n logical --dist loadscope --no-loadscope-reorder
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report --skip-covered

torture: $(MADE)
	PYTHONPATH=tests $(RUN) tests/torture.py

# mutmut is not in the environment: it pulls in packages that nothing else needs.
mutants: $(MADE)
	$(RUN) -m pip install --quiet --disable-pip-version-check mutmut==3.8.1
	OMP_NUM_THREADS=1 $(RUN) -m mutmut run --max-children $(shell nproc)
	$(RUN) -m mutmut results

lint: $(MADE)
	$(RUN) -m pip install --quiet --disable-pip-version-check ruff==0.17.6 mypy==2.4.1
	$(RUN) -m ruff check .
	$(RUN) -m mypy

lab: $(MADE)
	$(PROFILED) -m jupyter lab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=. $(LAB_ARGS) notebooks/00_start_here.ipynb

train: $(MADE)
	$(PROFILED) -m bnta_lib.suite.train $(DATA_OPTION)

env: $(MADE)

# For maintainers: run at the laptop profile and commit the outputs and the measured rows.
notebooks: $(MADE)
	$(RUN) -m bnta_lib.suite.reproduce --profile laptop --in-place

$(MADE): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 5) and "Python 3.11.5 or newer is needed: make env PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(if $(HASHED),@for pin in $$(sed -n 's/^\([^ #]*==[^ ;]*\).*/\1/p' requirements.txt); do \
	    grep -q "^$$pin[ ;]" requirements.hashed.txt || { echo "$$pin has no hash in requirements.hashed.txt: nothing is installed"; exit 1; }; \
	done)
	$(if $(HASHED),$(RUN) -m pip install --disable-pip-version-check --no-deps --require-hashes -r requirements.hashed.txt)
	$(RUN) -m pip install --disable-pip-version-check -r requirements.txt
	$(RUN) -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Keeps what takes time to make again: .cache, full_size, figures/paper. Keeps site, which holds users' results.
clean:
	rm -rf executed report mutants figures/smoke figures/rehearsal figures/*+* figures/*_*-?????? .pytest_cache .hypothesis bnta_lib.egg-info
	find bnta_lib tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

distclean: clean
	rm -rf .cache $(VENV)
