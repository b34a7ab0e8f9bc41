"""Train the demo checkpoint from scratch: `python -m demo.train --output FOLDER`."""

import argparse
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from demo.batches import Batch, batches
from demo.checkpoint import CheckpointSpec, new_model, save_checkpoint
from demo.learner import SeeingHeads, accuracies, answer_loss, predict
from demo.plots import plot_history
from demo.preprocessing import PREPROCESSOR
from demo.samples import SampleMaker
from demo.vocabulary import demo_tokenizer

logger = logging.getLogger(__name__)

SPEC = CheckpointSpec(
    is_tied=True,
    hidden_size=192,
    num_layers=6,
    num_heads=6,
    num_kv_heads=3,
    head_dim=32,
    intermediate_size=512,
    max_position_embeddings=32_768,
    rope_theta=10_000.0,
    vision_hidden_size=128,
    vision_depth=6,
    vision_num_heads=4,
    vision_intermediate_size=384,
    num_position_embeddings=256,
    deepstack_visual_indexes=(1, 3, 4),
    initializer_range=0.02,
    preprocessor=PREPROCESSOR,
    is_greedy=True,
    dtype=torch.bfloat16,
    seed=0,
)
# Whatever the training seed, validation draws from this one, past the end of the curriculum.
VALIDATION_SEED, VALIDATION_STEP, VALIDATION_BATCHES = 1_000_003, 10**6, 6
LOG_EVERY, VALIDATE_EVERY = 50, 500  # steps


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hyper-parameters of a training run."""

    seed: int = 0
    steps: int = 7_000
    rows: int = 16  # of `demo.batches.ROW_TOKENS` tokens each
    matrix_lr: float = 1e-3  # Muon: the matrices inside the blocks
    other_lr: float = 1.5e-3  # AdamW: embeddings, norms, biases, heads
    warmup_steps: int = 100
    decay_share: float = 0.6  # of the steps, at the end, linearly to zero
    weight_decay: float = 0.01  # of the matrices
    max_gradient_norm: float = 1.0


class _Stream(IterableDataset[Batch]):
    """The batches of a run, drawn by one or more workers, the same for any number of them."""

    def __init__(self, maker: SampleMaker, recipe: Recipe, start: int) -> None:
        self._maker, self._recipe, self._start = maker, recipe, start

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        first, stride = (info.id, info.num_workers) if info else (0, 1)
        recipe = self._recipe
        steps = range(self._start + first, recipe.steps, stride)
        return batches(self._maker, recipe.seed, recipe.rows, steps)


def train(output: Path, recipe: Recipe, num_workers: int) -> None:
    """Train; leaves `checkpoint/`, `history.json` and two plots in `output`.

    A run that was interrupted is taken up from its last validation.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = demo_tokenizer()
    maker = SampleMaker(tokenizer)
    model = new_model(SPEC, tokenizer).to(device)
    model.set_attn_implementation("plain")
    heads = SeeingHeads(SPEC.hidden_size).to(device)
    optimizers = _optimizers(model, heads, recipe)
    saved = _Saved(output / "training.pt", {"model": model, "heads": heads, **optimizers})
    start, history = saved.load(device)
    stream = DataLoader(_Stream(maker, recipe, start), batch_size=None, num_workers=num_workers)
    started = time.monotonic() - (history[-1]["seconds"] if history else 0)
    for step, batch in enumerate(stream, start):
        is_last = step == recipe.steps - 1
        answers, seeing = _step(
            model, heads, list(optimizers.values()), batch.to(device), recipe, step
        )
        if step % LOG_EVERY == 0 or is_last:
            seconds = time.monotonic() - started
            record: dict[str, Any] = {
                "step": step,
                "seconds": seconds,
                "answers": answers,
                "seeing": seeing,
            }
            logger.info(
                "step %d, %.0f s: answers %.3f, seeing %.3f", step, seconds, answers, seeing
            )
            if step % VALIDATE_EVERY == 0 or is_last:
                record["accuracy"] = _validate(model, maker)
                save_checkpoint(output / "checkpoint", SPEC, model, tokenizer)
            history.append(record)
            (output / "history.json").write_text(json.dumps(history))
            if "accuracy" in record:
                saved.save(step + 1, history)
    plot_history(history, output)
    _report(output, recipe)


class _Saved:
    """The state of a run in one file."""

    def __init__(self, path: Path, parts: dict[str, Any]) -> None:
        self._path, self._parts = path, parts

    def save(self, step: int, history: list[dict[str, Any]]) -> None:
        """`step` is the next one to be done."""
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        temporary = self._path.with_suffix(".new")
        torch.save({"step": step, "history": history, "parts": parts}, temporary)
        temporary.replace(self._path)

    def load(self, device: str) -> tuple[int, list[dict[str, Any]]]:
        """Step and history; 0 and none if nothing was saved."""
        if not self._path.exists():
            return 0, []
        state = torch.load(self._path, map_location=device)
        for name, part in self._parts.items():
            part.load_state_dict(state["parts"][name])
        return state["step"], state["history"]


def _step(
    model: Any,
    heads: SeeingHeads,
    optimizers: list[torch.optim.Optimizer],
    batch: Batch,
    recipe: Recipe,
    step: int,
) -> tuple[float, float]:
    """One update. Returns the two losses."""
    with torch.autocast(batch.token_ids.device.type, torch.bfloat16):
        prediction = predict(model, batch)
        answers = answer_loss(prediction, batch)
        seeing = heads.loss(prediction.visual_tokens, batch)
    torch.autograd.backward(answers + seeing)
    parameters = [*model.parameters(), *heads.parameters()]
    nn.utils.clip_grad_norm_(parameters, recipe.max_gradient_norm)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * _rate(step, recipe)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return answers.item(), seeing.item()


def _optimizers(
    model: nn.Module, heads: nn.Module, recipe: Recipe
) -> dict[str, torch.optim.Optimizer]:
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_inside = ".layers." in name or ".blocks." in name or "merger" in name
        (matrices if is_inside and parameter.ndim == 2 else others).append(parameter)
    muon = torch.optim.Muon(
        [{"params": matrices, "peak_lr": recipe.matrix_lr}],
        weight_decay=recipe.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [{"params": [*others, *heads.parameters()], "peak_lr": recipe.other_lr}],
        betas=(0.9, 0.95),
        weight_decay=0.0,
    )
    return {"muon": muon, "adamw": adamw}


def _rate(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate: warm-up, constant, linear to zero."""
    warm = (step + 1) / recipe.warmup_steps
    left = (recipe.steps - step) / (recipe.decay_share * recipe.steps)
    return min(1.0, warm, left)


def _validate(model: Any, maker: SampleMaker) -> dict[str, float]:
    steps = range(VALIDATION_STEP, VALIDATION_STEP + VALIDATION_BATCHES)
    model.eval()
    found = accuracies(model, batches(maker, VALIDATION_SEED, 16, steps))
    model.train()
    logger.info("%s", " ".join(f"{skill} {share:.0%}" for skill, share in found.items()))
    return found


def _report(output: Path, recipe: Recipe) -> None:
    weights = output / "checkpoint" / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    logger.info("%s", asdict(recipe))
    logger.info("model.safetensors: %d bytes, sha256 %s", weights.stat().st_size, digest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    parser.add_argument("--num-workers", type=int, default=1, help="processes that draw batches")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = Recipe(seed=arguments.seed, steps=arguments.steps)
    train(arguments.output, recipe, arguments.num_workers)


if __name__ == "__main__":
    main()
