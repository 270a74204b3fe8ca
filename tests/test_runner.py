"""Which notebooks a run executes, and what it trains before them."""

import os
import time
from contextlib import nullcontext

import jupytext
import nbformat
import pytest
import torch

from cop import paths, runner
from cop.__main__ import main
from cop.lessons import gallery, generation, pipeline
from cop.profiles import smoke
from cop.train.artefacts import stored


def test_a_profile_without_a_generator_leaves_notebook_4_out(tmp_path, monkeypatch, capsys):
    executed = []
    monkeypatch.setattr(paths, "build", tmp_path)
    monkeypatch.setattr(gallery, "gallery", lambda: "")
    monkeypatch.setattr(runner, "train_shared", lambda *_: 0)
    monkeypatch.setattr(runner, "execute", lambda source, *_: executed.append(source.stem[:2]))
    runner.run("natural")
    assert executed == ["01", "02", "03", "05", "06"] and "notebook 4 is left out" in capsys.readouterr().out
    executed.clear()
    runner.run("demo")
    assert executed == ["01", "02", "03", "04", "05", "06"]


def test_an_interrupted_run_goes_on_with_its_notebook_unless_the_package_is_another(tmp_path, monkeypatch):
    executed, stop = [], [True]
    monkeypatch.setattr(paths, "build", tmp_path)
    monkeypatch.setattr(runner, "sources", lambda: paths.sources()[:3])
    monkeypatch.setattr(runner, "train_shared", lambda *_: 0)
    monkeypatch.setattr(runner, "reproduced", lambda *_: None)

    def execute(source, notebook, output, given, *_):
        executed.append(source.stem[:2])
        if stop[0] and source.stem[:2] == "02":
            raise KeyboardInterrupt
        made = nbformat.read(notebook, 4)
        made.metadata["papermill"] = {"parameters": given}
        nbformat.write(made, output)

    monkeypatch.setattr(runner, "execute", execute)
    for expected, state in (("01 02 03", ""), ("01 02", ""), ("02 03", ""), ("01 02 03", ""), ("01 02", ""), ("01 02 03", "other")):
        stop[0] = expected == "01 02"
        monkeypatch.setattr(runner, "state_of", lambda figures, state=state: state)
        with pytest.raises(KeyboardInterrupt) if stop[0] else nullcontext():
            runner.run("smoke")
        assert " ".join(executed) == expected
        executed.clear()


def test_the_state_of_a_run_is_that_of_the_package_and_of_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "package", tmp_path)
    model = tmp_path / "released" / "model.safetensors"
    model.parent.mkdir()
    model.write_bytes(b"a")
    state = runner.state_of(tmp_path / "figures")
    assert state == runner.state_of(tmp_path / "figures") != runner.state_of(tmp_path / "elsewhere")
    model.write_bytes(b"ab")
    assert runner.state_of(tmp_path / "figures") != state


def test_a_retraining_executes_each_notebook_once_whatever_the_clock_says(tmp_path, monkeypatch):
    """Interrupted in its second notebook it goes on there, though the copy of the first is from before it began by its date;
    and a copy from the future, of a run before it, is not its own."""
    executed, times = [], {"03": time.time() - 3600, "06": time.time() + 3600}
    monkeypatch.setattr(paths, "build", tmp_path)
    monkeypatch.setattr(runner, "sources", lambda: [s for s in paths.sources() if s.stem[:2] in times])
    monkeypatch.setattr(runner.retraining, "told", lambda *_: nullcontext())
    monkeypatch.setattr(runner, "train_shared", lambda *_: 0)
    monkeypatch.setattr(runner, "reproduced", lambda *_: None)

    def execute(source, notebook, output, given, *_):
        executed.append(source.stem[:2])
        if executed == ["03", "06", "03", "06"]:
            raise KeyboardInterrupt
        made = nbformat.read(notebook, 4)
        made.metadata["papermill"] = {"parameters": given}
        nbformat.write(made, output)
        os.utime(output, (times[source.stem[:2]],) * 2)

    monkeypatch.setattr(runner, "execute", execute)
    runner.run("smoke", seed=1)
    with pytest.raises(KeyboardInterrupt):
        runner.run("smoke", seed=1, retrain=True, resume=True)
    runner.run("smoke", seed=1, retrain=True, resume=True)
    assert executed == ["03", "06", "03", "06", "06"]


def test_what_is_trained_before_the_notebooks_is_what_they_look_for(tmp_path, monkeypatch):
    """Side by side only on a CPU with two threads or more; a second call finds everything."""
    monkeypatch.setenv("COP_CACHE", str(tmp_path))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert runner.train_shared(smoke, 0) == 6 and runner.train_shared(smoke, 0) == 0
    finally:
        torch.set_num_threads(threads)
    made = sorted(f.name.split("-")[0] for f in tmp_path.iterdir() if not f.name.endswith(".work"))
    assert made == ["classifier", "classifier", "comae", "comae", "mar", "predictor", "tokens"]
    for stage, config in (("comae", pipeline.comae_config(smoke, 0)), ("mar", generation.mar_config(smoke))):
        assert stored(stage, config)


def test_parameters_given_on_the_command_line_have_types(monkeypatch):
    """`-p brief false` must not be the word "false", which counts as true."""
    asked = {}
    monkeypatch.setattr(runner, "run", lambda *_, **given: asked.update(given["parameters"]))
    command = "figures -p brief false -p seed 3 -p rate 0.5 -p device cpu".split()
    main(command)
    assert asked == {"brief": False, "seed": 3, "rate": 0.5, "device": "cpu"}


@pytest.mark.parametrize("name, value, option", [("profile", "smoke", "--profile"), ("seed", "3", "--seeds")])
def test_profile_and_seed_are_no_parameters_of_the_command(name, value, option, monkeypatch, capsys):
    """Else smoke's figures, records and seconds stand under the name of demo."""
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("a notebook ran"))
    assert main(["figures", "--only", "03", "-p", name, value]) == 2
    assert capsys.readouterr().err == f"cop: parameter {name!r} decides where everything is stored: use {option} {value} instead\n"


def test_other_parameters_are_neither_kept_nor_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "build", tmp_path / "build")
    monkeypatch.setattr(runner, "execute", lambda *_: None)
    monkeypatch.setattr(runner, "reproduced", lambda *_: pytest.fail("compared with the committed figures"))
    runner.run("demo", only="03", parameters={"images": 20}, timings=True)
    assert not list(tmp_path.rglob("timings.json"))
    for profile, given in (("demo", {"images": 20}), ("natural", {})):
        with pytest.raises(ValueError, match="nothing else can be kept there: leave out --keep"):
            runner.run(profile, only="03", parameters=given, keep=True)


def test_resuming_runs_a_notebook_again_for_other_parameters(tmp_path):
    (source, *_) = paths.sources()
    jupytext.write(jupytext.read(source), tmp_path / "input.ipynb")
    notebook = nbformat.read(tmp_path / "input.ipynb", 4)
    notebook.metadata["papermill"] = {"parameters": {"seed": 1}}
    nbformat.write(notebook, tmp_path / "done.ipynb")
    assert runner.same_source(tmp_path / "done.ipynb", tmp_path / "input.ipynb", {"seed": 1})
    assert not runner.same_source(tmp_path / "done.ipynb", tmp_path / "input.ipynb", {"seed": 1, "images": 20})


def test_two_runs_of_one_profile_and_seed_do_not_overwrite_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "build", tmp_path)
    monkeypatch.setattr(runner, "reproduced", lambda *_: None)
    second = []

    def execute(*_):
        with pytest.raises(RuntimeError, match="profile demo, seed 0 is being run by another process"):
            runner.run("demo", only="03")
        second.append(True)

    monkeypatch.setattr(runner, "execute", execute)
    runner.run("demo", only="03")
    runner.run("demo", only="03")  # the first one's lock ended with it
    assert len(second) == 2
