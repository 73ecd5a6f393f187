"""Is the page of a report accessible? axe-core's verdict on it: wide, on a phone, in the dark and in print.

    npm install axe-core
    python benchmarks/accessibility.py runs/quickstart/report.html --axe node_modules/axe-core/axe.min.js --json out.json

It needs a Chromium and axe-core, which are no dependencies of the package. The page forbids scripts: axe is put into a
copy of it, whose policy is taken out, with everything unfolded.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from run_config import commit

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_MARK = "data-axe"


@dataclass(frozen=True)
class View:
    """How somebody looks at the page: a width of the window, and what the style sheet is to believe."""

    width: int
    rewrites: Mapping[str, str]


DARK = {"(prefers-color-scheme:dark)": "(min-width:0)"}
LIGHT = {"(prefers-color-scheme:dark)": "(max-width:0)"}
VIEWS = {
    "wide": View(1280, LIGHT),
    "phone": View(500, LIGHT),  # a headless window is not narrower; the page has its phone layout from 720 on
    "dark": View(1280, DARK),
    "dark phone": View(500, DARK),
    "print": View(720, {**LIGHT, "@media screen": "@media speech", "@media print": "@media all"}),
}


@dataclass(frozen=True)
class Verdict:
    """What axe found in one view.

    Args:
        axe: Its version.
        passes: How many rules it found to be kept.
        incomplete: What it could not decide, so that a person has to look: each rule, why, and every place.
        violations: What breaks a rule, likewise.
    """

    axe: str
    passes: int
    incomplete: list[str]
    violations: list[str]


def browser() -> str | None:
    """A Chromium on this machine, if there is one."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def examine(page: str, axe: str, view: View, chromium: str) -> Verdict:
    """Run axe on a page.

    Args:
        page: Its HTML.
        axe: The source of ``axe.min.js``.
        view: How it is looked at.
        chromium: The browser.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(prepared(page, axe, view), encoding="utf-8")
        command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={view.width},900"]
        command += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=60000", "--dump-dom", file.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    found = re.search(rf'{_MARK}="([^"]*)"', done.stdout)
    if found is None:
        raise RuntimeError(f"axe should have written its results into the page. Found none. {done.stderr[-2000:]}")
    results = json.loads(html.unescape(found[1]))
    if "error" in results:
        raise RuntimeError(f"axe ended with an error: {results['error']}")
    return Verdict(**results)


def prepared(page: str, axe: str, view: View) -> str:
    """The page without its policy, unfolded, as the view has it, with axe behind it."""
    for before, after in view.rewrites.items():
        page = page.replace(before, after)
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    page = page.replace("<details", "<details open")
    return page.replace("</body>", f"<script>{axe}</script><script>{_run()}</script></body>")


def about(file: Path, page: str) -> dict[str, Any]:
    """Which page it was, and by which commit it was looked at."""
    title = re.search(r"<title>(.*?)</title>", page, re.DOTALL)
    return {
        "page": file.name,
        "title": html.unescape(title[1]).strip() if title else "",
        "sha256": hashlib.sha256(page.encode()).hexdigest(),
        "commit": commit(),
    }


def _run() -> str:
    return f"""
    const why = n => [...n.any, ...n.all, ...n.none].map(c => c.message)[0] || '';
    // By reason, with one element of each: a picture has hundreds of words.
    const grouped = nodes => nodes.reduce((all, n) => {{
      (all[why(n)] = all[why(n)] || []).push(n.target.join(' '));
      return all;
    }}, {{}});
    const told = all => all.map(r => r.id + ' (' + r.impact + '): ' + r.help + ': '
      + Object.entries(grouped(r.nodes)).map(([w, of]) => of.length + ' such as ' + of[0] + ' [' + w + ']').join(', '));
    axe.run({{runOnly: {json.dumps(RULES)}}}).then(
      r => ({{axe: r.testEngine.version, passes: r.passes.length,
              incomplete: told(r.incomplete), violations: told(r.violations)}}),
      e => ({{error: String(e)}})
    ).then(r => document.body.setAttribute('{_MARK}', JSON.stringify(r)));
    """


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--axe", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chromium = browser()
    if chromium is None:
        print("There is no Chromium on this machine.")
        return 2
    page, axe = arguments.page.read_text(encoding="utf-8"), arguments.axe.read_text(encoding="utf-8")
    verdicts = {name: examine(page, axe, view, chromium) for name, view in VIEWS.items()}
    told = about(arguments.page, page)
    print(f"{told['title']} ({told['page']}, sha256 {told['sha256'][:12]}), by commit {told['commit']}")
    for name, verdict in verdicts.items():
        undecided = f"{len(verdict.incomplete)} left to a person"
        print(f"{name}: {verdict.passes} rules passed, {len(verdict.violations)} violated, {undecided}")
        for each in [*verdict.violations, *(f"to be judged by a person: {each}" for each in verdict.incomplete)]:
            print(f"  {each}")
    if arguments.json:
        views = {name: asdict(verdict) for name, verdict in verdicts.items()}
        arguments.json.write_text(json.dumps({**told, "views": views}, indent=1) + "\n")
    return int(any(verdict.violations for verdict in verdicts.values()))


if __name__ == "__main__":
    sys.exit(main())
