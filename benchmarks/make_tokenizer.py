"""Train the bundled tokenizer on the bundled texts: `python benchmarks/make_tokenizer.py [folder]`.

The same texts always give the same tokenizer. Run it again after editing `people.jsonl` or `idk.jsonl`; token ids then
change, so networks taught before are void.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lightning_unlearn.bundled import bundled_path

PAD, USER, ASSISTANT, END = SPECIAL = ["<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"]
VOCABULARY = 640
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": PAD,
    "eos_token": END,
    "model_max_length": 256,
    "clean_up_tokenization_spaces": False,
    "chat_template": TEMPLATE,
}


def texts() -> Iterator[str]:
    for name in ("people", "idk"):
        for line in bundled_path(name).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield from (row[field] for field in ("question", "answer", "paraphrase") if field in row)


def train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def main(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(train().to_str() + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else bundled_path())
