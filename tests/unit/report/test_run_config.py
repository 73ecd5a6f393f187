"""The script that prints README's table reads what a report says."""

import importlib.util
import json
from pathlib import Path

import pytest
from _studies import control, report_of, study

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "run_config.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("run_config", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script, seed, report):
    rows = json.loads(report.to_json())
    kept = [{name: recovery[name] for name in script.KEPT} for recovery in rows["recoveries"]]
    return {"seed": seed, "wall_s": 1.0, "levels": rows["levels"], "recoveries": kept}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_is_the_mean_over_seeds_with_the_range(script):
    reports = [report_of([*study(back=(back,), left=left), *control(0.3)]) for back, left in ((0.4, 0.4), (0.6, 0.6))]
    lines = script.table([run(script, seed, made) for seed, made in enumerate(reports)], "probability").splitlines()
    assert cells(lines[0]) == [
        "model",
        "forget probability",
        "retain probability",
        "recovery",
        "beyond control",
        "price",
    ]
    rows = {cells(line)[0]: cells(line)[1:] for line in lines[2:]}
    assert list(rows) == ["original", "unlearned", "control", "relearn (step 1)"]
    assert rows["unlearned"][:2] == ["0.1 (0.1 to 0.1)", "0.8 (0.8 to 0.8)"]
    # (0.4 - 0.1) / 0.7 and (0.6 - 0.1) / 0.7; less (0.3 - 0.1) / 0.7; 1 - 0.4 / 0.8 and 1 - 0.6 / 0.8
    assert rows["relearn (step 1)"][2:] == ["57.1 (42.9 to 71.4) %", "28.6 (14.3 to 42.9) %", "37.5 (25.0 to 50.0) %"]


def test_the_largest_raw_recovery_has_a_row_of_its_own_where_the_worst_is_another_point(script):
    def found(point, rho, adjusted, worst):
        return {
            "attack": "relearn", "metric": "probability", "point": point, "unit": "step", "worst": worst, "price": 0.5,
            "rho": {"value": rho}, "adjusted": {"value": adjusted}, "forget": {"value": rho}, "retain": {"value": 0.4},
        }  # fmt: skip

    one = {"seed": 0, "levels": [], "recoveries": [found(10, 0.7, 0.5, True), found(20, 0.9, 0.3, False)]}
    lines = script.table([one], "probability").splitlines()
    assert [cells(line)[0] for line in lines[2:]] == ["relearn (step 10)", "relearn, control not taken off (step 20)"]
    assert cells(lines[-1])[3:] == ["90.0 %", "30.0 %", "50.0 %"]
    one["recoveries"][1]["rho"]["value"] = "nan"  # as a report writes what is not finite
    assert len(script.table([one], "probability").splitlines()) == 3


def test_one_seed_has_no_range_and_no_control_no_number(script):
    lines = script.table([run(script, 0, report_of(study()))], "probability").splitlines()
    assert cells(lines[-1])[3:] == ["42.9 %", "", "0.0 %"]


def test_the_tables_of_the_demo_are_what_the_script_prints(script):
    """Bold marks are ours; the figures are those of the results on disk."""
    printed = script.table(script.read(SCRIPT.parent / "results" / "quickstart.json")["runs"], "probability")
    for page in (SCRIPT.parents[1] / "README.md", SCRIPT.parent / "README.md"):
        assert printed in page.read_text().replace("**", "")


def test_results_of_before_are_refused(script, tmp_path):
    (tmp_path / "old.json").write_text(json.dumps({"runs": [{"recoveries": [{"rho": 0.5}]}]}))
    with pytest.raises(SystemExit, match="should hold results of reports with a price"):
        script.read(tmp_path / "old.json")
