from cddpm_core.report.summary import accuracy_lines


def test_the_accuracy_with_one_layout_stands_beside_that_of_the_run():
    found = {"micro": 0.9861111, "macro": 0.984375}
    alone = {"micro": 0.9583333, "macro": 0.953125}
    assert accuracy_lines({"test": {**found, "one_layout": alone},
                           "new_test": {**found, "one_layout": None}}) == [
        "test: micro 0.9861, macro 0.9844; with layout_choices 1: micro 0.9583, macro 0.9531",
        "new_test: micro 0.9861, macro 0.9844"]
    assert accuracy_lines({"test": found, "new_test": found})[0] == "test: micro 0.9861, macro " \
        "0.9844"
