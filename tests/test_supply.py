"""Supply chain: the lock, licences of data and models, and what host-side code may load."""

from __future__ import annotations

import ast
import re

import audit
import pytest

from sia_nb.config import make_config
from sia_nb.errors import ConfigError
from sia_nb.store import ROOT
from sia_nb.tasks.denoising.sources import SOURCES

supply = pytest.mark.trust(suite="supply chain", backend="")
README = (ROOT / "data" / "README.md").read_text()
FILES = {str(p.relative_to(ROOT)): ast.parse(p.read_text()) for p in sorted((ROOT / "sia_nb").rglob("*.py"))}


# --- the lock -----------------------------------------------------------------------------------------------------------
@supply
def test_the_lock_pins_every_package_once_and_is_what_is_installed(trust):
    text = (ROOT / "requirements.lock").read_text()
    lock = audit.pins(text)
    assert len(lock) > 100 and len(re.findall(r"^[A-Za-z]", text, re.M)) >= len(lock)
    wrong, _ = audit.differences(lock, audit.installed())
    trust.cases(len(lock) - len(wrong))
    for line in wrong:
        trust.case(line, held=False)
    assert wrong == [], "this environment is not requirements.lock's: make setup"


def test_what_differs_is_named():
    lock = audit.pins("A_b==1.0\nc==2 ; python_version < '3'\nd==4  # why\n")
    assert lock == {"a-b": "1.0", "d": "4"}
    wrong, more = audit.differences(lock, {"a-b": "1.1", "e": "5", "pip": "1"})
    assert wrong == ["a-b: 1.0 in the lock, 1.1 installed", "d: 4 in the lock, not installed"]
    assert more == ["e 5: installed, not in the lock"]
    for loose in ("a>=1", "a", "a @ file:///tmp/a.whl", "a==1,!=2"):
        with pytest.raises(ValueError, match="pins no version"):
            audit.pins(loose)


def test_what_could_not_be_audited_is_no_good_news():
    known, hit = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "version": "2", "vulns": [{"id": "CVE-1"}]}
    unknown = {"name": "c", "skip_reason": "not found"}
    assert audit.audited({"dependencies": [unknown]}) == (
        "not audited: the index that is set here knows no vulnerabilities of any of the 1 packages",
        False,
    )
    said, bad = audit.audited({"dependencies": [known, hit, unknown]})
    assert bad and said.splitlines() == ["2 of 3 packages audited, 1 vulnerabilities", "b 2: CVE-1"]


# --- licences -----------------------------------------------------------------------------------------------------------
def strings(tree: ast.AST) -> list[str]:
    return [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


@supply
def test_every_source_in_the_code_stands_with_its_licence_in_the_data_readme(trust):
    rows = [line.split("|") for line in README.splitlines() if line.startswith("|")]
    wheels = {s for tree in FILES.values() for s in strings(tree) if re.fullmatch(r"[a-z0-9-]+==[0-9.]+", s)}
    assert len(wheels) == 2
    for wheel in wheels:
        (row,) = [r for r in rows if f"`{wheel}`" in r[2]]
        assert trust.case(wheel, re.search(r"MIT|Apache|BSD|CC", row[3]) is not None), row
    for source in SOURCES.values():
        stated = [r for r in rows if f"`{source.name}`" in r[1]]
        assert trust.case(source.name, bool(stated) and "Licences: as the publishers' pages say" in README)
        number = re.search(r"files/(\d+)|collections/([0-9a-f-]+)", source.url)
        assert trust.case(source.url, (number[1] or number[2]) in README)
    addresses = {a for tree in FILES.values() for s in strings(tree) for a in re.findall(r"https?://([^/\s\"'`)]+)", s)}
    known = {"ndownloader.figshare.com", "api.cellxgene.cziscience.com"}  # downloads, on request
    known |= {a for a in addresses if a.split(":")[0] in ("localhost", "127.0.0.1")}
    assert trust.case("addresses in the code", addresses <= known), addresses - known


# --- what the host loads ------------------------------------------------------------------------------------------------
INSIDE = {  # these run in the sandbox, and run what was written there
    "sia_nb/scaffold/runner.py", "sia_nb/tasks/lawbench/runner.py", "sia_nb/tasks/denoising/runner.py", "sia_nb/tasks/trimul/runner.py",
}  # fmt: skip
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "runpy",
    "imp",
    "code",
    "codeop",
    "yaml",
}
BUILTINS = {"exec", "eval", "compile", "__import__"}
ATTRIBUTES = {
    "import_module",
    "spec_from_file_location",
    "exec_module",
    "load_module",
    "read_pickle",
    "system",
    "popen",
    "run_path",
    "run_module",
}
ALLOWED = {  # a module named in REGISTRY or loop.POLICY_IMPORTS, which are constants; sandlock's own word for starting a program
    ("sia_nb/tasks/__init__.py", "import_module"), ("sia_nb/notebook_process.py", "import_module"),
    ("sia_nb/scaffold/warden.py", "popen"),
}  # fmt: skip


def risks(tree: ast.AST) -> list[str]:
    """Ways in which code could run, import or unpickle what a file or a string holds."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found += [node.module] if node.module.split(".")[0] in MODULES else []
            found += [
                a.name for a in node.names if a.name in ATTRIBUTES and node.module.split(".")[0] in ("importlib", "os", "runpy")
            ]
        elif isinstance(node, ast.Call):
            named = {k.arg: k.value for k in node.keywords}
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            if (not owner and name in BUILTINS) or (owner in ("builtins", "__builtins__") and name in BUILTINS):
                found.append(name)
            if owner and name in ATTRIBUTES and owner not in ("platform",):
                found.append(name)
            true = lambda key, named=named: (
                key in named and not (isinstance(named[key], ast.Constant) and named[key].value is False)
            )
            if owner.endswith("torch") and name == "load" and not true("weights_only"):
                found.append("torch.load")
            found += [key for key in ("allow_pickle", "trust_remote_code", "shell") if true(key)]
    return found


@supply
def test_nothing_that_was_written_in_a_run_is_run_imported_or_unpickled_by_the_host(trust):
    for path, tree in FILES.items():
        if path not in INSIDE:
            found = [r for r in risks(tree) if (path, r) not in ALLOWED]
            assert trust.case(path, found == []), (path, found)


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "exec('x')", "eval(text)", "m = __import__(name)", "importlib.import_module(n)",
        "from importlib import import_module", "util.spec_from_file_location('a', p)", "torch.load(p)", "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)", "AutoModel.from_pretrained(n, trust_remote_code=True)", "subprocess.run(s, shell=True)",
        "os.system(s)", "import runpy", "pd.read_pickle(p)", "builtins.exec(s)",
    ],
)  # fmt: skip
def test_each_such_way_would_be_seen(code):
    assert risks(ast.parse(code))


def test_what_is_harmless_is_not():
    for code in (
        "re.compile(x)",
        "torch.load(p, weights_only=True)",
        "np.load(p)",
        "task.compile(s)",
        "policy.load(x)",
        "platform.system()",
    ):
        assert risks(ast.parse(code)) == []


@supply
def test_what_runs_in_the_sandbox_is_imported_by_the_host_only_for_its_messages(trust):
    """The runners define functions when they are imported; what they exec they exec in ``main``, in the sandbox."""
    for path in INSIDE:
        top = [n for n in FILES[path].body if not isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.If))]
        assert trust.case(path, risks(ast.Module(top, [])) == [])


@pytest.mark.parametrize("name", ["agent_url", "policy_url"])
def test_a_password_in_an_address_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}: holds a user name or password"):
        make_config("smoke", **{name: "https://user:hunter2@host/v1"})
