"""The command line: `qwen3vl-serve serve MODEL`, `chat`, `plan MODEL`, `doctor` and so on."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from server.run_folder import RunFolder
from server.settings import (
    EMBEDDED_MODEL,
    Settings,
    SettingsError,
    iterate_fields,
    load_settings,
    set_library_defaults,
    share_metrics,
)
from server.version import PROJECT, find_version

_POSITIONAL = "engine.model"
_SWITCHES = (bool, bool | None)  # types of settings that are on or off
_TRUTH_VALUES = (
    "true",
    "false",
    "1",
    "0",
    "yes",
    "no",
    "on",
    "off",
    "t",
    "f",
    "y",
    "n",
)  # pydantic's


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the process's exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in _OWN_PARSERS:
        return _run(_OWN_PARSERS[argv[0]][1], argv[1:])
    arguments = _parser().parse_args(_fill_switches(argv))
    set_library_defaults()
    if arguments.command == "check":
        if _is_missing_folder(arguments.model):
            return _refuse(f"there is no folder {arguments.model}")
        from model_executor.check import check

        return check(arguments.model)
    try:
        settings = _settings(arguments)
    except SettingsError as error:
        return _refuse(str(error))
    if _is_missing_folder(settings.engine.model):
        return _refuse(f"there is no folder {settings.engine.model}")
    if settings.server.api_workers == 1:
        return _serve(settings)
    with RunFolder() as folder:
        share_metrics(folder.path)
        return _serve(settings)


def _run(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    try:
        status = command(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has had enough; Python would try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _serve(settings: Settings) -> int:
    from server.serve import serve

    try:
        return serve(settings)
    except SettingsError as error:
        return _refuse(str(error))


def _bench(argv: Sequence[str]) -> int:
    try:
        from benchmarks.load.cli import main
    except ModuleNotFoundError as error:
        return _refuse(f"no module {error.name}: pip install 'qwen3vl-serve[bench]'")
    return main(argv)


def _plan(argv: Sequence[str]) -> int:
    from demo.embedded import EMBEDDED_CHECKPOINT
    from model_executor.sizing.cli import main

    return main(argv, {EMBEDDED_MODEL: str(EMBEDDED_CHECKPOINT)})


def _keys(argv: Sequence[str]) -> int:
    from server.access.key_commands import main

    return main(argv)


def _cache(argv: Sequence[str]) -> int:
    from server.commands.cache import main

    return main(argv)


def _chat(argv: Sequence[str]) -> int:
    from server.commands.chat import main

    return main(argv)


def _doctor(argv: Sequence[str]) -> int:
    from server.commands.doctor import main

    return main(argv, _plan_as_json)


def _plan_as_json(argv: Sequence[str]) -> dict[str, Any]:
    """Raises: OSError, ValueError for what cannot be planned."""
    from demo.embedded import EMBEDDED_CHECKPOINT
    from model_executor.sizing.cli import make_plan, parser
    from model_executor.sizing.model_shape import UnknownModel
    from model_executor.sizing.report import to_json
    from multimodal.errors import MediaError

    arguments = parser().parse_args(argv)
    is_demo = arguments.model == EMBEDDED_MODEL
    source = str(EMBEDDED_CHECKPOINT) if is_demo else arguments.model
    try:
        return to_json(make_plan(arguments, source))
    except (UnknownModel, MediaError) as error:
        raise ValueError(str(error)) from error


# With what they are for. They have parsers of their own, and import what they need.
_OWN_PARSERS = {
    "chat": ("talk to a running server in the terminal", _chat),
    "doctor": ("check this machine, and say what to change", _doctor),
    "plan": ("memory, layout and arguments for a model", _plan),
    "cache": ("the vision cache's files: ls, stats, verify, clear", _cache),
    "keys": ("API keys: add, list, remove", _keys),
    "bench": ("load-test a server, or two side by side", _bench),
}


def _refuse(message: str) -> int:
    print(f"qwen3vl-serve: {message}", file=sys.stderr)
    return 2


def _is_missing_folder(model: str) -> bool:
    """Whether this can only mean a folder, and there is none."""
    return model.startswith(("/", "./", "../")) and not Path(model).is_dir()


def _settings(arguments: argparse.Namespace) -> Settings:
    overrides: dict[str, dict[str, Any]] = {}
    for name, _ in iterate_fields():
        value = getattr(arguments, name)
        if value is not None:
            group, field = name.split(".")
            overrides.setdefault(group, {})[field] = value
    return load_settings(arguments.config, overrides)


def _flag(name: str) -> str:
    """Flags carry no group: the names of all settings differ."""
    return "--" + name.split(".")[1].replace("_", "-")


def _fill_switches(argv: Sequence[str]) -> list[str]:
    """`--insecure` is `--insecure=true`, whatever follows, unless that is a value of its own.

    argparse by itself would take the model's name behind a flag for its value. `--no-ui` is
    `--ui=false`.
    """
    switches = {_flag(name) for name, field in iterate_fields() if field.annotation in _SWITCHES}
    opposites = {f"--no-{switch[2:]}": f"{switch}=false" for switch in switches}
    following = [*argv[1:], ""]
    return [
        f"{word}=true"
        if word in switches and after.lower() not in _TRUTH_VALUES
        else opposites.get(word, word)
        for word, after in zip(argv, following, strict=True)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qwen3vl-serve")
    version = f"%(prog)s {find_version(PROJECT) or 'unknown'}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve a model over HTTP")
    serve.add_argument("--config", type=Path, help="YAML file with settings")
    for name, field in iterate_fields():
        help_text = (field.description or "").replace("%", "%%")
        if name == _POSITIONAL:
            serve.add_argument(name, metavar="MODEL", nargs="?", help=help_text)
        else:
            serve.add_argument(_flag(name), dest=name, metavar="VALUE", help=help_text)
    for name, (purpose, _) in _OWN_PARSERS.items():
        commands.add_parser(name, help=purpose)
    check = commands.add_parser("check", help="compare a checkpoint's answers with transformers'")
    check.add_argument("model", metavar="MODEL", help="local folder or Hugging Face name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
