"""Which notebooks a run executes."""

from cop import paths, report, runner


def test_a_profile_without_a_generator_leaves_notebook_4_out(tmp_path, monkeypatch, capsys):
    executed = []
    monkeypatch.setattr(paths, "build", tmp_path)
    monkeypatch.setattr(report, "gallery", lambda: "")
    monkeypatch.setattr(runner, "execute", lambda source, *_: executed.append(source.stem[:2]))
    runner.run("natural")
    assert executed == ["01", "02", "03", "05"] and "notebook 4 is left out" in capsys.readouterr().out
    executed.clear()
    runner.run("demo")
    assert executed == ["01", "02", "03", "04", "05"]
