import json
import math
from dataclasses import replace

import pytest
from _studies import control, observed, report_of, specificity, study

from lightning_unlearn.observation import Cost, Observation
from lightning_unlearn.report import RobustnessReport, assess, environment, recorded, save, to_page

FILES = {"curves.png", "model_card.md", "report.html", "report.json", "scores.jsonl"}


def test_a_report_survives_json(report):
    assert RobustnessReport.from_json(report.to_json()) == report


def test_a_report_survives_its_folder(report, tmp_path):
    page = save(report, tmp_path / "new" / "folder")
    assert {path.name for path in page.parent.iterdir()} - {"scores.parquet"} == FILES
    assert RobustnessReport.load(page.parent) == RobustnessReport.load(page.with_name("report.json")) == report
    assert page.with_name("curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_in_the_home_folder_is_there(small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    page = save(small, "~/reports")
    assert page == tmp_path / "home" / "reports" / "report.html"
    assert RobustnessReport.load("~/reports") == RobustnessReport.load("~/reports/report.json") == small
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.fixture(scope="module")
def small():
    return assess([Observation("p", "forget", 0.5, 0)], draws=20)


def test_saving_again_replaces_the_report_and_leaves_nothing_behind(small, tmp_path):
    save(small, tmp_path)
    save(replace(small, config="changed: true"), tmp_path)
    assert RobustnessReport.load(tmp_path).config == "changed: true"
    assert {path.name for path in tmp_path.iterdir()} - {"scores.parquet"} == FILES


def test_numbers_that_are_not_finite_are_strict_json_and_come_back():
    def refuse(constant):
        raise AssertionError(constant)

    observations = [Observation("nll", "forget", value, step) for step, value in enumerate([0.5, math.inf, -math.inf])]
    made = assess(observations, training=[{"step": 1, "forget": math.inf}], draws=20)
    text = made.to_json()
    assert json.loads(text, parse_constant=refuse)["observations"][1]["value"] == "inf"
    assert RobustnessReport.from_json(text) == made
    nan = assess([Observation("nll", "forget", math.nan, 0)], draws=20)
    assert math.isnan(RobustnessReport.from_json(nan.to_json()).observations[0].value)


def test_a_string_called_nan_stays_a_string():
    observation = Observation("p", "forget", 0.5, 0, scores=[0.5, 0.5], entities=["nan", "inf"])
    made = assess([observation], draws=20)
    assert RobustnessReport.from_json(made.to_json()).observations[0].entities == ["nan", "inf"]


def test_each_observation_is_one_line(report):
    lines = report.to_json().splitlines()
    assert sum('"higher_means_known"' in line for line in lines) == len(report.observations)


def test_an_unwritable_folder_gives_one_error_with_the_way_out(small, tmp_path):
    file = tmp_path / "report"
    file.write_text("in the way")
    with pytest.raises(OSError, match=r"folder should be writable\. Found `.+` when writing `.+report\.json`.*save it"):
        save(small, file)


def test_only_the_owner_may_read_it(small, tmp_path):
    save(small, tmp_path)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_crash_while_writing_leaves_the_old_report_whole(small, tmp_path, monkeypatch):
    save(small, tmp_path)
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left on device"):
        save(replace(small, config="changed: true"), tmp_path)
    assert RobustnessReport.load(tmp_path) == small
    assert {path.name for path in tmp_path.iterdir()} - {"scores.parquet"} == FILES


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"schema_version": 6, "run', r"should be complete JSON\. Found `.*line 1 column"),
        ("", "should be complete JSON"),
        ("[]", "should be a JSON object. Found a list"),
        ('{"schema_version": 1}', r"`schema_version` should be 5 or 6\. Found `1`"),
        ('{"schema_version": 5, "run": {}}', "Missing: `models, data"),
    ],
)
def test_a_broken_file_gives_one_clear_error(text, match, tmp_path):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        RobustnessReport.load(tmp_path)


def test_a_report_of_the_version_before_is_read_with_what_it_lacks_left_empty(report):
    """Nothing but what version 6 added is missing from a report of version 5."""
    data = json.loads(recorded(report, costs=[Cost("relearn", "unlearned", losses=4)]).to_json())
    data["schema_version"] = 5
    del data["summary"]["over_time"]
    for observation in data["observations"]:
        del observation["by_entity"]
    for cost in data["record"]["costs"]:
        del cost["rows"], cost["tokens"]
    read = RobustnessReport.from_json(json.dumps(data))
    assert (read.schema_version, read.observations, read.recoveries) == (6, report.observations, report.recoveries)
    assert read.record.costs == [Cost("relearn", "unlearned", losses=4)]
    assert RobustnessReport.from_json(read.to_json()) == read
    assert "When it was forgotten" not in to_page(read)
    assert "When it was forgotten" in to_page(report)


def test_a_row_of_another_shape_gives_one_clear_error(report):
    data = json.loads(report.to_json())
    del data["recoveries"][0]["rho"]
    with pytest.raises(ValueError, match=r"rows should follow its schema. Found KeyError"):
        RobustnessReport.from_json(json.dumps(data))


def test_a_report_that_is_not_there_gives_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="`path` should be a report's folder"):
        RobustnessReport.load(tmp_path)


def test_scores_without_their_entities_are_refused():
    with pytest.raises(ValueError, match="Found 1 entities for 2 scores of `p`"):
        Observation("p", "forget", 0.5, 0, scores=[0.5, 0.5], entities=["a"])


def test_the_environment_names_no_machine(monkeypatch):
    monkeypatch.setattr("platform.node", lambda: "secret-host")
    assert "secret-host" not in str(environment())


def test_runs_own_facts_join_the_environment(report):
    assert {"created_utc", "torch", "lightning", "package_version", "strategy", "seed"} <= set(report.run)


def test_a_subject_is_one_of_three_and_a_split_only_has_to_have_a_name():
    with pytest.raises(ValueError, match="`subject` should be one of .*Found `subject = 'teacher'`"):
        Observation("p", "forget", 0.5, subject="teacher")
    with pytest.raises(ValueError, match="`split` should be the name of the examples"):
        Observation("p", "", 0.5)
    assert Observation("p", "neighbours", 0.5).split == "neighbours"


def test_price_specificity_and_further_splits_survive_json():
    step = {"attack": "relearn", "family": "relearn", "point": 1, "unit": "step"}
    observations = [
        *study(left=0.4),
        *control(0.2),
        observed(0.7, 9, "neighbours", **step),
        specificity(0.9, "relearn"),
    ]
    made = report_of(observations)
    back = RobustnessReport.from_json(made.to_json())
    assert back == made
    (recovery,) = back.recoveries
    assert recovery.price == pytest.approx(1 - 0.4 / 0.8)
    assert recovery.specificity.value == pytest.approx(0.9)
    assert recovery.others["neighbours"].value == pytest.approx(0.7)
