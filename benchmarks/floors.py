"""What each step of an image request takes, and what its work must cost at least.

    python -m benchmarks.floors

prints the table of docs/profiling.md: a JPEG of 1024x768 as the demo model takes it, and at the
size that published checkpoints give it. The server's steps run in this process one by one, in CPU
time; the engine's are read from the metrics of a server that does nothing else, in wall time.
"""

from benchmarks.engine_floors import measure_engine, measure_floors
from benchmarks.pictures import encode, photo
from benchmarks.server_floors import make_steps, measure_ms
from demo.embedded import EMBEDDED_CHECKPOINT
from multimodal.preprocessor_config import PreprocessorConfig, load_preprocessor_config


def main() -> None:
    engine = measure_engine(_image)
    floors = measure_floors(engine.num_image_tokens, engine.num_prompt_tokens)
    print("| Step | demo, ms | floor | published size, ms | floor |\n|---|---|---|---|---|")
    configs = (load_preprocessor_config(str(EMBEDDED_CHECKPOINT)), PreprocessorConfig())
    for demo, published in zip(*(make_steps(_image(0), c) for c in configs), strict=True):
        works = (demo.ours, demo.floor, published.ours, published.floor)
        _print_row(demo.name, *map(measure_ms, works))
    _print_row("vision tower", engine.vision_ms, floors.vision_ms)
    _print_row("prefill", engine.prefill_ms, floors.prefill_ms)
    _print_row("decode, each token", engine.token_ms, floors.token_ms)
    print(f"first token of the whole request: {engine.first_token_ms:.1f} ms")


def _image(seed: int) -> bytes:
    return encode(photo(seed, 1024, 768), "JPEG")


def _print_row(name: str, *times_ms: float) -> None:
    cells = [f"{time_ms:.3f}" for time_ms in times_ms] + ["-"] * (4 - len(times_ms))
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
