"""Whatever the user's machine is set to: the kinds of trouble, and where each case is tried.

1. Values change on their way in
   - numbers, yes and no, dates and lists where a text is meant, in a params file and after ``-p``:
     ``config/test_presets.py``, ``config/test_schema.py``
   - the same through papermill: ``runs/test_papermill_engine.py``, and below with a kernel
   - first cell run again, names of later cells, startup files, edited and split cells, a notebook
     as a script: ``config/test_cells.py``, and below for each notebook
2. Where results go
   - command line, Python, ``--cwd``, pipes, links, folders of any name, folders that are no run:
     ``runs/test_papermill_engine.py``, ``runs/test_run.py``
   - other programs that run notebooks: below
   - outputs, params files and data of any name, relative, moved, linked: below,
     ``runs/test_archive.py``, ``runs/test_inputs.py``; the report: ``report/test_export.py``
3. The machine's settings
   - kernels of other interpreters, settings of IPython, Jupyter, matplotlib, Python, accelerate,
     diffusers, torch and the locale, files named like modules, a home that cannot be written, what
     is left over of several processes, umask: below
   - paths that no file can have, no folder for temporary files: ``config/test_files.py``
   - what make hands on: ``test_makefile.py``; locks, clocks: ``runs/test_lock.py``, below
   - few open files, variables of tqdm: below
   - other work on the same cores: below, and ``make bench``
4. Real folders: ``data/test_images.py``, ``data/test_labels.py``, ``config/test_folders.py``,
   ``evaluation/test_given_images.py``
5. Checkpoints as people have them: ``evaluation/test_weights.py``, ``runs/test_importing.py``
"""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile

import nbformat
import papermill
import pytest
from conftest import ROOT
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from cddpm_core import commands
from cddpm_core.__main__ import main
from cddpm_core.config.environment import NEEDED
from cddpm_core.config.errors import UserError
from cddpm_core.config.manual import NOTEBOOKS
from cddpm_core.config.presets import read_params, to_yaml
from cddpm_core.config.schema import Params
from cddpm_core.runs.run import OUTPUTS, Run
from cddpm_core.runs.stages import _execute
from cddpm_core.runs.submission import write_submission
from cddpm_core.scenes import compiled

SESSION = ("from cddpm_core.runs.session import open_session\n\n"
           "s = open_session(globals())\nrun, p = s.run, s.params")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ODD = "My Drive [1] #2 50% 'q' \"資料\" {x} ~"


def cells_of(name):
    """The parameters cell and the first cell of a notebook of the package."""
    cells = [cell for cell in nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4).cells
             if cell.cell_type == "code"]
    return cells[0].source, cells[1].source


def write_notebook(path, *cells, parameters='run: str = ""\nstudent_id: str = ""\nepochs: int = 2'):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
               *map(nbformat.v4.new_code_cell, cells)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3",
                                 "language": "python"}}), path)
    return path


# 1. Values change on their way in


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name != "score"])
def test_the_first_cell_of_a_notebook_can_be_run_again_at_its_end(name, tmp_path, monkeypatch):
    """As by hand in JupyterLab, with a startup file of IPython."""
    monkeypatch.setenv(OUTPUTS, str(tmp_path))
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    shell.user_ns |= {"DATA_ROOT": "/data", "epochs": 50, "guidance_scale": 9.0}
    parameters, first = cells_of(name)
    parameters = parameters.replace('run: str = ""', 'run: str = "quick"')
    for cell in (parameters, first):
        shell.run_cell(cell, store_history=True).raise_error()
    assert shell.user_ns["p"] == Params(run="quick")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.yaml")}
    rebound = "\n".join(f"{key} = 1001000003" for key in Params.model_fields)
    for cell in (rebound, "names = ['a']\nrows = {}\nfor seed in range(3): pass", first):
        shell.run_cell(cell, store_history=True).raise_error()
    assert shell.user_ns["p"] == Params(run="quick") and shell.user_ns["run"].name == "quick"
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.yaml")}


def test_papermill_hands_a_student_number_on_as_it_was_typed(tmp_path):
    write_notebook(tmp_path / "a.ipynb", SESSION)
    (tmp_path / "mine.yaml").write_text("student_id: 0716221\nepochs: 010\n")
    done = subprocess.run([sys.executable, "-m", "papermill", "a.ipynb", "./outputs/mine/a.ipynb",
                           "-f", "mine.yaml", "-p", "author", "007", "-p", "data", "../ic"],
                          cwd=tmp_path, env={**os.environ, OUTPUTS: str(tmp_path / "outputs")},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    run = Run("mine", tmp_path / "outputs")
    run.set_stage("a", "done")
    params = run.params()
    assert (params.student_id, params.epochs, params.author) == ("0716221", 10, "007")
    assert params.data == str(tmp_path / "../ic")


# 2. Where results go


def test_a_notebook_that_python_runs_is_in_the_run_of_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUTS, str(tmp_path / "outputs"))
    write_notebook(tmp_path / "data.ipynb", SESSION)
    Run("mine").set_stage("data", "done", seconds=1)
    papermill.execute_notebook(str(tmp_path / "data.ipynb"),
                               str(tmp_path / "elsewhere/mine/made.ipynb"), {"epochs": 7},
                               progress_bar=False)
    assert Run("mine").params().epochs == 7 and not Run("quick").folder.exists()
    assert Run("mine").stages()["data"]["state"] == "by hand"


def test_a_program_that_does_not_say_where_it_writes_changes_nothing(tmp_path):
    write_notebook(tmp_path / "a.ipynb", SESSION)
    command = [sys.executable, "-m", "jupyter", "execute", "a.ipynb"]
    environment = {**os.environ, OUTPUTS: str(tmp_path / "outputs")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode and "does not say where it writes it; give" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_every_path_may_have_any_name(smoke, tmp_path):
    """Outputs, run, params file and data, given relatively to where the command was typed, and
    where the system knows only ASCII."""
    shutil.copytree(smoke.folder, tmp_path / ODD / "outputs/第 1 次")
    shutil.copytree(smoke.cache, tmp_path / ODD / "outputs/cache")
    data = next((smoke.cache / "data").glob("train-*"))
    shutil.copytree(data, tmp_path / ODD / "data set")
    (tmp_path / "link").symlink_to(ODD)
    run = Run("第 1 次", tmp_path / "link/outputs")
    (tmp_path / ODD / "第 1 次.yaml").write_text(to_yaml(smoke.params().replace(run="")))
    done = subprocess.run([sys.executable, "-m", "cddpm_core", "stage", "data", "--params",
                           "第 1 次.yaml", "--data", "data set"], cwd=tmp_path / "link",
                          env={**os.environ, OUTPUTS: "outputs", **ASCII}, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "outputs/第 1 次/data.ipynb"
    assert run.params().data == str(tmp_path / ODD / "data set")
    assert run.read("metrics.json")["data"]["kind"] == "given"


@pytest.mark.parametrize("given", ["~/mine.yaml", "~old/mine.yaml"])
def test_a_tilde_is_a_home_or_a_name(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in ("home", "~old"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text("data: ~/ic\nevaluator: ~old/a.pth")
    params = read_params(given)
    assert params.data == str(tmp_path / "home/ic")
    assert params.evaluator == str(tmp_path / "~old/a.pth")


# 3. The machine's settings

STARTUP = ("DATA_ROOT = '/data'\nepochs = 50\nimport matplotlib\n"
           "matplotlib.rcParams['font.size'] = 30\nprint = None\n")
MATPLOTLIBRC = ("font.size: 25\naxes.facecolor: red\nsavefig.dpi: 30\nfigure.facecolor: yellow\n"
                "savefig.transparent: True\nimage.cmap: hot\nbackend: TkAgg\n")
SETTINGS = {
    **ASCII, "MPLBACKEND": "nonsense", "LANG": "de_DE.ISO-8859-1", "PYTHONIOENCODING": "ascii",
    "PYTHONOPTIMIZE": "2", "USE_TF": "1", "USE_TORCH": "0", "USE_SAFETENSORS": "0",
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    "GIT_DIR": "/nowhere", "PYPANDOC_PANDOC": "/nowhere", "SOURCE_DATE_EPOCH": "yesterday",
    "PYTHONWARNINGS": "error", "PYTHONHASHSEED": "7", "PYTHONDEVMODE": "1",
    "PYTHONUSERBASE": "/nowhere", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "many",
    "NUMBA_DISABLE_JIT": "1", "NUMBA_NUM_THREADS": "0", "ACCELERATE_LOG_LEVEL": "loud",
    "ACCELERATE_MIXED_PRECISION": "fp16", "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
    "TQDM_MININTERVAL": "often", "TQDM_BAR_FORMAT": "{nothing}",
    "JUPYTER_PREFER_ENV_PATH": "0", "IPYTHON_SUPPRESS_CONFIG_ERRORS": "0"}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """An environment in which everything is set, by variables and by files at home."""
    home = tmp_path_factory.mktemp("home")
    files = {
        ".config/matplotlib/matplotlibrc": MATPLOTLIBRC, "matplotlibrc": MATPLOTLIBRC,
        ".ipython/profile_default/startup/a.py": STARTUP, "start.py": "epochs = 50\nraise 1",
        ".ipython/profile_default/ipython_config.py":
            "c = get_config()\nc.InteractiveShellApp.exec_lines = ['num_scenes = 3', '1 / 0']\n"
            "c.InlineBackend.figure_formats = ['svg']\nc.InteractiveShell.autocall = 2\n",
        ".ipython/profile_default/ipython_kernel_config.py": "raise SystemExit",
        ".jupyter/jupyter_config.json": json.dumps({"KernelManager": {"shutdown_wait_time": 0}}),
        "kernels/kernels/python3/kernel.json": json.dumps({
            "argv": ["/usr/bin/false", "-f", "{connection_file}"], "display_name": "other",
            "language": "python"}),
        ".cache/huggingface/accelerate/default_config.yaml":
            "compute_environment: LOCAL_MACHINE\nmixed_precision: fp16\nnum_processes: 4\n"}
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    return {**SETTINGS, "HOME": str(home), "JUPYTER_PATH": str(home / "kernels"),
            "MATPLOTLIBRC": str(home / "matplotlibrc"), "PYTHONSTARTUP": str(home / "start.py")}


NO_HOME = dict.fromkeys(("HOME", "MPLCONFIGDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "HF_HOME",
                         "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "XDG_CACHE_HOME",
                         "XDG_CONFIG_HOME", "XDG_DATA_HOME"), "/proc/nowhere")
ABOUT = """import json, locale, os, sys
import numba
import matplotlib
import matplotlib.pyplot as plt
facts = {"executable": sys.executable, "optimize": sys.flags.optimize,
         "encoding": locale.getpreferredencoding(), "backend": matplotlib.get_backend(),
         "font": matplotlib.rcParams["font.size"], "print": print.__name__,
         "compiles": not numba.config.DISABLE_JIT,
         "foreign": [name for name in ("DATA_ROOT", "num_scenes") if name in globals()],
         "strict": sys.warnoptions}
figure, axis = plt.subplots(figsize=(1, 1))
with open(run.folder / "facts 資料.json", "w") as file:
    json.dump(facts, file)"""


def run_kernel(folder, environment):
    """A stage's kernel in an environment: its facts, and what the cell of a figure shows."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, OUTPUTS: str(folder)}.items():
            patch.setenv(name, value)
        write_notebook(folder / "a.ipynb", SESSION, ABOUT, "figure")
        _execute(folder / "a.ipynb", folder / "made.ipynb", Params(run="mine", epochs=3))
        facts = json.loads((folder / "mine/facts 資料.json").read_text(encoding="utf-8"))
        shown = nbformat.read(folder / "made.ipynb", 4).cells[-1].outputs
        return facts, list(shown[-1].data), Run("mine").params()


@pytest.mark.parametrize("kind", ["everything is set", "no home"])
def test_a_stage_has_an_interpreter_and_a_configuration_of_its_own(kind, hostile, tmp_path):
    facts, shown, params = run_kernel(tmp_path, hostile if kind != "no home" else NO_HOME)
    assert facts == {
        "executable": sys.executable, "optimize": 0, "encoding": "utf-8", "print": "print",
        "backend": facts["backend"], "font": 10.0, "foreign": [], "strict": [],
        "compiles": True}
    assert "inline" in facts["backend"] and "image/png" in shown
    assert params == Params(run="mine", epochs=3)


def test_jupyterlab_starts_this_interpreter_too(hostile, monkeypatch):
    asked = []
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(commands.subprocess, "call",
                        lambda words, **options: asked.append((words, options["env"])) or 0)
    assert main(["lab", "--no-browser"]) == 0
    (words, environment), = asked
    monkeypatch.undo()
    done = subprocess.run([*words[:4], "kernelspec", "list", "--json"], env=environment,
                          capture_output=True, text=True)
    kernel = json.loads(done.stdout)["kernelspecs"]["python3"]
    assert kernel["resource_dir"] == f"{sys.prefix}/share/jupyter/kernels/python3"
    assert not environment["MPLBACKEND"]  # so that figures show in a notebook


def test_figures_and_files_are_the_same_whatever_is_set(hostile, tmp_path):
    """The command line with its own figures: the picture and the numbers of a score."""
    made = {}
    for kind, environment in (("as it is", {}), ("set", hostile | NO_HOME)):
        out = tmp_path / kind / "資料"
        done = subprocess.run(
            [sys.executable, "-m", "cddpm_core", "score", "outputs/quick_test.png", "--out", out],
            cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})
        assert done.returncode == 0, done.stderr[-3000:]
        made[kind] = {path.name: path.read_bytes() for path in out.iterdir()}
    assert made["set"] == made["as it is"] and set(made["set"]) == {"score.json", "score.png"}


def test_a_kernel_that_does_not_start_is_one_true_sentence(tmp_path, monkeypatch):
    from cddpm_core.runs import kernel

    monkeypatch.setattr(kernel.sys, "executable", "/bin/false")
    write_notebook(tmp_path / "a.ipynb", SESSION)
    with pytest.raises(UserError, match="its kernel .*; what stands above is what /bin/false says"):
        _execute(tmp_path / "a.ipynb", tmp_path / "made.ipynb", Params())


@pytest.mark.parametrize("words", [["-m", "cddpm_core", "report"], ["-c", "import cddpm_core"]])
def test_another_interpreter_says_what_it_lacks(words, tmp_path):
    """One without packages, as the system's Python and the kernel of another environment are."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    done = subprocess.run([tmp_path / "env/bin/python", *words], cwd=ROOT, text=True,
                          capture_output=True)
    said = done.stderr.splitlines()
    assert done.returncode and f"without {NEEDED[0]}, expected 3.11 or later" in said[-1]
    assert "-m" not in words or len(said) == 1


STRAY = ("random", "statistics", "torch", "yaml", "click", "numpy", "evaluate", "matplotlib")


@pytest.mark.parametrize("where", ["where the command is typed", "PYTHONPATH"])
def test_files_that_are_named_like_modules_are_not_meant(where, tmp_path):
    folder = tmp_path if where != "PYTHONPATH" else tmp_path / "other"
    folder.mkdir(exist_ok=True)
    for name in STRAY:
        (folder / f"{name}.py").write_text("raise SystemExit('stray')")
    environment = {**os.environ, OUTPUTS: str(tmp_path / "outputs")}
    done = subprocess.run([sys.executable, "-m", "cddpm_core", "stage", "nowhere"], cwd=tmp_path,
                          env=environment | {"PYTHONPATH": str(folder)}, capture_output=True,
                          text=True)
    assert done.stderr.startswith("Error: stage: found 'nowhere'"), done.stderr
    write_notebook(tmp_path / "a.ipynb", SESSION, "import random, yaml, torch, numpy, evaluator",
                   "assert evaluator.OWN")
    (tmp_path / "evaluator.py").write_text("OWN = True")
    code = f"import os, papermill; os.environ['PYTHONPATH'] = {str(folder)!r}; " \
           "papermill.execute_notebook('a.ipynb', 'outputs/mine/a.ipynb', progress_bar=False)"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_file_that_hides_a_package_is_named(tmp_path):
    (tmp_path / "torch.py").touch()
    done = subprocess.run([sys.executable, "-c", "import cddpm_core"], cwd=tmp_path, text=True,
                          capture_output=True)
    assert done.stderr.splitlines()[-1].endswith(
        f"UserError: {tmp_path}/torch.py hides the package of this name, rename it")


def test_files_of_a_submission_can_be_read_by_others(smoke_copy):
    before = os.umask(0o077)
    try:
        path = write_submission(smoke_copy)
    finally:
        os.umask(before)
    with zipfile.ZipFile(path) as file:
        assert all(about.external_attr >> 16 & 0o444 == 0o444 for about in file.infolist())


def test_seconds_do_not_follow_a_clock_that_is_set(run, monkeypatch):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    with run.stage("train"):
        now -= 7200
    assert 0 <= run.stages()["train"]["seconds"] < 60


def test_scenes_are_rendered_where_compiled_code_cannot_be_kept():
    names = {}
    exec(compile("def f(x):\n    return x + 1\n", "/proc/nowhere/a.py", "exec"), names)
    assert compiled.compiled(names["f"])(1) == 2


@pytest.mark.parametrize(("more", "kept"), [({}, []), ({"MASTER_ADDR": "a"}, ["0", "2", "0"])])
def test_what_is_left_over_of_several_processes_starts_none(more, kept):
    code = "import os, sys\nfrom cddpm_core.config.environment import settle\nsettle()\n" \
           "print([os.environ[key] for key in sys.argv[1:] if key in os.environ])"
    left = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}
    done = subprocess.run([sys.executable, "-c", code, *left], env={**os.environ, **left, **more},
                          capture_output=True, text=True)
    assert done.stdout == f"{kept}\n", done.stderr


@pytest.mark.parametrize(("limit", "said"), [
    ("-S -n 60", "(1024, "), ("-n 200", "(200, 200)"),
    ("-n 40", "Error: a process may open 40 files here (ulimit -Hn), expected at least 128")])
def test_the_limit_of_open_files_is_raised_or_named(limit, said):
    code = "import resource\nfrom cddpm_core.config.environment import settle\nsettle()\n" \
           "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    done = subprocess.run(["sh", "-c", f'ulimit {limit}; exec "$0" -c "$1"', sys.executable, code],
                          capture_output=True, text=True)
    assert (done.stdout + done.stderr).startswith(said) and "Traceback" not in done.stderr


@pytest.mark.parametrize(("given", "policy"), [
    ({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"), ({"GOMP_SPINCOUNT": "300"}, None)])
def test_threads_wait_without_spinning_unless_the_user_has_chosen(given, policy):
    """Set before torch is loaded, for the command line, the kernels and the tests alike."""
    code = "import os, sys, cddpm_core; sys.exit(repr((os.environ.get('OMP_WAIT_POLICY'), " \
           "'torch' in sys.modules)))"
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], env={**environment, **given},
                          capture_output=True, text=True)
    assert done.stderr.strip() == repr((policy, False))
    assert "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
