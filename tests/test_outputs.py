from papermill.iorw import papermill_io


def test_papermill_makes_the_folder_of_a_new_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = "outputs/mine/train.ipynb"
    papermill_io.get_handler(path).write("{}", path)
    assert (tmp_path / path).read_text() == "{}"
