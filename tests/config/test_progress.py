from cddpm_core.config.progress import progress


def test_progress_is_plain_text_outside_a_notebook(capsys):
    with progress(total=3, desc="counting", unit="step") as bar:
        for _ in range(3):
            bar.update()
    assert "counting: 100%" in capsys.readouterr().err
