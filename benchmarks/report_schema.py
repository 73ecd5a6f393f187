"""Write the JSON Schema of reports into the package. Run it after their dataclasses have changed."""

import json

from lightning_unlearn.report import RobustnessReport
from lightning_unlearn.report.schema import SCHEMA_FILE

if __name__ == "__main__":
    SCHEMA_FILE.write_text(json.dumps(RobustnessReport.json_schema(), indent=1) + "\n", encoding="utf-8")
    print(f"Written to {SCHEMA_FILE.name}.")
