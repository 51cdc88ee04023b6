"""The tables of the published protocols, from made-up results."""

from experiments.classification.benchmarks import ELEVEN, Setting, choose, novel_table, task


def result(validation, base, new):
    values = {"validation": validation, "test_base": base, "test_new": new}
    return {name: {"accuracy": value} for name, value in values.items()}


def test_the_eleven_are_those_of_the_published_table():
    assert (
        *("imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft"),
        *("sun397", "dtd", "eurosat", "ucf101"),
    ) == ELEVEN


def test_the_setting_is_chosen_on_validation_images():
    shallow, deep = Setting(2, 3, 5), Setting(-1, -1, 5)
    runs = {shallow: [result(0.9, 0.5, 0.5), result(0.7, 0.5, 0.5)], deep: [result(0.7, 0.99, 0.99)] * 2}
    assert choose(runs) == shallow


def test_the_average_row_is_printed_in_both_conventions():
    setting = Setting(2, 3, 5)
    table = novel_table({"a": {setting: [result(1, 0.8, 0.6)]}, "b": {setting: [result(1, 0.6, 0.8)]}})
    rows = {line.split("|")[1].strip(): line.split("|")[3:6] for line in table.splitlines()[2:]}
    assert [float(x) for x in rows["mean (HM of means)"]] == [70.0, 70.0, 70.0]
    assert float(rows["mean (mean of HMs)"][2]) == 68.57


def test_a_task_trains_the_first_blocks_for_some_epochs():
    fields = task("vacsr", "eurosat", Setting(2, 3, 10), 1, "DATA", {"train.batch_size": 8}).fields
    assert (fields["optim.image_blocks"], fields["optim.text_blocks"], fields["train.epochs"]) == (2, 3, 10)
    assert fields["train.batch_size"] == 8
    assert task("vacsr", "imagenet", Setting(2, 3, 5), 1, "DATA", {}).fields["data.tests"] == ("test_base", "test_new")
