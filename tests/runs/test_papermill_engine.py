"""What papermill does with a notebook of this package, from its command line and from Python."""

import base64
import os
from datetime import date

import nbformat
import numpy as np
import papermill
import pytest
from click.testing import CliRunner
from papermill.cli import papermill as papermill_command
from papermill.engines import NBClientEngine, papermill_engines
from papermill.iorw import papermill_io

from cddpm_core.config.cells import cell_parameters
from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params, resolve
from cddpm_core.runs import run as runs_run
from cddpm_core.runs.kernel import OwnKernel
from cddpm_core.runs.run import OUTPUTS, run_name

CODE = "from cddpm_core.runs.session import open_session\n\nsession = open_session(globals())"


def notebook(code=CODE):
    first = nbformat.v4.new_code_cell('run: str = ""\ndata: str = ""',
                                      metadata={"tags": ["parameters"]})
    return nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell(code)], metadata={
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the notebook a.ipynb, where papermill prepares notebooks but runs no kernel."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(OUTPUTS, "outputs")
    monkeypatch.setattr(NBClientEngine, "execute_managed_notebook",
                        lambda nb_man, kernel_name, **options: None)
    nbformat.write(notebook(), "a.ipynb")
    return tmp_path


def run(*words):
    return CliRunner().invoke(papermill_command, ["a.ipynb", *map(str, words)])


def found_in(output):
    """The parameters and paths that a kernel would find."""
    return parameters_after([cell.source for cell in nbformat.read(output, 4).cells])


def parameters_after(cells):
    """What `cell_parameters` returns after these cells were run."""
    history = type("History", (), {"input_hist_parsed": cells})
    return cell_parameters({"__name__": "__main__", "get_ipython": lambda: type(
        "Shell", (), {"history_manager": history})}, Params)


def params_in(output):
    return resolve(found_in(output)[0])


GIVEN = "student_id: 0716221\nseed: 0042\nlanguage: no\nruns: [007, 1e3]\nlearning_rate: 1e-4\n"


@pytest.mark.parametrize("words", [
    ("-f", "given.yaml"), ("-y", GIVEN), ("-b", base64.b64encode(GIVEN.encode()).decode()),
    ("-f", "given.yaml", "-y", "{}"), ("-p", "student_id", "1", "-f", "given.yaml",
                                       "-r", "student_id", "0716221")])
def test_values_arrive_as_they_were_typed(folder, words):
    (folder / "given.yaml").write_text(GIVEN)
    assert run("outputs/mine/a.ipynb", *words).exit_code == 0
    params = params_in("outputs/mine/a.ipynb")
    assert (params.student_id, params.seed, params.language) == ("0716221", 42, "no")
    assert params.runs == ["007", "1e3"] and params.learning_rate == 1e-4


@pytest.mark.parametrize(("option", "key", "text", "value"), [
    ("-p", "student_id", "0716221", "0716221"), ("-p", "author", "True", "True"),
    ("-p", "title", "1.10", "1.10"), ("-p", "run", "007", "007"), ("-p", "author", "None", "None"),
    ("-p", "seed", "0042", 42), ("-p", "in_memory", "no", False), ("-r", "epochs", "3", 3),
    ("-p", "learning_rate", "1e-4", 1e-4), ("-p", "title", "a: #1 [x]", "a: #1 [x]")])
def test_a_value_of_the_command_line_arrives_as_it_was_typed(folder, option, key, text, value):
    assert run("outputs/mine/a.ipynb", option, key, text).exit_code == 0
    assert getattr(params_in("outputs/mine/a.ipynb"), key) == value


@pytest.mark.parametrize(("words", "sentence"), [
    (["-p", "epochz", "2"], "unknown parameter 'epochz' (did you mean 'epochs'?)"),
    (["-p", "epochs", "two"], "epochs: expected int, found 'two'"),
    (["-p", "sampler", "ddin"], "sampler: found 'ddin' (did you mean 'ddim'"),
    (["-p", "blocks", "[0, 1]"], "expected a list of int, found '[0, 1]'; write [0, 1], for "
                                 "papermill as -y 'blocks: [0, 1]' or in a file with -f"),
    (["-p", "runs", "quick"], "as -y 'runs: [...]' or in a file with -f"),
    (["-f", "nowhere.yaml"], "nowhere.yaml"), (["-y", "epochs: 1\nepochs: 2"], "given twice"),
    (["-p", "run", "../x"], "run: found '../x', expected the name of a folder")])
def test_a_mistake_is_one_sentence_before_anything_is_written(folder, words, sentence):
    for output in ("outputs/mine/a.ipynb", "./outputs/mine/a.ipynb",
                   folder / "outputs/mine/a.ipynb", folder / "other/a.ipynb"):
        done = run(output, *words)
        assert done.exit_code and sentence in str(done.exception or "") + done.output
        assert not (folder / "outputs").exists() and not (folder / "other").exists()


def test_the_command_line_prints_the_sentence_alone(folder):
    assert run("outputs/mine/a.ipynb", "-p", "epochs", "x").output.splitlines()[-1] == (
        "Error: epochs: expected int, found 'x'")


@pytest.mark.parametrize(("parameters", "sentence"), [
    ({"student_id": 236689}, "expected str, found 236689; it may not be what was typed: write it "
                             "in quotes, or give it to papermill as -r student_id TEXT"),
    ({"language": False}, "expected str, found False; it may not be"),
    ({"date": date(2026, 1, 5)}, "found datetime.date(2026, 1, 5); it may not be what was typed"),
    ({"runs": [7]}, "runs: expected str, found 7; write each in quotes"),
    ({"epochz": 2}, "unknown parameter 'epochz'")])
def test_what_python_gives_is_checked_too(folder, parameters, sentence):
    with pytest.raises(UserError) as error:
        papermill.execute_notebook("a.ipynb", "outputs/mine/a.ipynb", parameters)
    assert sentence in str(error.value) and not (folder / "outputs").exists()


@pytest.mark.parametrize("output", [
    "outputs/mine/a.ipynb", "./outputs/mine/a.ipynb", "outputs/../elsewhere/mine/a.ipynb",
    "/{}/outputs/mine/a.ipynb", "link/mine/b.ipynb", "q/我的 #1 [50%] 'a' \"b\"/mine/a.ipynb"])
def test_the_run_is_known_however_papermill_is_called(folder, output):
    (folder / "q").mkdir()
    (folder / "link").symlink_to("q")
    output = output.replace("/{}", str(folder))
    assert run(output).exit_code == 0
    papermill.execute_notebook("a.ipynb", output.replace("mine", "api"))
    papermill.execute_notebook("a.ipynb", output.replace("mine", "quiet"), {"seed": 3},
                               request_save_on_cell_execute=False)
    for name in ("mine", "api", "quiet"):
        values, paths = found_in(output.replace("mine", name))
        assert values["run"] == "" and paths["PAPERMILL_INPUT_PATH"] == "a.ipynb"
        written = paths["PAPERMILL_OUTPUT_PATH"]
        assert os.path.isabs(written) and os.path.samefile(written, output.replace("mine", name))
        assert os.path.basename(os.path.dirname(written)) == name


def test_a_path_is_relative_to_where_it_was_typed(folder, monkeypatch):
    (folder / "notebooks").mkdir()
    (folder / "given.yaml").write_text("data: ../ic")
    assert run("outputs/mine/a.ipynb", "--cwd", "notebooks", "-f", "given.yaml").exit_code == 0
    values, paths = found_in("outputs/mine/a.ipynb")
    assert paths["PAPERMILL_OUTPUT_PATH"] == str(folder / "outputs/mine/a.ipynb")
    assert values["data"] == str(folder / "../ic")
    assert os.environ[OUTPUTS] == str(folder / "outputs")
    nbformat.write(notebook(CODE.replace("open_session", "score_params")), "a.ipynb")
    assert run("b.ipynb", "--cwd", "notebooks", "-p", "images", "given.yaml", "-p", "out", "o",
               "-p", "conditions", "test").exit_code == 0
    made = "".join(cell.source for cell in nbformat.read("b.ipynb", 4).cells)
    assert f'images = "{folder}/given.yaml"' in made and f'out = "{folder}/o"' in made
    assert 'conditions = "test"' in made


def test_a_link_to_the_folder_of_a_run_is_that_run(folder):
    for name in ("elsewhere", "outputs/mine"):
        (folder / name).mkdir(parents=True)
    (folder / "here").symlink_to("outputs/mine")
    (folder / "outputs/big").symlink_to(folder / "elsewhere")
    assert run_name("", str(folder / "here/a.ipynb")) == "mine"
    assert run_name("", str(folder / "outputs/big/a.ipynb")) == "big"


def test_values_of_numpy_and_paths_are_plain_ones(folder):
    papermill.execute_notebook("a.ipynb", "outputs/mine/a.ipynb", {
        "data": folder / "ic", "epochs": np.int64(3), "learning_rate": np.float32(0.5),
        "in_memory": np.bool_(False), "sweep_steps": np.array([5, 9]),
        "font_paths": [folder / "a"]})
    params = params_in("outputs/mine/a.ipynb")
    assert (params.data, params.epochs, params.learning_rate) == (str(folder / "ic"), 3, 0.5)
    assert params.in_memory is False and params.sweep_steps == [5, 9]
    assert params.font_paths == [str(folder / "a")]


def test_a_kernel_that_only_another_machine_has_is_this_interpreter(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(NBClientEngine, "execute_managed_notebook",
                        lambda nb_man, kernel_name, **options: asked.append(
                            options.get("kernel_manager_class")))
    made = nbformat.read("a.ipynb", 4)
    for name in ("conda-env-lab-py", "python3"):
        made.metadata.kernelspec.name = name
        nbformat.write(made, "a.ipynb")
        assert run("outputs/mine/a.ipynb").exit_code == 0
    assert asked == [OwnKernel, OwnKernel]


@pytest.mark.parametrize("output", ["a2.ipynb", "outputs/a.ipynb", "./a2.ipynb",
                                    "notebooks/a2.ipynb"])
def test_a_folder_that_cannot_be_a_run_is_one_sentence(folder, output, monkeypatch):
    monkeypatch.setattr(runs_run, "project_root", lambda: folder)
    done = run(output)
    assert done.exit_code and "run: expected a name, for" in done.output
    assert "give papermill -p run NAME" in done.output and not (folder / output).exists()
    assert run(output, "-p", "run", "mine").exit_code == 0
    made = nbformat.read("a.ipynb", 4)
    made.cells[0].source = made.cells[0].source.replace('""', '"named"', 1)
    nbformat.write(made, "a.ipynb")
    assert run(output).exit_code == 0 and params_in(output).run == "named"


def test_a_place_that_is_no_folder_names_the_run_too(folder, monkeypatch):
    written = []
    monkeypatch.setattr(papermill_io.get_handler("s3://a"), "write",
                        lambda text, path: written.append(path), raising=False)
    papermill.execute_notebook("a.ipynb", "s3://bucket/mine/a.ipynb")
    assert written and not (folder / "s3:").exists()


def test_without_a_file_there_is_no_path(folder, monkeypatch):
    assert run("-").exit_code == 0
    asked = []
    monkeypatch.setattr(NBClientEngine, "execute_managed_notebook", lambda nb_man, *_, **__:
                        asked.append("".join(cell.source for cell in nb_man.nb.cells)))
    assert run("/dev/null").exit_code == 0 and "PAPERMILL_OUTPUT_PATH" not in asked[0]
    made = papermill.execute_notebook("a.ipynb", None)
    assert "PAPERMILL_OUTPUT_PATH" not in "".join(cell.source for cell in made.cells)
    papermill.execute_notebook(notebook(), "outputs/mine/a.ipynb")
    assert list(found_in("outputs/mine/a.ipynb")[1]) == ["PAPERMILL_OUTPUT_PATH"]


@pytest.mark.parametrize(("parameters", "sentence"), [
    ({"image": "a.png"}, "unknown parameter 'image' .did you mean 'images'"),
    ({"cell": "wide"}, "cell: expected int, found 'wide'")])
def test_the_parameters_of_a_score_are_its_own(folder, parameters, sentence):
    nbformat.write(notebook(CODE.replace("open_session", "score_params")), "a.ipynb")
    papermill.execute_notebook("a.ipynb", "b.ipynb", {"images": "a.png", "padding": "2"})
    with pytest.raises(UserError, match=sentence):
        papermill.execute_notebook("a.ipynb", "b.ipynb", parameters)


def test_other_notebooks_and_engines_are_left_alone(folder):
    nbformat.write(notebook("print(1)"), "a.ipynb")
    papermill.execute_notebook("a.ipynb", "b.ipynb", {"run": 7})
    assert "run = 7" in [cell.source for cell in nbformat.read("b.ipynb", 4).cells][1]
    assert papermill_engines.get_engine("nbclient") is NBClientEngine
    with pytest.raises(FileNotFoundError):
        papermill.execute_notebook("a.ipynb", "nowhere/b.ipynb")


def test_a_hidden_input_stays_hidden(folder):
    assert run("outputs/mine/a.ipynb", "-p", "seed", "3", "--report-mode").exit_code == 0
    cells = nbformat.read("outputs/mine/a.ipynb", 4).cells
    assert len(cells) == 3 and all(cell.metadata.jupyter.source_hidden for cell in cells)
