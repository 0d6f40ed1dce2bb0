"""The places that name dependencies agree, and they name everything the library imports."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import bnta_lib
from bnta_lib.settings import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {group: [Requirement(line) for line in lines if not line.startswith("bnta_lib")]
          for group, lines in PROJECT["optional-dependencies"].items()}
UNPINNED = EXTRAS.pop("export")  # no result needs it, and no test but its own
OPTIONAL = [requirement for lines in EXTRAS.values() for requirement in lines]


def pins() -> dict[str, Requirement]:
    """The lines of requirements.txt by canonical name."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert len({canonicalize_name(r.name) for r in found}) == len(found), "a package pinned twice"
    return {canonicalize_name(r.name): r for r in found}


def test_declared_dependencies_are_pinned_within_their_bounds():
    for requirement in RUNTIME + OPTIONAL:
        (pin,) = pins()[canonicalize_name(requirement.name)].specifier
        assert pin.operator == "==" and "*" not in pin.version and pin.version in requirement.specifier, pin


def test_requirements_pin_everything_that_is_pulled_in():
    """Walks what the installed packages declare. torch's Linux-only CUDA packages are its own."""
    pinned, seen = pins(), set()
    todo = [canonicalize_name(r.name) for r in RUNTIME + OPTIONAL]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            marker = str(needed.marker or "")
            if needed.marker and not needed.marker.evaluate({"extra": ""}):
                continue
            if name == "torch" and "platform_system" in marker:
                continue
            todo.append(canonicalize_name(needed.name))
    assert seen <= set(pinned), f"not pinned: {sorted(seen - set(pinned))}"


def fake_python(venv):
    """A python in ``venv`` that prints its arguments, one a line."""
    python = venv / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    return python


# docs/commands.md names the plain commands for machines without make.
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder, *arguments):
    command = ["make", "-s", *arguments, "MAKEFLAGS="]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_hashed_pins_are_the_pins_each_with_a_hash():
    text = (ROOT / "requirements.hashed.txt").read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    plain = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line.partition(" --hash")[0].strip() for line in lines] == [
        line for line in plain if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[^-]\S+==\S+(; .+?)?( +--hash=sha256:[0-9a-f]{64})+", line) for line in lines)


@needs_make
@pytest.mark.parametrize("edited", [False, True])
def test_hashed_environment_refuses_a_pin_without_a_hash(tmp_path, edited):
    for name in ("Makefile", "requirements.txt", "requirements.hashed.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    if edited:
        text = (tmp_path / "requirements.txt").read_text()
        (tmp_path / "requirements.txt").write_text(re.sub(r"(?m)^tqdm==\S+", "tqdm==4.66.5", text))
    python = fake_python(tmp_path / ".venv")
    done = make(tmp_path, "env", "HASHED=1", f"PYTHON={python}")
    assert ("tqdm==4.66.5 has no hash" in done.stdout) == edited == (done.returncode != 0)
    assert ("pip\ninstall" in done.stdout) != edited


def test_version_is_one():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == bnta_lib.__version__
    assert re.search(r"(?m)^## (\S+),", (ROOT / "CHANGELOG.md").read_text())[1] == bnta_lib.__version__


def test_conda_environment_installs_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if str(d).startswith("python="))
    assert python.removeprefix("python=") in SpecifierSet(PROJECT["requires-python"])
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.txt", "-e ."]
    # Anything conda itself installed could differ from the pins.
    names = {str(d).split("=")[0] for d in environment["dependencies"] if isinstance(d, str)}
    assert names == {"python", "pip"}


def test_container_installs_the_same_pins_with_the_same_python():
    text = (ROOT / "Dockerfile").read_text()
    python = re.search(r"(?m)^  - python=(\S+)$", (ROOT / "environment.yml").read_text())[1]
    assert f"FROM python:{python}-slim" in text
    assert "--require-hashes -r requirements.hashed.txt" in text and "-r requirements.txt" in text
    settings = re.sub(r"(?m)^\s*//.*$", "", (ROOT / ".devcontainer" / "devcontainer.json").read_text())
    settings = json.loads(settings)
    assert (ROOT / ".devcontainer" / settings["build"]["dockerfile"]).samefile(ROOT / "Dockerfile")
    assert settings["postCreateCommand"] in text.replace('"', "")  # Python finds the folder that is open


def test_container_starts_with_options_that_jupyter_takes():
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    command = json.loads(re.search(r"(?m)^CMD (.*)$", text)[1])
    assert command[0] == "python" and (ROOT / command[-1]).is_file()
    done = subprocess.run([sys.executable, *command[1:], "--show-config"], capture_output=True, text=True)
    assert done.returncode == 0 and "ip = '0.0.0.0'" in done.stdout, done.stderr


def test_workflow_runs_tests_that_exist_on_every_supported_python():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    matrix = jobs["fast"]["strategy"]["matrix"]
    command = jobs["fast"]["steps"][-1]["run"]
    assert all(f"{python}.9" in SpecifierSet(PROJECT["requires-python"]) for python in matrix["python"])
    for names in re.findall(r"tests/test_{(.*?)}\.py", command):
        assert all((ROOT / "tests" / f"test_{name}.py").exists() for name in names.split(","))
    assert [step["run"] for step in jobs["whole"]["steps"][2:]] == ["make lint", ".ci/run"]


def test_no_package_index_or_machine_is_named():
    for name in ("requirements.txt", "requirements.hashed.txt", "environment.yml", "pyproject.toml",
                 "Makefile", "Dockerfile"):
        text = (ROOT / name).read_text()
        assert not re.search(r"\w://|--[a-z-]+-(url|links)\b", text), name


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of the modules that ``tree`` imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(
    "folder, declared",
    [("bnta_lib", [need for group, lines in EXTRAS.items() if group != "test" for need in lines]),
     ("tests", OPTIONAL)])
def test_every_import_is_declared(folder, declared):
    modules = set()
    for path in (ROOT / folder).rglob("*.py"):
        modules |= imported(ast.parse(path.read_text()))
    own = {"bnta_lib", "conftest"} | {path.stem for folder in ("tests", "benchmarks")
                                      for path in (ROOT / folder).glob("*.py")}
    distributions = importlib.metadata.packages_distributions()
    names = {canonicalize_name(r.name) for r in RUNTIME + UNPINNED + declared}
    for module in sorted(modules - set(sys.stdlib_module_names) - own):
        given = {canonicalize_name(d) for d in distributions.get(module, [module])}
        assert given & names, f"{folder} imports {module}, which pyproject.toml does not declare"


@needs_make
def test_makefile_targets_are_the_plain_commands_of_the_docs():
    for target, command in {
        "reproduce": "-m bnta_lib.suite.reproduce",
        "report": "-m bnta_lib.suite.reproduce --report",
        "paper-check": "-m bnta_lib.suite.claims",
        "test": "-m pytest",
        "lab": "-m jupyter lab",
        "train": "-m bnta_lib.suite.train",
        "full": "-m bnta_lib.suite.full",
    }.items():
        assert command in make(ROOT, "-n", "-o", ".venv/.made", target).stdout
        assert f"python {command}" in (ROOT / "docs" / "commands.md").read_text()


@needs_make
@pytest.mark.parametrize("target, name", [
    ("reproduce", "my `touch {0}` set"), ("reproduce", 'a"; touch {0}; "'), ("report", "$(touch {0})"),
    ("report", "$(shell touch {0})"), ("paper-check", "5$ set's"), ("train", "$$HOME"), ("train", "people")])
def test_name_of_a_folder_is_no_command_of_a_shell_or_make(tmp_path, target, name):
    name = name.format(tmp_path / "ran")
    fake_python(tmp_path / "venv")
    venv = tmp_path / "venv"
    done = make(ROOT, "-o", str(venv / ".made"), target, f"VENV={venv}", f"DATA={name}")
    assert done.stdout.splitlines()[-2:] == ["--data", name] and not (tmp_path / "ran").exists()


def test_list_of_licences_names_every_package():
    listed = dict(re.findall(r"^\| ([\w.-]+) \| ([^|]+) \| [^|]*\w[^|]* \|$",
                             (ROOT / "docs" / "licences.md").read_text(encoding="utf-8"), re.MULTILINE))
    del listed["package"]
    assert listed == dict(re.findall(r"^([\w.-]+)==([^\s;]+)",
                                     (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE))
