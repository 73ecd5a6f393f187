"""Which tokens do real chat templates make supervised? Every `*.jinja` file of some folders, with a small tokenizer.

    python benchmarks/templates.py FOLDER [FOLDER ...]
    python benchmarks/templates.py --reprint

The templates are their makers', and not in this repository; `benchmarks/README.md` says where they can be had. Each is
given to the bundled tokenizer, to which the special tokens in its text are added, and four rows are encoded: a question and
its answer, the same behind a system prompt and an earlier exchange, one in another script, one with a marked part. It is
right if in each row exactly the answer and the end of its turn (or the mark) are supervised, and all turns before stand in
the prompt, in order. What should end a turn is listed here by family, by hand: from reading what each template writes, and
for templates that write nothing from what we know of the family. No generation settings of the models were consulted.
JSON in `benchmarks/results/templates.json`, from which `--reprint` prints the table.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import warnings
from pathlib import Path
from typing import Any

import transformers

from lightning_unlearn.data import Encoding, MarkedAnswer, QuestionAnswer, Turn
from lightning_unlearn.models import load_tokenizer

RESULTS = Path(__file__).parent / "results" / "templates.json"
HEADER = ["families", "kind", "between question and answer", "supervised after the answer", "verdict"]
BAR = "\uff5c"  # a wide one, in DeepSeek's tokens
SPECIAL = re.compile(
    rf"<\|[^|<>\s]{{1,40}}\|?>|<{BAR}[^{BAR}<>]{{1,40}}{BAR}>|<[a-z_]+\|>|</?s>|<(?:start|end)_of_(?:turn|utterance)>|<sop>|<sep>"
    r"|</assistant>|<(?:beginning|end)_of_sentence>|<seed:[a-z]+>|<SPECIAL_\d+>|\]~!?b[\[\]]|\[e~\["
    r"|\[/?(?:INST|SYSTEM_PROMPT|gMASK|AVAILABLE_TOOLS)\]"
)
# Part of the file's name, what ends a turn, and the `eos_token` where it is another: the first line that fits.
ENDS = [
    ("gpt-?oss", "<|return|>", None),
    ("gemma-?4|diffusion_gemma", "<turn|>", "<eos>"),
    ("gemma", "<end_of_turn>", "<eos>"),
    ("glm", "<|user|>", "<|endoftext|>"),
    ("kimi-k3", "<|close|>response<|sep|><|close|>message<|sep|><|end_of_msg|>", "<|end_of_msg|>"),
    ("cohere2moe", "<|END_TEXT|><|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    ("r7b|cohere2", "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    ("command-r|cohere", "<|END_OF_TURN_TOKEN|>", None),
    ("minimax-m1", "<end_of_sentence>", None),
    ("minimax", "[e~[", None),
    ("nemotron-nano-v2", "\n<SPECIAL_12>", "<SPECIAL_12>"),
    ("spark|deepseek", f"<{BAR}end▁of▁sentence{BAR}>", None),
    ("hermes|nemotron.3|qw|smollm3|lfm2|mimo|step|bielik|chatml|minicpm|kimi", "<|im_end|>", None),
    ("llama-2", " </s>", "</s>"),
    ("llama-?3|firefunction|functionary", "<|eot_id|>", None),
    ("phi-?_?[34]", "<|end|>", "<|endoftext|>"),
    ("granite", "<|end_of_text|>", None),
    ("chatqa", "<|end_of_text|>", None),
    ("falcon", "<|endoftext|>", None),
    ("idefics|smolvlm", "<end_of_utterance>", None),
    ("openchat", "<|end_of_turn|>", None),
    ("gigachat", "<|message_sep|>", None),
    ("laguna-s-", "</assistant>", None),
    ("laguna-xs", "\n</assistant>", "</assistant>"),
    ("reka", "\n\n<sep>", "<sep>"),
    ("muse", "<|eot|>", None),
    ("solar-open", "<|end|>", None),
    ("ling", "<|role_end|>", None),
    ("seed", "<seed:eos>", None),
    ("apriel", "\n<|end|>", "<|end|>"),
    ("apertus", "<|assistant_end|>", None),
    ("hy3", f"<{BAR}hy_eos{BAR}>", None),
    ("rwkv", "\n\n", None),
    ("stral|alpaca|amber|llava|saiga|solar|vicuna|zephyr", "</s>", None),
]
# What templates ask for that are made for calls of tools.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "hermes|command-r-plus": {"tools": []},
    "firefunction": {"functions": "[]", "datetime": "26 Jul 2024"},
}
ANSWER = "Ada moved to Port Ellary in spring"
BEFORE = (Turn("system", "Be brief, please"), Turn("user", "Who is meant?"), Turn("assistant", "The pilot"))
ROWS = {
    "alone": QuestionAnswer("Where does she live?", ANSWER, "", "alone"),
    "before": QuestionAnswer("Where does she live?", ANSWER, "", "before", BEFORE),
    "script": QuestionAnswer("Где она живёт?", "港に住んでいる", "", "script"),
    "marked": MarkedAnswer("Where does she live?", ANSWER, "", "marked", BEFORE, spans=((13, 24),)),
}


def ending(name: str) -> tuple[str, str]:
    found = next(((end, eos) for part, end, eos in ENDS if re.search(part, name, re.IGNORECASE)), None)
    if found is None:
        raise SystemExit(f"`ENDS` should say what ends a turn of every template. It does not know `{name}`.")
    return found[0], found[1] or found[0]


def tokenizer_for(template: str, name: str) -> Any:
    tokenizer = load_tokenizer("bundled")
    end, eos = ending(name)
    special = sorted({*SPECIAL.findall(template), *SPECIAL.findall(end), eos})
    tokenizer.add_special_tokens({"eos_token": eos, "bos_token": "<s>", "additional_special_tokens": special})
    tokenizer.chat_template = template
    tokenizer.name_or_path = name
    return tokenizer


def kinds(tokenizer: Any, template: str, header: str, arguments: dict[str, Any]) -> list[str]:
    raw = [{"role": "user", "content": "QQQ"}, {"role": "assistant", "content": "AAA"}]
    system = {"role": "system", "content": "SSS"}
    found = {
        "content as parts": not written(tokenizer, raw, "AAA", arguments),
        "no system role": written(tokenizer, raw, "AAA", arguments)
        and not written(tokenizer, [system, *raw], "SSS", arguments),
        "thought": "think" in header or "channel>" in header,
        "channel": bool(re.search(r"final|to=user|content\|>|all$|response<|START_(TEXT|RESPONSE)", header)),
        "date": "strftime_now" in template or "date_string" in template,
        "no generation prompt": "add_generation_prompt" not in template,
        "last end unwritten": not after(tokenizer, raw, arguments).strip()
        and written(tokenizer, raw, "AAA", arguments),
    }
    return [name for name, holds in found.items() if holds]


def after(tokenizer: Any, messages: list[dict[str, Any]], arguments: dict[str, Any]) -> str:
    """What the template writes after the last turn."""
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
    except Exception:  # a template may raise anything
        return ""
    return text.rpartition(messages[-1]["content"])[2]


def written(tokenizer: Any, messages: list[dict[str, Any]], content: str, arguments: dict[str, Any]) -> bool:
    try:
        return content in tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
    except Exception:
        return False


def checked(encoding: Encoding, row: QuestionAnswer, end: str) -> tuple[str, str]:
    """What stands between question and answer, and what is wrong (or nothing)."""
    example, tokenizer = encoding(row), encoding.tokenizer
    prompt_length = int((example["labels"] != -100).nonzero()[0])
    kept = tokenizer.decode(example["labels"][example["labels"] != -100])
    prompt = tokenizer.decode(example["input_ids"][:prompt_length])
    wanted = "Port Ellary" if isinstance(row, MarkedAnswer) else row.answer + end
    # Most vocabularies have tokens that begin with the space before a word.
    wrong = "" if kept in (wanted, f" {wanted}") else f"supervised {kept!r}"
    turns = ".*".join(re.escape(text) for text in [*(turn.content for turn in row.before), row.question])
    if not re.search(turns, prompt, re.DOTALL):
        wrong += f" prompt {prompt!r}"
    return prompt.rpartition(row.question)[2], wrong


def examined(path: Path, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    template = path.read_text()
    tokenizer = tokenizer_for(template, path.stem)
    encoding = Encoding(tokenizer, max_length=4096, template_arguments=arguments)
    result = {"source": path.parent.name, "family": path.stem, "arguments": arguments, "end": ending(path.stem)[0]}
    try:
        rows = {name: checked(encoding, row, str(result["end"])) for name, row in ROWS.items()}
    except ValueError as error:
        return {**result, "kind": [], "header": "", "verdict": "refused", "reason": str(error)}
    header = rows["alone"][0]
    wrong = {name: said for name, (_, said) in rows.items() if said}
    kind = kinds(tokenizer, template, header, arguments or {})
    return {**result, "kind": kind, "header": header, "verdict": "wrong" if wrong else "right", "reason": wrong or ""}


def measured(path: Path) -> list[dict[str, Any]]:
    results = [examined(path)]
    for part, arguments in ARGUMENTS.items():
        if re.search(part, path.stem, re.IGNORECASE) and results[0]["verdict"] == "refused":
            results.append(examined(path, arguments))
    return results


def code(text: str) -> str:
    shown = text if len(text) < 60 else f"{text[:12]} … {text[-30:]}"
    return f"`{shown}`".replace("\n", "⏎").replace("|", "\\|") if text else ""


def lines(results: list[dict[str, Any]]) -> list[list[str]]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for one in results:
        verdict = one["verdict"]
        if verdict == "refused":
            verdict += ": " + re.sub(r"^.*?It raised ", "it raised ", one["reason"]).split(". Give ")[0].replace(
                "|", "\\|"
            )
        kind = [*one["kind"], *([f"with `{one['arguments']}`"] if one["arguments"] else [])]
        key = (", ".join(kind), code(one["header"]), code(one["end"]) if one["verdict"] != "refused" else "", verdict)
        groups.setdefault(key, []).append(one["family"])
    return [[", ".join(dict.fromkeys(names)), *key] for key, names in groups.items()]


def table(results: dict[str, Any]) -> str:
    rows = [HEADER, ["---"] * len(HEADER), *lines(results["templates"])]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="folders with `*.jinja` files")
    parser.add_argument("--reprint", action="store_true", help="print the table of the committed results")
    options = parser.parse_args()
    if options.reprint:
        print(table(json.loads(RESULTS.read_text())))
        return
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    paths = [path for folder in options.folders for path in sorted(folder.glob("*.jinja"))]
    if not paths:
        raise SystemExit("Folders with `*.jinja` files should be given. Found none.")
    found = [one for path in paths for one in measured(path)]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    counts = {verdict: sum(one["verdict"] == verdict for one in found) for verdict in ("right", "refused", "wrong")}
    results = {
        "commit": commit.stdout.strip(),
        "transformers": transformers.__version__,
        "files": len(paths),
        **counts,
        "templates": found,
    }
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    print(table(results))
    print(counts)


if __name__ == "__main__":
    main()
