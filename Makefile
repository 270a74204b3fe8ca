# Two commands do everything: `make figures` and `make test`. Both create the virtual environment first.
PROFILE ?= demo
SEEDS ?= 1 2
VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
CONSTRAINTS ?= constraints.txt
KILLS ?= 100
MINUTES ?= 20

.PHONY: install figures test torture portable lab bench seeds notebooks lint gallery scorecard book student slides handout address browser clean
.DEFAULT_GOAL := figures

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -c $(CONSTRAINTS) -e ".[notebooks,test]"
	@touch $@

$(VENV)/.installed-book: $(VENV)/.installed
	$(PY) -m pip install -q -c $(CONSTRAINTS) -e ".[book]"
	@touch $@

install: $(VENV)/.installed  ## the virtual environment, and nothing else

figures: $(VENV)/.installed  ## run the notebooks, compare with paper_figures/PROFILE, replace what differs (RETRAIN=1: ignore what is stored, after a plan; interrupted, it goes on; DRY_RUN=1: one step of each stage)
	$(PY) -m cop figures --profile $(PROFILE) $(if $(RETRAIN),--retrain) $(if $(DRY_RUN),--dry-run)

ABREAST := -n 2 --dist loadfile  # two test files at a time, on one thread each
test: $(VENV)/.installed $(VENV)/.installed-book  ## lint, unit tests, then the committed notebooks against a fresh run
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(PY) -m pytest tests $(ABREAST)
	OMP_NUM_THREADS=1 COP_CACHE=$(CURDIR)/build/test-cache COP_FIGURES=$(CURDIR)/build/test-figures \
	$(PY) -m pytest --nbval notebooks --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg $(ABREAST)

FLOATS := tokens ranking orders diffusion entropy comae cvit dynamicvit metrics kl16 mar pipeline classification generation
portable: $(VENV)/.installed  ## the files that compare floating-point results, as an older processor rounds them
	ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=AVX2 OMP_NUM_THREADS=1 \
	$(PY) -m pytest -m "not slow" $(FLOATS:%=tests/*/test_%.py) $(ABREAST)

torture: $(VENV)/.installed  ## SIGKILL at KILLS random moments of training, ranking, figures and release, for MINUTES at most
	OMP_NUM_THREADS=1 $(PY) scripts/torture.py --kills $(KILLS) --minutes $(MINUTES)

lab: $(VENV)/.installed  ## open the notebooks in JupyterLab, paired with their .py
	$(VENV)/bin/jupyter lab notebooks

seeds: $(VENV)/.installed  ## rerun the notebooks for SEEDS="1 2": records only, resumable
	$(PY) -m cop figures --profile $(PROFILE) --seeds $(SEEDS)

bench: $(VENV)/.installed  ## ratios in one run each; outside `make test`
	$(PY) -m pytest tests/benchmarks -c /dev/null --rootdir . -o python_files="bench_*.py" --benchmark-only -s

notebooks: $(VENV)/.installed  ## for maintainers: rerun and commit the outputs of notebooks/*.ipynb, and the seconds
	$(PY) -m cop figures --profile demo --keep

lint: $(VENV)/.installed  ## style, the layers of the house as pyproject.toml states them, and the types of the public names
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/mypy

gallery: $(VENV)/.installed
	$(PY) -m cop gallery

scorecard: $(VENV)/.installed  ## the paper's twelve claims against the records: paper_figures/SCORECARD.md and README's findings
	$(PY) -m cop scorecard
	$(PY) -m cop readme

book: $(VENV)/.installed-book  ## a static site of README, notebooks, gallery and modules in build/book; runs no notebook
	$(PY) -m cop book

student: $(VENV)/.installed  ## notebooks with exercises and without solutions or outputs, in build/student
	$(PY) -m cop student

slides: $(VENV)/.installed  ## slides of the notebooks, in build/slides
	$(PY) -m cop slides

handout: $(VENV)/.installed  ## one page for a class: pipeline, equations, findings, in build/handout.pdf
	$(PY) -m cop handout

browser: $(VENV)/.installed-book  ## JupyterLab and the book in headless Chromium (needs one: apt-get install chromium)
	$(PY) -m pip install -q -c $(CONSTRAINTS) -e ".[browser]"
	$(PY) -m pytest tests/test_browser.py tests/test_page.py -v -rs

address: $(VENV)/.installed  ## let all badges lead to the Repository of pyproject.toml
	$(PY) -m cop address

clean:
	rm -rf build .pytest_cache .benchmarks
