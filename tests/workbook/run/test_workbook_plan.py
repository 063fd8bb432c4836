"""workbook.yaml: what is accepted, and what each mistake is called."""

import pytest
import yaml

from vpr_lib.workbook.run.plan import UsageError, load_workbook, select


def refused(project, message):
    project.write()
    with pytest.raises(UsageError, match=message):
        load_workbook()


def test_order_prefixes_and_highlights(chain):
    workbook = load_workbook()
    assert workbook.names == ("01_data", "02_train", "03_other", "08_results")
    assert workbook.find("02").name == "02_train"
    assert workbook.find("02").highlights == ("02.png",)
    assert select(workbook, ["08", "01"]) == ("01_data", "08_results")
    assert select(workbook, start_from="03") == ("03_other", "08_results")


def test_unknown_and_ambiguous_names_list_the_known_ones(chain):
    with pytest.raises(UsageError, match=r"'07': nothing starts with it.*01_data, 02_train"):
        load_workbook().find("07")
    with pytest.raises(UsageError, match=r"'0': several start with it"):
        load_workbook().find("0")
    with pytest.raises(UsageError, match=r"exclude each other"):
        select(load_workbook(), ["01"], "02")


def test_unknown_need(chain):
    chain.entries[1]["needs"] = ["00_nothing"]
    refused(chain, "02_train needs '00_nothing', which is not listed")


def test_cycle_is_spelled_out(chain):
    chain.entries[0]["needs"] = ["02_train"]
    refused(chain, "cycle: (01_data -> 02_train -> 01_data|02_train -> 01_data -> 02_train)")


def test_need_that_comes_later(chain):
    chain.entries[0]["needs"] = ["03_other"]
    refused(chain, "01_data needs 03_other, which is listed after it")


def test_missing_notebook_file(chain):
    (chain.root / "notebooks" / "03_other.ipynb").unlink()
    refused(chain, "03_other is listed, but .* does not exist")


def test_unknown_key_is_an_error(chain):
    chain.entries[0]["need"] = []
    refused(chain, r"workbook.yaml does not fit Workbook: notebooks.0.need: Extra inputs")


@pytest.mark.parametrize("name", ["/tmp/a.png", "../a.png", "folder"])
def test_outputs_stay_in_the_figures_folder(chain, name):
    chain.entries[0]["makes"] = [name]
    refused(chain, "must be a file name with a suffix inside")


def test_one_maker_per_output_and_no_name_twice(chain):
    chain.entries[1]["makes"] = ["01.png"]
    refused(chain, "01.png is made by 01_data and by 02_train")
    chain.entries[1] = chain.entries[0]
    refused(chain, "01_data is listed twice")


def test_shows_must_be_made(chain):
    chain.entries[0]["shows"] = ["other.png"]
    refused(chain, "shows 'other.png', which it does not make")


def test_no_workbook_says_what_to_do(project):
    with pytest.raises(UsageError, match=r"No workbook at .* point VPR_HOME"):
        load_workbook()


def test_profile_for_another_workbook(chain):
    chain.settings["notebooks"]["05_gone"] = {"minutes": 1}
    chain.write()
    with pytest.raises(UsageError, match=r"settings for 05_gone; the workbook has 01_data"):
        chain.run()


def test_yaml_that_is_not_yaml(chain):
    (chain.root / "notebooks" / "workbook.yaml").write_text("notebooks: [")
    with pytest.raises(UsageError, match=r"is not valid YAML"):
        load_workbook()
    assert yaml  # the parser's own message is kept
