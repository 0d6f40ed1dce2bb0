"""The README's example runs as it stands, at the smoke profile."""

import re

from bnta_lib.settings import ROOT


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    assert 'settings("laptop")' in code
    monkeypatch.chdir(tmp_path)
    exec(code.replace('settings("laptop")', 'settings("smoke")'), {})
    assert "pairs" in capsys.readouterr().out
    assert (tmp_path / "site.safetensors").is_file()
