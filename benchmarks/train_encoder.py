"""Train an encoder of one layer's hidden states, for `EncodedMatch`: a sparse autoencoder, or principal components.

    python benchmarks/train_encoder.py --out sae.safetensors
    python benchmarks/train_encoder.py --network FOLDER --tokenizer FOLDER --layer layers.15 --text notes.jsonl \
        --size 8192 --out sae.safetensors

The text is rows with a question and an answer; hidden states are read at every token of both. By default the network is
TinyCausalLM, taught the bundled people. Prints what share of the variance is missed, on a tenth of the states that the
encoder was not trained on, and how many latents are active.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from lightning_unlearn import (
    CrossEntropy,
    Encoding,
    FileRecords,
    LoaderSettings,
    PackedCausalLMReadout,
    PretrainedCausalLM,
    QuestionAnswerData,
    TinyCausalLM,
)
from lightning_unlearn.audits import read_states, stacked_states
from lightning_unlearn.data import in_order
from lightning_unlearn.engine import GradientEngine
from lightning_unlearn.objectives.encoders import fit_pca, train_sae
from lightning_unlearn.readouts import HiddenStateReadout


def taught(batches: list[Any]) -> nn.Module:
    network, objective, readout = TinyCausalLM(), CrossEntropy(), PackedCausalLMReadout()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(40):
        for batch in batches:
            objective(readout(network, batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return network


def at_every_token(batch: dict[str, Any]) -> dict[str, Any]:
    return {**batch, "labels": torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)}


@torch.no_grad()
def describe(encoder: Any, states: Tensor) -> str:
    latents = encoder(states)
    decoded = encoder.decode(latents) if hasattr(encoder, "decode") else encoder.mean + latents @ encoder.components.T
    missed = (decoded - states).square().sum() / (states - states.mean(0)).square().sum()
    active = latents > 1e-6
    ever = active.any(0).float().mean()
    return f"missed variance {missed:.3f}, active per state {active.sum(1).float().mean():.1f}, ever active {ever:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", help="a folder or a name on the Hub; default: the bundled one, taught")
    parser.add_argument("--tokenizer", default="bundled")
    parser.add_argument("--layer", default="layers.1")
    parser.add_argument("--text", default="bundled:people")
    parser.add_argument("--kind", choices=["sae", "pca"], default="sae")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--sparsity", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    data = QuestionAnswerData(FileRecords(args.text), Encoding(args.tokenizer), LoaderSettings(batch_size=24))
    batches = list(in_order(data.train_dataloader()))
    network = taught(batches) if args.network is None else PretrainedCausalLM(args.network)
    everywhere = [at_every_token(batch) for batch in batches]
    readout, engine = HiddenStateReadout(args.layer), GradientEngine(network)
    states = stacked_states(read_states(network, readout=readout, batches=everywhere, engine=engine))
    states = states[torch.randperm(len(states), generator=torch.Generator().manual_seed(args.seed))]
    held_out, train = states[: len(states) // 10], states[len(states) // 10 :]
    if args.kind == "pca":
        encoder: Any = fit_pca(train, args.size, args.out)
    else:
        settings = {"sparsity": args.sparsity, "steps": args.steps, "seed": args.seed}
        encoder = train_sae(train, args.size, args.out, **settings)
    print(f"{len(train)} states of {train.shape[1]} dimensions, {args.size} latents: {describe(encoder, held_out)}")


if __name__ == "__main__":
    main()
