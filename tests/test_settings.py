"""Fields of profiles from the command line and from files; what the command says before it imports torch."""

import re
import subprocess
import sys

import pytest

from cop import paths, runner
from cop.__main__ import main
from cop.profiles import DRY, PROFILES, changed, demo, get_profile, replace, smoke, spelled

FILE = 'base = "demo"\ncheckpoint_every = 50\n[comae]\nsteps = 200\nbetas = [0.9, 1]\n[generation]\nclip = "none"\n'


def test_a_field_is_changed_from_a_text_and_the_name_says_so():
    profile = get_profile(
        "smoke scale.micro_batches=8 scale.mixed_precision=bf16 comae.lr=1 comae.betas=[.8, .9] data.limit=none data.root=/a b"
    )
    assert (
        profile.scale == replace(smoke.scale, micro_batches=8, mixed_precision="bf16") and profile.data.root == "/a b"
    )
    assert (profile.comae.lr, profile.comae.betas, profile.data.limit) == (1.0, (0.8, 0.9), None)
    assert profile.name.startswith("smoke-scale.micro_batches=8-") and "/" not in profile.name
    assert get_profile("demo comae.steps=20000") == demo, (
        "what changes nothing is the profile itself, under its own name"
    )
    assert get_profile("demo-dry-run comae.enc_dim=32") == get_profile("demo comae.enc_dim=32-dry-run")


def test_a_profile_of_ones_own_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my own.toml").write_text(FILE)
    profile = get_profile("my own.toml")
    assert profile == replace(demo, name="my own", checkpoint_every=50, comae=replace(demo.comae, steps=200, betas=(0.9, 1.0)),
                              generation=replace(demo.generation, clip=None))  # fmt: skip
    assert (
        get_profile(tmp_path / "my own.toml") == profile and get_profile("my own.toml comae.steps=3").comae.steps == 3
    )
    for text, message in (("base = 3", "has base = 3; expected one of smoke"), ("base =", "is no TOML file"),
                          (f"{FILE}stepz = 3", "unknown field 'generation.stepz'; the nearest known one is 'generation.steps'")):  # fmt: skip
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(ValueError, match=message):
            get_profile("bad.toml")
    (tmp_path / "demo.toml").write_text(FILE)
    with pytest.raises(ValueError, match="demo.toml has the name of a profile of the package"):
        get_profile("demo.toml")
    with pytest.raises(FileNotFoundError, match="no profile none.toml"):
        get_profile("none.toml")


@pytest.mark.parametrize("name", [n + dry for n in PROFILES for dry in ("", DRY)])
def test_a_profile_is_spelled_as_it_is_read(name):
    profile = get_profile(name)
    assert spelled(profile) == name
    other = changed(profile, ["comae.steps=77", "generation.clip=[-1, 1]"])
    assert get_profile(spelled(other)) == other != profile


@pytest.mark.parametrize("change, message", [
    ("comae.stepz=3", "unknown field 'comae.stepz'; the nearest known one is 'comae.steps'"),
    ("comae.steps=1.5", "comae.steps is '1.5'; expected int"), ("data.hflip=1", "data.hflip is '1'; expected bool"),
    ("comae.lr=fast", "comae.lr is 'fast'; expected float"), ("comae.betas=[1]", "comae.betas is '[1]'; expected tuple[float, float]"),
    ("generation.clip=3", "generation.clip is '3'; expected tuple[float, float] | None")])  # fmt: skip
def test_a_wrong_field_is_refused_in_one_line(change, message, capsys):
    for command in (["figures"], ["plan"], ["rank", "a.jpg"]):
        assert main([*command, "--set", change]) == 2
        assert capsys.readouterr().err == f"cop: {message}\n"


def test_a_set_profile_runs_the_notebooks_and_stays_in_build(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(paths, "build", tmp_path / "build")
    monkeypatch.setattr(runner, "execute", lambda source, notebook, output, values, *_: given.append(values))
    monkeypatch.setattr(runner, "reproduced", lambda *_: pytest.fail("compared with the committed figures"))
    (tmp_path / "my.toml").write_text(FILE)
    assert main(["figures", "--profile", str(tmp_path / "my.toml"), "--set", "comae.lr=1", "--only", "03"]) == 0
    assert get_profile(given[0]["profile"]) == get_profile(f"{tmp_path}/my.toml comae.lr=1")
    assert (tmp_path / "build" / "my-comae.lr=1" / "seed0").is_dir()


@pytest.mark.parametrize("command", [["rank", "nowhere.jpg"], ["plan", "--profile", "huge"]])
def test_a_wrong_path_or_profile_is_reported_before_torch_is_imported(command):
    code = f"import sys\nfrom cop.__main__ import main\nassert main({command}) == 2\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.match(r"no file or folder 'nowhere.jpg'; check the path|cop: unknown profile 'huge'", done.stderr)


@pytest.mark.parametrize("command", ["figures", "gallery", "readme", "book", "student", "address", "release x"])
def test_outside_of_a_clone_a_command_says_what_is_missing(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "notebooks", tmp_path / "notebooks")
    assert main(command.split()) == 2
    assert capsys.readouterr().err == (f"cop: no notebooks in {tmp_path / 'notebooks'}: the installed package has none; clone the project and "
                                       "run the command there\n")  # fmt: skip
